//! How large the workloads of pods are meant to be: from the caches for those we know, by the scale subresource for all others.

use std::collections::HashMap;
use std::sync::Arc;

use common::informer::Informer;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::owner::controller_of;
use crate::shared::scale::Scaler;

/// The caches of the built-in workloads, and the scales of all others.
pub(super) struct Scales {
    pub(super) scaler: Scaler,
    pub(super) deployments: Arc<Informer<Deployment>>,
    pub(super) sets: Arc<Informer<ReplicaSet>>,
    pub(super) stateful: Arc<Informer<StatefulSet>>,
    pub(super) replication: Arc<Informer<ReplicationController>>,
}

/// What the pods are meant to be together, and the names of those that nobody manages.
pub(super) struct Expectation {
    pub(super) scale: i32,
    pub(super) unmanaged: Vec<String>,
}

fn group(reference: &OwnerReference) -> &str {
    reference.api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

impl Scales {
    /// Adds up the scales of the pods' workloads, each once.
    ///
    /// # Errors
    /// A pod whose workload is unknown, with upstream's text.
    pub(super) async fn expectation(&self, pods: &[Arc<Pod>]) -> Result<Expectation, String> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        let mut unmanaged = Vec::new();
        for pod in pods {
            let Some(reference) = controller_of(&pod.metadata) else {
                unmanaged.push(pod.name_str().to_owned());
                continue;
            };
            // Pods of a Deployment have its UID in the list, not that of their set: ask the cache again.
            if scales.contains_key(&reference.uid) {
                continue;
            }
            let known = match self.known(pod.ns_str(), reference) {
                Some(known) => Some(known),
                None => self.served_scale(pod.ns_str(), reference).await?,
            };
            let Some((uid, scale)) = known else {
                return Err(format!("found no controllers for pod {:?}", pod.name_str()));
            };
            scales.insert(uid, scale);
        }
        let scale = scales.values().fold(0, |sum: i32, n| sum.saturating_add(*n));
        Ok(Expectation { scale, unmanaged })
    }

    /// The workload behind a reference: of a set the Deployment that has it, if any.
    fn known(&self, namespace: &str, reference: &OwnerReference) -> Option<(String, i32)> {
        let (name, uid) = (&reference.name, reference.uid.as_str());
        let found =
            |known: &str, replicas: Option<i32>| (known == uid).then(|| (uid.to_owned(), replicas.unwrap_or(1)));
        match (group(reference), reference.kind.as_str()) {
            ("", "ReplicationController") => {
                let rc = self.replication.get(namespace, name)?;
                found(rc.uid_str(), rc.spec.as_ref().and_then(|s| s.replicas))
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful.get(namespace, name)?;
                found(set.uid_str(), set.spec.as_ref().and_then(|s| s.replicas))
            }
            ("apps" | "extensions", "ReplicaSet") => {
                let set = self.sets.get(namespace, name).filter(|s| s.uid_str() == uid)?;
                let owner = controller_of(&set.metadata).filter(|r| r.kind == "Deployment");
                let Some(owner) = owner.filter(|r| matches!(group(r), "apps" | "extensions")) else {
                    return found(set.uid_str(), set.spec.as_ref().and_then(|s| s.replicas));
                };
                let deployment = self.deployments.get(namespace, &owner.name).filter(|d| d.uid_str() == owner.uid)?;
                let replicas = deployment.spec.as_ref().and_then(|s| s.replicas);
                Some((owner.uid.clone(), replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }

    async fn served_scale(&self, namespace: &str, reference: &OwnerReference) -> Result<Option<(String, i32)>, String> {
        let (kind, version) = (&reference.kind, &reference.api_version);
        let resource = self.scaler.resource(group(reference), kind).await.map_err(|e| apierr::message(&e))?;
        let resource = resource.ok_or_else(|| format!("no matches for kind {kind:?} in version {version:?}"))?;
        match self.scaler.get(&resource, namespace, &reference.name).await {
            Ok(scale) if scale.uid_str() == reference.uid => {
                let replicas = scale.spec.and_then(|s| s.replicas).unwrap_or(0);
                Ok(Some((reference.uid.clone(), replicas)))
            }
            Ok(_) => Ok(None),
            Err(error) if apierr::is_not_found(&error) && resource.scalable => Ok(None),
            Err(error) if apierr::is_not_found(&error) => {
                Err(format!("{}.{} does not implement the scale subresource", resource.plural, resource.group))
            }
            Err(error) => Err(apierr::message(&error)),
        }
    }
}
