//! Volumes, claims and all that says where they can be used: informers, plus what the scheduler assumed and the API
//! server does not show yet.

use std::sync::Arc;

use common::informer::{Factory, Informer, InformerOptions};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

mod assumed;
pub mod facts;

pub use self::assumed::Assumed;
use self::facts::{claim_class, volume_class};
use crate::framework::pod::PodInfo;
use crate::framework::volumes::{Claim, DriverVolume, successor};

/// PersistentVolumes by storage class.
const BY_CLASS: &str = "storageClass";
/// VolumeAttachments by node.
const BY_NODE: &str = "spec.nodeName";

/// The storage objects of the cluster.
pub struct Storage {
    /// PersistentVolumeClaims.
    pub claims: Arc<Assumed<PersistentVolumeClaim>>,
    /// PersistentVolumes.
    pub volumes: Arc<Assumed<PersistentVolume>>,
    /// StorageClasses.
    pub classes: Arc<Informer<StorageClass>>,
    /// CSINodes.
    pub csi_nodes: Arc<Informer<CSINode>>,
    /// CSIDrivers.
    pub csi_drivers: Arc<Informer<CSIDriver>>,
    /// CSIStorageCapacities.
    pub capacities: Arc<Informer<CSIStorageCapacity>>,
    /// VolumeAttachments.
    pub attachments: Arc<Informer<VolumeAttachment>>,
    /// Sets handles of volumes yet to be made apart from those of real ones.
    prefix: String,
}

impl Storage {
    /// Registers the informers; the factory must be started after.
    pub fn new(factory: &Factory) -> Self {
        Self {
            claims: Assumed::new(factory.informer()),
            volumes: Assumed::new(factory.informer()),
            classes: factory.informer(),
            csi_nodes: factory.informer(),
            csi_drivers: factory.informer(),
            capacities: factory.informer(),
            attachments: factory.informer(),
            prefix: format!("{:032x}", rand::random::<u128>()),
        }
        .indexed()
    }

    /// Informers that nothing feeds; tests fill them.
    pub fn detached() -> Self {
        Self {
            claims: Assumed::new(Informer::new(InformerOptions::default())),
            volumes: Assumed::new(Informer::new(InformerOptions::default())),
            classes: Informer::new(InformerOptions::default()),
            csi_nodes: Informer::new(InformerOptions::default()),
            csi_drivers: Informer::new(InformerOptions::default()),
            capacities: Informer::new(InformerOptions::default()),
            attachments: Informer::new(InformerOptions::default()),
            prefix: "new".into(),
        }
        .indexed()
    }

    fn indexed(self) -> Self {
        self.volumes.informer.add_index(BY_CLASS, |volume| vec![volume_class(volume).to_owned()]);
        self.attachments.add_index(BY_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
        self
    }

    /// A claim, as assumed.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(&format!("{namespace}/{name}"))
    }

    /// The volumes of a class, as assumed, by name.
    pub fn volumes_of(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.by_index(BY_CLASS, class)
    }

    /// The attachments of a node.
    pub fn attachments_of(&self, node: &str) -> Vec<Arc<VolumeAttachment>> {
        self.attachments.by_index(BY_NODE, node)
    }

    /// What a claim is to its CSI driver; `None` when it has none, or it can't be told.
    pub fn driver_volume(&self, claim: &PersistentVolumeClaim) -> Option<DriverVolume> {
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let volume = (!name.is_empty()).then(|| self.volumes.api(name)).flatten();
        match volume {
            Some(volume) => facts::driver_volume(&volume),
            // Not bound, or bound to a volume that is not there (yet): counted by its class.
            None => self.driver_volume_of_class(claim),
        }
    }

    fn driver_volume_of_class(&self, claim: &PersistentVolumeClaim) -> Option<DriverVolume> {
        let class = self.classes.get("", claim_class(claim))?;
        let name = |text: &Option<String>| text.clone().unwrap_or_default();
        let handle = format!("{}-{}/{}", self.prefix, name(&claim.metadata.namespace), name(&claim.metadata.name));
        Some(match successor(&class.provisioner) {
            Some(driver) => DriverVolume { driver: driver.to_owned(), handle, migrated: true },
            None => DriverVolume { driver: class.provisioner.clone(), handle, migrated: false },
        })
    }
}

/// The name of a claim of a pod, and whether it is made from the pod.
pub fn claim_name(pod: &PodInfo, claim: &Claim) -> (String, bool) {
    match claim {
        Claim::Named(name) => (name.clone(), false),
        Claim::Generated(volume) => (format!("{}-{volume}", pod.name), true),
    }
}

/// Whether the pod uses a claim of this name.
pub fn uses_claim(pod: &PodInfo, claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.namespace.as_deref() == Some(pod.namespace())
        && pod
            .template
            .volumes
            .claims
            .iter()
            .any(|known| claim.metadata.name.as_deref() == Some(&claim_name(pod, known).0))
}

/// A claim that was made from a pod must be owned by it.
pub fn check_owner(pod: &PodInfo, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let owners = claim.metadata.owner_references.iter().flatten();
    if owners.filter(|owner| owner.controller == Some(true)).any(|owner| *owner.uid == *pod.uid) {
        return Ok(());
    }
    let (namespace, name) = (pod.namespace(), claim.metadata.name.as_deref().unwrap_or_default());
    Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)", pod.name))
}
