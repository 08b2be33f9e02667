//! Registry credentials from imagePullSecrets.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::Value;

use crate::shared::Kubelet;

const DEFAULT_REGISTRY: &str = "index.docker.io";

/// Credentials to try in order; without any, one attempt without.
pub(super) async fn candidates(kubelet: &Kubelet, pod: &Pod, image: &str) -> Vec<Option<AuthConfig>> {
    let names: Vec<String> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten())
        .map(|reference| reference.name.clone())
        .filter(|name| !name.is_empty())
        .collect();
    let objects = kubelet.objects.snapshot(pod).await;
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in names {
        match objects.secret(&name) {
            Ok(secret) => found.extend(of_secret(&secret, image).into_iter().map(Some)),
            Err(_) => missing.push(name),
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        kubelet.events.pod(pod, true, "FailedToRetrieveImagePullSecret", &message);
    }
    // What the pod brings comes before what the node has.
    found.extend(kubelet.images.providers.ask(image).await.into_iter().map(Some));
    if found.is_empty() { vec![None] } else { found }
}

fn of_secret(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let auths = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data
            .and_then(|data| data.get(".dockerconfigjson"))
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes.0).ok())
            .map(|config| config["auths"].clone()),
        Some("kubernetes.io/dockercfg") => data
            .and_then(|data| data.get(".dockercfg"))
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes.0).ok()),
        _ => None,
    };
    let Some(Value::Object(auths)) = auths else { return Vec::new() };
    let mut matching: Vec<_> = auths.iter().filter(|(registry, _)| matches(registry, image)).collect();
    matching.sort_by_key(|(registry, _)| std::cmp::Reverse(registry.len()));
    matching.into_iter().map(|(registry, entry)| auth(registry, entry)).collect()
}

/// Reads a secret's payload, as each kind that there is.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn parse_secret(payload: &[u8]) {
    let payload = k8s_openapi::ByteString(payload.to_vec());
    for (kind, key) in
        [("kubernetes.io/dockerconfigjson", ".dockerconfigjson"), ("kubernetes.io/dockercfg", ".dockercfg")]
    {
        let data = Some([(key.to_owned(), payload.clone())].into());
        let secret = Secret { type_: Some(kind.into()), data, ..Secret::default() };
        let _ = of_secret(&secret, "registry.example/app:1");
    }
}

fn auth(registry: &str, entry: &Value) -> AuthConfig {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let decoded = BASE64_STANDARD.decode(text("auth")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = decoded
        .as_deref()
        .and_then(|pair| pair.split_once(':'))
        .map_or_else(|| (text("username"), text("password")), |(user, pass)| (user.to_owned(), pass.to_owned()));
    AuthConfig {
        username,
        password,
        identity_token: text("identitytoken"),
        server_address: registry.to_owned(),
        ..AuthConfig::default()
    }
}

/// A key names a registry host, and maybe a path of it.
fn matches(key: &str, image: &str) -> bool {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let first = image.split('/').next().unwrap_or_default();
    let explicit = image.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let (registry, repository) =
        if explicit { image.split_once('/').unwrap_or((image, "")) } else { (DEFAULT_REGISTRY, image) };
    let registry = if registry == "docker.io" { DEFAULT_REGISTRY } else { registry };
    let host_matches = match host.strip_prefix("*.") {
        Some(suffix) => registry.split_once('.').is_some_and(|(_, rest)| rest == suffix),
        None => host == registry || (host == "docker.io" && registry == DEFAULT_REGISTRY),
    };
    host_matches
        && (path.is_empty()
            || repository == path
            || repository.starts_with(&format!("{path}/"))
            || repository.starts_with(&format!("{path}:")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn registries() {
        for (key, image, want) in [
            ("https://index.docker.io/v1/", "busybox", true),
            ("registry.example", "registry.example/a/b:1", true),
            ("registry.example/a", "registry.example/b", false),
            ("*.example.com", "eu.example.com/x", true),
            ("registry.example", "busybox", false),
        ] {
            assert_eq!(super::matches(key, image), want, "{key} {image}");
        }
    }
}
