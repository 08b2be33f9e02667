//! An informer with assumptions on top: what the scheduler decided about an object counts until the API server shows a
//! newer version of it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use common::informer::{Informer, Object, object_key};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The cache.
pub struct Assumed<K> {
    /// What the API server says.
    pub informer: Arc<Informer<K>>,
    /// Woken at every change of the informer.
    pub changed: Notify,
    assumed: Mutex<HashMap<String, Arc<K>>>,
}

impl<K: Object> Assumed<K> {
    /// On top of an informer.
    pub fn new(informer: Arc<Informer<K>>) -> Arc<Self> {
        let this = Arc::new(Self { informer, changed: Notify::new(), assumed: Mutex::default() });
        let weak: Weak<Self> = Arc::downgrade(&this);
        this.informer.on_event(move |event| {
            let Some(this) = weak.upgrade() else { return };
            let key = object_key(&**event.object());
            let mut assumed = this.assumed.lock();
            if assumed
                .get(&key)
                .is_some_and(|held| this.api(&key).is_none_or(|seen| !same_version(held.as_ref(), seen.as_ref())))
            {
                assumed.remove(&key);
            }
            drop(assumed);
            this.changed.notify_waiters();
        });
        this
    }

    /// As the API server shows it.
    pub fn api(&self, key: &str) -> Option<Arc<K>> {
        self.informer.get_by_key(key)
    }

    /// As assumed.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.api(key).map(|seen| self.overlay(key, seen))
    }

    /// Objects of an index, as assumed.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let seen = self.informer.by_index(index, value);
        if self.assumed.lock().is_empty() {
            return seen;
        }
        seen.into_iter().map(|object| self.overlay(&object_key(&*object), object)).collect()
    }

    fn overlay(&self, key: &str, seen: Arc<K>) -> Arc<K> {
        match self.assumed.lock().get(key) {
            Some(held) if same_version(held.as_ref(), seen.as_ref()) => held.clone(),
            _ => seen,
        }
    }

    /// Assumes an object, a changed copy of the version that the API server shows.
    pub fn assume(&self, object: Arc<K>) -> Result<(), String> {
        let key = object_key(&*object);
        let mut assumed = self.assumed.lock();
        let seen = self.api(&key).ok_or_else(|| format!("{key:?} not found"))?;
        if !same_version(object.as_ref(), seen.as_ref()) {
            let version = |object: &K| object.meta().resource_version.clone().unwrap_or_default();
            return Err(format!("{key:?} is out of sync (stored: {}, assume: {})", version(&seen), version(&object)));
        }
        assumed.insert(key, object);
        Ok(())
    }

    /// Takes an assumption back, if it is still the one made of this version.
    pub fn restore(&self, object: &K) {
        let key = object_key(object);
        let mut assumed = self.assumed.lock();
        if assumed.get(&key).is_some_and(|held| same_version(held.as_ref(), object)) {
            assumed.remove(&key);
        }
    }
}

fn same_version<K: Object>(a: &K, b: &K) -> bool {
    a.meta().resource_version == b.meta().resource_version
}

#[cfg(test)]
mod tests {
    use common::informer::InformerOptions;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    use super::*;

    fn claim(version: &str, note: &str) -> PersistentVolumeClaim {
        let meta = json!({"namespace": "n", "name": "c", "resourceVersion": version, "annotations": {"note": note}});
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    #[test]
    fn an_assumption_lasts_until_a_newer_version_or_its_end() {
        let cache = Assumed::new(Informer::<PersistentVolumeClaim>::new(InformerOptions::default()));
        let note = || cache.get("n/c").map(|found| found.metadata.annotations.clone().unwrap()["note"].clone());
        assert!(cache.assume(Arc::new(claim("1", "assumed"))).is_err(), "nothing to assume about");
        cache.informer.apply(claim("1", "seen"));
        cache.assume(Arc::new(claim("1", "assumed"))).unwrap();
        assert_eq!(note().as_deref(), Some("assumed"));
        cache.restore(&claim("2", "other"));
        assert_eq!(note().as_deref(), Some("assumed"), "another version is not this assumption");
        cache.restore(&claim("1", "assumed"));
        assert_eq!(note().as_deref(), Some("seen"));
        cache.assume(Arc::new(claim("1", "assumed"))).unwrap();
        cache.informer.apply(claim("2", "newer"));
        assert_eq!(note().as_deref(), Some("newer"));
        let error = cache.assume(Arc::new(claim("1", "late"))).unwrap_err();
        assert_eq!(error, "\"n/c\" is out of sync (stored: 2, assume: 1)");
    }
}
