//! Where events go, and who waits for that.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::{event::Event, log::Log, metrics, policy::Level, webhook::Webhook};

/// Batches that are on their way to a slow server at the same time; more wait in the buffer.
const MOST_UNDER_WAY: usize = 16;

/// A backend.
pub struct Backend {
    output: Arc<Output>,
    /// Bytes of an event beyond which its bodies are left out.
    truncate: Option<usize>,
    mode: Mode,
}

/// What writes events.
pub enum Output {
    /// A file.
    Log(Log),
    /// A server.
    Webhook(Webhook),
}

/// Who waits.
enum Mode {
    /// The request, whatever comes of it.
    Blocking,
    /// The request, which fails if its arrival cannot be recorded.
    Strict,
    /// Nobody.
    Batch(Mutex<Option<mpsc::Sender<Event>>>, Mutex<Option<JoinHandle<()>>>),
}

/// How events are gathered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batching {
    /// Events that wait at most; further ones are lost.
    pub buffer: usize,
    /// Events of a batch.
    pub size: usize,
    /// How long a batch is waited for.
    pub wait: Duration,
    /// Batches a second, and how many at once after a rest.
    pub throttle: Option<(f32, u32)>,
    /// A batch does not wait for the one before.
    pub concurrent: bool,
}

/// Which mode a flag names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// `blocking`
    Blocking,
    /// `blocking-strict`
    Strict,
    /// `batch`
    Batch(Batching),
}

impl Output {
    fn name(&self) -> &'static str {
        match self {
            Self::Log(_) => "log",
            Self::Webhook(_) => "webhook",
        }
    }

    async fn write(&self, events: &[Event]) -> bool {
        let result = match self {
            Self::Log(log) => log.write(events).map_err(|error| error.to_string()),
            Self::Webhook(webhook) => webhook.send(events).await,
        };
        if let Err(error) = &result {
            metrics::failed(self.name(), events.len(), error);
        }
        result.is_ok()
    }
}

impl Backend {
    /// A backend; batches are sent by a task of its own.
    #[must_use]
    pub fn new(output: Output, truncate: Option<usize>, wanted: Wanted) -> Self {
        let output = Arc::new(output);
        let mode = match wanted {
            Wanted::Blocking => Mode::Blocking,
            Wanted::Strict => Mode::Strict,
            Wanted::Batch(batching) => {
                let (sender, receiver) = mpsc::channel(batching.buffer);
                let task = tokio::spawn(send(Arc::clone(&output), receiver, batching));
                Mode::Batch(Mutex::new(Some(sender)), Mutex::new(Some(task)))
            }
        };
        Self { output, truncate, mode }
    }

    /// Records an event; false when the request must not go on without.
    pub async fn record(&self, event: &Event) -> bool {
        let Some(event) = self.fit(event) else { return true };
        match &self.mode {
            Mode::Blocking => {
                self.output.write(std::slice::from_ref(&event)).await;
                true
            }
            Mode::Strict => self.output.write(std::slice::from_ref(&event)).await,
            Mode::Batch(sender, _) => {
                let sent = match &*sender.lock() {
                    Some(sender) => sender.try_send(event).map_err(|_| "audit buffer queue blocked"),
                    None => Err("audit backend shut down"),
                };
                if let Err(error) = sent {
                    metrics::failed("buffered", 1, &error);
                }
                true
            }
        }
    }

    /// The event, without its bodies if it is too large; `None` if even that does not help.
    fn fit(&self, event: &Event) -> Option<Event> {
        let Some(most) = self.truncate else { return Some(event.clone()) };
        let is_large = |event: &Event| serde_json::to_vec(event).map_or(0, |json| json.len()) > most;
        if !is_large(event) {
            return Some(event.clone());
        }
        let mut small = event.clone();
        if small.level >= Level::Request {
            (small.request_object, small.response_object) = (None, None);
            small.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
        }
        if is_large(&small) {
            metrics::failed("truncate", 1, &"event is too large even after truncating");
            return None;
        }
        Some(small)
    }

    /// Sends what is buffered; nothing is recorded any more.
    pub async fn close(&self) {
        let Mode::Batch(sender, task) = &self.mode else { return };
        drop(sender.lock().take());
        let task = task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

/// Sends batches until nobody records any more and all are sent.
async fn send(output: Arc<Output>, mut events: mpsc::Receiver<Event>, batching: Batching) {
    let mut bucket = batching.throttle.map(|(rate, burst)| Bucket::new(rate, burst));
    let (mut under_way, places) = (JoinSet::new(), Arc::new(Semaphore::new(MOST_UNDER_WAY)));
    while let Some(batch) = gather(&mut events, batching).await {
        if let Some(bucket) = &mut bucket {
            bucket.take().await;
        }
        if !batching.concurrent {
            output.write(&batch).await;
            continue;
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let output = Arc::clone(&output);
        under_way.spawn(async move {
            output.write(&batch).await;
            drop(place);
        });
        while under_way.try_join_next().is_some() {}
    }
    under_way.join_all().await;
}

/// The next batch: full, or as much as came in time.
async fn gather(events: &mut mpsc::Receiver<Event>, batching: Batching) -> Option<Vec<Event>> {
    let mut batch = vec![events.recv().await?];
    let until = Instant::now() + batching.wait;
    while batch.len() < batching.size {
        match tokio::time::timeout_at(until, events.recv()).await {
            Ok(Some(event)) => batch.push(event),
            _ => break,
        }
    }
    Some(batch)
}

/// A token bucket.
struct Bucket {
    tokens: f64,
    rate: f64,
    burst: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: f32, burst: u32) -> Self {
        Self { tokens: burst.into(), rate: rate.into(), burst: burst.into(), at: Instant::now() }
    }

    async fn take(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * self.rate).min(self.burst) - 1.0;
        self.at = now;
        if self.tokens < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.tokens / self.rate)).await;
        }
    }
}
