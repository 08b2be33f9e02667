//! kube-controller-manager: the control loops that make what is match what is wanted.

mod clients;
mod context;
mod controllers;
mod events;
pub mod ignored_flags;
pub mod options;
mod registry;
mod shared;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::informer::Factory;
use common::serving::{DaemonServer, Health, Ops, run_daemon_server};
use futures::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::clients::Clients;
use crate::context::Context;
pub use crate::options::Options;
use crate::registry::Descriptor;

const NAME: &str = "kube-controller-manager";
const PORT: u16 = 10257;

/// Runs the daemon until `shutdown`, or until leadership is lost.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    options.validate()?;
    let enabled = registry::enabled(&options.controllers)?;
    let client = common::client::connect(&options.client, NAME).await?;
    // Its own connection, so that no load of the controllers costs us the lease.
    let election_client = common::client::connect(&options.client, "leader-election").await?;
    let clients = Clients::new(client.clone(), &options.client, options.use_service_account_credentials).await?;
    let cluster_ca = clients::cluster_ca(&options.client).await.unwrap_or_default();
    let stop = shutdown.child_token();
    let server = tokio::spawn(serve(options.clone(), &enabled, stop.clone()));
    let identity = common::election::identity();
    let host = identity.split('_').next().unwrap_or_default().to_owned();
    let election = options.election.clone();
    let options = Arc::new(options);
    let leading = common::election::run(election_client, &election, NAME, identity, stop.clone(), |lead| async move {
        let factory = Arc::new(Factory::new(client));
        let ctx = Context { factory, clients, cluster_ca, recorder_host: host, options, shutdown: lead };
        lead_controllers(&ctx, &enabled).await
    });
    tokio::pin!(leading);
    let result = tokio::select! {
        result = &mut leading => result,
        // At shutdown the port closes first; the lease is still to be given back.
        served = server => match served.context("the server of the secure port ended")? {
            Ok(()) if stop.is_cancelled() => leading.await,
            other => other,
        },
    };
    stop.cancel();
    result
}

/// The secure port: health, metrics, and the configuration as it came out of the flags.
fn serve(
    options: Options,
    enabled: &[&'static Descriptor],
    stop: CancellationToken,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let mut ops = Ops::new(Health::new());
    let names: Vec<&str> = enabled.iter().map(|d| d.name).collect();
    ops.configz = Some(json!({"kubecontrollermanager.config.k8s.io": {
        "Generic": {"Controllers": options.controllers, "LeaderElection": {"LeaderElect": options.election.leader_elect}},
        "EnabledControllers": names,
    }}));
    async move {
        let server = DaemonServer { component: NAME, default_port: PORT, ops, more: None };
        run_daemon_server(&options.serving, server, stop).await
    }
}

/// Sets up the enabled controllers, fills the caches, runs until the context ends.
async fn lead_controllers(ctx: &Context, enabled: &[&'static Descriptor]) -> anyhow::Result<()> {
    let mut tasks = Vec::new();
    for descriptor in enabled {
        let Some(start) = descriptor.start else {
            tracing::debug!(controller = descriptor.name, "not built yet, skipped");
            continue;
        };
        let task = start(ctx).with_context(|| format!("cannot start {}", descriptor.name))?;
        tracing::info!(controller = descriptor.name, "starting");
        tasks.push(tokio::spawn(run_when_synced(ctx.factory.clone(), ctx.shutdown.clone(), task)));
    }
    ctx.factory.start(&ctx.shutdown);
    tokio::spawn(tell_what_is_missing(ctx.factory.clone(), ctx.shutdown.clone()));
    for finished in join_all(tasks).await {
        finished.context("a controller panicked")?;
    }
    Ok(())
}

async fn run_when_synced(factory: Arc<Factory>, shutdown: CancellationToken, task: context::Task) {
    if factory.wait_for_sync(&shutdown).await {
        task.await;
    }
}

/// Says which caches keep the controllers from starting.
async fn tell_what_is_missing(factory: Arc<Factory>, shutdown: CancellationToken) {
    let mut every = tokio::time::interval(Duration::from_secs(10));
    every.tick().await;
    loop {
        tokio::select! { _ = every.tick() => {}, () = shutdown.cancelled() => return }
        let missing = factory.unsynced();
        if missing.is_empty() {
            return;
        }
        tracing::warn!(kinds = missing.join(","), "still waiting for the first list of");
    }
}
