//! Event recorders: never block, never fail the caller, bounded; repeated events are counted instead of multiplied.

mod core;
mod correlate;
mod series;

#[cfg(test)]
mod tests;

use std::{future::Future, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;

pub use self::core::Recorder;
pub use series::EventsV1Recorder;

/// Whether an event is news or trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// News.
    Normal,
    /// Trouble.
    Warning,
}

impl EventType {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What an event is about.
pub fn object_reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// `<object>.<hex nanoseconds>`.
fn event_name(reference: &ObjectReference, now: jiff::Timestamp) -> String {
    format!("{}.{:x}", reference.name.as_deref().unwrap_or_default(), now.as_nanosecond())
}

/// Events about cluster-scoped objects live in `default`.
fn event_namespace(reference: &ObjectReference) -> String {
    reference.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".into())
}

const TRIES: u32 = 12;
const RETRY: Duration = Duration::from_secs(10);

/// Tries to write an event until the server has decided on it, or too often.
async fn persist<F: Future<Output = Result<(), kube::Error>>>(mut write: impl FnMut() -> F) {
    for attempt in 1..=TRIES {
        match write().await {
            Ok(()) => return,
            Err(error @ kube::Error::Api(_)) => {
                return tracing::warn!(error = crate::client::brief(&error), "server rejected event");
            }
            Err(error) if attempt == TRIES => tracing::warn!(%error, "unable to write event; giving up"),
            Err(error) => {
                tracing::debug!(%error, "unable to write event; may retry");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Cuts a text at a character boundary.
fn truncate(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end])
}
