//! What the clients of the control plane (scheduler, controller managers) do alike: connect, open the secure port, win the
//! election, work until told to stop, give the lease back.

mod controllers;

use std::{future::Future, pin::pin};

use anyhow::Context as _;
use kube::Client;
use tokio_util::sync::CancellationToken;

pub use controllers::{Controller, Task, run_controllers, select_controllers};

use crate::{
    client::{Reach, connect_reporting},
    config::flags::{ClientConnection, LeaderElection, Serving},
    election::Election,
    serving::{DaemonServer, Health, Ops, ZPages, run_daemon_server},
};

/// A daemon that is connected and not yet serving.
pub struct ControlPlane {
    /// For everything but the election.
    pub client: Client,
    /// The checks of the secure port; more may be added at any time. `apiserver`, `leaderElection` and `shutdown` are there.
    pub health: Health,
    component: &'static str,
    election: Election,
}

impl ControlPlane {
    /// Loads the kubeconfig and makes the clients; sends nothing.
    ///
    /// # Errors
    /// When the kubeconfig can't be used or the election's times can't work.
    pub async fn connect(
        component: &'static str,
        connection: &ClientConnection,
        election: &LeaderElection,
    ) -> anyhow::Result<Self> {
        let (reach, health) = (Reach::default(), Health::new());
        let client = connect_reporting(connection, component, &reach).await?;
        // Its own connection, so that no load of the daemon costs it the lease.
        let election_client = connect_reporting(connection, "leader-election", &reach).await?;
        let election = Election::new(election_client, election, component)?;
        election.register(&health);
        health.register_apiserver(reach);
        Ok(Self { client, health, component, election })
    }

    /// Who we are in the lease: `<hostname>_<uuid>`.
    pub fn identity(&self) -> &str {
        self.election.identity()
    }

    /// Serves the port (`default_port` unless a flag names another) and runs `work` while leading. Ends at shutdown, when `work`
    /// ends, when the lease is lost, or when the port can't be served.
    ///
    /// # Errors
    /// All but the first.
    pub async fn run<F, Fut>(
        self,
        serving: &Serving,
        (default_port, configz): (u16, serde_json::Value),
        shutdown: CancellationToken,
        work: F,
    ) -> anyhow::Result<()>
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = anyhow::Result<()>>,
    {
        let stopping = shutdown.clone();
        self.health.register_ready("shutdown", move || match stopping.is_cancelled() {
            true => Err("process is shutting down".into()),
            false => Ok(()),
        });
        let paths = ["/configz", "/healthz", "/livez", "/metrics", "/readyz"];
        let zpages = Some(ZPages::new(self.component, &paths));
        let ops = Ops { health: self.health, configz: Some(configz), zpages };
        let server = DaemonServer { component: self.component, default_port, ops, more: None };
        let stop = shutdown.child_token();
        let (serving, served_until) = (serving.clone(), stop.clone());
        let served = tokio::spawn(async move { run_daemon_server(&serving, server, served_until).await });
        let mut leading = pin!(self.election.run(stop.clone(), work));
        let result = tokio::select! {
            result = &mut leading => result,
            served = served => match served.context("the server of the secure port ended") {
                // At shutdown the port closes first; the lease is still to be given back.
                Ok(Ok(())) if stop.is_cancelled() => leading.await,
                Ok(served) => served,
                Err(error) => Err(error),
            },
        };
        stop.cancel();
        result
    }
}
