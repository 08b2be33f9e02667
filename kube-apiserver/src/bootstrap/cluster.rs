//! The smaller things of a new cluster: priority classes, the trust that extension servers read, since when the use of
//! old service-account tokens is noted.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ensure::ensure;
use crate::{
    request::{ApiError, ApiResult},
    server::{ApiServer, Change, Mutation, Stored},
};

/// The two system priority classes.
///
/// # Errors
/// The store is unavailable.
pub async fn priority_classes(server: Arc<ApiServer>) -> ApiResult<()> {
    for (name, value, description) in [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description});
        ensure(&server, "scheduling.k8s.io", "priorityclasses", class).await?;
    }
    Ok(())
}

const TRUST: &str = "extension-apiserver-authentication";

/// How often it is looked at whether what is published is still right.
const TRUST_INTERVAL: Duration = Duration::from_secs(60);

/// Publishes the CAs that other servers need to authenticate our clients, and keeps them published: the files may
/// change, and so may the object.
///
/// # Errors
/// A CA file cannot be read, or the store is unavailable.
pub async fn authentication_info(server: Arc<ApiServer>) -> ApiResult<()> {
    publish_trust(&server).await?;
    tokio::spawn(async move {
        while server.shutdown.run_until_cancelled(tokio::time::sleep(TRUST_INTERVAL)).await.is_some() {
            if let Err(error) = publish_trust(&server).await {
                tracing::warn!(%error, "cannot publish {TRUST}");
            }
        }
    });
    Ok(())
}

async fn publish_trust(server: &ApiServer) -> ApiResult<()> {
    let flags = &server.config.options.authentication;
    let mut data = serde_json::Map::new();
    for (key, path) in [
        ("client-ca-file", &flags.client_ca_file),
        ("requestheader-client-ca-file", &flags.requestheader_client_ca_file),
    ] {
        let Some(path) = path else { continue };
        let text = tokio::fs::read_to_string(path).await;
        let text = text.map_err(|e| ApiError::internal(format!("{}: {e}", path.display())))?;
        data.insert(key.to_owned(), text.into());
    }
    if flags.requestheader_client_ca_file.is_some() {
        for (key, values) in [
            ("requestheader-allowed-names", &flags.requestheader_allowed_names),
            ("requestheader-extra-headers-prefix", &flags.requestheader_extra_headers_prefix),
            ("requestheader-group-headers", &flags.requestheader_group_headers),
            ("requestheader-uid-headers", &flags.requestheader_uid_headers),
            ("requestheader-username-headers", &flags.requestheader_username_headers),
        ] {
            data.insert(key.to_owned(), json!(values).to_string().into());
        }
    }
    if data.is_empty() {
        return Ok(());
    }
    let data = Value::Object(data);
    let map = json!({"metadata": {"name": TRUST, "namespace": "kube-system"}, "data": data});
    if !ensure(server, "", "configmaps", map).await? {
        let store = server.registry.core("configmaps")?;
        super::ensure::modify(store, "kube-system", TRUST, &mut MergeTrust(&data)).await?;
    }
    Ok(())
}

/// Adds to what other apiservers of the cluster published: while their CAs differ, clients of both are trusted.
struct MergeTrust<'a>(&'a Value);

#[async_trait]
impl Mutation for MergeTrust<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let mut object = current.object.clone();
        if !object["data"].is_object() {
            object["data"] = json!({});
        }
        for (key, value) in self.0.as_object().into_iter().flatten() {
            let there = object["data"][key].as_str().unwrap_or_default();
            let merged = merge(key, there, value.as_str().unwrap_or_default());
            object["data"][key] = merged.into();
        }
        Ok(Change::Put(object))
    }
}

/// Both lists of names, or both bundles of certificates, without repetition.
fn merge(key: &str, there: &str, ours: &str) -> String {
    if key.ends_with("-ca-file") {
        let blocks = |text: &str| -> Vec<String> {
            let ends = text.split_inclusive("-----END CERTIFICATE-----");
            ends.map(|block| block.trim().to_owned()).filter(|block| block.ends_with('-')).collect()
        };
        let mut all = blocks(there);
        all.extend(blocks(ours).into_iter().filter(|block| !there.contains(block.as_str())));
        return all.join("\n") + "\n";
    }
    let list = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap_or_default();
    let mut all = list(there);
    for name in list(ours) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    json!(all).to_string()
}

const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// How often it is looked at whether the date is still there.
const TRACKING_INTERVAL: Duration = Duration::from_secs(60);
/// Servers without this feature may remove the date; those with it must not fight them.
const TRACKING_CREATION: Duration = Duration::from_secs(30 * 60);

/// Publishes since when it is noted that a token kept in a Secret is used, and keeps that published.
///
/// # Errors
/// The store is unavailable.
pub async fn token_tracking(server: Arc<ApiServer>) -> ApiResult<()> {
    let mut created = ensure_tracking(&server).await?.then(tokio::time::Instant::now);
    tokio::spawn(async move {
        while server.shutdown.run_until_cancelled(tokio::time::sleep(TRACKING_INTERVAL)).await.is_some() {
            if created.is_some_and(|at| at.elapsed() < TRACKING_CREATION) {
                continue;
            }
            match ensure_tracking(&server).await {
                Ok(true) => created = Some(tokio::time::Instant::now()),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot publish {TRACKING}"),
            }
        }
    });
    Ok(())
}

/// Says whether the object had to be made.
async fn ensure_tracking(server: &ApiServer) -> ApiResult<bool> {
    let since = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let map = json!({"metadata": {"name": TRACKING, "namespace": "kube-system"}, "data": {"since": since}});
    if ensure(server, "", "configmaps", map).await? {
        return Ok(true);
    }
    let store = server.registry.core("configmaps")?;
    match super::ensure::modify(store, "kube-system", TRACKING, &mut Since(&since)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(false),
    }
}

/// Mends a date that is none.
struct Since<'a>(&'a str);

#[async_trait]
impl Mutation for Since<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let mut object = current.object.clone();
        let since = object["data"]["since"].as_str().unwrap_or_default();
        if since.len() == 10 && since.parse::<jiff::civil::Date>().is_ok() {
            return Ok(Change::Keep(object));
        }
        object["data"]["since"] = self.0.into();
        Ok(Change::Put(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_merged() {
        let block = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let both = merge("client-ca-file", &block("a"), &(block("a") + &block("b")));
        assert_eq!(both, block("a") + &block("b"));
        assert_eq!(merge("client-ca-file", &both, &block("b")), both);
        assert_eq!(merge("requestheader-allowed-names", r#"["x"]"#, r#"["y","x"]"#), r#"["x","y"]"#);
        assert_eq!(merge("requestheader-allowed-names", "", "[]"), "[]");
    }
}
