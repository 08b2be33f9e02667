//! The server calls of the collector, over any kind, metadata only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{DynamicObject, PartialObjectMeta};
use serde_json::{Value, json};

use super::Collector;
use super::graph::Identity;
use crate::shared::apierr;
use crate::shared::discovery::Served;
use crate::shared::meta::MetaExt;

pub(super) type Meta = PartialObjectMeta<DynamicObject>;

#[derive(Debug, thiserror::Error)]
pub(super) enum CollectError {
    #[error("no resource of kind {kind} in {api_version} is served")]
    UnknownKind { api_version: String, kind: String },
    #[error("cluster-scoped objects cannot refer to namespaced owners")]
    NamespacedOwner,
    #[error("not observed by a watch yet")]
    NotObserved,
    #[error("{0} dependents could not be orphaned")]
    Orphans(usize),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Collector {
    /// The resource that serves a kind.
    pub(super) fn served(&self, api_version: &str, kind: &str) -> Result<Served, CollectError> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let found = self.kinds.read().get(&(group.to_owned(), kind.to_owned())).cloned();
        found.ok_or_else(|| CollectError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
    }

    pub(super) fn api(&self, identity: &Identity) -> Result<Api<DynamicObject>, CollectError> {
        let served = self.served(&identity.api_version, &identity.kind)?;
        let (client, resource) = (self.client.clone(), served.api_resource());
        Ok(match served.namespaced {
            true => Api::namespaced_with(client, &identity.namespace, &resource),
            false => Api::all_with(client, &resource),
        })
    }

    /// The object as it is, if it is still the one of this UID.
    pub(super) async fn live(&self, identity: &Identity) -> Result<Option<Meta>, CollectError> {
        let found = self.api(identity)?.get_metadata_opt(&identity.name).await?;
        Ok(found.filter(|m| m.uid_str() == &*identity.uid))
    }

    /// Deletes exactly what was examined: a changed object is deleted only if its owners are the same.
    /// False: it was gone already.
    pub(super) async fn delete_object(
        &self,
        identity: &Identity,
        examined: &Meta,
        policy: PropagationPolicy,
    ) -> Result<bool, CollectError> {
        let api = self.api(identity)?;
        let params = |version: Option<String>| DeleteParams {
            propagation_policy: Some(policy.clone()),
            preconditions: Some(Preconditions { uid: Some(identity.uid.to_string()), resource_version: version }),
            ..DeleteParams::default()
        };
        let first = api.delete(&identity.name, &params(examined.metadata.resource_version.clone())).await;
        let result = match first {
            Err(error) if apierr::is_conflict(&error) => {
                let Some(now) = self.live(identity).await? else { return Ok(false) };
                if now.metadata.owner_references != examined.metadata.owner_references {
                    return Err(error.into());
                }
                api.delete(&identity.name, &params(None)).await
            }
            other => other,
        };
        match result {
            Ok(_) => Ok(true),
            Err(error) if apierr::is_not_found(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes owners off an object.
    pub(super) async fn drop_owners(&self, identity: &Identity, uids: &[String]) -> Result<(), CollectError> {
        let entries: Vec<Value> = uids.iter().map(|uid| json!({"$patch": "delete", "uid": uid})).collect();
        let keep = |list: Vec<OwnerReference>| list.into_iter().filter(|o| !uids.contains(&o.uid)).collect();
        self.patch_owners(identity, entries, keep).await
    }

    /// Makes an object's references no longer hold up the deletion of its owners.
    pub(super) async fn unblock_owners(&self, identity: &Identity, examined: &Meta) -> Result<(), CollectError> {
        let owners = examined.metadata.owner_references.as_deref().unwrap_or(&[]);
        let blocking = owners.iter().filter(|o| o.block_owner_deletion == Some(true));
        let entries: Vec<Value> = blocking.map(|o| json!({"uid": o.uid, "blockOwnerDeletion": false})).collect();
        let unblock = |mut list: Vec<OwnerReference>| {
            list.iter_mut().for_each(|o| o.block_owner_deletion = o.block_owner_deletion.map(|_| false));
            list
        };
        self.patch_owners(identity, entries, unblock).await
    }

    /// A strategic merge patch where the kind has one, else a merge patch of the whole list.
    async fn patch_owners(
        &self,
        identity: &Identity,
        entries: Vec<Value>,
        edit: impl FnOnce(Vec<OwnerReference>) -> Vec<OwnerReference>,
    ) -> Result<(), CollectError> {
        let api = self.api(identity)?;
        let patch = json!({"metadata": {"uid": &*identity.uid, "ownerReferences": entries}});
        let params = PatchParams::default();
        match api.patch_metadata(&identity.name, &params, &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 415 => {}
            other => return Ok(apierr::ignore_not_found(other)?),
        }
        let Some(now) = self.live(identity).await? else { return Ok(()) };
        let owners = edit(now.metadata.owner_references.unwrap_or_default());
        let patch = json!({"metadata": {"resourceVersion": now.metadata.resource_version, "ownerReferences": owners}});
        Ok(apierr::ignore_not_found(api.patch_metadata(&identity.name, &params, &Patch::Merge(patch)).await)?)
    }

    /// Takes a finalizer off; conflicts are tried again on the fresh object.
    pub(super) async fn remove_finalizer(&self, identity: &Identity, finalizer: &str) -> Result<(), CollectError> {
        let api = self.api(identity)?;
        let mut tries = 0;
        loop {
            let Some(now) = self.live(identity).await? else { return Ok(()) };
            let finalizers = now.metadata.finalizers.unwrap_or_default();
            if !finalizers.iter().any(|f| f == finalizer) {
                return Ok(());
            }
            let rest: Vec<&String> = finalizers.iter().filter(|f| *f != finalizer).collect();
            let patch = json!({"metadata": {"resourceVersion": now.metadata.resource_version, "finalizers": rest}});
            match api.patch_metadata(&identity.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if apierr::is_conflict(&error) && tries < 5 => tries += 1,
                other => return Ok(apierr::ignore_not_found(other)?),
            }
        }
    }
}
