//! Events in the name of a controller.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource};

use crate::shared::meta::MetaExt;

/// Records events through one client; never blocks.
#[derive(Clone)]
pub(crate) struct Events {
    _client: Client,
}

impl Events {
    pub(crate) fn new(client: Client, _component: &str) -> Self {
        Self { _client: client }
    }

    pub(crate) fn normal(&self, about: &ObjectReference, reason: &str, message: String) {
        tracing::debug!(kind = about.kind, name = about.name, reason, message, "event");
    }

    pub(crate) fn warning(&self, about: &ObjectReference, reason: &str, message: String) {
        tracing::debug!(kind = about.kind, name = about.name, reason, message, "warning event");
    }
}

/// How an event names its object.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: text(object.name_str()),
        namespace: text(object.ns_str()),
        uid: text(object.uid_str()),
        resource_version: text(object.version_str()),
        field_path: None,
    }
}
