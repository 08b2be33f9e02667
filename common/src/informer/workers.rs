//! Workers that run a controller's reconcile function over a queue, and the queue's metrics.

use std::{
    fmt::{Debug, Display},
    future::Future,
    hash::Hash,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::WorkQueue;
use crate::telemetry;

/// Runs `reconcile` for the queue's items on `workers` tasks until `shutdown`; runs under way are finished, waiting items are not.
///
/// An error is logged and the item retried with its back-off; success forgets the back-off. A panic counts as an error.
pub async fn run_workers<T, F, Fut, E>(
    name: &str,
    queue: Arc<WorkQueue<T>>,
    workers: usize,
    shutdown: CancellationToken,
    reconcile: F,
) where
    T: Clone + Debug + Eq + Hash + Send + Sync + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let mut tasks = JoinSet::new();
    for _ in 0..workers.max(1) {
        let (name, queue, reconcile) = (name.to_owned(), queue.clone(), reconcile.clone());
        let shutdown = shutdown.clone();
        tasks.spawn(async move { while !shutdown.is_cancelled() && work_once(&name, &queue, &*reconcile).await {} });
    }
    shutdown.cancelled().await;
    queue.shut_down();
    while tasks.join_next().await.is_some() {}
}

async fn work_once<T, F, Fut, E>(name: &str, queue: &WorkQueue<T>, reconcile: &F) -> bool
where
    T: Clone + Debug + Eq + Hash + Send + Sync + 'static,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    use futures::FutureExt;
    let Some(item) = queue.next().await else { return false };
    let outcome = std::panic::AssertUnwindSafe(reconcile(item.clone())).catch_unwind().await;
    match outcome {
        Ok(Ok(())) => queue.forget(&item),
        Ok(Err(error)) => {
            tracing::warn!(controller = name, key = ?item, retries = queue.num_requeues(&item), error = crate::client::brief(&error), "sync failed; will retry");
            queue.add_rate_limited(item.clone());
        }
        Err(_) => {
            tracing::error!(controller = name, key = ?item, "sync panicked; will retry");
            queue.add_rate_limited(item.clone());
        }
    }
    queue.done(&item);
    true
}

struct Families {
    depth: IntGaugeVec,
    adds: IntCounterVec,
    retries: IntCounterVec,
    queue_duration: HistogramVec,
    work_duration: HistogramVec,
    unfinished: GaugeVec,
    longest: GaugeVec,
}

fn families() -> Option<&'static Families> {
    static FAMILIES: OnceLock<Option<Families>> = OnceLock::new();
    FAMILIES.get_or_init(|| make_families().ok()).as_ref()
}

fn make_families() -> Result<Families, prometheus::Error> {
    let label = &["name"];
    let opts = |name: &str, help: &str| Opts::new(format!("workqueue_{name}"), help);
    let seconds = |name: &str, help: &str| {
        let buckets = prometheus::exponential_buckets(1e-8, 10.0, 12)?;
        HistogramVec::new(HistogramOpts::from(opts(name, help)).buckets(buckets), label)
    };
    Ok(Families {
        depth: telemetry::register(IntGaugeVec::new(opts("depth", "Current depth of workqueue"), label)?),
        adds: telemetry::register(IntCounterVec::new(
            opts("adds_total", "Total number of adds handled by workqueue"),
            label,
        )?),
        retries: telemetry::register(IntCounterVec::new(
            opts("retries_total", "Total number of retries handled by workqueue"),
            label,
        )?),
        queue_duration: telemetry::register(seconds(
            "queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested.",
        )?),
        work_duration: telemetry::register(seconds(
            "work_duration_seconds",
            "How long in seconds processing an item from workqueue takes.",
        )?),
        unfinished: telemetry::register(GaugeVec::new(
            opts(
                "unfinished_work_seconds",
                "How many seconds of work is in progress and has not been observed by work_duration.",
            ),
            label,
        )?),
        longest: telemetry::register(GaugeVec::new(
            opts(
                "longest_running_processor_seconds",
                "How many seconds the longest running processor for workqueue has been running.",
            ),
            label,
        )?),
    })
}

/// The metrics of one queue; nothing when the registry refused them.
pub(super) struct QueueMetrics(Option<Metrics>);

struct Metrics {
    depth: IntGauge,
    adds: IntCounter,
    retries: IntCounter,
    queue_duration: Histogram,
    work_duration: Histogram,
    unfinished: Gauge,
    longest: Gauge,
}

impl QueueMetrics {
    pub(super) fn new(name: &str) -> Self {
        let label = &[name];
        Self(families().map(|families| Metrics {
            depth: families.depth.with_label_values(label),
            adds: families.adds.with_label_values(label),
            retries: families.retries.with_label_values(label),
            queue_duration: families.queue_duration.with_label_values(label),
            work_duration: families.work_duration.with_label_values(label),
            unfinished: families.unfinished.with_label_values(label),
            longest: families.longest.with_label_values(label),
        }))
    }

    pub(super) fn added(&self) {
        self.0.iter().for_each(|metrics| metrics.adds.inc());
    }

    pub(super) fn retried(&self) {
        self.0.iter().for_each(|metrics| metrics.retries.inc());
    }

    pub(super) fn depth(&self, depth: usize) {
        self.0.iter().for_each(|metrics| metrics.depth.set(depth as i64));
    }

    pub(super) fn queued_for(&self, duration: Duration) {
        self.0.iter().for_each(|metrics| metrics.queue_duration.observe(duration.as_secs_f64()));
    }

    pub(super) fn worked_for(&self, duration: Duration) {
        self.0.iter().for_each(|metrics| metrics.work_duration.observe(duration.as_secs_f64()));
    }

    pub(super) fn unfinished<'a>(&self, started: impl Iterator<Item = &'a Instant>) {
        let Some(metrics) = &self.0 else { return };
        let (sum, longest) = started
            .map(|start| start.elapsed().as_secs_f64())
            .fold((0.0, 0.0f64), |(sum, longest), age| (sum + age, longest.max(age)));
        metrics.unfinished.set(sum);
        metrics.longest.set(longest);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn retries_errors_and_panics_until_they_succeed() {
        let queue = WorkQueue::new("test-workers");
        let attempts = Arc::new(AtomicU32::new(0));
        let shutdown = CancellationToken::new();
        queue.add("key".to_owned());
        let (count, stop) = (attempts.clone(), shutdown.clone());
        run_workers("test", queue.clone(), 2, shutdown, move |_key: String| {
            let (count, stop) = (count.clone(), stop.clone());
            async move {
                match count.fetch_add(1, Ordering::SeqCst) {
                    0 => Err("first"),
                    1 => panic!("second"),
                    _ => {
                        stop.cancel();
                        Ok(())
                    }
                }
            }
        })
        .await;
        assert_eq!(attempts.load(Ordering::SeqCst), 3);
        assert_eq!(queue.num_requeues(&"key".to_owned()), 0);
    }
}
