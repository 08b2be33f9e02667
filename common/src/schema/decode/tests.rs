//! What upstream's decoder says about good and bad objects.

use serde_json::{Value, json};

use super::super::lookup;
use super::*;

fn decoded(kind: (&str, &str), text: &str) -> Decoded {
    decode(lookup(kind.0, "v1", kind.1).unwrap(), text.as_bytes())
}

fn texts(decoded: &Decoded) -> Vec<String> {
    decoded.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn drops_and_reports_unknown_fields_with_their_paths() {
    let text = r#"{"kind":"Deployment","foo":1,"spec":{"Replicas":2,"replicas":3,"template":{"spec":{
        "containers":[{"name":"a"},{"name":"b","imagee":"x"}]}}},"metadata":{"labels":{"any":"thing"},"creationTimestamp":null}}"#;
    let decoded = decoded(("apps", "Deployment"), text);
    assert_eq!(decoded.error, None);
    assert_eq!(
        texts(&decoded),
        [
            r#"unknown field "foo""#,
            r#"unknown field "spec.Replicas""#,
            r#"unknown field "spec.template.spec.containers[1].imagee""#
        ]
    );
    assert_eq!(
        decoded.value,
        json!({"kind":"Deployment","spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}},
               "metadata":{"labels":{"any":"thing"}}})
    );
    assert_eq!(
        strict_decoding_error(&decoded.problems[..2]),
        r#"strict decoding error: unknown field "foo", unknown field "spec.Replicas""#
    );
}

#[test]
fn reports_duplicates_and_keeps_the_last() {
    let text = r#"{"spec":{"replicas":1,"paused":true,"replicas":2},"metadata":{"labels":{"a":"1","a":"2"}}}"#;
    let decoded = decoded(("apps", "Deployment"), text);
    assert_eq!(texts(&decoded), [r#"duplicate field "spec.replicas""#, r#"duplicate field "metadata.labels.a""#]);
    assert_eq!(decoded.value["spec"]["replicas"], 2);
    let found = duplicate_fields(br#"[{"op":"add","op":"test"}]"#);
    assert_eq!(found, [Problem::DuplicateField("[0].op".into())]);
}

#[test]
fn refuses_wrong_types_in_gos_words() {
    for (kind, text, message) in [
        (
            ("apps", "Deployment"),
            r#"{"spec":{"replicas":"three"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            ("apps", "Deployment"),
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            ("apps", "Deployment"),
            r#"{"spec":{"replicas":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            ("", "Pod"),
            r#"{"spec":{"containers":[{"name":5}]}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
        ),
        (
            ("", "Pod"),
            r#"{"spec":{"containers":{"name":"x"}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            ("", "Pod"),
            r#"{"spec":{"restartPolicy":true}}"#,
            "json: cannot unmarshal bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            ("", "ConfigMap"),
            r#"{"data":{"a":1}}"#,
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            ("", "Pod"),
            r#"{"spec":[]}"#,
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (("", "Pod"), r#""x""#, "json: cannot unmarshal string into Go value of type v1.Pod"),
        (
            ("", "Service"),
            r#"{"spec":{"ports":[{"targetPort":1.5}]}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field ServicePort.spec.ports.targetPort of type int32",
        ),
        (("", "Secret"), r#"{"data":{"a":"@@@"}}"#, "illegal base64 data at input byte 0"),
        (
            ("", "Pod"),
            r#"{"metadata":{"creationTimestamp":"soon"}}"#,
            r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#,
        ),
        (
            ("", "Pod"),
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        assert_eq!(decoded(kind, text).error.as_deref(), Some(message), "{text}");
    }
}

#[test]
fn keeps_free_form_json_and_reads_scalars_with_rules() {
    let text = r#"{"data":{"any":null,"list":[1,null]},"metadata":{"creationTimestamp":"2024-01-02T03:04:05+02:00"}}"#;
    assert_eq!(
        decoded(("apps", "ControllerRevision"), text).value,
        json!({"data":{"any":null,"list":[1,null]},"metadata":{"creationTimestamp":"2024-01-02T01:04:05Z"}})
    );
    let text = r#"{"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":81,"targetPort":8081}]}}"#;
    assert_eq!(decoded(("", "Service"), text).value, serde_json::from_str::<Value>(text).unwrap());
    let text = r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":2,"memory":"1024Mi","x":"0.5"}}}]}}"#;
    let limits = decoded(("", "Pod"), text).value["spec"]["containers"][0]["resources"]["limits"].clone();
    assert_eq!(limits, json!({"cpu": "2", "memory": "1Gi", "x": "500m"}));
}

#[test]
fn converts_trees_with_the_messages_of_the_converter() {
    let ty = lookup("apps", "v1", "Deployment").unwrap();
    for (tree, message) in [
        (json!({"spec": {"replicas": "x"}}), "unrecognized type: int32"),
        (json!({"spec": "x"}), "cannot restore struct from: string"),
        (json!({"spec": {"template": {"spec": {"containers": "x"}}}}), "cannot restore slice from string"),
        (json!({"metadata": {"name": 5}}), "cannot convert int64 to string"),
    ] {
        assert_eq!(convert(ty, &tree).error.as_deref(), Some(message));
    }
    assert_eq!(convert(ty, &json!({"spec": {"replicas": 2.0}})).value, json!({"spec": {"replicas": 2}}));
}

#[test]
fn names_syntax_errors_as_go_does() {
    for (text, message) in [
        ("", "unexpected end of JSON input"),
        (r#"{"spec": {"#, "unexpected end of JSON input"),
        ("nonsense", "invalid character 'o' in literal null (expecting 'u')"),
        (r#"{"spec": x}"#, "invalid character 'x' looking for beginning of value"),
        (r#"{spec: 1}"#, "invalid character 's' looking for beginning of object key string"),
        (r#"{"spec": {} "x"}"#, "invalid character '\"' after object key:value pair"),
        (r#"{} x"#, "invalid character 'x' after top-level value"),
    ] {
        assert_eq!(decoded(("", "Pod"), text).error.as_deref(), Some(message), "{text}");
    }
}

/// Upstream's golden objects, in which every field is filled.
#[test]
fn reads_upstreams_golden_objects_without_a_complaint() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/api-fixtures");
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("skipped: no fixtures at {}", folder.display());
        return;
    };
    let mut known = 0;
    for file in files.map(|file| file.unwrap().path()).filter(|file| file.extension().is_some_and(|e| e == "json")) {
        let text = std::fs::read(&file).unwrap();
        let golden: Value = serde_json::from_slice(&text).unwrap();
        let (Some(api_version), Some(kind)) = (golden["apiVersion"].as_str(), golden["kind"].as_str()) else {
            continue;
        };
        let (group, version) = crate::api::catalog::split_api_version(api_version);
        let Some(ty) = lookup(group, version, kind) else { continue };
        let decoded = decode(ty, &text);
        assert_eq!((decoded.problems, decoded.error), (vec![], None), "{}", file.display());
        assert_eq!(decoded.value, golden, "{}", file.display());
        known += 1;
    }
    assert!(known >= 90, "only {known} objects compared");
}

fn documents() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let key = proptest::sample::select(vec![
        "spec",
        "metadata",
        "containers",
        "name",
        "ports",
        "containerPort",
        "env",
        "value",
        "resources",
        "limits",
        "labels",
        "creationTimestamp",
        "tolerations",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9a-zT:-]{0,20}".prop_map(Value::from),
        Just(Value::from("1.5Gi")),
        Just(Value::from("2024-01-02T03:04:05Z")),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|entries| entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest::proptest! {
    /// What comes out is clean: decoding it again changes nothing and finds nothing to object to.
    #[test]
    fn decodes_anything_and_is_idempotent(document in documents()) {
        let ty = lookup("", "v1", "Pod").unwrap();
        let first = decode(ty, document.to_string().as_bytes());
        let tree = prune(ty, &document);
        proptest::prop_assert_eq!(&first.value, &tree.value);
        if first.error.is_none() && first.value.is_object() {
            let second = prune(ty, &first.value);
            proptest::prop_assert_eq!(second.problems, vec![]);
            proptest::prop_assert_eq!(second.value, first.value);
        }
    }
}
