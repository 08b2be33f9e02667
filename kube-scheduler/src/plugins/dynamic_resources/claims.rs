//! ResourceClaims as the scheduler counts with them: what the API server shows, what was just written, and what is reserved
//! for pods whose binding is under way.
//!
//! One lock holds everything, so the set of devices in use is never half of a change.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use common::informer::{Event, Informer, object_key};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::allocator::Allocated;

/// Claims made by the scheduler for a pod's extended resources carry it.
pub const EXTENDED_CLAIM: &str = "resource.kubernetes.io/extended-resource-claim";
/// Those claims, by their pod's uid.
const BY_POD: &str = "extendedResourceClaimOf";

type Listener = Box<dyn Fn(&Event<ResourceClaim>) + Send + Sync>;

/// The cache.
pub struct Claims {
    /// What the API server says.
    pub informer: Arc<Informer<ResourceClaim>>,
    /// Woken at every change.
    pub changed: Notify,
    /// Whether devices can be shared.
    sharing: bool,
    state: Mutex<State>,
    listener: OnceLock<Listener>,
}

#[derive(Default)]
struct State {
    known: HashMap<String, Known>,
    /// By uid: allocations decided on, not yet written.
    pending: HashMap<String, Pending>,
    /// By uid: the claims whose allocations are in `allocated`.
    counted: HashMap<String, Arc<ResourceClaim>>,
    allocated: Allocated,
}

struct Known {
    seen: Arc<ResourceClaim>,
    latest: Arc<ResourceClaim>,
}

struct Pending {
    claim: Arc<ResourceClaim>,
    /// How many pods of a group decided on it.
    sharers: usize,
}

/// metadata.uid
pub fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

/// status.allocation
pub fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

fn version(claim: &ResourceClaim) -> u64 {
    claim.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn controlling_pod(claim: &ResourceClaim) -> Option<&str> {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

impl State {
    /// Counts a claim's allocation: the latest version's, else the pending one.
    fn recount(&mut self, uid: &str, latest: Option<&Arc<ResourceClaim>>, sharing: bool) {
        let written = latest.filter(|claim| allocation(claim).is_some());
        let counts = written.or(self.pending.get(uid).map(|pending| &pending.claim)).cloned();
        let before = match &counts {
            Some(claim) => self.counted.insert(uid.to_owned(), claim.clone()),
            None => self.counted.remove(uid),
        };
        if let Some(allocation) = before.as_deref().and_then(allocation) {
            self.allocated.remove(allocation, sharing);
        }
        if let Some(allocation) = counts.as_deref().and_then(allocation) {
            self.allocated.add(allocation, sharing);
        }
    }

    fn latest_of(&self, claim: &ResourceClaim) -> Option<Arc<ResourceClaim>> {
        let known = self.known.get(&object_key(claim))?;
        (uid(&known.latest) == uid(claim)).then(|| known.latest.clone())
    }
}

impl Claims {
    /// On top of an informer.
    pub fn new(informer: Arc<Informer<ResourceClaim>>, sharing: bool) -> Arc<Self> {
        informer.add_index(BY_POD, |claim| {
            let annotations = claim.metadata.annotations.as_ref();
            let ours = annotations.and_then(|all| all.get(EXTENDED_CLAIM)).is_some_and(|value| value == "true");
            controlling_pod(claim).filter(|_| ours).map(str::to_owned).into_iter().collect()
        });
        let this = Arc::new(Self {
            informer,
            changed: Notify::new(),
            sharing,
            state: Mutex::default(),
            listener: OnceLock::new(),
        });
        let weak: Weak<Self> = Arc::downgrade(&this);
        this.informer.on_event(move |event| {
            if let Some(this) = weak.upgrade() {
                this.observe(event);
            }
        });
        this
    }

    /// Who is told of changes, those assumed included. Only the first listener counts.
    pub fn listen(&self, listener: impl Fn(&Event<ResourceClaim>) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    fn observe(&self, event: &Event<ResourceClaim>) {
        let news = {
            let mut state = self.state.lock();
            let key = object_key(&**event.object());
            match event {
                Event::Deleted(last) => {
                    let before = state.known.remove(&key).map_or_else(|| last.clone(), |known| known.latest);
                    state.recount(uid(&before), None, self.sharing);
                    Some(Event::Deleted(before))
                }
                Event::Added(new) | Event::Updated { new, .. } => state.put(&key, new, Some(new), self.sharing),
            }
        };
        self.tell(news);
    }

    fn tell(&self, news: Option<Event<ResourceClaim>>) {
        if let (Some(news), Some(listener)) = (news, self.listener.get()) {
            listener(&news);
        }
        self.changed.notify_waiters();
    }

    /// A claim by name, in its latest version.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<ResourceClaim>> {
        self.state.lock().known.get(&format!("{namespace}/{name}")).map(|known| known.latest.clone())
    }

    /// The claim that was made for a pod's extended resources.
    pub fn extended(&self, pod: &str) -> Option<Arc<ResourceClaim>> {
        let found = self.informer.by_index(BY_POD, pod).into_iter().next()?;
        self.state.lock().latest_of(&found).or(Some(found))
    }

    /// The devices in use.
    pub fn allocated(&self) -> Allocated {
        self.state.lock().allocated.clone()
    }

    /// An allocation decided on and not yet written.
    pub fn pending(&self, uid: &str) -> Option<AllocationResult> {
        self.state.lock().pending.get(uid).and_then(|pending| allocation(&pending.claim).cloned())
    }

    /// Decides on an allocation: `claim` has it. Deciding again adds a sharer to the first decision.
    pub fn reserve(&self, claim: Arc<ResourceClaim>) {
        let mut state = self.state.lock();
        let latest = state.latest_of(&claim);
        let uid = uid(&claim).to_owned();
        state.pending.entry(uid.clone()).or_insert(Pending { claim, sharers: 0 }).sharers += 1;
        state.recount(&uid, latest.as_ref(), self.sharing);
    }

    /// Lets go of a decision; true when nobody shares it any more.
    pub fn release(&self, claim: &ResourceClaim) -> bool {
        let mut state = self.state.lock();
        let Some(pending) = state.pending.get_mut(uid(claim)) else { return false };
        pending.sharers -= 1;
        if pending.sharers > 0 {
            return false;
        }
        state.pending.remove(uid(claim));
        let latest = state.latest_of(claim);
        state.recount(uid(claim), latest.as_ref(), self.sharing);
        true
    }

    /// A claim was written: it counts from now on, whenever the API server shows it. `decided` is the uid that its
    /// decision was filed under. False when the claim is not known (yet).
    pub fn publish(&self, written: &Arc<ResourceClaim>, decided: &str) -> bool {
        let news = {
            let mut state = self.state.lock();
            let key = object_key(&**written);
            if !state.known.contains_key(&key) {
                return false;
            }
            state.pending.remove(decided);
            let news = state.put(&key, written, None, self.sharing);
            for uid in [decided, uid(written)] {
                let latest = state.known.get(&key).map(|known| known.latest.clone());
                let latest = latest.filter(|latest| self::uid(latest) == uid);
                state.recount(uid, latest.as_ref(), self.sharing);
            }
            news
        };
        self.tell(news);
        true
    }
}

impl State {
    /// Takes a newer version in; `seen` when it comes from the API server's watch.
    fn put(
        &mut self,
        key: &str,
        new: &Arc<ResourceClaim>,
        seen: Option<&Arc<ResourceClaim>>,
        sharing: bool,
    ) -> Option<Event<ResourceClaim>> {
        let old = self.known.get(key).map(|known| known.latest.clone());
        let same_object = old.as_ref().is_some_and(|old| uid(old) == uid(new));
        if same_object && old.as_ref().is_some_and(|old| version(new) <= version(old)) {
            if let (Some(known), Some(seen)) = (self.known.get_mut(key), seen) {
                known.seen = seen.clone();
            }
            return None;
        }
        let seen = seen.cloned().or_else(|| self.known.get(key).map(|known| known.seen.clone()));
        let seen = seen.unwrap_or_else(|| new.clone());
        self.known.insert(key.to_owned(), Known { seen, latest: new.clone() });
        if let Some(old) = old.as_ref().filter(|_| !same_object) {
            self.recount(uid(old), None, sharing);
        }
        self.recount(uid(new), Some(new), sharing);
        Some(match old {
            Some(old) => Event::Updated { old, new: new.clone() },
            None => Event::Added(new.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use common::informer::InformerOptions;
    use serde_json::json;

    use super::*;
    use crate::plugins::dynamic_resources::allocator::devices::DeviceId;

    fn claim(version: &str, device: Option<&str>) -> ResourceClaim {
        let meta = json!({"namespace": "n", "name": "c", "uid": "u", "resourceVersion": version});
        let results = device.map(|device| json!([{"driver": "d", "pool": "p", "device": device, "request": "r"}]));
        let allocation = results.map(|results| json!({"devices": {"results": results}}));
        serde_json::from_value(json!({"metadata": meta, "spec": {}, "status": {"allocation": allocation}})).unwrap()
    }

    #[test]
    fn devices_count_from_the_decision_on_and_once() {
        let claims = Claims::new(Informer::new(InformerOptions::default()), true);
        let id = DeviceId { driver: "d".into(), pool: "p".into(), device: "one".into() };
        let used = || claims.allocated().is_whole(&id);
        claims.informer.apply(claim("1", None));
        assert!(!used());
        let decided = Arc::new(claim("1", Some("one")));
        claims.reserve(decided.clone());
        assert!(used() && claims.pending("u").is_some());
        claims.reserve(decided.clone());
        assert!(!claims.release(&decided), "another pod of the group still wants it");
        let written = Arc::new(claim("3", Some("one")));
        assert!(claims.publish(&written, "u"));
        assert!(used() && claims.pending("u").is_none());
        claims.informer.apply(claim("2", None));
        assert!(used(), "an older version does not undo what was written");
        claims.informer.apply(claim("4", None));
        assert!(!used() && claims.allocated().is_empty());
        claims.reserve(decided.clone());
        assert!(claims.release(&decided) && !used());
        claims.informer.apply(claim("5", Some("one")));
        claims.informer.remove("n/c", None);
        assert!(!used());
        assert!(!claims.publish(&written, "u"), "nothing to publish about");
    }
}
