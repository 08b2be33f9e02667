//! /metrics: upstream's names and labels, counted where they should be.

use serde_json::{Value, json};

use super::support::{Cluster, call, get, refused, request, send, wait_for};

const MAPS: &str = "/api/v1/namespaces/metrics-test/configmaps";

/// The value of the sample that has this name and all these labels, summed up.
pub fn value(text: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    let wanted = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
    wanted.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_watches_are_counted_under_upstreams_names() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let namespace = json!({"metadata": {"name": "metrics-test"}});
    call(&admin, "POST", "/api/v1/namespaces", namespace).await;
    let map = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    call(&admin, "POST", MAPS, map.clone()).await;
    refused(&admin, request("POST", MAPS, &map)).await;
    call(&admin, "GET", &format!("{MAPS}/a"), Value::Null).await;
    call(&admin, "POST", &format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "b"}})).await;
    let watch = admin.request_stream(get(&format!("{MAPS}?watch=1"), &[])).await.unwrap();
    let scrape = async || send(&admin, get("/metrics", &[])).await.1;
    wait_for("the watch is counted", async || {
        let maps = ["verb=\"WATCH\"", "resource=\"configmaps\"", "scope=\"namespace\""];
        let text = scrape().await;
        value(&text, "apiserver_longrunning_requests", &maps) >= 1.0
            && value(&text, "apiserver_watch_events_total", &["resource=\"configmaps\""]) >= 1.0
    })
    .await;
    drop(watch);
    let text = scrape().await;
    for (name, labels) in [
        ("apiserver_request_total", &["resource=\"configmaps\"", "verb=\"POST\"", "code=\"201\"", "dry_run=\"\""][..]),
        ("apiserver_request_total", &["resource=\"configmaps\"", "code=\"409\"", "scope=\"resource\""]),
        ("apiserver_request_total", &["resource=\"configmaps\"", "dry_run=\"All\"", "component=\"apiserver\""]),
        ("apiserver_request_duration_seconds_count", &["resource=\"configmaps\"", "verb=\"GET\""]),
        ("apiserver_request_sli_duration_seconds_count", &["resource=\"configmaps\"", "verb=\"GET\""]),
        ("apiserver_response_sizes_count", &["resource=\"configmaps\"", "verb=\"GET\""]),
        ("apiserver_resource_objects", &["resource=\"configmaps\""]),
        ("apiserver_storage_size_bytes", &["storage_cluster_id=\"etcd-0\""]),
        ("etcd_request_duration_seconds_count", &["operation=\"create\"", "resource=\"configmaps\""]),
        ("authentication_attempts", &["result=\"success\""]),
        ("authorization_attempts_total", &["result=\"allowed\""]),
        ("authenticated_user_requests", &["username=\"admin\""]),
        ("kubernetes_build_info", &["git_version=\"v1.36", "major=\"1\""]),
        ("process_start_time_seconds", &[]),
        ("apiserver_watch_cache_initializations_total", &["resource=\"configmaps\""]),
        ("apiserver_cache_list_total", &["resource=\"configmaps\""]),
    ] {
        assert!(value(&text, name, labels) > 0.0, "{name} {labels:?} in\n{text}");
    }
    assert!(text.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"}"), "{text}");
    let slis = send(&admin, get("/metrics/slis", &[])).await.1;
    assert!(slis.contains("kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1"), "{slis}");
    cluster.stop().await;
}
