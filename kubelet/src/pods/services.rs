//! Services as environment variables of containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use tokio_util::sync::CancellationToken;

use super::env;

/// All services of the cluster, when there is an apiserver.
#[derive(Default)]
pub(crate) struct Services {
    store: Option<reflector::Store<Service>>,
}

impl Services {
    /// Watches services until shutdown.
    pub(crate) fn watch(client: kube::Client, shutdown: CancellationToken) -> Self {
        let api: kube::Api<Service> = kube::Api::all(client);
        let (store, writer) = reflector::store();
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = Box::pin(reflector::reflector(writer, stream));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    event = stream.next() => match event {
                        Some(Err(error)) => tracing::debug!(%error, "watching services"),
                        Some(Ok(_)) => {}
                        None => return,
                    },
                    () = shutdown.cancelled() => return,
                }
            }
        });
        Self { store: Some(store) }
    }

    /// Variables for a pod of a namespace. A pod of the API waits for services to be known; a static pod may be the very
    /// apiserver that tells them.
    pub(crate) fn envs(
        &self,
        namespace: &str,
        links: bool,
        is_static: bool,
    ) -> Result<BTreeMap<String, String>, String> {
        let Some(store) = &self.store else { return Ok(BTreeMap::new()) };
        if !is_static && futures::FutureExt::now_or_never(store.wait_until_ready()).is_none() {
            return Err("services have not yet been read at least once, cannot construct envvars".into());
        }
        let services: Vec<Arc<Service>> = store.state();
        // The pod's own namespace first: its `kubernetes` service hides the cluster's.
        let own = services.iter().filter(|service| service.metadata.namespace.as_deref() == Some(namespace));
        let others = services.iter().filter(|service| service.metadata.namespace.as_deref() != Some(namespace));
        Ok(env::of_services(own.chain(others).map(|service| &**service), namespace, links))
    }
}
