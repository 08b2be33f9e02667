//! Events in the name of a controller.

use common::events::{EventType, Recorder};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;

pub(crate) use common::events::object_reference as reference;

/// Records events through one client; never blocks.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
}

impl Events {
    pub(crate) fn new(client: Client, component: &str, host: &str) -> Self {
        Self { recorder: Recorder::new(client, component, host) }
    }

    pub(crate) fn normal(&self, about: &ObjectReference, reason: &str, message: String) {
        self.recorder.event(about, EventType::Normal, reason, message);
    }

    pub(crate) fn warning(&self, about: &ObjectReference, reason: &str, message: String) {
        self.recorder.event(about, EventType::Warning, reason, message);
    }
}
