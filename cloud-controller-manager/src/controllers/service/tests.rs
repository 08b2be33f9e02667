//! The whole way of one Service over a real client: a scripted apiserver and a balancer with one address.

use async_trait::async_trait;
use common::informer::InformerOptions;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus};
use serde_json::{Value, json};

use super::decide::FINALIZER;
use super::*;
use crate::provider::ProviderError;
use crate::testing;

#[derive(Default)]
struct OneAddress {
    owner: Mutex<Option<String>>,
    told: Mutex<Vec<usize>>,
    broken: bool,
}

fn name(service: &Service) -> String {
    service.metadata.name.clone().unwrap_or_default()
}

#[async_trait]
impl LoadBalancer for OneAddress {
    async fn exists(&self, service: &Service) -> Result<bool, ProviderError> {
        Ok(self.owner.lock().as_ref() == Some(&name(service)))
    }
    async fn ensure(&self, service: &Service, _: &[Arc<Node>]) -> Result<LoadBalancerStatus, ProviderError> {
        if self.broken {
            return Err(ProviderError::Exhausted("none".into()));
        }
        *self.owner.lock() = Some(name(service));
        let entry = LoadBalancerIngress { ip: Some("192.0.2.1".into()), ..LoadBalancerIngress::default() };
        Ok(LoadBalancerStatus { ingress: Some(vec![entry]) })
    }
    async fn update_nodes(&self, _: &Service, nodes: &[Arc<Node>]) -> Result<(), ProviderError> {
        self.told.lock().push(nodes.len());
        Ok(())
    }
    async fn ensure_deleted(&self, _: &Service) -> Result<(), ProviderError> {
        *self.owner.lock() = None;
        Ok(())
    }
    fn adopt(&self, services: &[Arc<Service>]) {
        *self.owner.lock() = services.first().map(|service| name(service));
    }
}

fn setup(balancer: Arc<OneAddress>) -> (Controller, testing::Calls) {
    let (client, calls) = testing::client(|_| (200, json!({"metadata": {"name": "a"}})));
    let controller = Controller {
        client,
        balancer,
        services: Informer::new(InformerOptions::default()),
        nodes: Informer::new(InformerOptions::default()),
        queue: WorkQueue::new("test-service"),
        node_queue: WorkQueue::new("test-node"),
        events: Recorder::discard(),
        known: Mutex::default(),
        workers: 1,
    };
    (controller, calls)
}

fn service(change: impl FnOnce(&mut Value)) -> Service {
    let mut value = json!({"metadata": {"namespace": "x", "name": "a", "uid": "u"}, "spec": {"type": "LoadBalancer"}});
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn a_service_gets_its_balancer_and_gives_it_back() {
    let balancer = Arc::new(OneAddress::default());
    let (c, calls) = setup(balancer.clone());
    c.services.apply(service(|_| {}));
    c.sync("x/a").await.unwrap();
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    c.services.apply(service(|s| {
        s["metadata"]["finalizers"] = json!([FINALIZER]);
        s["status"] = status.clone();
    }));
    c.sync("x/a").await.unwrap();
    {
        let calls = calls.lock();
        assert_eq!(calls.len(), 2, "the second sync finds everything in place");
        assert!(calls.iter().all(|(_, path, _)| path == "/api/v1/namespaces/x/services/a/status"));
        assert_eq!(calls[0].2["metadata"], json!({"uid": "u", "finalizers": [FINALIZER]}));
        assert_eq!(calls[1].2["status"], status);
    }
    c.services.apply(service(|s| {
        s["metadata"]["finalizers"] = json!([FINALIZER]);
        s["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        s["status"] = status;
    }));
    c.sync("x/a").await.unwrap();
    assert!(balancer.owner.lock().is_none() && c.known.lock().is_empty());
    let calls = calls.lock();
    assert_eq!(calls[2].2["status"]["loadBalancer"]["ingress"], Value::Null);
    assert_eq!(calls[3].2["metadata"]["$deleteFromPrimitiveList/finalizers"], json!([FINALIZER]));
}

#[tokio::test]
async fn who_vanishes_without_the_finalizer_is_cleaned_up() {
    let balancer = Arc::new(OneAddress::default());
    let (c, _) = setup(balancer.clone());
    c.services.apply(service(|_| {}));
    c.sync("x/a").await.unwrap();
    c.services.remove("x/a", None);
    c.sync("x/a").await.unwrap();
    assert!(balancer.owner.lock().is_none() && c.known.lock().is_empty());
}

#[tokio::test]
async fn a_failure_keeps_the_finalizer_and_is_told() {
    let (c, calls) = setup(Arc::new(OneAddress { broken: true, ..OneAddress::default() }));
    c.services.apply(service(|_| {}));
    let error = c.sync("x/a").await.unwrap_err().to_string();
    assert_eq!(error, "failed to ensure load balancer: no free address is left in the load-balancer pools none");
    assert_eq!(calls.lock().len(), 1);
}

#[tokio::test]
async fn balancers_are_told_of_nodes_once() {
    let balancer = Arc::new(OneAddress::default());
    let (c, _) = setup(balancer.clone());
    c.services.apply(service(|_| {}));
    c.sync("x/a").await.unwrap();
    c.sync_hosts().await;
    c.nodes.apply(serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap());
    c.sync_hosts().await;
    c.sync_hosts().await;
    assert_eq!(*balancer.told.lock(), [1]);
}
