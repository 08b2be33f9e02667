//! What every controller is built from: shared informers, a client under its own identity, events, options.

use std::sync::Arc;

pub(crate) use common::controlplane::Task;
use common::informer::Factory;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::clients::Clients;
use crate::events::Events;
use crate::options::Options;

/// Handed to each controller's `start`.
#[derive(Clone)]
pub(crate) struct Context {
    /// The one informer per type that all controllers share.
    pub(crate) factory: Arc<Factory>,
    /// Makes clients; see [`Context::client`].
    pub(crate) clients: Clients,
    /// The CA bundle (PEM) with which the daemon itself verifies the apiserver; empty when unknown.
    pub(crate) cluster_ca: String,
    /// Makes events; every controller records under its own name.
    pub(crate) recorder_host: String,
    /// The flags.
    pub(crate) options: Arc<Options>,
    /// Ends everything.
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    /// For one controller, who waits for no informers but those that it asks for.
    pub(crate) fn with_own_caches(&self) -> Self {
        Self { factory: Arc::new(self.factory.view()), ..self.clone() }
    }

    /// The client of a controller, under its service account when `--use-service-account-credentials` is set.
    pub(crate) fn client(&self, service_account: &str) -> Client {
        self.clients.client(service_account)
    }

    /// Records events through `client` in the name of `component`.
    pub(crate) fn events(&self, client: &Client, component: &str) -> Events {
        Events::new(client.clone(), component, &self.recorder_host)
    }
}
