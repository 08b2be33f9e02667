//! `pod-garbage-collector-controller`: removes pods that no kubelet will: of nodes that are gone or out of
//! service, deleted before they were scheduled, or finished and too many.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::informer::{Event, Informer, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::Api;
use parking_lot::Mutex;

use crate::context::{Context, Task};
use crate::controllers::node_lifecycle::{BY_NODE, index_pods};
use crate::shared::eviction::{Farewell, evict};
use crate::shared::meta::MetaExt;
use crate::shared::metrics::Counter;
use crate::shared::pods;

/// A node that is missing from the cache may only be late: its pods are left alone this long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Changes are collected for so long before a pass.
const SETTLE: Duration = Duration::from_secs(1);

static DELETIONS: Counter = Counter::new(
    "pod_gc_collector_force_delete_pods_total",
    "Number of pods that are being forcefully deleted since the Pod GC Controller started.",
    &["namespace", "reason"],
);
static ERRORS: Counter = Counter::new(
    "pod_gc_collector_force_delete_pod_errors_total",
    "Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.",
    &["namespace", "reason"],
);

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let pods = ctx.factory.informer::<Pod>();
    index_pods(&pods);
    let collector = Arc::new(Collector {
        client: ctx.client("pod-garbage-collector"),
        pods,
        nodes: ctx.factory.informer(),
        queue: WorkQueue::new("pod_garbage_collector"),
        missing: Mutex::default(),
        threshold: ctx.options.terminated_pod_gc_threshold,
    });
    let c = collector.clone();
    collector.pods.on_event(move |event: &Event<Pod>| {
        let pod = event.object();
        let lost = pod.is_deleting() || c.nodes.get("", pods::node_name(pod)).is_none();
        if pods::is_terminal(pod) || lost {
            c.queue.add_after((), SETTLE);
        }
    });
    let c = collector.clone();
    collector.nodes.on_event(move |event: &Event<Node>| match event {
        Event::Deleted(_) => c.queue.add(()),
        _ if plan::is_out_of_service(event.object()) => c.queue.add_after((), SETTLE),
        _ => {}
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        collector.queue.add(());
        let queue = collector.queue.clone();
        run_workers("pod_garbage_collector", queue, 1, shutdown, move |()| {
            let collector = collector.clone();
            async move { collector.pass().await }
        })
        .await;
    }))
}

struct Collector {
    client: Client,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    queue: Arc<WorkQueue<()>>,
    /// Nodes that pods name and the cache does not show, and since when.
    missing: Mutex<HashMap<String, Instant>>,
    threshold: i64,
}

impl Collector {
    async fn pass(&self) -> Result<(), kube::Error> {
        let all = self.pods.list();
        let quick = Farewell { disruption: None, fail: true, force: true };
        for (reason, victims) in [
            ("terminated", plan::terminated(&all, self.threshold)),
            ("unscheduled", plan::unscheduled_terminating(&all)),
            ("out-of-service", plan::on_dead_nodes(&all, |name| self.nodes.get("", name))),
        ] {
            for pod in victims {
                self.remove(&pod, &quick, reason).await?;
            }
        }
        self.orphans(&all).await
    }

    async fn orphans(&self, all: &[Arc<Pod>]) -> Result<(), kube::Error> {
        let (due, wait) = self.quarantine(all);
        if let Some(wait) = wait {
            self.queue.add_after((), wait);
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let farewell =
            Farewell { disruption: Some(("DeletionByPodGC", "PodGC: node no longer exists")), fail: true, force: true };
        for node in due {
            // The cache may be wrong; the server is asked before anything is deleted.
            if api.get_metadata_opt(&node).await?.is_some() {
                self.missing.lock().remove(&node);
                continue;
            }
            for pod in self.pods.by_index(BY_NODE, &node) {
                self.remove(&pod, &farewell, "orphaned").await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, pod: &Pod, farewell: &Farewell, reason: &str) -> Result<(), kube::Error> {
        tracing::info!(pod = pod.name_str(), namespace = pod.ns_str(), reason, "removing a pod that nobody else will");
        DELETIONS.inc(&[pod.ns_str(), reason]);
        let result = evict(&self.client, pod, farewell).await;
        if result.is_err() {
            ERRORS.inc(&[pod.ns_str(), reason]);
        }
        result
    }

    /// The missing nodes whose quarantine is over, and when the next one ends.
    fn quarantine(&self, all: &[Arc<Pod>]) -> (Vec<String>, Option<Duration>) {
        let now = Instant::now();
        let mut missing = self.missing.lock();
        let named: std::collections::BTreeSet<&str> = all
            .iter()
            .map(|p| pods::node_name(p))
            .filter(|n| !n.is_empty() && self.nodes.get("", n).is_none())
            .collect();
        missing.retain(|node, _| named.contains(node.as_str()));
        for node in named {
            missing.entry(node.to_owned()).or_insert(now);
        }
        let left = |since: &Instant| QUARANTINE.saturating_sub(now.duration_since(*since));
        let due = missing.iter().filter(|(_, s)| left(s).is_zero()).map(|(n, _)| n.clone()).collect();
        (due, missing.values().map(left).filter(|l| !l.is_zero()).min())
    }
}
