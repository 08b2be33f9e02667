//! `ttl-controller`: tells the kubelets, through an annotation of their nodes, how long they may keep what Secrets and ConfigMaps
//! held; longer in larger clusters.

use std::sync::Arc;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Context, Task};
use crate::shared::apierr;
use crate::shared::meta::MetaExt;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
const WORKERS: usize = 5;

/// Fewest and most nodes of a step, and its seconds. Steps overlap, so that a cluster at a boundary does not swing.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step of a cluster of this size that was on step `at`.
fn next(mut at: usize, nodes: usize) -> usize {
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("ttl-controller");
    let nodes: Arc<Informer<Node>> = ctx.factory.informer();
    let queue = WorkQueue::new("ttlcontroller");
    let at = Arc::new(Mutex::new((0usize, 0usize)));
    let (q, step) = (queue.clone(), at.clone());
    nodes.on_event(move |event: &Event<Node>| {
        let (count, at) = &mut *step.lock();
        match event {
            Event::Added(_) => *count += 1,
            Event::Deleted(_) => *count = count.saturating_sub(1),
            Event::Updated { .. } => {}
        }
        *at = next(*at, *count);
        // Of a new step the others learn with their next heartbeat.
        if !matches!(event, Event::Deleted(_)) && !has(event.object(), STEPS[*at].2) {
            q.add(object_key(&**event.object()));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        run_workers("ttlcontroller", queue, WORKERS, shutdown, move |name: String| {
            let (client, nodes, at) = (client.clone(), nodes.clone(), at.clone());
            async move {
                let seconds = STEPS[at.lock().1].2;
                sync(&client, &nodes, &name, seconds).await
            }
        })
        .await;
    }))
}

fn has(node: &Node, seconds: u32) -> bool {
    node.annotation(ANNOTATION).and_then(|value| value.parse().ok()) == Some(seconds)
}

async fn sync(client: &Client, nodes: &Informer<Node>, name: &str, seconds: u32) -> Result<(), kube::Error> {
    if nodes.get("", name).is_none_or(|node| has(&node, seconds)) {
        return Ok(());
    }
    let patch = json!({"metadata": {"annotations": {ANNOTATION: seconds.to_string()}}});
    let api: Api<Node> = Api::all(client.clone());
    apierr::ignore_not_found(api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        let table =
            [(0, 1, 0), (0, 100, 0), (0, 101, 1), (1, 95, 1), (1, 89, 0), (0, 5000, 4), (4, 1799, 3), (4, 10, 0)];
        for (at, nodes, want) in table {
            assert_eq!(next(at, nodes), want, "{at} {nodes}");
        }
    }

    #[test]
    fn garbage_is_replaced() {
        let node = |value: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"annotations": {ANNOTATION: value}}})).unwrap()
        };
        assert!(has(&node("15"), 15) && !has(&node("15"), 0) && !has(&node("x"), 0) && !has(&Node::default(), 0));
    }
}
