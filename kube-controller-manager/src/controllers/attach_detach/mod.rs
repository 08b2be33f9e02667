//! `persistentvolume-attach-detach-controller`: asks the CSI drivers, through VolumeAttachments, to attach the volumes of a node's
//! pods, tells the kubelet in the node's status, and has them detached when no pod needs them and the kubelet let go.
//!
//! All state is in the API but for one thing: since when a volume is unwanted. After a restart that clock starts anew.

mod metrics;
mod names;
mod plan;
mod writes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Client;
use parking_lot::Mutex;

use self::names::Device;
use self::plan::{Attachment, Want};
use crate::context::{Context, Task};
use crate::controllers::node_lifecycle::{BY_NODE, index_pods as index_by_node};
use crate::controllers::pvc_protection::claim_names;
use crate::events::Events;
use crate::shared::meta::MetaExt;
use crate::shared::owner::controller_of;
use crate::shared::pods;
use crate::shared::volumes::{claim_phase, claim_ref, index_pods, pods_of, volume_name};

const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const KEEP: &str = "volumes.kubernetes.io/keep-terminated-pod-volumes";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Index of attachments by node, and by volume.
const ON_NODE: &str = "attachment-node";
const OF_VOLUME: &str = "attachment-volume";
const WORKERS: usize = 8;

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("attachdetach-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_pods(&pods);
    index_by_node(&pods);
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "attachdetach-controller"),
        client,
        pods,
        nodes: ctx.factory.informer(),
        claims: ctx.factory.informer(),
        volumes: ctx.factory.informer(),
        drivers: ctx.factory.informer(),
        attachments: ctx.factory.informer(),
        queue: WorkQueue::new("attach_detach"),
        unwanted: Mutex::default(),
        blocked: Mutex::default(),
        force_on_timeout: !ctx.options.volumes.disable_force_detach_on_timeout,
    });
    controller.register();
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("attach_detach", queue, WORKERS, shutdown, move |node: String| {
            let controller = controller.clone();
            async move { controller.sync(&node).await }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    drivers: Arc<Informer<CSIDriver>>,
    attachments: Arc<Informer<VolumeAttachment>>,
    queue: Arc<WorkQueue<String>>,
    /// Since when a node's volume is unwanted; entries go with the attachment.
    unwanted: Mutex<HashMap<(String, Device), Instant>>,
    /// Nodes that wait until other nodes let go of a volume.
    blocked: Mutex<HashMap<String, HashSet<String>>>,
    force_on_timeout: bool,
}

fn source_volume(attachment: &VolumeAttachment) -> Option<&str> {
    attachment.spec.source.persistent_volume_name.as_deref()
}

fn names_claims(pod: &Pod) -> bool {
    claim_names(pod).next().is_some()
}

/// What of a node matters here.
fn relevant(node: &Node) -> impl PartialEq + '_ {
    let status = node.status.as_ref();
    (
        status.and_then(|status| status.volumes_in_use.as_ref()),
        status.and_then(|status| status.volumes_attached.as_ref()),
        is_ready(node),
        is_out_of_service(node),
        node.annotation(MANAGED),
    )
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

impl Controller {
    fn register(self: &Arc<Self>) {
        self.attachments.add_index(ON_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
        self.attachments.add_index(OF_VOLUME, |a| source_volume(a).map(str::to_owned).into_iter().collect());
        let c = self.clone();
        self.pods.on_event(move |event: &Event<Pod>| {
            let pod = event.object();
            let node = pods::node_name(pod);
            let news = match event {
                Event::Updated { old, new } => {
                    pods::node_name(old) != node || names::is_over(old) != names::is_over(new)
                }
                _ => true,
            };
            if news && !node.is_empty() && names_claims(pod) {
                c.queue.add(node.to_owned());
            }
        });
        let c = self.clone();
        self.claims
            .on_event(move |event: &Event<PersistentVolumeClaim>| c.add_nodes_of(&object_key(&**event.object())));
        let c = self.clone();
        self.volumes.on_event(move |event: &Event<PersistentVolume>| {
            if let Some((claim, _)) = claim_ref(event.object()) {
                c.add_nodes_of(&claim);
            }
        });
        let c = self.clone();
        self.nodes.on_event(move |event: &Event<Node>| {
            let same = matches!(event, Event::Updated { old, new } if relevant(old) == relevant(new));
            if !same {
                c.queue.add(object_key(&**event.object()));
            }
        });
        let c = self.clone();
        self.attachments.on_event(move |event: &Event<VolumeAttachment>| {
            let attachment = event.object();
            c.queue.add(attachment.spec.node_name.clone());
            if matches!(event, Event::Deleted(_))
                && let Some(volume) = source_volume(attachment)
            {
                let nodes = c.blocked.lock().remove(volume).unwrap_or_default();
                nodes.into_iter().for_each(|node| c.queue.add(node));
            }
            if let Event::Updated { old, new } = event {
                c.tell(old, new);
            }
        });
    }

    fn add_nodes_of(&self, claim: &str) {
        for pod in pods_of(&self.pods, claim) {
            if !pods::node_name(&pod).is_empty() {
                self.queue.add(pods::node_name(&pod).to_owned());
            }
        }
    }

    /// The volume that a claim of the pod stands for, if the pair is complete.
    fn volume_of(&self, pod: &Pod, claim: &str, ephemeral: bool) -> Option<Arc<PersistentVolume>> {
        let claim = self.claims.get(pod.ns_str(), claim).filter(|claim| claim_phase(claim) == "Bound")?;
        if ephemeral && controller_of(&claim.metadata).is_none_or(|owner| owner.uid != pod.uid_str()) {
            return None;
        }
        let volume = self.volumes.get("", volume_name(&claim))?;
        claim_ref(&volume).is_some_and(|(_, uid)| uid == claim.uid_str()).then_some(volume)
    }

    /// Whether the driver has to be asked before the kubelet can mount; a driver that nobody registered has to.
    fn is_attached(&self, device: &Device) -> bool {
        let driver = self.drivers.get("", &device.driver);
        driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
    }

    /// The devices that the node's pods need, with their volumes.
    fn wanted(&self, node: &Node) -> BTreeMap<Device, Arc<PersistentVolume>> {
        let mut wanted = BTreeMap::new();
        if node.annotation(MANAGED).is_none() {
            return wanted;
        }
        let keep = node.annotation(KEEP) == Some("true");
        for pod in self.pods.by_index(BY_NODE, node.name_str()) {
            if !keep && names::is_over(&pod) {
                continue;
            }
            let sources = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            for (source, claim) in
                sources.filter(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some()).zip(claim_names(&pod))
            {
                let Some(volume) = self.volume_of(&pod, &claim, source.ephemeral.is_some()) else { continue };
                if let Some(device) = Device::of(&volume).filter(|device| self.is_attached(device)) {
                    wanted.insert(device, volume);
                }
            }
        }
        wanted
    }

    /// The attachments of the node that are ours: they have the name that we give.
    fn attached(&self, node: &str) -> BTreeMap<Device, Arc<VolumeAttachment>> {
        let all = self.attachments.by_index(ON_NODE, node);
        let ours = |attachment: Arc<VolumeAttachment>| {
            let volume = self.volumes.get("", source_volume(&attachment)?)?;
            let device = Device::of(&volume)?;
            (device.attachment(node) == attachment.name_str()).then_some((device, attachment))
        };
        all.into_iter().filter_map(ours).collect()
    }

    fn is_held_elsewhere(&self, volume: &PersistentVolume, node: &str) -> bool {
        let all = self.attachments.by_index(OF_VOLUME, volume.name_str());
        !names::is_shared(volume) && all.iter().any(|attachment| attachment.spec.node_name != node)
    }

    /// The attachments as the plan sees them; starts and stops the clocks of unwanted ones.
    fn clocked(
        &self,
        node: &str,
        attached: &BTreeMap<Device, Arc<VolumeAttachment>>,
        wanted: &BTreeMap<Device, Arc<PersistentVolume>>,
        now: Instant,
    ) -> BTreeMap<Device, Attachment> {
        let mut clocks = self.unwanted.lock();
        clocks.retain(|(of, device), _| of != node || (attached.contains_key(device) && !wanted.contains_key(device)));
        let state = |(device, attachment): (&Device, &Arc<VolumeAttachment>)| {
            let unwanted =
                (!wanted.contains_key(device)).then(|| *clocks.entry((node.to_owned(), device.clone())).or_insert(now));
            let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
            (device.clone(), Attachment { attached, deleting: attachment.is_deleting(), unwanted })
        };
        attached.iter().map(state).collect()
    }

    async fn sync(&self, name: &str) -> Result<(), kube::Error> {
        let node = self.nodes.get("", name);
        let wanted = node.as_ref().map(|node| self.wanted(node)).unwrap_or_default();
        let attached = self.attached(name);
        let now = Instant::now();
        let states = self.clocked(name, &attached, &wanted, now);
        let wants = wanted
            .iter()
            .map(|(device, volume)| (device.clone(), Want { held_elsewhere: self.is_held_elsewhere(volume, name) }));
        let seen = node.as_deref().map(facts).unwrap_or_default();
        let plan = plan::plan(&seen, &wants.collect(), &states, self.force_on_timeout, now);
        if let Some(wait) = plan.wait {
            self.queue.add_after(name.to_owned(), wait);
        }
        self.carry_out(name, plan, &wanted).await
    }
}

fn facts(node: &Node) -> plan::Node {
    let status = node.status.as_ref();
    plan::Node {
        exists: true,
        ready: is_ready(node),
        out_of_service: is_out_of_service(node),
        in_use: status.into_iter().flat_map(|s| s.volumes_in_use.iter().flatten()).cloned().collect(),
        reported: status
            .into_iter()
            .flat_map(|s| s.volumes_attached.iter().flatten())
            .map(|v| v.name.clone())
            .collect(),
    }
}
