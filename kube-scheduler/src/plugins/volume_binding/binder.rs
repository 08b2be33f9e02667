//! Puts a choice of volumes into effect: assumed at once, told to the API server in the binding cycle, and waited for.

use std::sync::Arc;
use std::time::Duration;

use common::informer::{Informer, Object, object_key};
use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, PostParams};

use super::search::Found;
use crate::framework::pod::PodInfo;
use crate::storage::{Storage, facts};

/// How often things are looked at that no change of a volume or claim tells of.
const LOOK: Duration = Duration::from_secs(1);

/// What the binder works with.
pub struct Binder {
    /// The volumes.
    pub storage: Arc<Storage>,
    /// The API server; `None` in tests of the decision alone.
    pub client: Option<kube::Client>,
    /// Nodes and pods, to notice when a binding has become pointless.
    pub nodes: Option<Arc<Informer<Node>>>,
    /// Pods.
    pub pods: Option<Arc<Informer<Pod>>>,
    /// How long a binding may take.
    pub timeout: Duration,
}

/// The volume as it will be when bound to the claim; `None` when it is already.
fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let (ours, meta) = (facts::is_bound_to(volume, claim), &claim.metadata);
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let complete = ours && reference.is_some_and(|reference| reference.uid == meta.uid);
    let marked = ours || facts::annotation(&volume.metadata, facts::BOUND_BY_CONTROLLER).is_some();
    if complete && marked {
        return None;
    }
    let mut volume = volume.clone();
    if !complete {
        volume.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        });
    }
    if !marked {
        let annotations = volume.metadata.annotations.get_or_insert_default();
        annotations.insert(facts::BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    Some(volume)
}

fn version<K: Object>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Binder {
    /// Assumes the choice for a node; gives back the objects as assumed. On error nothing stays assumed.
    pub fn assume(&self, found: &Found, node: &str) -> Result<Found, String> {
        let mut assumed = Found::default();
        let result = self.assume_each(found, node, &mut assumed);
        if result.is_err() {
            self.revert(&assumed);
        }
        result.map(|()| assumed)
    }

    fn assume_each(&self, found: &Found, node: &str, assumed: &mut Found) -> Result<(), String> {
        for (volume, claim) in &found.bindings {
            let volume = match bound_volume(volume, claim) {
                Some(changed) => {
                    let changed = Arc::new(changed);
                    self.storage.volumes.assume(changed.clone())?;
                    changed
                }
                None => volume.clone(),
            };
            assumed.bindings.push((volume, claim.clone()));
        }
        for claim in &found.provisions {
            let mut claim = (**claim).clone();
            let annotations = claim.metadata.annotations.get_or_insert_default();
            annotations.insert(facts::SELECTED_NODE.into(), node.to_owned());
            let claim = Arc::new(claim);
            self.storage.claims.assume(claim.clone())?;
            assumed.provisions.push(claim);
        }
        Ok(())
    }

    /// Takes assumptions back, but those that the API server has taken over.
    pub fn revert(&self, assumed: &Found) {
        assumed.bindings.iter().for_each(|(volume, _)| self.storage.volumes.restore(volume));
        assumed.provisions.iter().for_each(|claim| self.storage.claims.restore(claim));
    }

    /// Writes the choice and waits until the controller and the driver have done their part.
    pub async fn bind(&self, pod: &PodInfo, node: &str, mut assumed: Found) -> Result<(), String> {
        let written = self.write(&mut assumed).await;
        if written.is_err() {
            self.revert(&assumed);
        }
        written?;
        let done = tokio::time::timeout(self.timeout, self.wait(pod, node, &assumed)).await;
        done.unwrap_or_else(|_| Err("context deadline exceeded".into()))
            .map_err(|error| format!("binding volumes: {error}"))
    }

    async fn write(&self, assumed: &mut Found) -> Result<(), String> {
        let client = self.client.as_ref().ok_or("no API server to bind volumes with")?;
        let text = |error: kube::Error| error.to_string();
        let name = |meta: &Option<String>| meta.clone().unwrap_or_default();
        for (volume, _) in &mut assumed.bindings {
            let api: Api<PersistentVolume> = Api::all(client.clone());
            let sent = api.replace(&name(&volume.metadata.name), &PostParams::default(), volume).await;
            *volume = Arc::new(sent.map_err(text)?);
        }
        for claim in &mut assumed.provisions {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &name(&claim.metadata.namespace));
            let sent = api.replace(&name(&claim.metadata.name), &PostParams::default(), claim).await;
            *claim = Arc::new(sent.map_err(text)?);
        }
        Ok(())
    }

    async fn wait(&self, pod: &PodInfo, node: &str, written: &Found) -> Result<(), String> {
        loop {
            // Registered before the look, so that no change in between is missed.
            let volumes = self.storage.volumes.changed.notified();
            let claims = self.storage.claims.changed.notified();
            if self.bound(pod, node, written)? {
                return Ok(());
            }
            tokio::select! {
                () = volumes => {}
                () = claims => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Whether every claim is bound; an error when this won't come to pass.
    fn bound(&self, pod: &PodInfo, node: &str, written: &Found) -> Result<bool, String> {
        let node_object = match &self.nodes {
            Some(nodes) => {
                let missing = || format!("failed to get node {node:?}: node {node:?} not found");
                Some(nodes.get("", node).ok_or_else(missing)?)
            }
            None => None,
        };
        if self.pods.as_ref().is_some_and(|pods| pods.get(pod.namespace(), &pod.name).is_none()) {
            return Err(format!("pod does not exist any more: pod {:?} not found", &*pod.name));
        }
        let reached = |volume: &PersistentVolume| {
            let labels = node_object.as_ref().and_then(|node| node.metadata.labels.as_ref());
            let terms = facts::reach(volume);
            if node_object.is_none() || facts::reaches(terms.as_deref(), |key| labels?.get(key).map(String::as_str)) {
                return Ok(());
            }
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            Err(format!("pv {name:?} node affinity doesn't match node {node:?}: no matching NodeSelectorTerms"))
        };
        for (volume, claim) in &written.bindings {
            let key = object_key(&**volume);
            let seen = self
                .storage
                .volumes
                .api(&key)
                .ok_or_else(|| format!("failed to check binding: persistentvolumes {key:?} not found"))?;
            let claim = object_key(&**claim);
            let claim = self
                .storage
                .claims
                .api(&claim)
                .ok_or_else(|| format!("failed to check binding: persistentvolumeclaims {claim:?} not found"))?;
            if version(&**volume) > version(&*seen) {
                return Ok(false);
            }
            reached(&seen)?;
            let reference = seen.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            if reference.and_then(|reference| reference.uid.as_deref()).unwrap_or_default().is_empty() {
                return Err(format!("ClaimRef got reset for pv {key:?}"));
            }
            if !facts::fully_bound(&claim) {
                return Ok(false);
            }
        }
        for claim in &written.provisions {
            let key = object_key(&**claim);
            let seen =
                self.storage.claims.api(&key).ok_or_else(|| {
                    format!("failed to check provisioning pvc: persistentvolumeclaims {key:?} not found")
                })?;
            if version(&**claim) > version(&*seen) {
                return Ok(false);
            }
            let name = seen.metadata.name.as_deref().unwrap_or_default();
            if seen.metadata.annotations.is_none() {
                return Err(format!("selectedNode annotation reset for PVC {name:?}"));
            }
            if facts::annotation(&seen.metadata, facts::SELECTED_NODE) != Some(node) {
                return Err(format!("provisioning failed for PVC {name:?}"));
            }
            let volume = facts::volume_name(&seen);
            if !volume.is_empty() {
                match self.storage.volumes.api(volume) {
                    Some(volume) => reached(&volume)?,
                    None => return Ok(false),
                }
            }
            if !facts::fully_bound(&seen) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
