//! Which volumes a pod would get on which node. Pure: what can be worked out without a node is, once per cycle.

use std::sync::Arc;

use common::meta::quantity::Quantity;
use common::meta::selector::LabelSelector;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::cache::snapshot::NodeView;
use crate::storage::{Storage, facts};
use common::meta::nodeselector::Term;

/// A claim of the pod is not to be had on a node. The words are upstream's.
pub const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
/// A bound volume can't be reached.
pub const OUT_OF_REACH: &str = "node(s) didn't match PersistentVolume's node affinity";
/// The driver has no room for a new volume.
pub const NO_ROOM: &str = "node(s) did not have enough free storage";
/// A claim names a volume that is not there.
pub const NO_SUCH_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// What a pod gets on a node: volumes to bind to claims, and claims whose volumes are to be made.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Volume and claim.
    pub bindings: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims.
    pub provisions: Vec<Arc<PersistentVolumeClaim>>,
}

/// Why a node won't do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// In upstream's order.
    Reasons(Vec<&'static str>),
    /// Something is broken.
    Error(String),
}

/// A pod's claims, and all about them that does not depend on a node.
pub struct Search {
    bound: Vec<Bound>,
    delayed: Vec<Delayed>,
}

enum Bound {
    Missing,
    Reach(Option<Vec<Term>>),
}

/// A claim that waits for the scheduler.
struct Delayed {
    claim: Arc<PersistentVolumeClaim>,
    selected: Option<String>,
    size: Option<Quantity>,
    /// A volume that was made for the claim: it or none.
    reserved: Option<Candidate>,
    /// The smallest first.
    candidates: Vec<Candidate>,
    provision: Result<Provision, String>,
}

struct Candidate {
    volume: Arc<PersistentVolume>,
    reach: Option<Vec<Term>>,
}

/// Where a volume can be made.
struct Provision {
    possible: bool,
    topologies: Vec<TopologySelectorTerm>,
    /// Pools with enough room, by the nodes that reach them; `None` when nobody counts.
    pools: Option<Vec<LabelSelector>>,
}

impl Search {
    /// For bound claims and those that wait for the scheduler.
    pub fn new(
        storage: &Storage,
        bound: &[Arc<PersistentVolumeClaim>],
        delayed: &[Arc<PersistentVolumeClaim>],
    ) -> Self {
        let reach = |claim: &Arc<PersistentVolumeClaim>| match storage.volumes.get(facts::volume_name(claim)) {
            Some(volume) => Bound::Reach(facts::reach(&volume)),
            None => Bound::Missing,
        };
        Self {
            bound: bound.iter().map(reach).collect(),
            delayed: delayed.iter().map(|claim| Delayed::new(storage, claim)).collect(),
        }
    }

    /// The pod's volumes on one node.
    pub fn on(&self, node: &NodeView<'_>) -> Result<Found, Refusal> {
        let mut reasons = Vec::new();
        let hindrance = self.bound.iter().find_map(|bound| match bound {
            Bound::Missing => Some(NO_SUCH_VOLUME),
            Bound::Reach(terms) => (!facts::reaches(terms.as_deref(), |key| node.label(key))).then_some(OUT_OF_REACH),
        });
        if hindrance == Some(OUT_OF_REACH) {
            reasons.push(OUT_OF_REACH);
        }
        let found = match self.delayed_on(node) {
            Ok(found) => found,
            Err(Refusal::Reasons(more)) => {
                reasons.extend(more);
                Found::default()
            }
            Err(error) => return Err(error),
        };
        if hindrance == Some(NO_SUCH_VOLUME) {
            reasons.push(NO_SUCH_VOLUME);
        }
        if reasons.is_empty() { Ok(found) } else { Err(Refusal::Reasons(reasons)) }
    }

    fn delayed_on(&self, node: &NodeView<'_>) -> Result<Found, Refusal> {
        let mut found = Found::default();
        let mut provisions: Vec<&Delayed> = Vec::new();
        let mut open: Vec<&Delayed> = Vec::new();
        for claim in &self.delayed {
            match &claim.selected {
                Some(selected) if **selected != **node.name() => return Err(Refusal::Reasons(vec![NO_VOLUME])),
                Some(_) => provisions.push(claim),
                None => open.push(claim),
            }
        }
        // Small claims first, so that each gets the smallest volume that will do.
        open.sort_by_key(|claim| claim.size);
        for claim in open {
            match claim.take(node, &found) {
                Some(volume) => found.bindings.push((volume, claim.claim.clone())),
                None => provisions.push(claim),
            }
        }
        for claim in provisions {
            let provision = claim.provision.as_ref().map_err(|error| Refusal::Error(error.clone()))?;
            if !provision.possible || !facts::allows(&provision.topologies, |key| node.label(key)) {
                return Err(Refusal::Reasons(vec![NO_VOLUME]));
            }
            let reached = |pool: &LabelSelector| pool.matches_with(|key| node.label(key));
            if provision.pools.as_ref().is_some_and(|pools| !pools.iter().any(reached)) {
                return Err(Refusal::Reasons(vec![NO_ROOM]));
            }
            found.provisions.push(claim.claim.clone());
        }
        Ok(found)
    }
}

impl Delayed {
    fn new(storage: &Storage, claim: &Arc<PersistentVolumeClaim>) -> Self {
        let class = facts::claim_class(claim);
        let size = facts::requested(claim);
        let (mut reserved, mut candidates) = (None, Vec::new());
        for volume in storage.volumes_of(class) {
            let held = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
            let ours = held && facts::is_bound_to(&volume, claim);
            if (held && !ours) || !suits(claim, &volume, size.as_ref()) {
                continue;
            }
            let candidate = Candidate { reach: facts::reach(&volume), volume };
            if ours {
                reserved.get_or_insert(candidate);
            } else if available(claim, &candidate.volume) {
                candidates.push(candidate);
            }
        }
        candidates.sort_by_cached_key(|candidate| facts::capacity(&candidate.volume));
        Self {
            selected: facts::annotation(&claim.metadata, facts::SELECTED_NODE).map(str::to_owned),
            claim: claim.clone(),
            size,
            reserved,
            candidates,
            provision: Provision::of(storage, claim, class),
        }
    }

    /// The volume for this claim on a node, if one is left.
    fn take(&self, node: &NodeView<'_>, taken: &Found) -> Option<Arc<PersistentVolume>> {
        let name = |volume: &PersistentVolume| volume.metadata.name.clone();
        let free = |candidate: &&Candidate| {
            let candidate = name(&candidate.volume);
            !taken.bindings.iter().any(|(volume, _)| name(volume) == candidate)
        };
        let reached = |candidate: &&Candidate| facts::reaches(candidate.reach.as_deref(), |key| node.label(key));
        let found = match self.reserved.as_ref().filter(free) {
            Some(reserved) => Some(reserved).filter(reached),
            None => self.candidates.iter().filter(reached).find(free),
        };
        found.map(|candidate| candidate.volume.clone())
    }
}

/// Whether size, mode and attributes of a volume suit a claim.
fn suits(claim: &PersistentVolumeClaim, volume: &PersistentVolume, size: Option<&Quantity>) -> bool {
    let (Some(wanted), Some(has)) = (&claim.spec, &volume.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let attributes = |class: &Option<String>| class.clone().unwrap_or_default();
    let zero = Quantity::zero();
    facts::capacity(volume).as_ref().unwrap_or(&zero) >= size.unwrap_or(&zero)
        && mode(&wanted.volume_mode) == mode(&has.volume_mode)
        && attributes(&wanted.volume_attributes_class_name) == attributes(&has.volume_attributes_class_name)
        && volume.metadata.deletion_timestamp.is_none()
}

/// Whether a volume that is nobody's yet can become the claim's.
fn available(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (Some(wanted), Some(has)) = (&claim.spec, &volume.spec) else { return false };
    let selected = || match &wanted.selector {
        None => true,
        Some(selector) => LabelSelector::from_meta(Some(selector))
            .is_ok_and(|selector| selector.matches_opt(volume.metadata.labels.as_ref())),
    };
    let modes = has.access_modes.as_deref().unwrap_or_default();
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available")
        && wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode))
        && selected()
}

impl Provision {
    fn of(storage: &Storage, claim: &PersistentVolumeClaim, class: &str) -> Result<Self, String> {
        if class.is_empty() {
            let meta = &claim.metadata;
            let name = |name: &Option<String>| name.clone().unwrap_or_default();
            return Err(format!("no class for claim \"{}/{}\"", name(&meta.namespace), name(&meta.name)));
        }
        let class = storage.classes.get("", class).ok_or_else(|| format!("failed to find storage class {class:?}"))?;
        Ok(Self {
            possible: facts::provisions(&class),
            topologies: class.allowed_topologies.clone().unwrap_or_default(),
            pools: pools(storage, claim, &class),
        })
    }
}

fn pools(storage: &Storage, claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<Vec<LabelSelector>> {
    let size = facts::requested(claim)?.value();
    let driver = storage.csi_drivers.get("", &class.provisioner)?;
    if driver.spec.storage_capacity != Some(true) {
        return None;
    }
    let pools = storage.capacities.list().into_iter().filter(|pool| {
        Some(&pool.storage_class_name) == class.metadata.name.as_ref()
            && facts::volume_limit(pool).is_some_and(|limit| limit >= size)
    });
    // A pool without topology is reached from nowhere.
    Some(pools.filter_map(|pool| LabelSelector::from_meta(Some(pool.node_topology.as_ref()?)).ok()).collect())
}
