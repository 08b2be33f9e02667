//! NodePorts: two pods on a node cannot have the same host port.

use std::sync::{Arc, LazyLock};

use crate::cache::snapshot::NodeView;
use crate::framework::events::{ClusterEvent, Hint, Interest, Resource, action};
use crate::framework::plugin::{
    CycleContext, EnqueueExtensions, Filter, Plugin, PreFilter, PreFiltered, Scope, StateData,
};
use crate::framework::pod::PodInfo;
use crate::framework::status::{Status, Verdict};
use crate::framework::template::HostPort;

/// The plugin.
pub struct NodePorts;

/// Upstream's name.
pub const NAME: &str = "NodePorts";

static TAKEN: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unschedulable(NAME, "node(s) didn't have free ports for the requested pod ports"));

fn conflict(wanted: &[HostPort], used: &[HostPort]) -> bool {
    wanted.iter().any(|port| used.iter().any(|other| port.conflicts(other)))
}

extension_points!(NodePorts { as_pre_filter: PreFilter, as_filter: Filter, as_enqueue: EnqueueExtensions });

impl PreFilter for NodePorts {
    fn pre_filter(&self, cx: &CycleContext<'_>) -> Result<PreFiltered, Arc<Status>> {
        if cx.pod.template.ports.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        Ok(PreFiltered::Continue { state: None, nodes: None })
    }
}

impl Filter for NodePorts {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, cx: &CycleContext<'_>, _state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        if conflict(&cx.pod.template.ports, node.ports()) { Err(TAKEN.clone()) } else { Ok(()) }
    }
}

impl EnqueueExtensions for NodePorts {
    fn interests(&self) -> Vec<Interest> {
        vec![
            Interest { resource: Resource::AssignedPod, action: action::DELETE },
            Interest { resource: Resource::Node, action: action::ADD },
        ]
    }

    fn hint(&self, pod: &PodInfo, event: &ClusterEvent) -> Hint {
        let Some(gone) = event.pods().0 else { return Hint::Queue };
        let held = gone.node_name.is_some() || gone.nominated.is_some();
        if held && conflict(&pod.template.ports, &gone.template.ports) { Hint::Queue } else { Hint::Skip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node, pod, pod_info};

    #[test]
    fn conflicts() {
        let mut cluster = Cluster::new(&[node("n1"), node("n2"), node("n3")]);
        cluster.place(&pod("a").host_port("UDP", "127.0.0.1", 8080), "n1");
        cluster.place(&pod("b").host_port("UDP", "0.0.0.0", 8080), "n2");
        let taken = "node(s) didn't have free ports for the requested pod ports";
        let wanted = |protocol: &str, ip: &str| pod_info(&pod("p").host_port(protocol, ip, 8080));
        assert_eq!(cluster.verdicts(&NodePorts, &wanted("UDP", "127.0.0.1")), [taken, taken, ""]);
        assert_eq!(cluster.verdicts(&NodePorts, &wanted("UDP", "127.0.0.2")), ["", taken, ""]);
        assert_eq!(cluster.verdicts(&NodePorts, &wanted("TCP", "0.0.0.0")), ["", "", ""]);
        assert_eq!(cluster.verdicts(&NodePorts, &wanted("UDP", "0.0.0.0")), [taken, taken, ""]);
        assert_eq!(cluster.verdicts(&NodePorts, &pod_info(&pod("q"))), ["", "", ""]);
    }
}
