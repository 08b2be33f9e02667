//! Watches: events in order, selectors, bookmarks, expiry.

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use super::support::{Cluster, call, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn watches_tell_every_change_in_order() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let start = call(&admin, "GET", MAPS, Value::Null).await["metadata"]["resourceVersion"].clone();
    let path = format!("{MAPS}?watch=true&labelSelector=on%3Dyes&resourceVersion={}", start.as_str().unwrap());
    let stream = admin.request_stream(request("GET", &path, &Value::Null)).await.unwrap();
    let mut lines = std::pin::pin!(stream.lines());
    let map = |on: &str| json!({"metadata": {"name": "a", "labels": {"on": on}}});
    call(&admin, "POST", MAPS, map("yes")).await;
    call(&admin, "PATCH", &format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await;
    call(&admin, "PATCH", &format!("{MAPS}/a"), map("no")).await;
    call(&admin, "PATCH", &format!("{MAPS}/a"), map("yes")).await;
    call(&admin, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    let mut last = 0;
    for want in ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"] {
        let line = lines.try_next().await.unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["type"], want);
        let version: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version > last);
        last = version;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_events_end_with_a_bookmark_and_pages_are_consistent() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let api: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    for n in 0..5 {
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": format!("m{n}")}})).unwrap();
        api.create(&PostParams::default(), &map).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, Some(3)));
    call(&admin, "DELETE", &format!("{MAPS}/m4"), Value::Null).await;
    let token = first.metadata.continue_.unwrap();
    let rest = api.list(&ListParams::default().limit(10).continue_token(&token)).await.unwrap();
    assert_eq!(rest.items.len(), 3, "the page sees the state of the first");

    let path =
        format!("{MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan");
    let stream = admin.request_stream(request("GET", &path, &Value::Null)).await.unwrap();
    let mut lines = std::pin::pin!(stream.lines());
    let mut added = 0;
    loop {
        let event: Value = serde_json::from_str(&lines.try_next().await.unwrap().unwrap()).unwrap();
        if event["type"] == "BOOKMARK" {
            assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
            break;
        }
        added += 1;
    }
    assert_eq!(added, 4);
    cluster.stop().await;
}
