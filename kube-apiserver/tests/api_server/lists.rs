//! LIST and DELETE of collections: versions, pages, selectors, forms, and what is refused with which words.

use serde_json::{Value, json};

use super::support::{Cluster, call, get, refused, request, send};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(admin: &kube::Client, names: &[&str], app: &str) {
    for name in names {
        let map = json!({"metadata": {"name": name, "labels": {"app": app}}, "data": {"k": "v"}});
        call(admin, "POST", MAPS, map).await;
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_contradict_each_other_are_refused_with_upstreams_words() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let forbidden =
        |field: &str, why: &str| format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {why}");
    let matching = |why: &str| forbidden("resourceVersionMatch", why);
    let number = "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    for (query, code, message) in [
        ("resourceVersionMatch=Exact", 422, matching("resourceVersionMatch is forbidden unless resourceVersion is provided")),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422, matching("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")),
        (
            "resourceVersionMatch=Newest&resourceVersion=1",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"".to_owned(),
        ),
        ("sendInitialEvents=true", 422, forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")),
        ("watch=1&sendInitialEvents=true", 422, matching("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
        (
            "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            422,
            matching("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
        ),
        ("resourceVersion=x", 400, format!("invalid resource version: {number}")),
        ("watch=1&resourceVersion=x", 500, number.to_owned()),
        ("limit=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned()),
        ("continue=%21", 400, String::new()),
        ("fieldSelector=spec.color%3Dred", 400, "\"spec.color\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"".to_owned()),
        ("fieldSelector=color", 400, "invalid selector: 'color'; can't understand 'color'".to_owned()),
        ("labelSelector=a%20b", 400, "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt".to_owned()),
    ] {
        let (found, _, text) = refused(&admin, get(&format!("{MAPS}?{query}"), &[])).await;
        assert_eq!(found, code, "{query}: {text}");
        if message.is_empty() {
            assert!(text.starts_with("invalid continue token: continue key is not valid: "), "{text}");
        } else {
            assert_eq!(text, message, "{query}");
        }
    }
    let (code, _, text) = refused(&admin, get(&format!("{MAPS}?resourceVersion=999999999"), &[])).await;
    assert_eq!(code, 504);
    assert!(text.starts_with("Timeout: Too large resource version: 999999999, current: "), "{text}");
    let path = "/api/v1/watch/namespaces/default/configmaps/a?fieldSelector=metadata.name%3Db";
    let (code, _, text) = refused(&admin, get(path, &[])).await;
    assert_eq!((code, text.as_str()), (400, "fieldSelector metadata.name doesn't match requested name"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_consistent_and_expired_ones_can_go_on_inconsistently() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    create(&admin, &["a", "b", "c", "d"], "x").await;
    let first = call(&admin, "GET", &format!("{MAPS}?limit=1"), Value::Null).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a"], &json!(3)));
    let filtered = call(&admin, "GET", &format!("{MAPS}?limit=1&labelSelector=app%3Dx"), Value::Null).await;
    assert!(filtered["metadata"].get("remainingItemCount").is_none() && filtered["metadata"]["continue"].is_string());
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let both = format!("{MAPS}?continue={token}&resourceVersion={version}");
    let (code, _, text) = refused(&admin, get(&both, &[])).await;
    assert_eq!((code, text.as_str()), (400, "specifying resource version is not allowed when using continue"));
    call(&admin, "DELETE", &format!("{MAPS}/b"), Value::Null).await;
    let exact = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert!(names(&call(&admin, "GET", &exact, Value::Null).await).contains(&"b"), "the past is still there");

    cluster.restart().await;
    cluster.compact().await;
    let admin = cluster.admin().await;
    let (code, reason, text) = refused(&admin, get(&exact, &[])).await;
    assert_eq!(
        (code, reason.as_str(), text.as_str()),
        (410, "Expired", "The resourceVersion for the provided list is too old.")
    );
    let (parts, body) = send(&admin, get(&format!("{MAPS}?limit=2&continue={token}"), &[])).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((parts.status.as_u16(), &status["reason"]), (410, &json!("Expired")));
    assert!(status["message"].as_str().unwrap().contains("use the continue token in this response"), "{status}");
    let fresh = status["metadata"]["continue"].as_str().expect("a token to go on with");
    let rest = call(&admin, "GET", &format!("{MAPS}?continue={fresh}"), Value::Null).await;
    assert_eq!(names(&rest)[..2], ["c", "d"], "the newest state from there on");

    let (_, body) = send(&admin, get(&format!("{MAPS}?watch=1&resourceVersion={version}"), &[])).await;
    let event: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(
        event["object"]["message"].as_str().unwrap().starts_with(&format!("too old resource version: {version} ("))
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_deleted_by_selector_and_page_and_answer_what_was_listed() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    create(&admin, &["a", "b", "c"], "x").await;
    create(&admin, &["z"], "y").await;
    let dry = call(&admin, "DELETE", &format!("{MAPS}?dryRun=All&labelSelector=app%3Dx"), Value::Null).await;
    assert_eq!(names(&dry), ["a", "b", "c"]);
    let page = call(&admin, "DELETE", &format!("{MAPS}?limit=1&labelSelector=app%3Dx"), Value::Null).await;
    assert_eq!((names(&page), page["kind"].as_str()), (vec!["a"], Some("ConfigMapList")));
    let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"});
    call(&admin, "DELETE", &format!("{MAPS}?labelSelector=app%3Dx"), body).await;
    let orphan = call(&admin, "GET", &format!("{MAPS}/b"), Value::Null).await;
    assert_eq!(orphan["metadata"]["finalizers"], json!(["orphan"]));
    for (body, message) in [
        (
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
        ),
        (
            json!({"dryRun": ["Some"]}),
            "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
    ] {
        let (code, _, text) = refused(&admin, request("DELETE", &format!("{MAPS}/z"), &body)).await;
        assert_eq!((code, text.as_str()), (422, message));
    }
    let body = json!({"preconditions": {"uid": "other"}});
    let (code, _, text) = refused(&admin, request("DELETE", &format!("{MAPS}/z"), &body)).await;
    assert_eq!(code, 409);
    assert!(text.contains("the UID in the precondition (other) does not match the UID in record ("), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_small_ones_are_not_and_forms_are_shaped() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let big = json!({"metadata": {"name": "big"}, "data": {"k": "x".repeat(200 * 1024)}});
    call(&admin, "POST", MAPS, big).await;
    let gzip = &[("accept-encoding", "gzip")][..];
    let (parts, _) = send(&admin, get(&format!("{MAPS}/big"), gzip)).await;
    assert_eq!(parts.headers["content-encoding"], "gzip");
    assert_eq!(parts.headers["vary"], "Accept-Encoding");
    let (parts, _) = send(&admin, get(&format!("{MAPS}/big"), &[])).await;
    assert!(parts.headers.get("content-encoding").is_none());
    let (parts, _) = send(&admin, get("/api/v1/namespaces/default", gzip)).await;
    assert!(parts.headers.get("content-encoding").is_none());
    let (parts, body) = send(&admin, request("HEAD", "/api/v1/namespaces/default", &Value::Null)).await;
    assert_eq!((parts.status.as_u16(), body.as_str()), (405, ""), "upstream has no HEAD of objects");
    let (_, body) = send(&admin, get("/api/v1/namespaces/default?pretty=true", &[])).await;
    assert!(body.starts_with("{\n  \"kind\": \"Namespace\""), "{body}");
    let wanted = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (include, kind) in
        [("None", Value::Null), ("Metadata", json!("PartialObjectMetadata")), ("Object", json!("Namespace"))]
    {
        let path = format!("/api/v1/namespaces?includeObject={include}");
        let (_, body) = send(&admin, get(&path, &[("accept", wanted)])).await;
        let table: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(table["rows"][0]["object"]["kind"], kind, "{include}");
        // Indented, it is put together from trees. Ages may differ.
        let (_, body) = send(&admin, get(&format!("{path}&pretty=true"), &[("accept", wanted)])).await;
        let pretty: Value = serde_json::from_str(&body).unwrap();
        let ageless = |mut table: Value| {
            table["rows"].as_array_mut().unwrap().iter_mut().for_each(|row| row["cells"][2] = Value::Null);
            table
        };
        assert_eq!(ageless(table), ageless(pretty), "{include}");
    }
    cluster.stop().await;
}
