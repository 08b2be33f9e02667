//! A model of several controllers on stale caches that die between any two writes: no volume is ever two claims'.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::json;

use super::claim::{self, Step as ClaimStep, View};
use super::objects;
use super::volume::{self, Step as VolumeStep};
use crate::shared::meta::MetaExt;
use crate::shared::volumes::{claim_phase, claim_ref, phase, volume_name};

const VOLUMES: usize = 3;
const CLAIMS: usize = 4;
const PROCESSES: usize = 2;

/// What the API server holds; every write is checked against the version that the writer knew.
#[derive(Clone, Default)]
struct World {
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    version: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        for n in 0..VOLUMES {
            let value = json!({"metadata": {"name": format!("v{n}"), "uid": format!("v{n}")}, "status": {"phase": "Available"},
                "spec": {"capacity": {"storage": format!("{}Gi", n + 1)}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"}});
            world.put_volume(serde_json::from_value(value).unwrap());
        }
        world
    }

    fn stamp<K: kube::Resource>(&mut self, object: &mut K) {
        self.version += 1;
        object.meta_mut().resource_version = Some(self.version.to_string());
    }

    fn put_volume(&mut self, mut volume: PersistentVolume) -> Arc<PersistentVolume> {
        self.stamp(&mut volume);
        let volume = Arc::new(volume);
        self.volumes.insert(volume.name_any(), volume.clone());
        volume
    }

    fn write_volume(&mut self, volume: PersistentVolume) -> Option<Arc<PersistentVolume>> {
        let current = self.volumes.get(volume.name_str())?;
        (current.resource_version() == volume.resource_version()).then(|| self.put_volume(volume))
    }

    fn put_claim(&mut self, mut claim: PersistentVolumeClaim) -> Arc<PersistentVolumeClaim> {
        self.stamp(&mut claim);
        let claim = Arc::new(claim);
        self.claims.insert(claim.name_any(), claim.clone());
        claim
    }

    fn write_claim(&mut self, claim: PersistentVolumeClaim) -> Option<Arc<PersistentVolumeClaim>> {
        let current = self.claims.get(claim.name_str())?;
        (current.resource_version() == claim.resource_version()).then(|| self.put_claim(claim))
    }

    fn create_claim(&mut self, n: usize) {
        let name = format!("c{n}");
        if self.claims.contains_key(&name) {
            return;
        }
        let uid = format!("{name}-{}", self.version);
        let value = json!({"metadata": {"namespace": "n", "name": name, "uid": uid}, "status": {"phase": "Pending"},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"}});
        self.put_claim(serde_json::from_value(value).unwrap());
    }

    /// A person gives a released volume away again.
    fn free(&mut self, n: usize) {
        let volume = self.volumes[&format!("v{n}")].clone();
        if phase(&volume) == "Released" {
            let mut freed = (*volume).clone();
            freed.spec.as_mut().unwrap().claim_ref = None;
            self.put_volume(freed);
        }
    }

    fn check(&self) {
        for (name, volume) in &self.volumes {
            let holders: Vec<&str> = self
                .claims
                .values()
                .filter(|claim| claim_phase(claim) == "Bound" && volume_name(claim) == name)
                .map(|claim| claim.uid_str())
                .collect();
            assert!(holders.len() <= 1, "{name} is bound to {holders:?}");
            if let [holder] = holders.as_slice() {
                assert_eq!(claim_ref(volume).map(|(_, uid)| uid), Some(*holder), "{name} does not know its claim");
            }
        }
    }
}

impl View for World {
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(name).cloned()
    }
    fn candidates(&self, _: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        self.volumes.values().cloned().collect()
    }
    fn class(&self, _: &str) -> Option<Arc<StorageClass>> {
        None
    }
    fn classes(&self) -> Vec<Arc<StorageClass>> {
        Vec::new()
    }
    fn unscheduled_pods(&self, _: &PersistentVolumeClaim) -> Vec<String> {
        Vec::new()
    }
}

/// One claim, looked at by a process with this cache, that dies after so many writes.
fn run_claim(world: &mut World, cache: &World, n: usize, writes: usize) {
    let Some(claim) = cache.claims.get(&format!("c{n}")).cloned() else { return };
    match claim::step(&claim, cache, true).unwrap() {
        ClaimStep::Bind(volume) => drop(bind(world, claim, volume, writes)),
        ClaimStep::Lose(_) if writes > 0 => {
            let lost = objects::claim_in_phase(&claim, "Lost", None).unwrap();
            lost.map(|lost| world.write_claim(lost));
        }
        _ => {}
    }
}

fn bind(
    world: &mut World,
    claim: Arc<PersistentVolumeClaim>,
    volume: Arc<PersistentVolume>,
    mut writes: usize,
) -> Option<()> {
    let mut next = || {
        let alive = writes > 0;
        writes = writes.saturating_sub(1);
        alive.then_some(())
    };
    let volume = match objects::volume_for_claim(&volume, &claim) {
        Some(wanted) => next().and_then(|()| world.write_volume(wanted))?,
        None => volume,
    };
    let volume = match objects::volume_in_phase(&volume, "Bound", "") {
        Some(wanted) => next().and_then(|()| world.write_volume(wanted))?,
        None => volume,
    };
    let claim = match objects::claim_on_volume(&claim, &volume) {
        Some(wanted) => next().and_then(|()| world.write_claim(wanted))?,
        None => claim,
    };
    if let Some(wanted) = objects::claim_in_phase(&claim, "Bound", Some(&volume)).unwrap() {
        next().and_then(|()| world.write_claim(wanted))?;
    }
    Some(())
}

fn run_volume(world: &mut World, cache: &World, n: usize) {
    let volume = cache.volumes[&format!("v{n}")].clone();
    let named = claim_ref(&volume).and_then(|(key, uid)| {
        let name = key.strip_prefix("n/")?.to_owned();
        let same = |claim: &&Arc<PersistentVolumeClaim>| claim.uid_str() == uid;
        // As the controller does: the cache, and if that does not show the claim, the server.
        cache.claims.get(&name).filter(same).or_else(|| world.claims.get(&name).filter(same)).cloned()
    });
    let changed = match volume::step(&volume, named.as_deref()) {
        VolumeStep::Available => objects::volume_in_phase(&volume, "Available", ""),
        VolumeStep::Bound => objects::volume_in_phase(&volume, "Bound", ""),
        VolumeStep::Release { settled: false } => objects::volume_in_phase(&volume, "Released", ""),
        VolumeStep::Unbind => Some(objects::freed_volume(&volume)),
        VolumeStep::Release { settled: true } | VolumeStep::LookAtClaim | VolumeStep::TellMismatch => None,
    };
    changed.map(|changed| world.write_volume(changed));
}

#[derive(Debug, Clone)]
enum Op {
    Create(usize),
    Delete(usize),
    Free(usize),
    Refresh(usize),
    Claim { process: usize, n: usize, writes: usize },
    Volume { process: usize, n: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..CLAIMS).prop_map(Op::Create),
        1 => (0..CLAIMS).prop_map(Op::Delete),
        1 => (0..VOLUMES).prop_map(Op::Free),
        4 => (0..PROCESSES).prop_map(Op::Refresh),
        8 => (0..PROCESSES, 0..CLAIMS, 0..5usize).prop_map(|(process, n, writes)| Op::Claim { process, n, writes }),
        4 => (0..PROCESSES, 0..VOLUMES).prop_map(|(process, n)| Op::Volume { process, n }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_volume_is_bound_twice(ops in proptest::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        let mut caches = vec![world.clone(); PROCESSES];
        for op in ops {
            match op {
                Op::Create(n) => world.create_claim(n),
                Op::Delete(n) => drop(world.claims.remove(&format!("c{n}"))),
                Op::Free(n) => world.free(n),
                Op::Refresh(process) => caches[process] = world.clone(),
                Op::Claim { process, n, writes } => run_claim(&mut world, &caches[process], n, writes),
                Op::Volume { process, n } => run_volume(&mut world, &caches[process], n),
            }
            world.check();
        }
        // Left alone, every claim gets a volume as long as there is a free one.
        for _ in 0..2 * (CLAIMS + VOLUMES) {
            for n in 0..CLAIMS {
                let cache = world.clone();
                run_claim(&mut world, &cache, n, 4);
            }
            for n in 0..VOLUMES {
                let cache = world.clone();
                run_volume(&mut world, &cache, n);
            }
            world.check();
        }
        let waiting = world.claims.values().filter(|claim| claim_phase(claim) == "Pending").count();
        let free = world.volumes.values().filter(|volume| phase(volume) == "Available").count();
        prop_assert!(waiting == 0 || free == 0, "{waiting} claims wait while {free} volumes are free");
    }
}
