//! A cache that shows our own writes at once: what we wrote stands before what the informer has until the informer is as new.

use std::collections::HashMap;
use std::sync::Arc;

use common::informer::{Event, Informer, Object, object_key};
use parking_lot::Mutex;

use super::meta::MetaExt;

/// An informer and the objects that we wrote and it does not show yet.
pub(crate) struct Overlay<K> {
    informer: Arc<Informer<K>>,
    written: Arc<Mutex<HashMap<String, Arc<K>>>>,
}

fn version<K: MetaExt>(object: &K) -> u64 {
    object.version_str().parse().unwrap_or(0)
}

impl<K: Object> Overlay<K> {
    /// Over an informer; set up before the informer starts.
    pub(crate) fn new(informer: Arc<Informer<K>>) -> Self {
        let written: Arc<Mutex<HashMap<String, Arc<K>>>> = Arc::default();
        let seen = written.clone();
        informer.on_event(move |event: &Event<K>| {
            let mut written = seen.lock();
            if written.is_empty() {
                return;
            }
            let object = event.object();
            let key = object_key(&**object);
            let old = matches!(event, Event::Deleted(_))
                || written.get(&key).is_some_and(|own| version(&**own) <= version(&**object));
            if old {
                written.remove(&key);
            }
        });
        Self { informer, written }
    }

    /// The object as it is after our writes.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<K>> {
        let cached = self.informer.get_by_key(key)?;
        match self.written.lock().get(key) {
            Some(own) if version(&**own) > version(&*cached) && own.uid_str() == cached.uid_str() => Some(own.clone()),
            _ => Some(cached),
        }
    }

    /// We updated this object; this is the server's answer.
    pub(crate) fn wrote(&self, object: K) -> Arc<K> {
        let (key, object) = (object_key(&object), Arc::new(object));
        let mut written = self.written.lock();
        if self.informer.get_by_key(&key).is_some_and(|cached| version(&*cached) < version(&*object)) {
            written.insert(key, object.clone());
        }
        object
    }

    /// The informer below.
    pub(crate) fn informer(&self) -> &Informer<K> {
        &self.informer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::informer::InformerOptions;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn map(version: &str) -> ConfigMap {
        serde_json::from_value(
            json!({"metadata": {"namespace": "n", "name": "m", "uid": "u", "resourceVersion": version}}),
        )
        .unwrap()
    }

    #[test]
    fn own_writes_are_seen_until_the_informer_has_them() {
        let informer = Informer::new(InformerOptions::default());
        let overlay = Overlay::new(informer.clone());
        informer.apply(map("5"));
        overlay.wrote(map("7"));
        let seen = || overlay.get("n/m").map(|map| map.version_str().to_owned());
        assert_eq!(seen().as_deref(), Some("7"));
        informer.apply(map("6"));
        assert_eq!(seen().as_deref(), Some("7"), "an older event does not hide it");
        informer.apply(map("8"));
        assert_eq!(seen().as_deref(), Some("8"));
        assert!(overlay.written.lock().is_empty());
        overlay.wrote(map("7"));
        assert!(overlay.written.lock().is_empty(), "the informer was faster");
        overlay.wrote(map("9"));
        informer.remove("n/m", None);
        assert_eq!(seen(), None);
        assert!(overlay.written.lock().is_empty());
    }
}
