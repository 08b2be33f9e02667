//! Short-hands over `ObjectMeta`: UIDs, annotations, times; absent is empty.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;

/// Field access that treats absent as empty.
pub(crate) trait MetaExt {
    fn meta_ref(&self) -> &ObjectMeta;

    fn uid_str(&self) -> &str {
        self.meta_ref().uid.as_deref().unwrap_or("")
    }
    fn name_str(&self) -> &str {
        self.meta_ref().name.as_deref().unwrap_or("")
    }
    fn ns_str(&self) -> &str {
        self.meta_ref().namespace.as_deref().unwrap_or("")
    }
    fn version_str(&self) -> &str {
        self.meta_ref().resource_version.as_deref().unwrap_or("")
    }
    fn is_deleting(&self) -> bool {
        self.meta_ref().deletion_timestamp.is_some()
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.meta_ref().annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str)
    }
    fn label(&self, key: &str) -> Option<&str> {
        self.meta_ref().labels.as_ref().and_then(|a| a.get(key)).map(String::as_str)
    }
    fn created(&self) -> Option<Timestamp> {
        self.meta_ref().creation_timestamp.as_ref().map(|t| t.0)
    }
    fn generation(&self) -> i64 {
        self.meta_ref().generation.unwrap_or(0)
    }
}

impl<K: Resource> MetaExt for K {
    fn meta_ref(&self) -> &ObjectMeta {
        self.meta()
    }
}

/// Now in the precision that the API keeps: whole seconds.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Now, as an API time.
pub(crate) fn now_time() -> Time {
    Time(now())
}
