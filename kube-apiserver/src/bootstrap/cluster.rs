//! The smaller things of a new cluster: priority classes, the trust that extension servers read, this server's identity.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use ring::digest;
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

struct SetField<'a> {
    field: &'a str,
    value: &'a Value,
}

#[async_trait]
impl Mutation for SetField<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let mut object = current.object.clone();
        match (object[self.field].as_object_mut(), self.value) {
            (Some(existing), Value::Object(wanted)) => {
                existing.extend(wanted.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
            _ => object[self.field] = self.value.clone(),
        }
        Ok(Change::Put(object))
    }
}

/// Announces this server by a Lease in kube-system, renewed in the background.
///
/// # Errors
/// The store is unavailable.
pub async fn identity(server: Arc<ApiServer>) -> ApiResult<()> {
    let host = hostname();
    let hash = digest::digest(&digest::SHA256, host.as_bytes());
    let name = format!("apiserver-{}", base32(&hash.as_ref()[..16]));
    let holder = format!("{name}_{}", uuid::Uuid::new_v4());
    renew(&server, &name, &host, &holder).await?;
    let interval = Duration::from_secs(server.config.options.cluster.identity_lease_renew_interval_seconds.into());
    tokio::spawn(async move {
        while server.shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            if let Err(error) = renew(&server, &name, &host, &holder).await {
                tracing::debug!(%error, "cannot renew the identity lease");
            }
        }
    });
    Ok(())
}

async fn renew(server: &ApiServer, name: &str, host: &str, holder: &str) -> ApiResult<()> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let seconds = server.config.options.cluster.identity_lease_duration_seconds;
    let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": now});
    let lease = json!({
        "metadata": {
            "name": name,
            "namespace": "kube-system",
            "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": host},
        },
        "spec": spec,
    });
    if !ensure(server, "coordination.k8s.io", "leases", lease).await? {
        let store = server.registry.of("coordination.k8s.io", "leases")?;
        super::ensure::modify(store, "kube-system", name, &mut SetField { field: "spec", value: &spec }).await?;
    }
    Ok(())
}

fn hostname() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = text.trim().to_lowercase();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Lower-case base32 without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let (mut out, mut buffer, mut bits) = (String::new(), 0u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    out
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

    #[test]
    fn base32_is_lower_case_and_unpadded() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(&[0; 16]).len(), 26);
    }
}
