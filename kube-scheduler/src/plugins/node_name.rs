//! NodeName: a pod that names its node runs nowhere else.

use std::sync::{Arc, LazyLock};

use crate::cache::snapshot::NodeView;
use crate::framework::events::{Interest, Resource, action};
use crate::framework::plugin::{CycleContext, EnqueueExtensions, Filter, Plugin, Scope, StateData};
use crate::framework::status::{Status, Verdict};

/// The plugin.
pub struct NodeName;

/// Upstream's name.
pub const NAME: &str = "NodeName";

static MISMATCH: LazyLock<Arc<Status>> =
    LazyLock::new(|| Status::unresolvable(NAME, "node(s) didn't match the requested node name"));

extension_points!(NodeName { as_filter: Filter, as_enqueue: EnqueueExtensions });

impl Filter for NodeName {
    /// The name is the pod's own, not its template's; yet a pod that waits for a node has none, so the verdict is the
    /// same for all pods of the template.
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, cx: &CycleContext<'_>, _state: Option<&dyn StateData>, node: &NodeView<'_>) -> Verdict {
        match &cx.pod.node_name {
            Some(wanted) if wanted != node.name() => Err(MISMATCH.clone()),
            _ => Ok(()),
        }
    }
}

impl EnqueueExtensions for NodeName {
    fn interests(&self) -> Vec<Interest> {
        vec![Interest { resource: Resource::Node, action: action::ADD }]
    }
}
