//! Is the cache as new as our own last writes? Remembers, per owner, the resourceVersion of every object
//! written, so that no decision is taken on a state that we ourselves have already changed.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Version(u64),
    Deleted,
}

/// Our last writes by owner key and object UID.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    owners: Mutex<HashMap<String, HashMap<String, Written>>>,
}

fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or("")
}

impl Freshness {
    /// We created or updated this object; `meta` is the server's answer.
    pub(crate) fn wrote(&self, owner: &str, meta: &ObjectMeta) {
        let mut owners = self.owners.lock();
        owners.entry(owner.to_owned()).or_default().insert(uid(meta).to_owned(), Written::Version(version(meta)));
    }

    /// We deleted this object.
    pub(crate) fn deleted(&self, owner: &str, meta: &ObjectMeta) {
        let mut owners = self.owners.lock();
        owners.entry(owner.to_owned()).or_default().insert(uid(meta).to_owned(), Written::Deleted);
    }

    /// The cache shows these objects of the owner: is one of our writes missing in it?
    pub(crate) fn is_stale<'a>(&self, owner: &str, cached: impl Iterator<Item = &'a ObjectMeta>) -> bool {
        let owners = self.owners.lock();
        let Some(written) = owners.get(owner) else { return false };
        let cached: HashMap<&str, u64> = cached.map(|m| (uid(m), version(m))).collect();
        written.iter().any(|(uid, state)| match (state, cached.get(uid.as_str())) {
            (Written::Deleted, seen) => seen.is_some(),
            (Written::Version(_), None) => true,
            (Written::Version(v), Some(seen)) => seen < v,
        })
    }

    /// The cache shows this state: is it news, or only the echo of our own write?
    pub(crate) fn is_news(&self, owner: &str, meta: &ObjectMeta) -> bool {
        match self.owners.lock().get(owner).and_then(|w| w.get(uid(meta))) {
            Some(Written::Version(v)) => version(meta) > *v,
            Some(Written::Deleted) => false,
            None => true,
        }
    }

    /// The object is gone from the cache: was it somebody else who deleted it?
    pub(crate) fn gone(&self, owner: &str, meta: &ObjectMeta) -> bool {
        let mut owners = self.owners.lock();
        let Some(written) = owners.get_mut(owner) else { return true };
        let was = written.remove(uid(meta));
        if written.is_empty() {
            owners.remove(owner);
        }
        was != Some(Written::Deleted)
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &str) {
        self.owners.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, version: &str) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.into()), resource_version: Some(version.into()), ..ObjectMeta::default() }
    }

    #[test]
    fn knows_its_own_writes() {
        let f = Freshness::default();
        let (a1, a2, b1) = (meta("a", "1"), meta("a", "2"), meta("b", "1"));
        assert!(!f.is_stale("s", [].iter()));
        assert!(f.is_news("s", &a1));
        f.wrote("s", &a2);
        assert!(f.is_stale("s", [].iter()), "created and not seen");
        assert!(f.is_stale("s", [&a1].into_iter()), "updated and not seen");
        assert!(!f.is_stale("s", [&a2, &b1].into_iter()));
        assert!(!f.is_news("s", &a2));
        assert!(f.is_news("s", &meta("a", "3")));
        f.deleted("s", &a2);
        assert!(f.is_stale("s", [&a2].into_iter()), "deleted and still seen");
        assert!(!f.gone("s", &a2), "expected");
        assert!(f.gone("s", &a2), "not expected");
    }
}
