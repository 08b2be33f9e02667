//! `cloud-node-lifecycle-controller`: a node that is not ready is deleted when its machine is gone, and tainted when
//! its machine is switched off. The cloud has to be asked, so this one polls.

use std::sync::Arc;

use common::events::{EventType, Recorder};
use common::informer::Informer;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::nodes::{self, SHUTDOWN};
use crate::apierr;
use crate::context::{Context, Task};
use crate::provider::Instances;

struct Controller {
    client: Client,
    instances: Arc<dyn Instances>,
    nodes: Arc<Informer<Node>>,
    events: Recorder,
}

/// Sets up the controller; nothing without instances.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Option<Task>> {
    let Some(instances) = ctx.provider.instances() else {
        tracing::warn!("cloud-node-lifecycle-controller is not started: the cloud provider does not support instances");
        return Ok(None);
    };
    let controller = Controller {
        client: ctx.client.clone(),
        instances,
        nodes: ctx.factory.informer(),
        events: ctx.recorder.for_component("cloud-node-lifecycle-controller"),
    };
    let (period, shutdown) = (ctx.options.generic.node_monitor_period, ctx.shutdown.clone());
    Ok(Some(Box::pin(async move { controller.run(period, shutdown).await })))
}

/// What the node's own report asks for.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Ready, and nothing to undo.
    Fine,
    /// Ready again: the shutdown taint goes.
    Untaint,
    /// Not ready: the cloud knows why.
    Ask,
}

fn look(node: &Node) -> Look {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == "Ready").map(|ready| ready.status.as_str()) {
        Some("True") if nodes::has_taint(node, SHUTDOWN) => Look::Untaint,
        Some("True") => Look::Fine,
        _ => Look::Ask,
    }
}

/// The taints with or without ours; nothing when they are so already.
fn taint_patch(node: &Node, present: bool) -> Option<Value> {
    if nodes::has_taint(node, SHUTDOWN) == present {
        return None;
    }
    let mut taints: Vec<Value> =
        nodes::taints(node).iter().filter(|taint| taint.key != SHUTDOWN).map(|taint| json!(taint)).collect();
    if present {
        taints.push(json!({"key": SHUTDOWN, "effect": "NoSchedule"}));
    }
    Some(json!({"spec": {"taints": if taints.is_empty() { Value::Null } else { json!(taints) }}}))
}

impl Controller {
    async fn run(&self, period: std::time::Duration, shutdown: CancellationToken) {
        let mut every = tokio::time::interval(period);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! { _ = every.tick() => {}, () = shutdown.cancelled() => return }
            for node in self.nodes.list() {
                self.monitor(&node).await;
            }
        }
    }

    async fn monitor(&self, node: &Node) {
        match look(node) {
            Look::Fine => {}
            Look::Untaint => self.taint(node, false).await,
            Look::Ask => match self.instances.exists(node).await {
                Err(error) => tracing::error!(node = nodes::name(node), %error, "cannot tell whether the node exists"),
                Ok(false) => self.delete(node).await,
                Ok(true) => match self.instances.is_shut_down(node).await {
                    Err(error) => {
                        tracing::error!(node = nodes::name(node), %error, "cannot tell whether the node is shut down");
                    }
                    Ok(true) => self.taint(node, true).await,
                    Ok(false) => {}
                },
            },
        }
    }

    async fn taint(&self, node: &Node, present: bool) {
        let changed = nodes::modify(&self.client, node, |node| Ok::<_, kube::Error>(taint_patch(node, present))).await;
        match changed {
            Ok(true) => tracing::info!(node = nodes::name(node), present, "shutdown taint changed"),
            Ok(false) => {}
            Err(error) => {
                let error = apierr::message(&error);
                tracing::error!(node = nodes::name(node), present, error, "cannot change the shutdown taint");
            }
        }
    }

    async fn delete(&self, node: &Node) {
        let (name, about) = (nodes::name(node), nodes::reference(node));
        if node.metadata.deletion_timestamp.is_some() {
            return;
        }
        let message = format!("Deleting node {name} because it does not exist in the cloud provider");
        self.events.event(&about, EventType::Normal, "DeletingNode", message);
        let preconditions = Preconditions { uid: node.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match Api::<Node>::all(self.client.clone()).delete(name, &params).await {
            Ok(_) => {}
            // Somebody was faster; the cache will tell.
            Err(error) if apierr::is_not_found(&error) || apierr::is_conflict(&error) => {}
            Err(error) => {
                let message = format!("Failed deleting node {name}: {}", apierr::message(&error));
                tracing::error!(node = name, message);
                self.events.event(&about, EventType::Warning, "DeletingNodeFailed", message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use common::informer::InformerOptions;
    use http::Method;

    use super::*;
    use crate::provider::{InstanceMetadata, ProviderError};
    use crate::testing;

    fn node(name: &str, ready: &str, taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": "u", "resourceVersion": "1"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn looks() {
        let ours = json!([{"key": SHUTDOWN, "effect": "NoSchedule"}]);
        assert_eq!(look(&node("n", "True", json!([]))), Look::Fine);
        assert_eq!(look(&node("n", "True", ours.clone())), Look::Untaint);
        assert_eq!(look(&node("n", "False", json!([]))), Look::Ask);
        assert_eq!(look(&node("n", "Unknown", ours.clone())), Look::Ask);
        assert_eq!(look(&Node::default()), Look::Ask);
        assert_eq!(taint_patch(&node("n", "True", ours.clone()), false).unwrap()["spec"]["taints"], Value::Null);
        assert_eq!(taint_patch(&node("n", "False", ours), true), None);
        let other = json!([{"key": "a", "effect": "NoExecute"}]);
        let both = taint_patch(&node("n", "False", other), true).unwrap();
        assert_eq!(both["spec"]["taints"].as_array().unwrap().len(), 2);
    }

    /// Machines are what their names say.
    struct Named;

    #[async_trait]
    impl Instances for Named {
        async fn exists(&self, node: &Node) -> Result<bool, ProviderError> {
            Ok(nodes::name(node) != "gone")
        }
        async fn is_shut_down(&self, node: &Node) -> Result<bool, ProviderError> {
            Ok(nodes::name(node) == "off")
        }
        async fn metadata(&self, _: &Node) -> Result<InstanceMetadata, ProviderError> {
            Ok(InstanceMetadata::default())
        }
    }

    #[tokio::test]
    async fn nodes_follow_their_machines() {
        let (client, calls) = testing::client(|_| (200, json!({"metadata": {"name": "n"}})));
        let controller = Controller {
            client,
            instances: Arc::new(Named),
            nodes: Informer::new(InformerOptions::default()),
            events: Recorder::discard(),
        };
        for name in ["gone", "off", "slow"] {
            controller.monitor(&node(name, "Unknown", json!([]))).await;
        }
        controller.monitor(&node("gone", "True", json!([]))).await;
        let calls = calls.lock();
        let seen: Vec<(&Method, &str)> = calls.iter().map(|(method, path, _)| (method, path.as_str())).collect();
        assert_eq!(seen, [(&Method::DELETE, "/api/v1/nodes/gone"), (&Method::PATCH, "/api/v1/nodes/off")]);
        assert_eq!(calls[0].2["preconditions"]["uid"], "u");
        assert_eq!(calls[1].2["spec"]["taints"][0]["key"], SHUTDOWN);
    }
}
