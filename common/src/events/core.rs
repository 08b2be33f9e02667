//! The recorder of core/v1 events.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;

use super::{
    EventType,
    correlate::{Correlator, Outcome},
    event_name, event_namespace, persist,
};

const QUEUE: usize = 1000;

/// Records core/v1 events in the background. Clones share one writer, which ends when the last clone is gone.
#[derive(Clone)]
pub struct Recorder {
    sender: Option<mpsc::Sender<Event>>,
    source: EventSource,
}

impl Recorder {
    /// A recorder for a component (`kubelet`, `deployment-controller`); `host` is the node's name for node agents, else empty.
    /// Must be called within a tokio runtime.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, receiver));
        Self { sender: Some(sender), source: source(component, host) }
    }

    /// The same writer for another component.
    pub fn for_component(&self, component: &str) -> Self {
        let host = self.source.host.clone().unwrap_or_default();
        Self { sender: self.sender.clone(), source: source(component, &host) }
    }

    /// A recorder that forgets everything (tests, dry runs).
    pub fn discard() -> Self {
        Self { sender: None, source: EventSource::default() }
    }

    /// Records an event; returns at once. When the writer is far behind, the event is dropped.
    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let Some(sender) = &self.sender else { return };
        let message = message.into();
        tracing::info!(object = ?about.name, kind = ?about.kind, reason, message, "event");
        if sender.try_send(self.make(about, kind, reason, message)).is_err() {
            tracing::warn!(reason, "event dropped: the event writer is behind");
        }
    }

    fn make(&self, about: &ObjectReference, kind: EventType, reason: &str, message: String) -> Event {
        let now = Timestamp::now();
        let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Event {
            metadata: ObjectMeta {
                name: Some(event_name(about, now)),
                namespace: Some(event_namespace(about)),
                ..ObjectMeta::default()
            },
            involved_object: about.clone(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            type_: Some(kind.as_str().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(seconds)),
            last_timestamp: Some(Time(seconds)),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            ..Event::default()
        }
    }
}

fn source(component: &str, host: &str) -> EventSource {
    EventSource { component: Some(component.to_owned()), host: Some(host.to_owned()).filter(|host| !host.is_empty()) }
}

async fn write(client: Client, mut events: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::new();
    while let Some(event) = events.recv().await {
        let outcome = correlator.correlate(event, Timestamp::now());
        persist(|| write_once(&client, &outcome)).await;
    }
}

async fn write_once(client: &Client, outcome: &Outcome) -> Result<(), kube::Error> {
    let (event, again) = match outcome {
        Outcome::Drop => return Ok(()),
        Outcome::Create(event) => (event, false),
        Outcome::Count(event) => (event, true),
    };
    let api = Api::<Event>::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
    if again {
        let patch =
            serde_json::json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message});
        let name = event.metadata.name.as_deref().unwrap_or_default();
        match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => return result.map(|_| ()),
        }
    }
    match api.create(&PostParams::default(), event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(|_| ()),
    }
}
