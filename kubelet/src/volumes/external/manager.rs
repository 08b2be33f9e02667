//! What is known of all volumes from elsewhere, and who may work on them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::backoff::Backoff;
use super::book::Book;
use super::{External, Kind};
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::volumes::csi::{DriverObjects, Drivers, Policy};

/// (volume's unique name, pod's UID, or nothing for what concerns the node).
type Subject = (String, String);

/// The volumes of the node.
pub(crate) struct VolumeManager {
    pub(super) book: Mutex<Book>,
    pub(super) backoff: Mutex<Backoff<Subject>>,
    /// One operation at a time for each volume.
    gates: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// What pods' volumes were found to be and when, by (pod, volume in the pod).
    pub(super) resolved: Mutex<HashMap<Subject, (Instant, Arc<External>)>>,
    pub(crate) drivers: Drivers,
    objects: DriverObjects,
    node_problem: Mutex<Option<String>>,
    /// Runtime handlers that can make mounts read-only all the way down.
    recursive: Mutex<HashSet<String>>,
    /// The node's status has to say something else about volumes in use.
    pub(crate) in_use_changed: Notify,
    /// There may be something to unstage.
    pub(super) idle: Notify,
}

impl VolumeManager {
    pub(crate) fn new(with_api: bool) -> Self {
        let problem = with_api.then(|| "CSINode is not yet initialized".to_owned());
        Self {
            book: Mutex::default(),
            backoff: Mutex::default(),
            gates: Mutex::default(),
            resolved: Mutex::default(),
            drivers: Drivers::default(),
            objects: DriverObjects::default(),
            node_problem: Mutex::new(problem),
            recursive: Mutex::default(),
            in_use_changed: Notify::new(),
            idle: Notify::new(),
        }
    }

    /// Held while a volume is worked on.
    pub(super) fn gate(&self, unique: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.gates.lock();
        gates.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = gates.get(unique).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::default();
        gates.insert(unique.to_owned(), Arc::downgrade(&gate));
        gate
    }

    /// What the cluster says about a driver.
    pub(crate) async fn policy(&self, kubelet: &Kubelet, driver: &str) -> Result<Policy, String> {
        self.objects.policy(kubelet.client.as_ref(), &kubelet.shutdown, driver).await
    }

    /// For the node's status.
    pub(crate) fn in_use(&self) -> Vec<String> {
        self.book.lock().in_use()
    }

    /// Why the node is not ready.
    pub(crate) fn node_problem(&self) -> Option<String> {
        self.node_problem.lock().clone()
    }

    pub(crate) fn set_node_problem(&self, problem: Option<String>) {
        *self.node_problem.lock() = problem;
    }

    /// What the runtime says about its handlers.
    pub(crate) fn set_recursive(&self, handlers: impl Iterator<Item = String>) {
        *self.recursive.lock() = handlers.collect();
    }

    /// Whether a handler can make mounts read-only all the way down.
    pub(crate) fn is_recursive(&self, handler: &str) -> bool {
        self.recursive.lock().contains(handler)
    }

    /// A driver has come (back): who waits for it need not wait longer.
    pub(crate) fn retry_driver(&self, kubelet: &Kubelet, driver: &str) {
        let of_driver = |volume: &External| matches!(&volume.kind, Kind::Csi(source) if source.driver == driver);
        let mut concerned = Vec::new();
        for record in kubelet.pods.list() {
            let uid = spec::uid(&record.pod);
            let volumes = self.book.lock().of_pod(uid);
            if volumes.iter().any(|volume| of_driver(volume)) {
                concerned.push(uid.to_owned());
            }
        }
        let prefix = format!("kubernetes.io/csi/{driver}^");
        let waits = |(unique, uid): &Subject| unique.starts_with(&prefix) || concerned.contains(uid);
        self.backoff.lock().hurry(waits, Instant::now());
        concerned.iter().for_each(|uid| kubelet.pods.look(uid));
        self.idle.notify_one();
    }

    /// A volume that is mounted for a pod, by its name in the pod.
    pub(crate) fn mounted(&self, uid: &str, name: &str) -> Option<Arc<External>> {
        let claimed = self.resolved.lock().get(&(uid.to_owned(), name.to_owned())).map(|(_, volume)| volume.clone());
        let mounted = self.book.lock().mounted(uid);
        mounted.into_iter().find(|volume| match &claimed {
            Some(claimed) => claimed.unique == volume.unique,
            None => volume.name == name && volume.claim.is_none(),
        })
    }

    /// The pod's volumes have been looked at.
    pub(in crate::volumes) fn saw(&self, uid: &str) {
        self.book.lock().seen.insert(uid.to_owned());
    }

    /// (wanted, mounted) by plugin.
    pub(crate) fn totals(&self) -> std::collections::BTreeMap<&'static str, (usize, usize)> {
        self.book.lock().totals()
    }
}
