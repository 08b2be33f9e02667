//! What the plugin knows of the cluster: claims, slices and classes, shared by all profiles so that no device is promised
//! twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::informer::{Factory, Informer, InformerOptions};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use parking_lot::Mutex;

use super::allocator::{Features, Inventory};
use super::cel::Programs;
use super::claims::Claims;
use crate::framework::requests::is_extended_resource;

/// Every class offers an extended resource of this domain.
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";
/// Classes by the extended resource that they name.
const BY_RESOURCE: &str = "extendedResourceName";

/// The devices of the cluster.
pub struct Devices {
    /// What is on.
    pub features: Features,
    /// ResourceClaims.
    pub claims: Arc<Claims>,
    /// ResourceSlices.
    pub slices: Arc<Informer<ResourceSlice>>,
    /// DeviceClasses.
    pub classes: Arc<Informer<DeviceClass>>,
    /// Compiled selectors.
    pub programs: Programs,
    stale: Arc<AtomicBool>,
    inventory: Mutex<Arc<Inventory>>,
}

impl Devices {
    /// Registers the informers; the factory must be started after.
    pub fn new(factory: &Factory, features: Features) -> Self {
        Self::over(factory.informer(), factory.informer(), factory.informer(), features)
    }

    /// Informers that nothing feeds; tests fill them.
    pub fn detached() -> Self {
        fn none<K: common::informer::Object>() -> Arc<Informer<K>> {
            Informer::new(InformerOptions::default())
        }
        Self::over(none(), none(), none(), Features::default())
    }

    fn over(
        claims: Arc<Informer<ResourceClaim>>,
        slices: Arc<Informer<ResourceSlice>>,
        classes: Arc<Informer<DeviceClass>>,
        features: Features,
    ) -> Self {
        classes.add_index(BY_RESOURCE, |class| class.spec.extended_resource_name.clone().into_iter().collect());
        let stale = Arc::new(AtomicBool::new(true));
        let changed = stale.clone();
        slices.on_event(move |_| changed.store(true, Ordering::Release));
        Self {
            features,
            claims: Claims::new(claims, features.consumable_capacity),
            slices,
            classes,
            programs: Programs::default(),
            stale,
            inventory: Mutex::default(),
        }
    }

    /// Whether claims, slices and classes are all known: before that, a device in use could look free.
    pub fn synced(&self) -> bool {
        self.claims.informer.has_synced() && self.slices.has_synced() && self.classes.has_synced()
    }

    /// The slices as they are now.
    pub fn inventory(&self) -> Arc<Inventory> {
        let mut inventory = self.inventory.lock();
        if self.stale.swap(false, Ordering::AcqRel) {
            *inventory = Arc::new(Inventory::new(self.features, self.slices.list(), &inventory));
        }
        inventory.clone()
    }

    /// The class that stands behind an extended resource; the newest, if several name it.
    pub fn class_of(&self, resource: &str) -> Option<Arc<DeviceClass>> {
        if !self.features.extended_resources {
            return None;
        }
        if let Some(name) = resource.strip_prefix(IMPLICIT) {
            return self.classes.get("", name);
        }
        let created = |class: &DeviceClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        self.classes
            .by_index(BY_RESOURCE, resource)
            .into_iter()
            .max_by(|a, b| created(a).cmp(&created(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name)))
    }

    /// Whether devices stand behind a resource.
    pub fn backs(&self, resource: &str) -> bool {
        is_extended(resource) && self.class_of(resource).is_some()
    }
}

/// Whether a resource is of the kind that devices can stand behind.
pub fn is_extended(resource: &str) -> bool {
    is_extended_resource(resource) || resource.starts_with(IMPLICIT)
}
