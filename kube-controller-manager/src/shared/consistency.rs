//! Has the cache caught up with our own writes (KEP-5647)? Remembers, per owner and kind, the newest resourceVersion that the
//! server answered, so that no decision is taken on a state that we ourselves have already changed.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::informer::{Informer, Object};
use common::telemetry;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};

/// After this long a controller that found its cache behind looks again; mostly the awaited event wakes it before.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(100);

type Writes = HashMap<TypeId, (u64, Instant)>;

/// The newest writes of one controller, by owner key.
pub(crate) struct Consistency {
    written: Mutex<HashMap<String, Writes>>,
    subsystem: &'static str,
    skips: OnceLock<Option<IntCounterVec>>,
}

impl Consistency {
    /// `subsystem` begins the name of the metric that counts the runs put off.
    pub(crate) fn new(subsystem: &'static str) -> Self {
        Self { written: Mutex::default(), subsystem, skips: OnceLock::new() }
    }

    /// The server answered a write of ours with this object.
    pub(crate) fn wrote<K: Object>(&self, owner: &str, object: &K) {
        let Some(version) = object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()) else { return };
        let mut written = self.written.lock();
        let newest = written.entry(owner.to_owned()).or_default().entry(TypeId::of::<K>());
        let newest = newest.or_insert((version, Instant::now()));
        if newest.0 < version {
            *newest = (version, Instant::now());
        }
    }

    /// Whether the cache shows all that we wrote for this owner.
    pub(crate) fn seen<K: Object>(&self, owner: &str, cache: &Informer<K>) -> bool {
        let mut written = self.written.lock();
        let Some(writes) = written.get_mut(owner) else { return true };
        let Some((version, when)) = writes.get(&TypeId::of::<K>()).copied() else { return true };
        if !cache.has_seen(version, when) {
            drop(written);
            self.count_skip::<K>();
            return false;
        }
        writes.remove(&TypeId::of::<K>());
        if writes.is_empty() {
            written.remove(owner);
        }
        true
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &str) {
        self.written.lock().remove(owner);
    }

    fn count_skip<K: Object>(&self) {
        let family = self.skips.get_or_init(|| {
            let help = "Total number of syncs skipped due to a stale watch cache.";
            let opts = Opts::new(format!("{}_stale_sync_skips_total", self.subsystem), help);
            Some(telemetry::register(IntCounterVec::new(opts, &["group", "resource"]).ok()?))
        });
        if let Some(family) = family {
            family.with_label_values(&[&*K::group(&()), &*K::plural(&())]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::informer::InformerOptions;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::json;

    #[test]
    fn waits_for_what_was_written() {
        let map = |version: &str| {
            serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": "m", "resourceVersion": version}})).unwrap()
        };
        let (maps, pods) =
            (Informer::new(InformerOptions::default()), Informer::<Pod>::new(InformerOptions::default()));
        let c = Consistency::new("test_controller");
        assert!(c.seen("o", &maps));
        c.wrote("o", &map("7"));
        c.wrote("o", &map("5"));
        assert!(!c.seen("o", &maps) && c.seen("o", &pods) && c.seen("other", &maps));
        maps.apply(map("6"));
        assert!(!c.seen("o", &maps));
        maps.apply(map("7"));
        assert!(c.seen("o", &maps));
        c.wrote("o", &map("9"));
        c.forget("o");
        assert!(c.seen("o", &maps));
    }
}
