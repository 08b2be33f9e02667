//! The documents against upstream's own, and the rules of negotiation.

use std::path::{Path, PathBuf};

use super::*;

fn everything() -> Discovery {
    Discovery::new(Options {
        group_version: Arc::new(|_| true),
        resource: Arc::new(|_| true),
        server_address: "10.10.10.10:8050".into(),
        paths: vec!["/healthz".into()],
    })
}

fn get(discovery: &Discovery, path: &str, headers: &[(&str, &str)]) -> Option<Response<Bytes>> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    Some(discovery.handle(&Method::GET, path, &map)?.unwrap())
}

fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/discovery");
    if !folder.is_dir() {
        println!("skipped: no fixtures at {}", folder.display());
        return None;
    }
    Some(folder)
}

#[test]
fn equals_upstreams_documents() {
    let Some(folder) = fixtures() else { return };
    let discovery = everything();
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let (path, headers) = match name.as_str() {
            "aggregated_v2" => ("/apis".to_owned(), vec![("accept", V2)]),
            name => (format!("/{}", name.replace("__", "/")), vec![]),
        };
        let expected: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let response = get(&discovery, &path, &headers).unwrap_or_else(|| panic!("{path} is not served"));
        assert_eq!(body(&response), expected, "{path}");
        compared += 1;
    }
    assert!(compared > 50, "only {compared} documents compared");
}

#[test]
fn serves_only_what_is_enabled() {
    let discovery = Discovery::new(Options {
        group_version: Arc::new(default_group_version),
        resource: Arc::new(|resource| resource.plural != "jobs"),
        server_address: String::new(),
        paths: Vec::new(),
    });
    assert!(get(&discovery, "/apis/storage.k8s.io/v1beta1", &[]).is_none());
    assert!(get(&discovery, "/apis/internal.apiserver.k8s.io", &[]).is_none());
    let storage = body(&get(&discovery, "/apis/storage.k8s.io", &[]).unwrap());
    assert_eq!(storage["versions"].as_array().unwrap().len(), 1);
    let batch = get(&discovery, "/apis/batch/v1", &[]).unwrap();
    assert!(!String::from_utf8_lossy(batch.body()).contains("\"jobs\""));
    let groups = get(&discovery, "/apis", &[("accept", V2)]).unwrap();
    assert!(!String::from_utf8_lossy(groups.body()).contains("internal.apiserver.k8s.io"));
}

#[test]
fn negotiates_the_aggregated_form() {
    let discovery = everything();
    let kubectl =
        format!("{V2},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json");
    let core = get(&discovery, "/api", &[("accept", &kubectl)]).unwrap();
    assert_eq!(core.headers()["content-type"], V2);
    assert_eq!(body(&core)["items"][0]["metadata"], serde_json::json!({}));
    let etag = core.headers()["etag"].to_str().unwrap().to_owned();
    let known = get(&discovery, "/api", &[("accept", V2), ("if-none-match", &etag)]).unwrap();
    assert_eq!((known.status(), known.body().len()), (StatusCode::NOT_MODIFIED, 0));
    let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    let groups = get(&discovery, "/apis", &[("accept", old)]).unwrap();
    assert_eq!(body(&groups)["apiVersion"], "apidiscovery.k8s.io/v2beta1");
}

#[test]
fn speaks_json_yaml_and_protobuf() {
    let discovery = everything();
    for path in ["/api", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1"] {
        let json = body(&get(&discovery, path, &[]).unwrap());
        let protobuf =
            get(&discovery, path, &[("accept", "application/vnd.kubernetes.protobuf;q=1,*/*;q=0.1")]).unwrap();
        assert_eq!(protobuf.headers()["content-type"], "application/vnd.kubernetes.protobuf");
        let read = crate::storage::codec::to_json(protobuf.body()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&read).unwrap()["kind"], json["kind"], "{path}");
        let yaml = get(&discovery, path, &[("accept", "application/yaml")]).unwrap();
        assert_eq!(common::wire::yaml::read(yaml.body()).unwrap().value, json, "{path}");
    }
    let refused = |path: &str, accept: &str| {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        discovery.handle(&Method::GET, path, &headers).unwrap().unwrap_err().to_string()
    };
    assert_eq!(
        refused("/apis", "text/html"),
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    assert_eq!(refused("/version", "text/html"), "406: Not Acceptable\n\nAvailable representations: application/json");
    assert_eq!(
        refused("/apis/apps/v1", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
}

#[test]
fn knows_its_paths() {
    let discovery = everything();
    for path in ["/api/v2", "/apis/nothing", "/apis/apps/v9", "/apis/apps/v1/deployments", "/healthz"] {
        assert!(get(&discovery, path, &[]).is_none(), "{path}");
    }
    let paths = body(&get(&discovery, "/", &[]).unwrap());
    for path in ["/api/v1", "/apis/apps/v1", "/healthz", "/version"] {
        assert!(paths["paths"].as_array().unwrap().contains(&path.into()), "{path}");
    }
    assert_eq!(body(&get(&discovery, "/version", &[]).unwrap())["gitVersion"], "v1.36.1");
    let post = |path: &str| discovery.handle(&Method::POST, path, &HeaderMap::new()).unwrap();
    assert_eq!(post("/apis/apps/v1").unwrap_err().code(), 405);
    // The outer server does not look at methods.
    assert_eq!(post("/apis").unwrap().status(), StatusCode::OK);
}
