//! kube-controller-manager: the control loops that make what is match what is wanted.

mod clients;
pub mod cluster_flags;
mod configz;
mod context;
mod controllers;
mod events;
mod gates;
pub mod ignored_flags;
pub mod migration;
pub mod options;
mod registry;
mod shared;

use std::sync::Arc;

use anyhow::Context as _;
use common::client::connect;
use common::config::flags::ControllerManager;
use common::controlplane::{ControlPlane, Controller, run_controllers};
use common::election::Election;
use common::informer::Factory;
use common::serving::Health;
use tokio_util::sync::CancellationToken;

use crate::clients::Clients;
use crate::context::Context;
use crate::migration::{Lock, Migration};
pub use crate::options::Options;
use crate::registry::Descriptor;

const NAME: &str = "kube-controller-manager";
const PORT: u16 = 10257;

/// Runs the daemon until `shutdown`, or until leadership is lost.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    options.validate()?;
    let generic = &options.generic;
    let gates = gates::resolve(&generic.gates.feature_gates)?;
    let mut enabled = registry::enabled(&generic.controllers)?;
    enabled.retain(|controller| match controller.skipped(&options, &gates) {
        Some(why) => {
            tracing::info!(controller = controller.name, why, "controller is skipped");
            false
        }
        None => true,
    });
    let connection = clients::shared(&generic.client);
    let migration = Migration::of(&options.migration, &generic.election)?;
    let plane = ControlPlane::connect(NAME, &connection, &generic.election).await?;
    let per_controller = generic.use_service_account_credentials;
    let clients = Clients::new(plane.client.clone(), &connection, per_controller).await?;
    let cluster_ca = clients::cluster_ca(&generic.client).await.unwrap_or_default();
    let (client, health) = (plane.client.clone(), plane.health.clone());
    let migrated = migration.as_ref().map_or_else(Vec::new, |migration| take_migrated(migration, &mut enabled));
    let migrating = match &migration {
        Some(migration) => Some(migration_election(migration, generic, plane.identity()).await?),
        None => None,
    };
    let host = plane.identity().split('_').next().unwrap_or_default().to_owned();
    let (serving, configz) = (generic.serving.clone(), configz::configz(&options, &enabled));
    let options = Arc::new(options);
    let lead = |shutdown| async move {
        let factory = Arc::new(Factory::new(client));
        let ctx = Context { factory, clients, cluster_ca, recorder_host: host, options, shutdown };
        // The migration's lease is sought only by who holds the main one.
        let migration = async {
            let Some(election) = migrating else { return Ok(()) };
            let migrated = async |shutdown| {
                let factory = Arc::new(Factory::new(ctx.factory.client().clone()));
                lead_controllers(&Context { factory, shutdown, ..ctx.clone() }, &migrated, &health).await
            };
            election.run(ctx.shutdown.clone(), migrated).await
        };
        tokio::try_join!(lead_controllers(&ctx, &enabled, &health), migration).map(|_| ())
    };
    plane.run(&serving, (PORT, configz), shutdown, lead).await
}

/// Leaves those that run under the main lease; hands back those of the migration's.
fn take_migrated(migration: &Migration, enabled: &mut Vec<&'static Descriptor>) -> Vec<&'static Descriptor> {
    let migrated = enabled.extract_if(.., |controller| migration.lock_of(controller.name) == Lock::Migration).collect();
    enabled.retain(|controller| migration.lock_of(controller.name) == Lock::Main);
    migrated
}

async fn migration_election(
    migration: &Migration,
    generic: &ControllerManager,
    identity: &str,
) -> anyhow::Result<Election> {
    let client = connect(&generic.client, "leader-migration").await?;
    Ok(Election::new(client, &migration.election(&generic.election), NAME)?.with_identity(identity))
}

/// Sets up the enabled controllers and runs them until the context ends.
async fn lead_controllers(ctx: &Context, enabled: &[&'static Descriptor], health: &Health) -> anyhow::Result<()> {
    let mut tasks = Vec::new();
    for descriptor in enabled {
        let Some(start) = descriptor.start else { continue };
        let own = ctx.with_own_caches();
        let task = start(&own).with_context(|| format!("cannot start {}", descriptor.name))?;
        tasks.push(Controller { name: descriptor.name, caches: own.factory, task });
    }
    run_controllers(ctx.factory.clone(), tasks, health, &ctx.shutdown).await
}
