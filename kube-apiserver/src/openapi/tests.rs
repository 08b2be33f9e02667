//! The documents against upstream's own: same structure, prose aside.

use std::path::{Path, PathBuf};

use common::api::catalog;
use serde_json::Value;

use super::*;

fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/openapi-v3");
    if !folder.is_dir() {
        println!("skipped: no fixtures at {}", folder.display());
        return None;
    }
    Some(folder)
}

/// Removes prose, enumerations (the published documents are made without them) and CBOR (they are made with what is off by
/// default), and puts lists whose order means nothing in order.
fn structure(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, value| match key.as_str() {
                "description" => !value.is_string(),
                "enum" => !value.is_array(),
                key => !key.contains("cbor"),
            });
            for (key, value) in object.iter_mut() {
                structure(value);
                if let (true, Value::Array(list)) = (matches!(key.as_str(), "required" | "parameters"), value) {
                    list.sort_by_key(Value::to_string);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(structure),
        _ => {}
    }
}

fn differences(ours: &Value, theirs: &Value, at: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(left), Value::Object(right)) => {
            for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
                let null = Value::Null;
                let (left, right) = (left.get(key).unwrap_or(&null), right.get(key).unwrap_or(&null));
                differences(left, right, &format!("{at}|{key}"), found);
            }
        }
        (left, right) if left != right => {
            let (left, right) = (left.to_string(), right.to_string());
            found.push(format!("{at}: ours {left:.200} theirs {right:.200}"));
        }
        _ => {}
    }
}

fn everything() -> OpenApi {
    OpenApi::new(Arc::new(|_| true))
}

fn third(openapi: &OpenApi, name: &str) -> Value {
    let mut text = Vec::new();
    openapi.third(name, &mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn has_upstreams_structure() {
    let Some(folder) = fixtures() else { return };
    let openapi = everything();
    let mut found = Vec::new();
    for name in openapi.documents().into_iter().filter(|name| !name.contains("openid")) {
        let file = folder.join(format!("{}_openapi.json", name.replace('/', "__")));
        let mut theirs: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let mut ours = third(&openapi, &name);
        structure(&mut theirs);
        structure(&mut ours);
        differences(&ours, &theirs, &name, &mut found);
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found[..found.len().min(40)].join("\n"));
}

fn get(openapi: &OpenApi, path: &str, query: Option<&str>, headers: &[(&str, &str)]) -> Response<Bytes> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    openapi.handle(&Method::GET, path, query, &map).unwrap()
}

#[test]
fn describes_every_kind_and_its_fields() {
    let openapi = everything();
    let apps = third(&openapi, "apis/apps/v1");
    let schemas = &apps["components"]["schemas"];
    let replicas = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"];
    assert!(replicas["description"].as_str().unwrap().starts_with("Number of desired pods."), "{replicas}");
    for version in catalog().group_versions() {
        let name = match version.group {
            "" => format!("api/{}", version.version),
            group => format!("apis/{group}/{}", version.version),
        };
        let document = third(&openapi, &name);
        for resource in &version.resources {
            let ty = common::schema::lookup(resource.group, resource.version, resource.kind).unwrap();
            let schema = &document["components"]["schemas"][ty.name().unwrap()];
            assert!(schema["description"].is_string(), "{name} {}", resource.kind);
        }
    }
}

#[test]
fn tells_enumerations() {
    let core = third(&everything(), "api/v1");
    let property = |kind: &str, field: &str| {
        &core["components"]["schemas"][format!("io.k8s.api.core.v1.{kind}")]["properties"][field]
    };
    assert_eq!(property("PodSpec", "restartPolicy")["enum"], json!(["Always", "Never", "OnFailure"]));
    assert_eq!(property("PodSpec", "restartPolicy")["type"], "string");
    assert_eq!(property("ServiceSpec", "ipFamilies")["items"]["enum"], json!(["", "IPv4", "IPv6"]));
    let statuses =
        &property("PersistentVolumeClaimStatus", "allocatedResourceStatuses")["additionalProperties"]["enum"];
    assert!(statuses.as_array().is_some_and(|values| values.len() > 2), "{statuses}");
    assert!(property("PodSpec", "nodeName").get("enum").is_none());
    let certificates = third(&everything(), "apis/certificates.k8s.io/v1");
    assert!(certificates.to_string().contains("\"digital signature\""));
}

#[test]
fn links_documents_by_hash() {
    let openapi = everything();
    let index: Value = serde_json::from_slice(get(&openapi, "/openapi/v3", None, &[]).body()).unwrap();
    let url = index["paths"]["apis/batch/v1"]["serverRelativeURL"].as_str().unwrap();
    let (path, query) = url.split_once('?').unwrap();
    let response = get(&openapi, path, Some(query), &[]);
    assert_eq!(response.headers()["cache-control"], "public, immutable");
    let plain: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(plain["openapi"], "3.0.0");
    let packed = get(&openapi, path, None, &[("accept-encoding", "gzip, deflate")]);
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.body().len() * 5 < response.body().len());
    let etag = response.headers()["etag"].to_str().unwrap();
    let known = get(&openapi, path, None, &[("if-none-match", etag)]);
    assert_eq!((known.status().as_u16(), known.body().len()), (304, 0));
    let moved = get(&openapi, path, Some("hash=old"), &[]);
    assert_eq!((moved.status().as_u16(), moved.headers()["location"].to_str().unwrap()), (301, url));
    assert_eq!(get(&openapi, "/openapi/v3/apis/none/v1", None, &[]).status().as_u16(), 404);
    assert_eq!(get(&openapi, path, None, &[("accept", "image/png")]).status().as_u16(), 406);
    assert!(openapi.handle(&Method::GET, "/openapi/v4", None, &HeaderMap::new()).is_none());
}

#[test]
fn serves_v3_in_protobuf() {
    let openapi = everything();
    let accept = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf,application/json;q=0.5";
    let protobuf = get(&openapi, "/openapi/v3/.well-known/openid-configuration", None, &[("accept", accept)]);
    assert_eq!(protobuf.headers()["content-type"], respond::PROTOBUF_V3);
    let json = get(&openapi, "/openapi/v3/.well-known/openid-configuration", None, &[]);
    assert_ne!(protobuf.headers()["etag"], json.headers()["etag"]);
    // openapi = 1: "3.0.0"; info = 2: title = 1, version = 6.
    assert!(
        protobuf.body().starts_with(b"\x0a\x053.0.0\x12\x19\x0a\x0aKubernetes\x32\x0bunversioned"),
        "{:?}",
        protobuf.body()
    );
    // What it answers is text: type = 25.
    assert!(protobuf.body().windows(11).any(|part| part == b"\x0a\x09\xca\x01\x06string"));
}

#[test]
fn serves_only_what_is_enabled() {
    let openapi = OpenApi::new(Arc::new(|version| version.on_by_default));
    let index: Value = serde_json::from_slice(get(&openapi, "/openapi/v3", None, &[]).body()).unwrap();
    assert!(index["paths"].get("apis/storage.k8s.io/v1").is_some());
    assert!(index["paths"].get("apis/storage.k8s.io/v1beta1").is_none());
    assert_eq!(get(&openapi, "/openapi/v3/apis/storage.k8s.io/v1beta1", None, &[]).status().as_u16(), 404);
}

#[test]
fn serves_v2_in_json_and_protobuf() {
    let openapi = OpenApi::new(Arc::new(|version| matches!(version.group, "apps" | "batch")));
    let json = get(&openapi, "/openapi/v2", None, &[("accept", "application/json")]);
    let document: Value = serde_json::from_slice(json.body()).unwrap();
    let spec = &document["definitions"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"];
    assert_eq!(spec["template"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodTemplateSpec");
    assert_eq!(spec["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert!(patch["parameters"].to_string().contains("fieldValidation"), "{patch}");
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let protobuf = get(&openapi, "/openapi/v2", None, &[("accept", accept)]);
    assert_eq!(protobuf.headers()["content-type"], respond::PROTOBUF);
    // swagger = 1: "2.0"; info = 2.
    assert!(protobuf.body().starts_with(b"\x0a\x032.0\x12"));
    assert_eq!(get(&openapi, "/openapi/v2", None, &[("accept", "text/html")]).status().as_u16(), 406);
}
