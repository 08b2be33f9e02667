//! `replicaset-controller` and `replicationcontroller-controller`: keep as many pods as the set asks for.
//!
//! Events on sets and pods put the set's key on the queue; [`sync`] compares and acts. Between asking
//! the server for pods and seeing them in the cache, [`Expectations`] hold the set back.

pub(crate) mod kinds;
mod status;
mod sync;

use std::sync::Arc;

use common::informer::{Informer, run_workers};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};

use self::kinds::ReplicaKind;
use crate::context::{Context, Task};
use crate::shared::consistency::Consistency;
use crate::shared::owned::{Owners, index_by_controller};
use crate::shared::pod_control::PodControl;

/// Sets up `replicaset-controller`.
pub(crate) fn start_replicaset(ctx: &Context) -> anyhow::Result<Task> {
    let names = ("replicaset", "replicaset_controller");
    start::<ReplicaSet>(ctx, "replicaset-controller", names, ctx.options.concurrent_replicaset_syncs)
}

/// Sets up `replicationcontroller-controller`.
pub(crate) fn start_replication(ctx: &Context) -> anyhow::Result<Task> {
    let workers = ctx.options.concurrent_rc_syncs;
    let names = ("replicationmanager", "replication_controller");
    start::<ReplicationController>(ctx, "replication-controller", names, workers)
}

fn start<K: ReplicaKind>(
    ctx: &Context,
    identity: &str,
    (queue_name, metrics): (&'static str, &'static str),
    workers: usize,
) -> anyhow::Result<Task> {
    let client = ctx.client(identity);
    let sets = ctx.factory.informer::<K>();
    let pods = ctx.factory.informer::<Pod>();
    index_by_controller(&pods);
    let controller = Arc::new(Controller {
        control: PodControl { client: client.clone(), events: ctx.events(&client, identity) },
        owners: Owners::new(sets.clone(), queue_name),
        pods: pods.clone(),
        consistency: Consistency::new(metrics),
    });
    let c = controller.clone();
    sets.on_event(move |event| c.owners.on_owner(event));
    let c = controller.clone();
    pods.on_event(move |event| c.owners.on_pod(event));
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let queue = controller.owners.queue.clone();
        run_workers(queue_name, queue, workers, shutdown, move |key: String| {
            let controller = controller.clone();
            async move { controller.sync(&key).await }
        })
        .await;
    }))
}

/// One instance per kind.
struct Controller<K> {
    control: PodControl,
    owners: Owners<K>,
    pods: Arc<Informer<Pod>>,
    consistency: Consistency,
}
