//! Plugins of volumes: DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize.

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin, newest_default};
use crate::{
    request::ApiResult,
    resources::{
        amounts::quantity,
        value::{at, bool_at, list_at, member, str_at},
    },
};

const GROUP: &str = "storage.k8s.io";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// Gives claims without a class the default class.
pub(super) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn admit(&self, request: &Attributes<'_>, claim: &mut Value) -> ApiResult<()> {
        let has_class = claim["metadata"]["annotations"].get(CLASS_ANNOTATION).is_some()
            || at(claim, "spec.storageClassName").is_some();
        if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Create || has_class {
            return Ok(());
        }
        let classes = request.list(GROUP, "storageclasses", None).await?;
        if let Some(name) = newest_default(&classes, &DEFAULT_ANNOTATIONS) {
            claim["spec"]["storageClassName"] = name.into();
        }
        Ok(())
    }
}

/// Keeps volumes, claims and attribute classes as long as something uses them.
pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn admit(&self, request: &Attributes<'_>, object: &mut Value) -> ApiResult<()> {
        let finalizer = match (request.group, request.resource) {
            ("", "persistentvolumes") => "kubernetes.io/pv-protection",
            ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            (GROUP, "volumeattributesclasses") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        if request.operation == Operation::Create && request.subresource.is_empty() {
            protect(object, finalizer);
        }
        Ok(())
    }
}

fn protect(object: &mut Value, finalizer: &str) {
    if list_at(object, "metadata.finalizers").iter().any(|f| f == finalizer) {
        return;
    }
    let Some(meta) = member(object, "metadata") else { return };
    match meta["finalizers"].as_array_mut() {
        Some(list) => list.push(finalizer.into()),
        None => meta["finalizers"] = vec![finalizer].into(),
    }
}

/// Lets claims grow only where their class allows it.
pub(super) struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let (Some(claim), Some(old)) = (object, request.old) else { return Ok(()) };
        if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Update {
            return Ok(());
        }
        let size = |c: &Value| at(c, "spec.resources.requests.storage").and_then(quantity).unwrap_or_default();
        if size(claim) <= size(old) {
            return Ok(());
        }
        if str_at(old, "status.phase") != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let (class, before) = (class_of(claim), class_of(old));
        if !class.is_empty()
            && class == before
            && let Some(found) = request.call.registry.of(GROUP, "storageclasses")?.glance("", class).await?
            && bool_at(&found.object, "allowVolumeExpansion")
        {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

fn class_of(claim: &Value) -> &str {
    claim["metadata"]["annotations"][CLASS_ANNOTATION]
        .as_str()
        .unwrap_or_else(|| str_at(claim, "spec.storageClassName"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finalizers_are_added_once() {
        let mut claim = json!({"metadata": {"name": "c"}});
        protect(&mut claim, "kubernetes.io/pvc-protection");
        protect(&mut claim, "kubernetes.io/pvc-protection");
        assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }

    #[test]
    fn the_newest_default_wins() {
        let class = |name: &str, time: &str, on: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": time,
            "annotations": {"storageclass.kubernetes.io/is-default-class": on}}})
        };
        let classes = [
            class("a", "2024-01-01T00:00:00Z", "true"),
            class("c", "2025-01-01T00:00:00Z", "true"),
            class("b", "2025-01-01T00:00:00Z", "true"),
            class("z", "2026-01-01T00:00:00Z", "false"),
        ];
        assert_eq!(newest_default(&classes, &DEFAULT_ANNOTATIONS), Some("b"));
    }
}
