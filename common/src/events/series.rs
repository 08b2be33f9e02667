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

use super::{EventType, correlate::Recent, event_name, event_namespace, persist, truncate};

const QUEUE: usize = 1000;
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
    /// As it was created.
    event: Event,
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
                    persist(|| write_once(&client, &ended)).await;
                }
                continue;
            }
        };
        let Some(event) = event else { return };
        record(&client, &mut series, event).await;
    }
}

/// Forgets series that are over; hands back, with their last count, those that the server does not know in full.
fn end_series(series: &mut Recent<String, Series>, now: Timestamp) -> Vec<Event> {
    let mut ended = Vec::new();
    series.retain(|entry| {
        let over = now.as_second() - entry.last.as_second() > FINISH.as_secs() as i64;
        if over && entry.count > entry.written {
            ended.push(in_series(entry));
        }
        !over
    });
    ended
}

fn in_series(entry: &Series) -> Event {
    let series = EventSeries { count: entry.count, last_observed_time: MicroTime(entry.last) };
    Event { series: Some(series), ..entry.event.clone() }
}

async fn record(client: &Client, series: &mut Recent<String, Series>, event: Event) {
    let last = Timestamp::now();
    let entry = series.get_or_insert_with(key(&event), || Series { event, count: 0, written: 0, last });
    entry.count += 1;
    entry.last = last;
    let event = match entry.count {
        1 => entry.event.clone(),
        2 => in_series(entry),
        // The rest is counted, and written when the series ends.
        _ => return,
    };
    entry.written = entry.count;
    persist(|| write_once(client, &event)).await;
}

/// A first event is created, a series patched; a series whose event is gone is created whole.
async fn write_once(client: &Client, event: &Event) -> Result<(), kube::Error> {
    let api = Api::<Event>::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
    if let Some(series) = &event.series {
        let patch = Patch::Strategic(serde_json::json!({ "series": series }));
        let name = event.metadata.name.as_deref().unwrap_or_default();
        match api.patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => return result.map(|_| ()),
        }
    }
    api.create(&PostParams::default(), event).await.map(|_| ())
}
