//! `taint-eviction-controller`: pods leave nodes with NoExecute taints that they do not tolerate, or not for longer.

mod plan;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers, split_key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use parking_lot::Mutex;

use self::plan::{Stay, no_execute, stay};
use crate::context::{Context, Task};
use crate::controllers::node_lifecycle::{BY_NODE, index_pods};
use crate::events::{Events, reference};
use crate::shared::eviction::{Farewell, evict};
use crate::shared::meta::MetaExt;
use crate::shared::metrics::{Buckets, Counter, Histogram};
use crate::shared::pods;

const FAREWELL: Farewell = Farewell {
    disruption: Some(("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")),
    fail: false,
    force: false,
};

static DELETIONS: Counter = Counter::new(
    "taint_eviction_controller_pod_deletions_total",
    "Total number of Pods deleted by TaintEvictionController since its start.",
    &[],
);
static LATENCY: Histogram = Histogram::new(
    "taint_eviction_controller_pod_deletion_duration_seconds",
    "Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.",
    &[],
    Buckets::List(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0]),
);

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("node-controller");
    let pods = ctx.factory.informer::<Pod>();
    index_pods(&pods);
    let manager = Arc::new(Manager {
        events: ctx.events(&client, "taint-eviction-controller"),
        client,
        pods,
        nodes: ctx.factory.informer(),
        queue: WorkQueue::new("noexec_taint_pod"),
        scheduled: Mutex::default(),
    });
    let m = manager.clone();
    manager.pods.on_event(move |event: &Event<Pod>| {
        let pod = event.object();
        if let Event::Deleted(_) = event {
            m.scheduled.lock().remove(&object_key(&**pod));
        } else if !pods::node_name(pod).is_empty() {
            m.queue.add(object_key(&**pod));
        }
    });
    let m = manager.clone();
    manager.nodes.on_event(move |event: &Event<Node>| {
        let changed = match event {
            Event::Added(node) => !no_execute(node).is_empty(),
            Event::Updated { old, new } => no_execute(old) != no_execute(new),
            Event::Deleted(_) => false,
        };
        if changed {
            let on_node = m.pods.by_index(BY_NODE, event.object().name_str());
            on_node.iter().for_each(|p| m.queue.add(object_key(&**p)));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let queue = manager.queue.clone();
        run_workers("noexec_taint_pod", queue, 8, shutdown, move |key: String| {
            let manager = manager.clone();
            async move { manager.sync(&key).await }
        })
        .await;
    }))
}

struct Manager {
    client: Client,
    events: Events,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    queue: Arc<WorkQueue<String>>,
    /// Pods whose eviction waits for its time.
    scheduled: Mutex<HashSet<String>>,
}

impl Manager {
    async fn sync(&self, key: &str) -> Result<(), kube::Error> {
        let (namespace, name) = split_key(key);
        let Some(pod) = self.pods.get(namespace, name).filter(|p| !p.is_deleting()) else {
            self.scheduled.lock().remove(key);
            return Ok(());
        };
        let Some(node) = self.nodes.get("", pods::node_name(&pod)) else { return Ok(()) };
        let stay = stay(&pod, &no_execute(&node));
        let now = Timestamp::now();
        let since = if let Stay::Until(at) = stay { at } else { now };
        let left = match stay {
            Stay::Forever => {
                if self.scheduled.lock().remove(key) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.events.normal(&reference(&*pod), "TaintManagerEviction", message);
                }
                return Ok(());
            }
            Stay::Leave => None,
            Stay::Until(at) => Duration::try_from(at.duration_since(now)).ok().filter(|d| !d.is_zero()),
        };
        if let Some(left) = left {
            self.scheduled.lock().insert(key.to_owned());
            self.queue.add_after(key.to_owned(), left);
            return Ok(());
        }
        self.scheduled.lock().remove(key);
        self.events.normal(&reference(&*pod), "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        evict(&self.client, &pod, &FAREWELL).await?;
        DELETIONS.inc(&[]);
        LATENCY.took(&[], Timestamp::now().duration_since(since).try_into().unwrap_or_default());
        Ok(())
    }
}
