//! Encryption at rest through the whole server: nothing readable on disk, keys rotate, data survives.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::support::{Cluster, call};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const VALUE: &str = "correct-horse-battery-staple";

fn configuration(providers: &[(&str, &str, u8)]) -> String {
    let providers = providers.iter().map(
        |(cipher, name, byte)| json!({*cipher: {"keys": [{"name": name, "secret": STANDARD.encode([*byte; 32])}]}}),
    );
    let resources = json!([{"resources": ["secrets"], "providers": providers.collect::<Vec<_>>()}]);
    json!({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": resources})
        .to_string()
}

fn is_on_disk(dir: &std::path::Path, text: &str) -> bool {
    let files = std::fs::read_dir(dir.join("data")).unwrap().map(|entry| std::fs::read(entry.unwrap().path()));
    files.filter_map(Result::ok).any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_sealed_on_disk_and_rotated_by_writing_them_again() {
    let write = |dir: &std::path::Path, text: String| std::fs::write(dir.join("encryption.json"), text).unwrap();
    let flags = ["--encryption-provider-config={dir}/encryption.json"];
    let mut cluster = Cluster::prepare();
    write(cluster.dir(), configuration(&[("aescbc", "key1", 1)]));
    cluster.restart_with(&flags).await;
    let admin = cluster.admin().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": VALUE}});
    call(&admin, "POST", SECRETS, secret).await;
    let map = json!({"metadata": {"name": "m"}, "data": {"k": "plain-as-day"}});
    call(&admin, "POST", "/api/v1/namespaces/default/configmaps", map).await;
    cluster.stop().await;
    assert!(is_on_disk(cluster.dir(), "plain-as-day"), "what is not configured stays readable");
    assert!(is_on_disk(cluster.dir(), "k8s:enc:aescbc:v1:key1:"));
    assert!(!is_on_disk(cluster.dir(), &STANDARD.encode(VALUE)) && !is_on_disk(cluster.dir(), VALUE));

    write(cluster.dir(), configuration(&[("secretbox", "key2", 2), ("aescbc", "key1", 1)]));
    cluster.restart().await;
    let admin = cluster.admin().await;
    let found = call(&admin, "GET", &format!("{SECRETS}/s"), Value::Null).await;
    assert_eq!(found["data"]["password"], STANDARD.encode(VALUE));
    let again = call(&admin, "PUT", &format!("{SECRETS}/s"), found.clone()).await;
    assert_ne!(again["metadata"]["resourceVersion"], found["metadata"]["resourceVersion"], "it was sealed anew");
    let third = call(&admin, "PUT", &format!("{SECRETS}/s"), again.clone()).await;
    assert_eq!(third["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"], "once is enough");
    write(cluster.dir(), configuration(&[("secretbox", "key2", 2)]));
    cluster.restart().await;
    let admin = cluster.admin().await;
    let found = call(&admin, "GET", &format!("{SECRETS}/s"), Value::Null).await;
    assert_eq!(found["data"]["password"], STANDARD.encode(VALUE), "the old key is no longer needed");
    cluster.stop().await;
}
