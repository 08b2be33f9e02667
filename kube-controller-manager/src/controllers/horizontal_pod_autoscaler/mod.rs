//! `horizontal-pod-autoscaler-controller`: sizes workloads by what their pods, or the world, report.

mod calculator;
mod evaluate;
mod limits;
mod metrics;
mod monitor;
mod reconcile;
mod status;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use common::meta::{LabelSelector, Quantity};
use jiff::SignedDuration;
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscaler};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use parking_lot::Mutex;

use self::calculator::Tolerances;
use self::limits::Memory;
use self::metrics::Metrics;
use crate::context::{Context, Task};
use crate::events::Events;
use crate::options::Options;
use crate::shared::scale::Scaler;

/// The flags, as times.
struct Settings {
    period: Duration,
    downscale_window: SignedDuration,
    tolerance: f64,
    cpu_initialization: SignedDuration,
    initial_readiness: SignedDuration,
}

impl Settings {
    fn of(options: &Options) -> Self {
        let signed = |d: Duration| SignedDuration::try_from(d).unwrap_or(SignedDuration::MAX);
        Self {
            period: options.horizontal_pod_autoscaler_sync_period,
            downscale_window: signed(options.horizontal_pod_autoscaler_downscale_stabilization),
            tolerance: options.horizontal_pod_autoscaler_tolerance,
            cpu_initialization: signed(options.horizontal_pod_autoscaler_cpu_initialization_period),
            initial_readiness: signed(options.horizontal_pod_autoscaler_initial_readiness_delay),
        }
    }
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("horizontal-pod-autoscaler");
    let controller = Arc::new(Controller {
        events: ctx.events(&client, "horizontal-pod-autoscaler"),
        scaler: Scaler::new(client.clone()),
        metrics: Metrics { client: client.clone() },
        client,
        autoscalers: ctx.factory.informer(),
        pods: ctx.factory.informer(),
        queue: WorkQueue::new("horizontalpodautoscaler"),
        memories: Mutex::default(),
        selectors: Mutex::default(),
        settings: Settings::of(&ctx.options),
    });
    let c = controller.clone();
    controller.autoscalers.on_event(move |event: &Event<HorizontalPodAutoscaler>| {
        match event {
            Event::Added(_) => monitor::AUTOSCALERS.add(&[], 1.0),
            Event::Deleted(_) => monitor::AUTOSCALERS.add(&[], -1.0),
            Event::Updated { .. } => {}
        }
        // Nobody is in a hurry: also what is new is looked at once per period.
        c.queue.add_after(object_key(&**event.object()), c.settings.period);
    });
    let (shutdown, workers) = (ctx.shutdown.clone(), ctx.options.concurrent_horizontal_pod_autoscaler_syncs);
    Ok(Box::pin(async move {
        let queue = controller.queue.clone();
        run_workers("horizontalpodautoscaler", queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move {
                controller.sync(&key).await;
                Ok::<(), Infallible>(())
            }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    events: Events,
    scaler: Scaler,
    metrics: Metrics,
    autoscalers: Arc<Informer<HorizontalPodAutoscaler>>,
    pods: Arc<Informer<Pod>>,
    queue: Arc<WorkQueue<String>>,
    memories: Mutex<HashMap<String, Memory>>,
    /// The selector of each autoscaler's target, to find pods that two of them want to size.
    selectors: Mutex<HashMap<String, LabelSelector>>,
    settings: Settings,
}

impl Controller {
    /// One look, and the next one after the period, whatever came of it.
    async fn sync(&self, key: &str) {
        let (namespace, name) = split_key(key);
        let Some(hpa) = self.autoscalers.get(namespace, name) else {
            self.memories.lock().remove(key);
            self.selectors.lock().remove(key);
            monitor::forget((namespace, name));
            return;
        };
        if let Err(error) = self.reconcile(key, &hpa).await {
            tracing::warn!(key, %error, "cannot autoscale");
        }
        self.queue.add_after(key.to_owned(), self.settings.period);
    }

    fn tolerances(&self, hpa: &HorizontalPodAutoscaler) -> Tolerances {
        let behavior = hpa.spec.behavior.as_ref();
        let of = |rules: Option<&HPAScalingRules>| {
            let own = rules.and_then(|r| r.tolerance.as_ref()).and_then(|q| Quantity::try_from(q).ok());
            own.map_or(self.settings.tolerance, |q| q.as_f64())
        };
        Tolerances {
            down: of(behavior.and_then(|b| b.scale_down.as_ref())),
            up: of(behavior.and_then(|b| b.scale_up.as_ref())),
        }
    }
}
