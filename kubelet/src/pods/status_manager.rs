//! Sends pod statuses to the apiserver: only what changed, in order per pod, again until it is accepted; and confirms a
//! deletion after the last status is through.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::spec;
use crate::shared::Kubelet;

const PARALLEL: usize = 8;
const RETRY: Duration = Duration::from_secs(2);

struct Slot {
    pod: Arc<Pod>,
    desired: Arc<PodStatus>,
    sent: Option<Sent>,
    dirty: bool,
    delete: bool,
    echoes: Echoes,
}

/// Tells the watch events that our own writes cause from those of others: the worker has nothing to learn of its own status.
#[derive(Default)]
struct Echoes {
    /// Versions that our last writes made.
    ours: VecDeque<u64>,
    in_flight: bool,
    /// Versions that came while a write was in flight: whose they are is known when it is answered.
    undecided: Vec<u64>,
}

impl Echoes {
    const KEPT: usize = 8;

    /// Whether the worker has no need to look at this version (now).
    fn swallows(&mut self, version: u64) -> bool {
        if self.ours.contains(&version) {
            return true;
        }
        if self.in_flight && self.undecided.len() < Self::KEPT {
            self.undecided.push(version);
            return true;
        }
        false
    }

    /// A write has ended; answers whether somebody else's change was swallowed meanwhile.
    fn settle(&mut self, written: Option<u64>) -> bool {
        self.in_flight = false;
        if let Some(version) = written {
            self.ours.truncate(Self::KEPT - 1);
            self.ours.push_front(version);
        }
        let ours = &self.ours;
        self.undecided.drain(..).any(|version| !ours.contains(&version))
    }
}

/// What the API has accepted.
#[derive(Clone)]
struct Sent {
    /// UID of the API object.
    uid: String,
    status: Value,
    /// The object's version with this status: a newer one may hold what somebody else wrote.
    version: u64,
}

/// Statuses on their way to the API.
#[derive(Default)]
pub(crate) struct StatusManager {
    slots: Mutex<HashMap<String, Slot>>,
    wake: Notify,
}

/// Now, in the API's precision.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Versions of one object grow (KEP-5504); 0 for a pod that is not from the API.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

impl StatusManager {
    /// A pod's newest status.
    pub(crate) fn set(&self, pod: &Arc<Pod>, status: Arc<PodStatus>) {
        let mut slots = self.slots.lock();
        let slot = slots.entry(spec::uid(pod).to_owned()).or_insert_with(|| Slot {
            pod: pod.clone(),
            desired: Arc::default(),
            sent: None,
            dirty: false,
            delete: false,
            echoes: Echoes::default(),
        });
        slot.pod = pod.clone();
        let overtaken = slot.sent.as_ref().is_none_or(|sent| sent.version < version(pod));
        let changed = *slot.desired != *status || overtaken;
        slot.desired = status;
        if changed || spec::is_static(pod) {
            slot.dirty = true;
            self.wake.notify_one();
        }
    }

    /// Whether this version of an API object is what our own write of the pod's status made.
    pub(crate) fn is_echo(&self, uid: &str, object: &Pod) -> bool {
        self.slots.lock().get_mut(uid).is_some_and(|slot| slot.echoes.swallows(version(object)))
    }

    fn settle(&self, kubelet: &Kubelet, uid: &str, written: Option<u64>) {
        if self.slots.lock().get_mut(uid).is_some_and(|slot| slot.echoes.settle(written)) {
            kubelet.pods.look(uid);
        }
    }

    /// Nothing is left of the pod on this node: the API may let it go.
    pub(crate) fn delete(&self, pod: Arc<Pod>) {
        if let Some(slot) = self.slots.lock().get_mut(spec::uid(&pod)) {
            slot.pod = pod;
            slot.delete = true;
            slot.dirty = true;
        }
        self.wake.notify_one();
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.slots.lock().remove(uid);
    }
}

/// Sends until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, client: kube::Client, shutdown: CancellationToken) {
    loop {
        let manager = &kubelet.status;
        let dirty: Vec<String> = {
            let mut slots = manager.slots.lock();
            slots.iter_mut().filter_map(|(uid, slot)| std::mem::take(&mut slot.dirty).then(|| uid.clone())).collect()
        };
        let failed = futures::stream::iter(dirty)
            .map(|uid| {
                let (kubelet, client) = (kubelet.clone(), client.clone());
                async move { send(&kubelet, &client, &uid).await }
            })
            .buffer_unordered(PARALLEL)
            .filter(|sent| std::future::ready(!*sent))
            .count()
            .await;
        tokio::select! {
            () = manager.wake.notified(), if failed == 0 => {}
            () = tokio::time::sleep(RETRY), if failed > 0 => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Sends one pod's status; `false` = try again.
async fn send(kubelet: &Kubelet, client: &kube::Client, uid: &str) -> bool {
    let (pod, desired, sent, delete) = {
        let slots = kubelet.status.slots.lock();
        let Some(slot) = slots.get(uid) else { return true };
        (slot.pod.clone(), slot.desired.clone(), slot.sent.clone(), slot.delete)
    };
    let target = if spec::is_static(&pod) {
        match kubelet.pods.mirror(&pod) {
            Some(mirror) => mirror,
            None => return true, // its creation wakes the worker, which reports again
        }
    } else {
        pod.clone()
    };
    let target_uid = spec::uid(&target).to_owned();
    // The watch may lag behind our own writes. Once it is ahead of them it counts: the node lifecycle controller makes pods
    // of a silent node not ready, and they are ready again when the node speaks.
    let sent = sent.filter(|sent| sent.uid == target_uid && sent.version >= version(&target));
    let mut version = sent.as_ref().map_or_else(|| version(&target), |sent| sent.version);
    let known =
        sent.map(|sent| sent.status).unwrap_or_else(|| serde_json::to_value(&target.status).unwrap_or_default());
    let wanted = serde_json::to_value(&*desired).unwrap_or_default();
    let api: kube::Api<Pod> = kube::Api::namespaced(client.clone(), spec::namespace(&target));
    let name = spec::name(&target);
    if let Some(status) = difference(&known, &wanted) {
        let patch = json!({"metadata": {"uid": target_uid}, "status": status});
        if let Some(slot) = kubelet.status.slots.lock().get_mut(uid) {
            slot.echoes.in_flight = true;
        }
        let written = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        kubelet.status.settle(kubelet, uid, written.as_ref().ok().map(self::version));
        match written {
            Ok(written) => version = self::version(&written),
            // The pod is gone, or another one of its name came.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return true,
            Err(error) => return retry(kubelet, uid, &pod, &error),
        }
    }
    if let Some(slot) = kubelet.status.slots.lock().get_mut(uid) {
        slot.sent = Some(Sent { uid: target_uid.clone(), status: wanted, version });
    }
    if delete && !confirm_deletion(&api, name, target_uid).await {
        return retry(kubelet, uid, &pod, &"deletion was not accepted");
    }
    true
}

fn retry(kubelet: &Kubelet, uid: &str, pod: &Pod, error: &dyn std::fmt::Display) -> bool {
    tracing::warn!(pod = %spec::describe(pod), %error, "failed to update the pod's status, will retry");
    if let Some(slot) = kubelet.status.slots.lock().get_mut(uid) {
        slot.dirty = true;
    }
    false
}

async fn confirm_deletion(api: &kube::Api<Pod>, name: &str, uid: String) -> bool {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) => matches!(status.code, 404 | 409),
        Err(_) => false,
    }
}

/// The strategic merge patch from one status to another; `None` when there is nothing to say.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    let empty = Map::new();
    let old = old.as_object().unwrap_or(&empty);
    let new = new.as_object()?;
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => changed_conditions(before, value),
            // Merged by address: without the directive an old address would stay.
            "podIPs" | "hostIPs" if before.is_some_and(|before| before.as_array().is_some_and(|a| !a.is_empty())) => {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(value.as_array().into_iter().flatten().cloned());
                Value::Array(list)
            }
            _ => value.clone(),
        };
        if value.as_array().is_none_or(|list| !list.is_empty() || key != "conditions") {
            patch.insert(key.clone(), value);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn changed_conditions(old: Option<&Value>, new: &Value) -> Value {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let owned = |condition: &&Value| super::conditions::is_owned(condition["type"].as_str().unwrap_or_default());
    // The kubelet says it, and does not take it back.
    let shared = |condition: &Value| {
        condition["type"] == super::conditions::DISRUPTION && condition["reason"] == "TerminationByKubelet"
    };
    let told = new.as_array().into_iter().flatten().filter(|condition| owned(condition) || shared(condition));
    let changed = told.filter(|condition| !old.contains(condition));
    let with_nulls = changed.map(|condition| {
        let mut condition = condition.clone();
        let before = old.iter().find(|before| before["type"] == condition["type"]);
        for key in before.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            if condition.get(key).is_none() {
                condition[key] = Value::Null;
            }
        }
        condition
    });
    let gone = old
        .iter()
        .filter(owned)
        .filter(|before| !new.as_array().into_iter().flatten().any(|condition| condition["type"] == before["type"]));
    let gone = gone.map(|before| json!({"$patch": "delete", "type": before["type"]}));
    Value::Array(with_nulls.chain(gone).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_told_from_the_changes_of_others() {
        let mut echoes = Echoes::default();
        assert!(!echoes.swallows(4));
        echoes.in_flight = true;
        assert!(echoes.swallows(5) && echoes.swallows(6));
        assert!(echoes.settle(Some(6)), "5 is somebody else's");
        assert!(echoes.swallows(6) && !echoes.swallows(7));
        echoes.in_flight = true;
        assert!(echoes.swallows(8));
        assert!(!echoes.settle(Some(8)));
        echoes.in_flight = true;
        assert!(echoes.swallows(9));
        assert!(echoes.settle(None));
        (10..30).for_each(|version| assert!(!echoes.settle(Some(version))));
        assert!(echoes.swallows(29) && !echoes.swallows(20));
    }

    #[test]
    fn patches_say_only_what_changed() {
        let old = json!({"phase": "Pending", "message": "x", "conditions": [
            {"type": "Ready", "status": "False", "reason": "R"}, {"type": "Initialized", "status": "True"}]});
        let new = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]});
        assert_eq!(
            difference(&old, &new),
            Some(json!({"phase": "Running", "message": null,
                "conditions": [{"type": "Ready", "status": "True", "reason": null}]}))
        );
        assert_eq!(difference(&new, &new), None);
    }

    #[test]
    fn conditions_that_ended_are_taken_away() {
        let condition = |type_: &str| json!({"type": type_, "status": "True"});
        let old =
            json!({"conditions": [condition("Ready"), condition("PodResizePending"), condition("example.com/x")]});
        let new = json!({"conditions": [condition("Ready"), condition("example.com/x")]});
        let gone = json!({"$patch": "delete", "type": "PodResizePending"});
        assert_eq!(difference(&old, &new), Some(json!({"conditions": [gone]})));
    }

    #[test]
    fn addresses_are_replaced() {
        let old = json!({"podIPs": [{"ip": "10.0.0.1"}]});
        let new = json!({"podIPs": [{"ip": "10.0.0.2"}]});
        assert_eq!(difference(&old, &new), Some(json!({"podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}]})));
        assert_eq!(difference(&json!({}), &new), Some(new));
    }
}
