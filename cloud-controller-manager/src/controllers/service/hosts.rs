//! Changes of nodes: every load balancer learns which nodes it sends traffic to.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Service};

use super::Controller;
use super::decide::{eligible, loggable, node_set, wants_balancer};
use crate::metrics;

impl Controller {
    /// Tells all load balancers; those that failed go to the queue of services.
    pub(super) async fn sync_hosts(&self) {
        let begin = Instant::now();
        let nodes = eligible(self.nodes.list());
        let keys: Vec<String> = self.known.lock().keys().cloned().collect();
        let (all, nodes) = (keys.len(), &nodes);
        let told = futures::stream::iter(keys).for_each_concurrent(self.workers, |key| async move {
            if !self.sync_hosts_of(&key, nodes).await {
                metrics::count(&metrics::NODE_SYNC_ERRORS);
                self.queue.add(key);
            }
        });
        told.await;
        metrics::observe(&metrics::NODE_SYNC_SECONDS, begin.elapsed().as_secs_f64());
        tracing::debug!(services = all, nodes = nodes.len(), "load balancers know the nodes");
    }

    /// False when the load balancer has to be tried again.
    async fn sync_hosts_of(&self, key: &str, nodes: &[Arc<Node>]) -> bool {
        let set = node_set(nodes);
        let service = {
            let mut known = self.known.lock();
            let Some(known) = known.get_mut(key).filter(|known| wants_balancer(&known.service)) else { return true };
            if known.nodes == set {
                return true;
            }
            // A failure is retried through the queue of services, which tells the nodes anyway.
            known.nodes.clone_from(&set);
            known.service.clone()
        };
        let begin = Instant::now();
        metrics::count(&metrics::BALANCER_SYNCS);
        let outcome = self.balancer.update_nodes(&service, nodes).await;
        metrics::observe(&metrics::UPDATE_HOSTS_SECONDS, begin.elapsed().as_secs_f64());
        let Err(error) = outcome else {
            self.tell_updated(&service, nodes.is_empty());
            return true;
        };
        // It's only an error if the load balancer still exists.
        if matches!(self.balancer.exists(&service).await, Ok(false)) {
            return true;
        }
        let message = format!(
            "Error updating load balancer with new hosts {} [node names limited, total number of nodes: {}], error: {error}",
            loggable(&set),
            set.len()
        );
        self.warning(&service, "UpdateLoadBalancerFailed", message);
        false
    }

    fn tell_updated(&self, service: &Service, none: bool) {
        if none {
            let message = "There are no available nodes for LoadBalancer";
            self.warning(service, "UnAvailableLoadBalancer", message.to_owned());
        } else {
            self.normal(service, "UpdatedLoadBalancer", "Updated load balancer with new hosts");
        }
    }
}
