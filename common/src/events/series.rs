//! The recorder of events.k8s.io/v1 events: repetitions become a series on the first event.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;

use super::{EventType, correlate::Recent, event_name, event_namespace, truncate};

const QUEUE: usize = 1000;
const TRIES: u32 = 12;
const RETRY: Duration = Duration::from_secs(10);
/// A series ends when nothing was observed for this long; its final count is written then.
const FINISH: Duration = Duration::from_secs(360);
const NOTE_LIMIT: usize = 1024;

/// Records events.k8s.io/v1 events in the background. Clones share one writer.
#[derive(Clone)]
pub struct EventsV1Recorder {
    sender: Option<mpsc::Sender<Event>>,
    controller: String,
    instance: String,
}

impl EventsV1Recorder {
    /// `controller` is for example `default-scheduler`, `instance` `default-scheduler-<hostname>`. Must be called within a runtime.
    pub fn new(client: Client, controller: &str, instance: &str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, receiver));
        Self { sender: Some(sender), controller: controller.to_owned(), instance: instance.to_owned() }
    }

    /// The same writer for another controller name (scheduler profiles).
    pub fn for_controller(&self, controller: &str, instance: &str) -> Self {
        Self { sender: self.sender.clone(), controller: controller.to_owned(), instance: instance.to_owned() }
    }

    /// A recorder that forgets everything.
    pub fn discard() -> Self {
        Self { sender: None, controller: String::new(), instance: String::new() }
    }

    /// Records an event; returns at once.
    pub fn event(
        &self,
        regarding: &ObjectReference,
        related: Option<ObjectReference>,
        kind: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let Some(sender) = &self.sender else { return };
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(event_name(regarding, now)),
                namespace: Some(event_namespace(regarding)),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(self.controller.clone()),
            reporting_instance: Some(self.instance.clone()),
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            regarding: Some(regarding.clone()),
            related,
            note: Some(truncate(note, NOTE_LIMIT)),
            type_: Some(kind.as_str().to_owned()),
            ..Event::default()
        };
        if sender.try_send(event).is_err() {
            tracing::warn!(reason, "event dropped: the event writer is behind");
        }
    }
}

struct Series {
    namespace: String,
    name: String,
    count: i32,
    /// The count that the server knows.
    written: i32,
    last: Timestamp,
}

fn key(event: &Event) -> String {
    let reference = |reference: &Option<ObjectReference>| serde_json::to_string(reference).unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    [
        text(&event.type_),
        text(&event.action),
        text(&event.reason),
        text(&event.reporting_controller),
        text(&event.reporting_instance),
        reference(&event.regarding),
        reference(&event.related),
    ]
    .join("\0")
}

async fn write(client: Client, mut events: mpsc::Receiver<Event>) {
    let mut series: Recent<String, Series> = Recent::new();
    let mut finish = tokio::time::interval(FINISH);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = finish.tick() => {
                for ended in end_series(&mut series, Timestamp::now()) {
                    patch_series(&client, &ended).await;
                }
                continue;
            }
        };
        let Some(event) = event else { return };
        record(&client, &mut series, event).await;
    }
}

/// Forgets series that are over; hands back those whose last count is not written yet.
fn end_series(series: &mut Recent<String, Series>, now: Timestamp) -> Vec<Series> {
    let mut ended = Vec::new();
    series.retain(|entry| {
        let over = now.as_second() - entry.last.as_second() > FINISH.as_secs() as i64;
        if over && entry.count > entry.written {
            let (namespace, name) = (entry.namespace.clone(), entry.name.clone());
            ended.push(Series { namespace, name, ..*entry });
        }
        !over
    });
    ended
}

async fn record(client: &Client, series: &mut Recent<String, Series>, event: Event) {
    let entry = series.get_or_insert_with(key(&event), || Series {
        namespace: event.metadata.namespace.clone().unwrap_or_default(),
        name: event.metadata.name.clone().unwrap_or_default(),
        count: 0,
        written: 0,
        last: Timestamp::now(),
    });
    entry.count += 1;
    entry.last = Timestamp::now();
    match entry.count {
        1 => {
            entry.written = 1;
            create(client, &event).await;
        }
        2 => {
            entry.written = 2;
            patch_series(client, entry).await;
        }
        _ => {}
    }
}

async fn create(client: &Client, event: &Event) {
    let api = Api::<Event>::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
    for attempt in 1..=TRIES {
        match api.create(&PostParams::default(), event).await {
            Ok(_) => return,
            Err(error @ kube::Error::Api(_)) => return tracing::warn!(%error, "server rejected event"),
            Err(error) if attempt == TRIES => tracing::warn!(%error, "unable to write event; giving up"),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn patch_series(client: &Client, entry: &Series) {
    let api = Api::<Event>::namespaced(client.clone(), &entry.namespace);
    let series = EventSeries { count: entry.count, last_observed_time: MicroTime(entry.last) };
    let patch = Patch::Strategic(serde_json::json!({ "series": series }));
    if let Err(error) = api.patch(&entry.name, &PatchParams::default(), &patch).await {
        tracing::debug!(%error, name = entry.name, "cannot update an event series");
    }
}
