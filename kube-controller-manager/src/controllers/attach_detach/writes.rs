//! Doing what was planned for a node, and telling the pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::names::Device;
use super::plan::Plan;
use super::{Controller, metrics, source_volume};
use crate::events::reference;
use crate::shared::meta::MetaExt;
use crate::shared::volumes::{claim_ref, pods_of};
use crate::shared::{apierr, pods};

impl Controller {
    pub(super) async fn carry_out(
        &self,
        node: &str,
        plan: Plan,
        wanted: &BTreeMap<Device, Arc<PersistentVolume>>,
    ) -> Result<(), kube::Error> {
        // First the kubelet is told, so that it mounts nothing that is about to go.
        if let Some(names) = &plan.report {
            self.report(node, names).await?;
        }
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let mut result = Ok(());
        for (device, force) in &plan.detach {
            if let Some(force) = force {
                tracing::warn!(
                    node,
                    volume = device.unique_name(),
                    ?force,
                    "detaching a volume that may still be mounted"
                );
                metrics::forced(*force);
            }
            let deleted = api.delete(&device.attachment(node), &DeleteParams::default()).await;
            result = result.and(apierr::ignore_not_found(deleted));
        }
        for device in &plan.attach {
            let Some(volume) = wanted.get(device) else { continue };
            result = result.and(self.attach(&api, node, device, volume).await);
        }
        for device in &plan.blocked {
            if let Some(volume) = wanted.get(device) {
                self.block(node, volume);
            }
        }
        result
    }

    async fn report(&self, node: &str, names: &[String]) -> Result<(), kube::Error> {
        let list: Vec<_> = names.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"status": {"volumesAttached": list}}));
        apierr::ignore_not_found(api.patch_status(node, &PatchParams::default(), &patch).await)
    }

    async fn attach(
        &self,
        api: &Api<VolumeAttachment>,
        node: &str,
        device: &Device,
        volume: &PersistentVolume,
    ) -> Result<(), kube::Error> {
        let spec =
            json!({"attacher": device.driver, "nodeName": node, "source": {"persistentVolumeName": volume.name_str()}});
        let value = json!({"metadata": {"name": device.attachment(node)}, "spec": spec});
        let wanted: VolumeAttachment = serde_json::from_value(value).map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams::default(), &wanted).await {
            Err(error) if !apierr::is_already_exists(&error) => {
                self.tell_pods(
                    node,
                    volume,
                    &format!(
                        "AttachVolume.Attach failed for volume {:?} : {}",
                        volume.name_str(),
                        apierr::message(&error)
                    ),
                    true,
                );
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Another node has the volume: its pods are named to those that wait.
    fn block(&self, node: &str, volume: &PersistentVolume) {
        self.blocked.lock().entry(volume.name_str().to_owned()).or_default().insert(node.to_owned());
        let (here, others): (Vec<_>, Vec<_>) =
            self.users(volume).into_iter().partition(|pod| pods::node_name(pod) == node);
        let name = volume.name_str();
        for pod in here {
            let (near, far): (Vec<_>, Vec<_>) = others.iter().partition(|other| other.ns_str() == pod.ns_str());
            let detail = match (near.is_empty(), far.len()) {
                (true, 0) => {
                    "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
                }
                (true, count) => format!("Volume is already used by {count} pod(s) in different namespaces"),
                (false, 0) => format!("Volume is already used by pod(s) {}", joined(&near)),
                (false, count) => {
                    format!(
                        "Volume is already used by pod(s) {} and {count} pod(s) in different namespaces",
                        joined(&near)
                    )
                }
            };
            let message = format!("Multi-Attach error for volume {name:?} {detail}");
            self.events.warning(&reference(&*pod), "FailedAttachVolume", message);
        }
    }

    /// The pods whose claim the volume belongs to.
    fn users(&self, volume: &PersistentVolume) -> Vec<Arc<Pod>> {
        claim_ref(volume).map(|(claim, _)| pods_of(&self.pods, &claim)).unwrap_or_default()
    }

    fn tell_pods(&self, node: &str, volume: &PersistentVolume, message: &str, failed: bool) {
        for pod in self.users(volume).iter().filter(|pod| pods::node_name(pod) == node) {
            let about = reference(&**pod);
            match failed {
                true => self.events.warning(&about, "FailedAttachVolume", message.to_owned()),
                false => self.events.normal(&about, "SuccessfulAttachVolume", message.to_owned()),
            }
        }
    }

    /// Tells the pods what the driver says.
    pub(super) fn tell(&self, old: &VolumeAttachment, new: &VolumeAttachment) {
        let Some(volume) = source_volume(new).and_then(|name| self.volumes.get("", name)) else { return };
        let node = &new.spec.node_name;
        let attached = |attachment: &VolumeAttachment| attachment.status.as_ref().is_some_and(|status| status.attached);
        let name = volume.name_str();
        if attached(new) && !attached(old) {
            self.tell_pods(node, &volume, &format!("AttachVolume.Attach succeeded for volume {name:?} "), false);
            return;
        }
        let error = |attachment: &VolumeAttachment| attachment.status.as_ref().and_then(|s| s.attach_error.clone());
        if let Some(failure) = error(new).filter(|failure| error(old).as_ref() != Some(failure)) {
            let text = failure.message.unwrap_or_default();
            self.tell_pods(node, &volume, &format!("AttachVolume.Attach failed for volume {name:?} : {text}"), true);
        }
    }
}

fn joined(pods: &[&Arc<Pod>]) -> String {
    let names: Vec<&str> = pods.iter().map(|pod| pod.name_str()).collect();
    names.join(", ")
}
