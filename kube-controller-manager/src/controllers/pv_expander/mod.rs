//! `persistentvolume-expander-controller`: says of claims that ask for more than they have who will give it. Every driver that can
//! expand a volume lives outside and watches for itself.

use std::sync::Arc;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use common::meta::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::context::{Context, Task};
use crate::events::{Events, reference};
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::volumes::{PRE_RESIZE_CAPACITY, claim_phase, claim_ref, migrated, requested, volume_name};

const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
const REASON: &str = "ExternalExpanding";
const WORKERS: usize = 10;

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("expand-controller");
    let expander = Arc::new(Expander {
        events: ctx.events(&client, "volume_expand"),
        client,
        claims: ctx.factory.informer(),
        volumes: ctx.factory.informer(),
    });
    let queue = WorkQueue::new("volume_expand");
    let q = queue.clone();
    expander.claims.on_event(move |event: &Event<PersistentVolumeClaim>| {
        let (before, now) = match event {
            Event::Added(claim) => (None, claim),
            Event::Updated { old, new } => (Some(old), new),
            Event::Deleted(_) => return,
        };
        let news = before.is_none_or(|old| requested(old) != requested(now) || claim_phase(old) != claim_phase(now));
        if news && wants_more(now) {
            q.add(object_key(&**now));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        run_workers("volume_expand", queue, WORKERS, shutdown, move |key: String| {
            let expander = expander.clone();
            async move { expander.sync(&key).await }
        })
        .await;
    }))
}

fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref()).and_then(|all| all.get("storage"));
    let has = capacity.and_then(|quantity| Quantity::try_from(quantity).ok());
    claim_phase(claim) == "Bound" && has.is_none_or(|has| requested(claim) > has)
}

/// The former built-in plugin whose volume this is.
fn former_plugin(volume: &PersistentVolume) -> Option<&'static str> {
    let spec = volume.spec.as_ref()?;
    let all = [
        (spec.aws_elastic_block_store.is_some(), "kubernetes.io/aws-ebs"),
        (spec.azure_disk.is_some(), "kubernetes.io/azure-disk"),
        (spec.azure_file.is_some(), "kubernetes.io/azure-file"),
        (spec.cinder.is_some(), "kubernetes.io/cinder"),
        (spec.gce_persistent_disk.is_some(), "kubernetes.io/gce-pd"),
        (spec.portworx_volume.is_some(), "kubernetes.io/portworx-volume"),
        (spec.vsphere_volume.is_some(), "kubernetes.io/vsphere-volume"),
    ];
    all.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
}

struct Expander {
    client: Client,
    events: Events,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
}

impl Expander {
    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let (namespace, name) = split_key(key);
        let Some(claim) = self.claims.get(namespace, name).filter(|claim| wants_more(claim)) else { return Ok(()) };
        let Some(volume) = self.volumes.get("", volume_name(&claim)) else {
            anyhow::bail!("persistentvolume {:?} not found", volume_name(&claim));
        };
        if claim_ref(&volume).is_none_or(|(_, uid)| uid != claim.uid_str()) {
            anyhow::bail!("persistent Volume is not bound to PVC being updated : {key}");
        }
        if volume.annotation(PRE_RESIZE_CAPACITY).is_some() {
            return Ok(());
        }
        let about = reference(&*claim);
        if let Some(plugin) = former_plugin(&volume) {
            let message = format!("CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc");
            self.events.normal(&about, REASON, message);
            return self.set_resizer(&claim, migrated(plugin).unwrap_or_default()).await;
        }
        let message = "waiting for an external controller to expand this PVC".to_owned();
        match volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) {
            true => self.events.normal(&about, REASON, message),
            false => self.events.warning(&about, REASON, message),
        }
        Ok(())
    }

    async fn set_resizer(&self, claim: &PersistentVolumeClaim, driver: &str) -> anyhow::Result<()> {
        if claim.annotation(RESIZER) == Some(driver) {
            return Ok(());
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), claim.ns_str());
        let patch = Patch::Merge(json!({"metadata": {"annotations": {RESIZER: driver}}}));
        Ok(apierr::ignore_not_found(api.patch(claim.name_str(), &PatchParams::default(), &patch).await)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_more() {
        let claim = |phase: &str, asked: &str, has: Option<&str>| -> PersistentVolumeClaim {
            let capacity = has.map(|has| json!({ "storage": has }));
            serde_json::from_value(json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": asked}}},
                "status": {"phase": phase, "capacity": capacity}}))
            .unwrap()
        };
        let table = [
            (claim("Bound", "2Gi", Some("1Gi")), true),
            (claim("Bound", "1Gi", Some("1024Mi")), false),
            (claim("Bound", "1Gi", Some("2Gi")), false),
            (claim("Pending", "2Gi", Some("1Gi")), false),
            (claim("Bound", "2Gi", None), true),
        ];
        for (claim, want) in table {
            assert_eq!(wants_more(&claim), want, "{claim:?}");
        }
    }
}
