//! A cloud with routes, and an apiserver that takes conditions.

use async_trait::async_trait;
use common::informer::InformerOptions;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::testing;

/// Refuses routes to the node `refused`.
#[derive(Default)]
struct Network(Mutex<Vec<Route>>);

#[async_trait]
impl Routes for Network {
    async fn list(&self, _: &str) -> Result<Vec<Route>, ProviderError> {
        Ok(self.0.lock().clone())
    }
    async fn create(&self, _: &str, route: &Route) -> Result<(), ProviderError> {
        if route.node == "refused" {
            return Err(ProviderError::Other("quota".into()));
        }
        self.0.lock().push(route.clone());
        Ok(())
    }
    async fn delete(&self, _: &str, route: &Route) -> Result<(), ProviderError> {
        self.0.lock().retain(|other| other != route);
        Ok(())
    }
}

#[tokio::test]
async fn routes_follow_nodes_and_nodes_are_told() {
    let (client, calls) = testing::client(|_| (200, json!({"metadata": {"name": "n"}})));
    let network = Arc::new(Network::default());
    let stale =
        Route { name: "x".into(), node: "gone".into(), destination: "10.244.9.0/24".parse().unwrap(), via: None };
    network.0.lock().push(stale);
    let nodes = Informer::new(InformerOptions::default());
    for (name, net) in [("n", "10.244.0.0/24"), ("refused", "10.244.1.0/24")] {
        let node = json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDRs": [net]}});
        nodes.apply(serde_json::from_value(node).unwrap());
    }
    let controller = Controller {
        client,
        routes: network.clone(),
        cluster: "kubernetes".into(),
        networks: vec!["10.244.0.0/16".parse().unwrap()],
        nodes,
        events: Recorder::discard(),
    };
    assert!(!controller.reconcile().await.unwrap());
    let routes: Vec<String> = network.0.lock().iter().map(|route| route.node.clone()).collect();
    assert_eq!(routes, ["n"]);
    let calls = calls.lock();
    let told: Vec<(&str, &str)> = calls
        .iter()
        .map(|(_, path, body)| (path.as_str(), body["status"]["conditions"][0]["reason"].as_str().unwrap()))
        .collect();
    let expected = [("/api/v1/nodes/n/status", "RouteCreated"), ("/api/v1/nodes/refused/status", "NoRouteCreated")];
    assert_eq!(told, expected);
}
