//! Who this server is: a Lease in kube-system, by which others find the servers that live; and the end of the Leases of
//! those that do not.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ring::digest;
use serde_json::{Value, json};

use super::ensure::ensure;
use crate::{
    request::{ApiError, ApiResult},
    server::{ApiServer, Change, Mutation, Stored},
    storage::cache::{ListQuery, ResourceVersion},
};

/// How often Leases that nobody renews are looked for.
const COLLECTION: Duration = Duration::from_secs(3600);
const LABEL: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";

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
            "labels": {LABEL: COMPONENT, "kubernetes.io/hostname": host},
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

/// Removes the Leases of servers that are gone, now and every hour.
///
/// # Errors
/// The store is unavailable.
pub async fn collect(server: Arc<ApiServer>) -> ApiResult<()> {
    collect_once(&server).await?;
    tokio::spawn(async move {
        while server.shutdown.run_until_cancelled(tokio::time::sleep(COLLECTION)).await.is_some() {
            if let Err(error) = collect_once(&server).await {
                tracing::warn!(%error, "cannot collect the leases of other servers, trying again later");
            }
        }
    });
    Ok(())
}

async fn collect_once(server: &ApiServer) -> ApiResult<()> {
    struct Removal;
    #[async_trait]
    impl Mutation for Removal {
        async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
            let gone = is_expired(&current.object, Timestamp::now());
            Ok(if gone { Change::Delete } else { Change::Keep(current.object.clone()) })
        }
    }
    let store = server.registry.of("coordination.k8s.io", "leases")?;
    let query = ListQuery { version: ResourceVersion::MostRecent, ..ListQuery::default() };
    let page = store.cache.list(query).await.map_err(|error| store.cache_error(error))?;
    for item in page.items.iter().filter(|item| item.namespace() == "kube-system") {
        let lease: Value = serde_json::from_slice(item.bytes()).map_err(ApiError::internal)?;
        if lease["metadata"]["labels"][LABEL] != COMPONENT || !is_expired(&lease, Timestamp::now()) {
            continue;
        }
        match store.modify("kube-system", item.name(), &mut Removal).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A Lease that was not renewed in its time, or that cannot be one of ours.
fn is_expired(lease: &Value, now: Timestamp) -> bool {
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let lasts = lease["spec"]["leaseDurationSeconds"].as_i64();
    let (Some(renewed), Some(lasts)) = (renewed, lasts) else { return true };
    renewed.checked_add(SignedDuration::from_secs(lasts)).is_ok_and(|end| end < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_lower_case_and_unpadded() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(&[0; 16]).len(), 26);
    }

    #[test]
    fn leases_expire() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        for (spec, want) in [
            (json!({"renewTime": "2026-01-01T00:00:01.000000Z", "leaseDurationSeconds": 3600}), false),
            (json!({"renewTime": "2025-12-31T23:59:59.000000Z", "leaseDurationSeconds": 3600}), true),
            (json!({"renewTime": "2026-01-01T00:59:00.000000Z"}), true),
            (json!({"leaseDurationSeconds": 3600}), true),
        ] {
            assert_eq!(is_expired(&json!({"spec": spec}), now), want, "{spec}");
        }
    }
}
