//! Parsers of bytes from outside, each as a function of any bytes that must not panic and keeps what it promises. The targets of
//! `fuzz/` call them, and a bounded property test below, so that every run of the tests covers them a little.

use common::{
    schema::{self, Type},
    wire::yaml,
};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use crate::{
    patch::{
        self, PatchType,
        fields::{self, Set, Versions, Write},
    },
    request::{
        Query,
        body::{self, Expected},
        info::RequestInfo,
        negotiate::{self, Encoding},
        options::{DeleteOptions, FieldValidation, ListOptions, WriteOptions},
        selector,
    },
    resources::strategy,
    storage::{cache, codec},
};

/// A parser, given any bytes.
pub type Target = fn(&[u8]);

/// All parsers by the names of their fuzz targets.
pub const TARGETS: &[(&str, Target)] = &[
    ("body", object_body),
    ("yaml", yaml_body),
    ("patch", patches),
    ("apply", apply),
    ("managed_fields", managed_fields),
    ("selector", selectors),
    ("continue_token", continue_token),
    ("request", request_line),
    ("stored", stored),
];

/// A kind with lists of every sort, to patch and apply to.
const DEPLOYMENT: Expected<'static> = Expected { group: "apps", version: "v1", kind: "Deployment" };

/// A body in each encoding: what is accepted is an object of the kind asked for.
pub fn object_body(bytes: &[u8]) {
    for encoding in Encoding::ALL {
        for mode in [FieldValidation::Ignore, FieldValidation::Strict] {
            if let Ok(found) = body::decode(bytes, encoding, DEPLOYMENT, mode) {
                assert_eq!(
                    (&found.object["kind"], &found.object["apiVersion"]),
                    (&json!("Deployment"), &json!("apps/v1"))
                );
            }
        }
        if let Ok(options) = body::delete_options(bytes, encoding) {
            assert!(serde_json::from_value::<DeleteOptions>(options).is_ok());
        }
    }
}

/// YAML: what it says is JSON of a bounded size.
pub fn yaml_body(bytes: &[u8]) {
    if let Ok(document) = yaml::read(bytes) {
        assert!(document.value.to_string().len() <= (4 << 20) + bytes.len() * 64);
    }
}

/// JSON patch, merge patch and strategic merge patch: what comes out fits the type.
pub fn patches(bytes: &[u8]) {
    let (Some(ty), original) = (body::type_of(DEPLOYMENT), deployment()) else { return };
    for kind in [PatchType::Json, PatchType::Merge, PatchType::StrategicMerge] {
        if let Ok(patched) = patch::apply_typed(kind, &original, bytes, (DEPLOYMENT, ty), true) {
            assert!(schema::prune(ty, &patched.value).error.is_none());
        }
    }
}

/// Server-side apply: a second apply of the same changes nothing.
pub fn apply(bytes: &[u8]) {
    let (Some(ty), Ok(config)) = (body::type_of(DEPLOYMENT), patch::read_configuration(bytes)) else { return };
    let mut live = deployment();
    let write = write(ty, "one");
    fields::update(&self::write(ty, "creator"), &json!({}), &mut live);
    for force in [false, true] {
        let Ok(applied) = fields::apply(&write, &live, &config.value, force) else { continue };
        let again = fields::apply(&write, &applied, &config.value, false);
        assert_eq!(again.ok().as_ref(), Some(&applied), "not the same when applied again");
    }
}

/// `metadata.managedFields`, and a set of fields in there.
pub fn managed_fields(bytes: &[u8]) {
    let (Some(ty), Ok(sent)) = (body::type_of(DEPLOYMENT), serde_json::from_slice::<Value>(bytes)) else { return };
    if let Ok(set) = Set::decode(&sent) {
        let encoded = set.encode();
        let again = Set::decode(&encoded).map(|set| set.encode());
        assert_eq!(again.as_ref(), Ok(&encoded), "a set that does not survive");
    }
    let (live, mut new) = (deployment(), deployment());
    new["metadata"]["managedFields"] = sent;
    new["spec"]["replicas"] = 9.into();
    fields::update(&write(ty, "two"), &live, &mut new);
}

/// Label and field selectors.
pub fn selectors(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(selector) = common::meta::selector::LabelSelector::parse(&text) {
        let again = common::meta::selector::LabelSelector::parse(&selector.to_string());
        assert_eq!(again.map(|again| again.to_string()), Ok(selector.to_string()));
    }
    let _ = selector::labels(&text);
    let _ = selector::fields(&text, strategy("", "pods"), |field| Some(field.to_owned()));
}

/// Continue tokens: a key that is accepted is below the prefix.
pub fn continue_token(bytes: &[u8]) {
    cache::fuzz_token(&String::from_utf8_lossy(bytes));
}

/// Path and query of a request, its options, and what its headers ask for.
pub fn request_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let query = Query::parse(query);
    let _ = RequestInfo::parse("GET", path, &query);
    for watch in [false, true] {
        if let Ok(options) = ListOptions::parse(&query, watch) {
            let _ = (options.version(), options.watch_from());
        }
    }
    let _ = DeleteOptions::from_query(&query).and_then(|options| options.validate());
    let _ = (WriteOptions::parse(&query, "CreateOptions"), WriteOptions::parse_patch(&query, true));
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let headers = HeaderMap::from_iter([(header::ACCEPT, value.clone()), (header::CONTENT_TYPE, value)]);
        let _ = (negotiate::output(&headers, true), negotiate::input(&headers));
    }
}

/// A value of the store, which another server may have written.
pub fn stored(bytes: &[u8]) {
    if let Ok(object) = codec::to_tree(bytes) {
        let _ = codec::encode_json(&object);
    }
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default", "labels": {"a": "b"}, "finalizers": ["x/a", "x/b"]},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "containers": [
                    {"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "args": ["x"]},
                    {"name": "d", "image": "i", "env": [{"name": "A", "value": "1"}]},
                ],
                "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k"}],
            }},
        },
    })
}

struct OneVersion;

impl Versions for OneVersion {
    fn convert<'s>(&'s self, object: &Value, api_version: &str) -> Option<(Value, Type<'s>)> {
        (api_version == "apps/v1").then(|| object.clone()).zip(body::type_of(DEPLOYMENT))
    }
}

fn write<'a>(ty: Type<'a>, manager: &'a str) -> Write<'a> {
    let (api_version, kind, now) = ("apps/v1", "Deployment", jiff::Timestamp::UNIX_EPOCH);
    Write { ty, api_version, kind, manager, subresource: "", reset: fields::NOTHING, now, versions: &OneVersion }
}

/// Seeds for each target: `(target, text)`.
pub const SEEDS: &[(&str, &str)] = &[
    (
        "body",
        r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d"},"spec":{"replicas":1,"paused":true}}"#,
    ),
    (
        "body",
        r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"preconditions":{"uid":"u"},"dryRun":["All"]}"#,
    ),
    ("body", "k8s\0\n\u{15}\n\u{7}apps/v1\u{12}\nDeployment\u{12}\u{5}\n\u{3}\n\u{1}d"),
    ("body", "kind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 1\n  replicas: 2\n"),
    ("yaml", "a: &x [1, 2.5, 0x1f, ~, yes, \"s\"]\nb: *x\n? c\n: |\n  text\n---\n"),
    (
        "patch",
        r#"[{"op":"test","path":"/spec/replicas","value":1},{"op":"copy","from":"/spec","path":"/metadata/a"},{"op":"move","from":"/spec/template","path":"/t"},{"op":"remove","path":"/metadata/finalizers/-1"},{"op":"add","path":"/metadata/finalizers/-","value":"x"}]"#,
    ),
    (
        "patch",
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["x/a"],"labels":{"$patch":"replace","z":"1"}},"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"},"template":{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"c","ports":[{"$patch":"delete","containerPort":80}]}]}}}}"#,
    ),
    (
        "patch",
        r#"{"metadata":{"finalizers":["x/c"]},"spec":{"replicas":null,"template":{"spec":{"containers":[{"name":"c"}]}}}}"#,
    ),
    (
        "apply",
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","labels":{"l":"1"}},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"j","ports":[{"containerPort":81,"protocol":"TCP"}]}]}}}}"#,
    ),
    (
        "apply",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\n  finalizers: [x/q]\nspec: {replicas: 3}\n",
    ),
    (
        "managed_fields",
        r#"[{"manager":"m","operation":"Apply","apiVersion":"apps/v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:replicas":{}}}}]"#,
    ),
    (
        "managed_fields",
        r#"{"f:spec":{".":{},"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}},"f:args":{"v:\"x\"":{},"i:0":{}}}}"#,
    ),
    ("selector", "app in (a, b,),tier notin (c),!x,y>1,z==w,a.b/c!=d"),
    ("selector", "metadata.name=a,spec.nodeName!=b\\,c"),
    ("continue_token", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NywicyI6IiIsInN0YXJ0IjoiZGVmYXVsdC93ZWIifQ"),
    (
        "request",
        "/apis/apps/v1/namespaces/default/deployments/d/scale?limit=5&continue=a&resourceVersion=1&watch=true&sendInitialEvents=true&dryRun=All&labelSelector=a%3Db",
    ),
    ("request", "application/json;as=Table;v=v1;g=meta.k8s.io;q=0.5, application/vnd.kubernetes.protobuf, */*"),
    ("stored", r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":"v"}}"#),
    ("stored", "k8s\0\n\u{f}\n\u{2}v1\u{12}\tConfigMap\u{12}\u{5}\n\u{3}\n\u{1}a\u{1a}\0\"\0"),
];

/// Writes the seeds below a corpus directory, as cargo-fuzz wants them.
///
/// # Errors
/// When a file can't be written.
pub fn write_seeds(corpus: &std::path::Path) -> std::io::Result<()> {
    for (number, (target, text)) in SEEDS.iter().enumerate() {
        std::fs::create_dir_all(corpus.join(target))?;
        std::fs::write(corpus.join(target).join(format!("seed-{number}")), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(name: &str) -> Target {
        TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target).unwrap()
    }

    #[test]
    fn seeds_are_sound() {
        for (name, text) in SEEDS {
            target(name)(text.as_bytes());
        }
        assert!(TARGETS.iter().all(|(name, _)| SEEDS.iter().any(|(seeded, _)| seeded == name)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// A seed with some bytes changed, taken away or put in.
        #[test]
        fn parsers_take_what_is_near_a_seed(
            (name, text) in prop::sample::select(SEEDS),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..8),
        ) {
            let mut bytes = text.as_bytes().to_vec();
            for (index, byte, kind) in edits {
                let at = index.index(bytes.len() + 1);
                match kind {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.insert(at, byte),
                }
            }
            target(name)(&bytes);
        }

        #[test]
        fn parsers_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            TARGETS.iter().for_each(|(_, target)| target(&bytes));
        }
    }
}
