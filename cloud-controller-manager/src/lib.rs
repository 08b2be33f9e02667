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

use std::sync::Arc;

use anyhow::Context as _;
use common::controlplane::{ControlPlane, Controller, run_controllers};
use common::events::Recorder;
use common::informer::Factory;
use common::serving::Health;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Task};
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
    let enabled = registry::enabled(&options.generic.controllers)?;
    let cloud_config = options.cloud_config.as_deref().filter(|path| !path.as_os_str().is_empty());
    let provider = provider::provider(&options.cloud_provider, cloud_config)?;
    let plane = ControlPlane::connect(NAME, &options.generic.client, &options.generic.election).await?;
    let (client, health) = (plane.client.clone(), plane.health.clone());
    let (serving, configz) = (options.generic.serving.clone(), configz(&options, &enabled));
    let options = Arc::new(options);
    let lead = |shutdown| async move {
        let factory = Arc::new(Factory::new(client.clone()));
        let recorder = Recorder::new(client.clone(), NAME, "");
        let ctx = Context { provider, factory, client, recorder, options, shutdown };
        lead_controllers(&ctx, &enabled, &health).await
    };
    plane.run(&serving, (PORT, configz), shutdown, lead).await
}

/// The configuration as it came out of the flags.
fn configz(options: &Options, enabled: &[&'static Descriptor]) -> serde_json::Value {
    let names: Vec<&str> = enabled.iter().map(|descriptor| descriptor.name).collect();
    let generic = &options.generic;
    json!({"cloudcontrollermanager.config.k8s.io": {
        "Generic": {"Controllers": generic.controllers, "LeaderElection": {"LeaderElect": generic.election.leader_elect}},
        "KubeCloudShared": {"CloudProvider": {"Name": options.cloud_provider}, "ClusterName": generic.cluster_name},
        "EnabledControllers": names,
    }})
}

/// Sets up the enabled controllers and runs them until the context ends.
async fn lead_controllers(ctx: &Context, enabled: &[&'static Descriptor], health: &Health) -> anyhow::Result<()> {
    let mut tasks = Vec::new();
    for descriptor in enabled {
        let own = ctx.with_own_caches();
        let task = (descriptor.start)(&own).with_context(|| format!("cannot start {}", descriptor.name))?;
        tasks.extend(task.map(|task| Controller {
            name: descriptor.name,
            caches: own.factory,
            task: measured(descriptor.alias, task),
        }));
    }
    run_controllers(ctx.factory.clone(), tasks, health, &ctx.shutdown).await
}

/// The controller, with the metric that says it runs.
fn measured(alias: &'static str, task: Task) -> Task {
    metrics::running(alias, true);
    Box::pin(async move {
        task.await;
        metrics::running(alias, false);
    })
}
