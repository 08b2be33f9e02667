//! ServiceAccount: gives pods their account, its token and its pull secrets.

use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin, is_mirror};
use crate::request::ApiResult;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The default account of a new namespace comes a moment after the namespace.
const DEFAULT_ATTEMPTS: u32 = 10;

pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(&self, request: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
        if !request.is("", "pods") || request.operation != Operation::Create || is_mirror(pod) {
            return Ok(());
        }
        let name = account_name(pod).to_owned();
        let name = if name.is_empty() { "default".to_owned() } else { name };
        pod["spec"]["serviceAccountName"] = name.as_str().into();
        pod["spec"]["serviceAccount"] = name.as_str().into();
        let account = find(request, &name).await?;
        if wants_token(pod, &account) {
            mount_token(pod);
        }
        let has_secrets = pod["spec"]["imagePullSecrets"].as_array().is_some_and(|s| !s.is_empty());
        if let (false, Some(secrets)) = (has_secrets, account["imagePullSecrets"].as_array().filter(|s| !s.is_empty()))
        {
            pod["spec"]["imagePullSecrets"] = secrets.clone().into();
        }
        Ok(())
    }

    async fn validate(&self, request: &Attributes<'_>, pod: Option<&Value>) -> ApiResult<()> {
        let Some(pod) = pod.filter(|_| request.is("", "pods") && request.operation == Operation::Create) else {
            return Ok(());
        };
        if !is_mirror(pod) {
            return if account_name(pod).is_empty() {
                Err(request
                    .forbidden(format!("no service account specified for pod {}/{}", request.namespace, request.name)))
            } else {
                Ok(())
            };
        }
        if !account_name(pod).is_empty() {
            return Err(request.forbidden("a mirror pod may not reference service accounts"));
        }
        match super::referenced_kind(pod) {
            Some(kind) => Err(request.forbidden(format!("a mirror pod may not reference {kind}"))),
            None => Ok(()),
        }
    }
}

fn account_name(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().unwrap_or_default()
}

async fn find(request: &Attributes<'_>, name: &str) -> ApiResult<Value> {
    let store = request.call.registry.core("serviceaccounts")?;
    let attempts = if name == "default" { DEFAULT_ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let found = match store.glance(request.namespace, name).await? {
            Some(found) => Some(found),
            None => store.find(request.namespace, name).await?,
        };
        if let Some(found) = found {
            return Ok(found.object);
        }
    }
    Err(request.forbidden(format!(
        "error looking up service account {}/{name}: serviceaccount {name:?} not found",
        request.namespace
    )))
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    let own = pod["spec"]["automountServiceAccountToken"].as_bool();
    own.or_else(|| account["automountServiceAccountToken"].as_bool()).unwrap_or(true)
}

/// Mounts the token into every container that has nothing at its place.
fn mount_token(pod: &mut Value) {
    let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    let named = |v: &Value| v["name"].as_str().is_some_and(|n| n.starts_with(VOLUME_PREFIX));
    let existing = volumes.iter().find(|v| named(v)).and_then(|v| v["name"].as_str()).map(str::to_owned);
    let is_new = existing.is_none();
    let name = existing.unwrap_or_else(random_name);
    let mut needed = false;
    for field in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            container["volumeMounts"] = mounts.into_iter().chain([mount]).collect();
            needed = true;
        }
    }
    if needed && is_new {
        pod["spec"]["volumes"] = volumes.into_iter().chain([token_volume(&name)]).collect();
    }
}

fn random_name() -> String {
    let mut rng = rand::rng();
    let suffix = (0..5).map(|_| char::from(SUFFIX[rng.random_range(0..SUFFIX.len())]));
    VOLUME_PREFIX.chars().chain(suffix).collect()
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_mounted_once() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "x", "mountPath": MOUNT_PATH}]}]}});
        mount_token(&mut pod);
        let name = pod["spec"]["volumes"][0]["name"].as_str().unwrap();
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], name);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let before = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, before);
        assert!(!wants_token(&json!({"spec": {}}), &json!({"automountServiceAccountToken": false})));
        let insists = json!({"spec": {"automountServiceAccountToken": true}});
        assert!(wants_token(&insists, &json!({"automountServiceAccountToken": false})));
    }
}
