//! The cloud controller manager: keeps nodes, load balancers and routes in line with what the cloud has.

mod apierr;
mod context;
mod controllers;
mod metrics;
pub mod options;
pub mod provider;
mod registry;
#[cfg(test)]
mod testing;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::events::Recorder;
use common::informer::Factory;
use common::serving::{DaemonServer, Health, Ops, run_daemon_server};
use futures::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
pub use crate::options::Options;
use crate::registry::Descriptor;

const NAME: &str = "cloud-controller-manager";
const PORT: u16 = 10258;

/// Runs the daemon until `shutdown`, or until leadership is lost.
///
/// # Errors
/// When flags, the cloud's configuration or the kubeconfig can't be used, or the lease is lost.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    options.validate()?;
    let enabled = registry::enabled(&options.controllers)?;
    let cloud_config = options.cloud_config.as_deref().filter(|path| !path.as_os_str().is_empty());
    let provider = provider::provider(&options.cloud_provider, cloud_config)?;
    let client = common::client::connect(&options.client, NAME).await?;
    // Its own connection, so that no load of the controllers costs us the lease.
    let election_client = common::client::connect(&options.client, "leader-election").await?;
    let stop = shutdown.child_token();
    let server = tokio::spawn(serve(&options, &enabled, stop.clone()));
    let election = options.election.clone();
    let options = Arc::new(options);
    let identity = common::election::identity();
    let leading = common::election::run(election_client, &election, NAME, identity, stop.clone(), |lead| async move {
        let factory = Arc::new(Factory::new(client.clone()));
        let recorder = Recorder::new(client.clone(), NAME, "");
        let ctx = Context { provider, factory, client, recorder, options, shutdown: lead };
        lead_controllers(&ctx, &enabled).await
    });
    let mut leading = pin!(leading);
    let result = tokio::select! {
        result = &mut leading => result,
        served = server => match served.context("the server of the secure port ended") {
            // At shutdown the server is often the first to end; the lease still has to be released.
            Ok(Ok(())) if stop.is_cancelled() => leading.await,
            Ok(served) => served,
            Err(error) => Err(error),
        },
    };
    stop.cancel();
    result
}

/// The secure port: health, metrics, and the configuration as it came out of the flags.
fn serve(
    options: &Options,
    enabled: &[&'static Descriptor],
    stop: CancellationToken,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let names: Vec<&str> = enabled.iter().map(|descriptor| descriptor.name).collect();
    let mut ops = Ops::new(Health::new());
    ops.configz = Some(json!({"cloudcontrollermanager.config.k8s.io": {
        "Generic": {"Controllers": options.controllers, "LeaderElection": {"LeaderElect": options.election.leader_elect}},
        "KubeCloudShared": {"CloudProvider": {"Name": options.cloud_provider}, "ClusterName": options.cluster_name},
        "EnabledControllers": names,
    }}));
    let serving = options.serving.clone();
    async move {
        let server = DaemonServer { component: NAME, default_port: PORT, ops, more: None };
        run_daemon_server(&serving, server, stop).await
    }
}

/// Sets up the enabled controllers, fills the caches, runs until the context ends.
async fn lead_controllers(ctx: &Context, enabled: &[&'static Descriptor]) -> anyhow::Result<()> {
    let mut tasks = Vec::new();
    for descriptor in enabled {
        let task = (descriptor.start)(ctx).with_context(|| format!("cannot start {}", descriptor.name))?;
        let Some(task) = task else { continue };
        tracing::info!(controller = descriptor.name, provider = ctx.provider.name(), "starting");
        metrics::running(descriptor.alias, true);
        tasks.push(tokio::spawn(run_when_synced(ctx.factory.clone(), ctx.shutdown.clone(), descriptor.alias, task)));
    }
    if tasks.is_empty() {
        tracing::warn!("no controller has anything to do; waiting for the end");
        ctx.shutdown.cancelled().await;
    }
    ctx.factory.start(&ctx.shutdown);
    tokio::spawn(tell_what_is_missing(ctx.factory.clone(), ctx.shutdown.clone()));
    for finished in join_all(tasks).await {
        finished.context("a controller panicked")?;
    }
    Ok(())
}

async fn run_when_synced(factory: Arc<Factory>, shutdown: CancellationToken, alias: &'static str, task: context::Task) {
    if factory.wait_for_sync(&shutdown).await {
        task.await;
    }
    metrics::running(alias, false);
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
