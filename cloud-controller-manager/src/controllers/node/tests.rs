//! The whole way of one node: a scripted provider and apiserver.

use async_trait::async_trait;
use common::informer::InformerOptions;
use k8s_openapi::api::core::v1::NodeAddress;

use super::*;
use crate::testing;

struct One;

#[async_trait]
impl Instances for One {
    async fn exists(&self, _: &Node) -> Result<bool, ProviderError> {
        Ok(true)
    }
    async fn is_shut_down(&self, _: &Node) -> Result<bool, ProviderError> {
        Ok(false)
    }
    async fn metadata(&self, node: &Node) -> Result<InstanceMetadata, ProviderError> {
        if nodes::name(node) == "unknown" {
            return Err(ProviderError::Other("no such machine".into()));
        }
        let addresses = vec![NodeAddress { type_: "InternalIP".into(), address: "10.0.0.1".into() }];
        Ok(InstanceMetadata { provider_id: "x://n".into(), addresses, ..InstanceMetadata::default() })
    }
}

#[tokio::test]
async fn a_new_node_is_initialized_and_an_unknown_one_waits() {
    let (client, calls) = testing::client(|_| (200, json!({"metadata": {"name": "n"}})));
    let controller = Controller {
        client,
        instances: Arc::new(One),
        nodes: Informer::new(InformerOptions::default()),
        queue: WorkQueue::new("test-cloud-node"),
        events: Recorder::discard(),
    };
    for name in ["n", "unknown"] {
        let node = json!({"metadata": {"name": name, "uid": "u", "resourceVersion": "1"},
            "spec": {"taints": [{"key": UNINITIALIZED, "effect": "NoSchedule"}]}});
        controller.nodes.apply(serde_json::from_value(node).unwrap());
    }
    controller.sync("n").await.unwrap();
    let error = controller.sync("unknown").await.unwrap_err().to_string();
    assert_eq!(error, "failed to get instance metadata for node unknown: no such machine");
    let calls = calls.lock();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].1, "/api/v1/nodes/n");
    let metadata = json!({"uid": "u", "resourceVersion": "1"});
    assert_eq!(calls[0].2, json!({"metadata": metadata, "spec": {"providerID": "x://n", "taints": null}}));
    assert_eq!(calls[1].1, "/api/v1/nodes/n/status");
    assert_eq!(calls[1].2["status"]["addresses"][0]["address"], "10.0.0.1");
}
