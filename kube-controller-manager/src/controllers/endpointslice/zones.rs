//! What topology aware routing remembers between runs: the zones' shares, and which Services have hints by them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::topology::{self, Counts, Shares};

/// An event about a Service: whether it warns, the reason, the message.
pub(super) type Note = (bool, &'static str, String);

#[derive(Default)]
struct State {
    /// None: to be counted anew.
    shares: Option<Option<Arc<Shares>>>,
    /// By Service and address type.
    hinted: HashMap<String, BTreeMap<&'static str, Counts>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Zones {
    state: Mutex<State>,
}

impl Zones {
    /// The shares; `count` looks at the nodes when they have changed.
    pub(super) fn shares(&self, count: impl FnOnce() -> Option<Shares>) -> Option<Arc<Shares>> {
        self.state.lock().shares.get_or_insert_with(|| count().map(Arc::new)).clone()
    }

    /// The nodes have changed. Whether any Service has hints by their shares.
    pub(super) fn outdated(&self) -> bool {
        let mut state = self.state.lock();
        state.shares = None;
        !state.hinted.is_empty()
    }

    /// The Services one of whose zones has too few endpoints.
    pub(super) fn overloaded(&self, shares: Option<&Shares>) -> Vec<String> {
        let state = self.state.lock();
        let overloaded =
            state.hinted.iter().filter(|(_, families)| families.values().any(|c| topology::is_overloaded(c, shares)));
        overloaded.map(|(key, _)| key.clone()).collect()
    }

    /// What a run did to the hints of a Service, by address type (nothing: it no longer asks); what its users should know.
    pub(super) fn note(&self, key: &str, outcomes: Vec<(&'static str, Result<Counts, String>)>) -> Vec<Note> {
        const ENABLED: &str = "TopologyAwareHintsEnabled";
        const DISABLED: &str = "TopologyAwareHintsDisabled";
        let mut state = self.state.lock();
        let before = state.hinted.remove(key);
        let mut notes = Vec::new();
        if outcomes.is_empty() {
            let families = before.unwrap_or_default().into_keys();
            let message = |family| format!("Topology Aware Hints has been disabled, addressType: {family}");
            return families.map(|family| (true, DISABLED, message(family))).collect();
        }
        let mut now = BTreeMap::new();
        for (family, outcome) in outcomes {
            match outcome {
                Ok(counts) => {
                    if before.is_none() && now.is_empty() {
                        let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
                        notes.push((false, ENABLED, message));
                    }
                    now.insert(family, counts);
                }
                Err(why) => notes.push((true, DISABLED, format!("{why}, addressType: {family}"))),
            }
        }
        if !now.is_empty() {
            state.hinted.insert(key.to_owned(), now);
        }
        notes
    }

    /// The Service is gone.
    pub(super) fn forget(&self, key: &str) {
        self.state.lock().hinted.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_hear_of_changes() {
        let zones = Zones::default();
        let counts = || Counts::from([("a".into(), 5), ("b".into(), 1)]);
        let reasons = |outcomes| -> Vec<(bool, String)> {
            zones.note("n/s", outcomes).into_iter().map(|(warns, _, message)| (warns, message)).collect()
        };
        assert!(reasons(vec![]).is_empty(), "never asked");
        let enabled = [(false, "Topology Aware Hints has been enabled, addressType: IPv4".to_owned())];
        assert_eq!(reasons(vec![("IPv4", Ok(counts())), ("IPv6", Ok(counts()))]), enabled);
        assert!(reasons(vec![("IPv4", Ok(counts()))]).is_empty(), "as before");
        assert!(zones.outdated());
        let even = zones.shares(|| Some(Shares::from([("a".into(), 0.5), ("b".into(), 0.5)])));
        assert_eq!(zones.overloaded(even.as_deref()), ["n/s"]);
        assert_eq!(zones.shares(|| None), even, "counted once");
        assert_eq!(reasons(vec![("IPv4", Err("why".into()))]), [(true, "why, addressType: IPv4".to_owned())]);
        assert!(!zones.outdated());
        assert_eq!(reasons(vec![("IPv4", Ok(counts()))]), enabled);
        let disabled = (true, "Topology Aware Hints has been disabled, addressType: IPv4".to_owned());
        assert_eq!(reasons(vec![]), [disabled]);
    }
}
