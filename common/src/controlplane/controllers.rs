//! Which controllers `--controllers` asks for, and running them over shared caches.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::future::{BoxFuture, join_all};
use tokio_util::sync::CancellationToken;

use crate::{informer::Factory, serving::Health};

/// A controller that is set up (informers requested, handlers registered) and runs when polled, after its caches are in sync.
pub type Task = BoxFuture<'static, ()>;

/// A task by name, with its own view of the shared caches.
pub struct Controller {
    /// Upstream's name.
    pub name: &'static str,
    /// What it reads: the view that it asked for its informers.
    pub caches: Arc<Factory>,
    /// Its work.
    pub task: Task,
}

/// Picks from a table of controllers (`names`: of each its name and aliases, and whether it runs under `*`) those that
/// `--controllers` asks for, in the table's order.
///
/// # Errors
/// A name nobody knows.
pub fn select_controllers<'a, T>(
    table: &'a [T],
    names: impl Fn(&'a T) -> (&'a str, &'a [&'a str], bool),
    requested: &[String],
) -> anyhow::Result<Vec<&'a T>> {
    let find = |name: &str| {
        let known = table.iter().map(&names).find(|(main, aliases, _)| *main == name || aliases.contains(&name));
        known.map(|(main, ..)| main).with_context(|| format!("{name:?} is not in the list of known controllers"))
    };
    let (mut star, mut wanted, mut refused) = (false, Vec::new(), Vec::new());
    for item in requested.iter().map(|item| item.trim()) {
        match item.strip_prefix('-') {
            _ if item == "*" => star = true,
            Some(name) => refused.push(find(name)?),
            None => wanted.push(find(item)?),
        }
    }
    // As upstream: a name that is asked for wins over one that is refused.
    let is_on = |row: &&'a T| {
        let (name, _, on_by_default) = names(row);
        wanted.contains(&name) || (!refused.contains(&name) && star && on_by_default)
    };
    Ok(table.iter().filter(is_on).collect())
}

/// Fills the caches of `factory`, runs each controller as soon as its own are filled, until they end, which they do at shutdown.
/// Each has upstream's check on /healthz; /readyz has `informer-sync`.
///
/// # Errors
/// A controller that panicked.
pub async fn run_controllers(
    factory: Arc<Factory>,
    controllers: Vec<Controller>,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let caches = factory.clone();
    health.register_ready("informer-sync", move || match caches.unsynced() {
        missing if missing.is_empty() => Ok(()),
        missing => Err(format!("not synced: {}", missing.join(","))),
    });
    let start = |Controller { name, caches, task }: Controller| {
        health.register_at(&["healthz"], name, || Ok(()));
        tracing::info!(controller = name, "starting");
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            if caches.wait_for_sync(&shutdown).await {
                task.await;
            }
        })
    };
    if controllers.is_empty() {
        tracing::warn!("no controller has anything to do; waiting for the end");
        shutdown.cancelled().await;
    }
    let tasks: Vec<_> = controllers.into_iter().map(start).collect();
    factory.start(shutdown);
    tokio::spawn(tell_what_is_missing(factory, shutdown.clone()));
    for finished in join_all(tasks).await {
        finished.context("a controller panicked")?;
    }
    Ok(())
}

/// Says which caches keep controllers from starting.
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
