//! What every controller is built from: the provider, shared informers, a client, events, options.

use std::sync::Arc;

pub(crate) use common::controlplane::Task;
use common::events::Recorder;
use common::informer::Factory;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::options::Options;
use crate::provider::CloudProvider;

/// Handed to each controller's `start`.
#[derive(Clone)]
pub(crate) struct Context {
    /// The cloud.
    pub(crate) provider: Arc<dyn CloudProvider>,
    /// The one informer per type that all controllers share.
    pub(crate) factory: Arc<Factory>,
    /// The daemon's client.
    pub(crate) client: Client,
    /// Makes events; every controller records under its own name with `for_component`.
    pub(crate) recorder: Recorder,
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
}
