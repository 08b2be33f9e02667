//! The register of pods: starts and feeds workers, and answers who asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::RwLock;

use super::mailbox::{Mailbox, Terminate};
use super::static_source::Source;
use super::status::Verdict;
use super::{spec, worker};
use crate::shared::Kubelet;

/// One pod on the node.
pub(crate) struct Entry {
    pub(crate) mailbox: Mailbox,
    pod: RwLock<Arc<Pod>>,
    status: RwLock<Arc<PodStatus>>,
    /// The pod with the resources that the node promised it.
    allocated: RwLock<Arc<Pod>>,
}

#[derive(Default)]
struct Register {
    entries: HashMap<String, Arc<Entry>>,
    /// Static pods that wait for a predecessor of the same name (or UID) to be gone, by `namespace/name`.
    waiting: BTreeMap<String, Arc<Pod>>,
    /// Mirror pods in the API, by `namespace/name`.
    mirrors: HashMap<String, Arc<Pod>>,
    /// Sources that have told all they have at least once.
    api_synced: bool,
    static_synced: [bool; 2],
}

/// A pod and its latest status.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// Spec and metadata; `status` is what the source last said.
    pub pod: Arc<Pod>,
    /// What the kubelet says.
    pub status: Arc<PodStatus>,
    /// The pod with the resources that the node promised it.
    pub allocated: Arc<Pod>,
}

impl PodRecord {
    /// The pod with the kubelet's status in it.
    pub fn merged(&self) -> Pod {
        Pod { status: Some((*self.status).clone()), ..(*self.pod).clone() }
    }

    /// Runtime id of the container of that name that runs or ran last.
    pub fn container_id(&self, container: &str) -> Option<String> {
        let status = &self.status;
        let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
        let found = lists.into_iter().flatten().flatten().find(|status| status.name == container)?;
        found.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id.to_owned())
    }
}

/// Pods on this node.
#[derive(Default)]
pub struct PodManager {
    register: RwLock<Register>,
    kubelet: std::sync::OnceLock<Weak<Kubelet>>,
    tasks: tokio_util::task::TaskTracker,
}

/// Whether two versions of a pod are the same but for their status.
fn differ_in_status_only(a: &Pod, b: &Pod) -> bool {
    let metadata = |pod: &Pod| ObjectMeta { resource_version: None, ..pod.metadata.clone() };
    a.spec == b.spec && metadata(a) == metadata(b)
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", spec::namespace(pod), spec::name(pod))
}

impl PodManager {
    /// Workers need the whole kubelet, which holds this manager: wired once at start.
    pub(crate) fn attach(&self, kubelet: &Arc<Kubelet>) {
        let _ = self.kubelet.set(Arc::downgrade(kubelet));
    }

    /// Pods with their statuses.
    pub fn list(&self) -> Vec<PodRecord> {
        self.register.read().entries.values().map(|entry| entry.record()).collect()
    }

    /// A pod by UID.
    pub fn get(&self, uid: &str) -> Option<PodRecord> {
        self.register.read().entries.get(uid).map(|entry| entry.record())
    }

    /// A pod by namespace and name, and by UID when one is given. For a static pod also its mirror's UID counts.
    pub fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<PodRecord> {
        let register = self.register.read();
        let mirror = register.mirrors.get(&format!("{namespace}/{name}"));
        let entries = register.entries.values().filter(|entry| {
            let pod = entry.pod.read();
            spec::namespace(&pod) == namespace && spec::name(&pod) == name
        });
        let mut records: Vec<PodRecord> = entries
            .map(|entry| entry.record())
            .filter(|record| {
                uid.is_none_or(|uid| {
                    spec::uid(&record.pod) == uid || mirror.is_some_and(|mirror| spec::uid(mirror) == uid)
                })
            })
            .collect();
        // Should two pods share the name, the one that is not going away answers.
        records.sort_by_key(|record| record.pod.metadata.deletion_timestamp.is_some());
        records.into_iter().next()
    }

    /// The mirror of a static pod.
    pub(crate) fn mirror(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.register.read().mirrors.get(&full_name(pod)).cloned()
    }

    /// All mirrors.
    pub(crate) fn mirrors(&self) -> Vec<Arc<Pod>> {
        self.register.read().mirrors.values().cloned().collect()
    }

    /// Whether every source has been heard once; before that nothing is an orphan.
    pub(crate) fn sources_ready(&self, with_api: bool) -> bool {
        let register = self.register.read();
        register.static_synced == [true; 2] && (register.api_synced || !with_api)
    }

    /// The apiserver has listed all pods of this node.
    pub fn api_synced(&self) -> bool {
        self.register.read().api_synced
    }

    /// Runs or updates a pod.
    pub(crate) fn upsert(&self, pod: Pod) {
        if spec::is_mirror(&pod) {
            self.set_mirror(pod);
            return;
        }
        let pod = Arc::new(pod);
        let uid = spec::uid(&pod).to_owned();
        let mut register = self.register.write();
        if let Some(entry) = register.entries.get(&uid) {
            if spec::is_static(&pod) && entry.mailbox.read().removed {
                register.waiting.insert(full_name(&pod), pod);
                return;
            }
            let before = std::mem::replace(&mut *entry.pod.write(), pod.clone());
            let echo = differ_in_status_only(&before, &pod) && self.is_echo(&uid, &pod);
            entry.mailbox.update(pod, !echo);
            return;
        }
        if spec::is_static(&pod) {
            let name = full_name(&pod);
            if register.entries.values().any(|entry| full_name(&entry.pod.read()) == name) {
                register.waiting.insert(name, pod);
                return;
            }
        }
        self.start(&mut register, pod);
    }

    fn start(&self, register: &mut Register, pod: Arc<Pod>) {
        let Some(kubelet) = self.kubelet.get().and_then(Weak::upgrade) else { return };
        let status = Arc::new(pod.status.clone().unwrap_or_default());
        let entry = Arc::new(Entry {
            mailbox: Mailbox::new(pod.clone()),
            pod: RwLock::new(pod.clone()),
            status: RwLock::new(status),
            allocated: RwLock::new(pod.clone()),
        });
        register.entries.insert(spec::uid(&pod).to_owned(), entry.clone());
        self.tasks.spawn(worker::run(kubelet, entry));
    }

    fn set_mirror(&self, pod: Pod) {
        let name = full_name(&pod);
        let mut register = self.register.write();
        let pod = Arc::new(pod);
        let before = register.mirrors.insert(name.clone(), pod.clone());
        let status_only = before.is_some_and(|before| differ_in_status_only(&before, &pod));
        // The pod's worker compares the mirror with the pod and re-reports its status.
        let entries = register.entries.iter().filter(|(_, entry)| full_name(&entry.pod.read()) == name);
        let entries = entries.filter(|(uid, _)| !(status_only && self.is_echo(uid, &pod)));
        entries.for_each(|(_, entry)| entry.mailbox.look());
    }

    fn is_echo(&self, uid: &str, pod: &Pod) -> bool {
        self.kubelet.get().and_then(Weak::upgrade).is_some_and(|kubelet| kubelet.status.is_echo(uid, pod))
    }

    /// The API no longer has the pod.
    pub(crate) fn remove(&self, pod: &Pod) {
        let mut register = self.register.write();
        if spec::is_mirror(pod) {
            let name = full_name(pod);
            register.mirrors.remove(&name);
            let entries = register.entries.values().filter(|entry| full_name(&entry.pod.read()) == name);
            entries.for_each(|entry| entry.mailbox.look());
        } else if let Some(entry) = register.entries.get(spec::uid(pod)) {
            // The API lets go of a pod that still runs only when its deletion was forced, that is without grace.
            entry.mailbox.remove(Some(0));
        }
    }

    /// The API lists exactly these pods for this node.
    pub(crate) fn replace_api(&self, pods: Vec<Pod>) {
        let present: std::collections::HashSet<String> = pods.iter().map(|pod| spec::uid(pod).to_owned()).collect();
        {
            let mut register = self.register.write();
            register.mirrors.retain(|_, mirror| present.contains(spec::uid(mirror)));
            for (uid, entry) in &register.entries {
                if !spec::is_static(&entry.pod.read()) && !present.contains(uid) {
                    entry.mailbox.remove(None);
                }
            }
        }
        pods.into_iter().for_each(|pod| self.upsert(pod));
        self.register.write().api_synced = true;
        self.look_at_static();
    }

    /// Wakes the workers of static pods: their mirrors may be made now.
    pub(crate) fn look_at_static(&self) {
        let register = self.register.read();
        register.entries.values().filter(|entry| spec::is_static(&entry.pod.read())).for_each(|e| e.mailbox.look());
    }

    /// The static pods of that source are exactly these.
    pub(crate) fn replace_static(&self, source: Source, pods: Vec<Pod>) {
        let of_source = |pod: &Pod| spec::annotation(pod, spec::CONFIG_SOURCE) == Some(source.name());
        let present: std::collections::HashSet<String> = pods.iter().map(|pod| spec::uid(pod).to_owned()).collect();
        {
            let mut register = self.register.write();
            register.waiting.retain(|_, pod| !of_source(pod) || present.contains(spec::uid(pod)));
            for (uid, entry) in &register.entries {
                if of_source(&entry.pod.read()) && !present.contains(uid) {
                    entry.mailbox.remove(None);
                }
            }
        }
        pods.into_iter().for_each(|pod| self.upsert(pod));
        self.register.write().static_synced[source as usize] = true;
    }

    /// Wakes a pod's worker.
    pub(crate) fn look(&self, uid: &str) {
        if let Some(entry) = self.register.read().entries.get(uid) {
            entry.mailbox.look();
        }
    }

    /// Ends a pod by the kubelet's own decision.
    pub(crate) fn evict(&self, uid: &str, grace: i64, verdict: Verdict) {
        if let Some(entry) = self.register.read().entries.get(uid) {
            entry.mailbox.terminate(Terminate { grace: Some(grace), verdict: Some(verdict) });
        }
    }

    /// A worker is done with a pod that no source has.
    pub(crate) fn finished(&self, uid: &str) {
        let mut register = self.register.write();
        let Some(entry) = register.entries.remove(uid) else { return };
        let name = full_name(&entry.pod.read());
        if let Some(successor) = register.waiting.remove(&name) {
            self.start(&mut register, successor);
        }
    }

    /// Whether a pod of that UID has a worker.
    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.register.read().entries.contains_key(uid)
    }
}

impl Entry {
    fn record(&self) -> PodRecord {
        PodRecord {
            pod: self.pod.read().clone(),
            status: self.status.read().clone(),
            allocated: self.allocated.read().clone(),
        }
    }

    pub(crate) fn status(&self) -> Arc<PodStatus> {
        self.status.read().clone()
    }

    pub(crate) fn set_allocated(&self, pod: Arc<Pod>) {
        *self.allocated.write() = pod;
    }

    pub(crate) fn set_status(&self, status: Arc<PodStatus>) {
        *self.status.write() = status;
    }
}
