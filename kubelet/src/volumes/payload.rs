//! The files of configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume};

use super::objects::Snapshot;
use super::tokens::{TokenRequestKey, Tokens};
use crate::pods::env::ObjectError;
use crate::pods::fields::{self, FieldContext};

/// A file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) data: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: Option<u32>,
}

/// Files by path within the volume.
pub(super) type Files = BTreeMap<String, File>;

/// Where contents come from.
pub(super) struct Source<'a> {
    pub(super) pod: &'a Pod,
    pub(super) objects: Snapshot,
    pub(super) fields: FieldContext,
    pub(super) tokens: &'a Tokens,
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(0o644)).unwrap_or(0o644) & 0o777
}

/// All files of a volume.
pub(super) async fn collect(source: &Source<'_>, volume: &Volume) -> Result<Files, String> {
    let mut files = Files::new();
    if let Some(own) = &volume.config_map {
        config_map(source, &own.name, own.items.as_deref(), own.optional, own.default_mode, &mut files)?;
    } else if let Some(own) = &volume.secret {
        let name = own.secret_name.as_deref().unwrap_or_default();
        secret(source, name, own.items.as_deref(), own.optional, own.default_mode, &mut files)?;
    } else if let Some(own) = &volume.downward_api {
        downward(source, own.items.as_deref().unwrap_or_default(), own.default_mode, &mut files)?;
    } else if let Some(own) = &volume.projected {
        for part in own.sources.iter().flatten() {
            if let Some(part) = &part.config_map {
                config_map(source, &part.name, part.items.as_deref(), part.optional, own.default_mode, &mut files)?;
            }
            if let Some(part) = &part.secret {
                secret(source, &part.name, part.items.as_deref(), part.optional, own.default_mode, &mut files)?;
            }
            if let Some(part) = &part.downward_api {
                downward(source, part.items.as_deref().unwrap_or_default(), own.default_mode, &mut files)?;
            }
            if let Some(part) = &part.service_account_token {
                token(source, part, own.default_mode, &mut files).await?;
            }
            if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
                return Err(
                    "projected clusterTrustBundle and podCertificate are not supported by this kubelet yet".into()
                );
            }
        }
    }
    Ok(files)
}

fn present<T>(object: Result<T, ObjectError>, optional: Option<bool>) -> Result<Option<T>, String> {
    match object {
        Ok(object) => Ok(Some(object)),
        Err(ObjectError::NotFound { .. }) if optional == Some(true) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn config_map(
    source: &Source<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    default_mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    let Some(map) = present(source.objects.config_map(name), optional)? else { return Ok(()) };
    let mut data: BTreeMap<String, Vec<u8>> =
        map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes())).collect();
    data.extend(map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())));
    pick("configmap", data, items, optional, default_mode, files)
}

fn secret(
    source: &Source<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    default_mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    let Some(secret) = present(source.objects.secret(name), optional)? else { return Ok(()) };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    pick("secret", data, items, optional, default_mode, files)
}

fn pick(
    kind: &str,
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    default_mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = data.into_iter().map(|(key, data)| (key, File { data, mode: mode(None, default_mode), uid: None }));
        files.extend(all);
        return Ok(());
    };
    for item in items {
        match data.remove(&item.key) {
            Some(bytes) => {
                let file = File { data: bytes.clone(), mode: mode(item.mode, default_mode), uid: None };
                files.insert(item.path.clone(), file);
                data.insert(item.key.clone(), bytes);
            }
            None if optional == Some(true) => {}
            None => {
                return Err(format!("{kind} references non-existent config key: {}", item.key)
                    .replace("secret references non-existent config key", "references non-existent secret key"));
            }
        }
    }
    Ok(())
}

fn downward(
    source: &Source<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::of_pod(source.pod, &field.field_path, &source.fields)?,
            (None, Some(resource)) => fields::of_resources(source.pod, None, resource, &source.fields)?,
            (None, None) => continue,
        };
        let file = File { data: text.into_bytes(), mode: mode(item.mode, default_mode), uid: None };
        files.insert(item.path.clone(), file);
    }
    Ok(())
}

async fn token(
    source: &Source<'_>,
    part: &ServiceAccountTokenProjection,
    default_mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    let pod = source.pod;
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let audience = part.audience.as_deref().unwrap_or_default();
    let key = TokenRequestKey::of(pod, audience, part.expiration_seconds.unwrap_or(3600));
    let token = source.tokens.get(&key).await?.token;
    let fs_group = pod_spec.security_context.as_ref().and_then(|context| context.fs_group);
    let mut file = File { data: token.into_bytes(), mode: mode(None, default_mode), uid: None };
    // A token is for the container's user alone, when all containers have the same.
    if fs_group.is_some() {
        file.mode = 0o600;
    } else if let Some(uid) = only_user(&pod_spec) {
        file.mode = 0o600;
        file.uid = Some(uid);
    }
    files.insert(part.path.clone(), file);
    Ok(())
}

fn only_user(spec: &k8s_openapi::api::core::v1::PodSpec) -> Option<u32> {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let users: Vec<Option<i64>> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod))
        .collect();
    let first = (*users.first()?)?;
    users.iter().all(|user| *user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}
