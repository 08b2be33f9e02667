//! What the cloud knows reaches nodes and Services.

use cloud_controller_manager::run;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    USER,
    neighbour::{ApiServer, create, delete, eventually, merge},
};

const CONFIG: &str = "apiVersion: corten.dev/v1alpha1
kind: LocalCloudConfig
region: here
loadBalancerPools: [192.0.2.10-192.0.2.11]
nodes:
  n1: {internalIPs: [10.0.0.1], externalIPs: [192.0.2.1], zone: a, instanceType: large}
";
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_initialised_and_services_get_addresses() {
    let server = ApiServer::start().await;
    let client = server.admin().await;
    let config = format!("--cloud-config={}", server.write("cloud.yaml", CONFIG).display());
    let daemon = server.daemon(run, USER, &["--cloud-provider=local", &config, "--leader-elect=false"]).await;

    let nodes: Api<Node> = Api::all(client.clone());
    let taint = json!({"key": UNINITIALIZED, "value": "true", "effect": "NoSchedule"});
    create(&nodes, json!({"metadata": {"name": "n1"}, "spec": {"taints": [taint]}})).await;
    let node = eventually("the node is initialised", async || {
        let node = nodes.get("n1").await.unwrap();
        let tainted = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|t| t.key == UNINITIALIZED);
        let addressed = node.status.as_ref().is_some_and(|status| status.addresses.is_some());
        (!tainted && addressed).then_some(node)
    })
    .await;
    assert_eq!(node.spec.as_ref().unwrap().provider_id.as_deref(), Some("local://n1"));
    for (label, value) in [
        ("topology.kubernetes.io/zone", "a"),
        ("topology.kubernetes.io/region", "here"),
        ("node.kubernetes.io/instance-type", "large"),
    ] {
        assert_eq!(node.labels().get(label).map(String::as_str), Some(value), "{label}");
    }
    let addresses = node.status.unwrap().addresses.unwrap();
    for (kind, address) in [("InternalIP", "10.0.0.1"), ("ExternalIP", "192.0.2.1")] {
        assert!(addresses.iter().any(|a| a.type_ == kind && a.address == address), "{addresses:?}");
    }

    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service = |name: &str| {
        let ports = json!([{"port": 80}]);
        json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "selector": {"a": "b"}, "ports": ports}})
    };
    let address = async |name: &str| {
        eventually(&format!("{name} has an address"), async || {
            services.get(name).await.unwrap().status?.load_balancer?.ingress?.first()?.ip.clone()
        })
        .await
    };
    create(&services, service("one")).await;
    create(&services, service("two")).await;
    let mut given = [address("one").await, address("two").await];
    let of_one = given[0].clone();
    given.sort();
    assert_eq!(given, ["192.0.2.10", "192.0.2.11"]);

    // The pool is empty now; an address that is given back goes to who waits for one.
    create(&services, service("three")).await;
    delete(&services, "one").await;
    assert_eq!(address("three").await, of_one);
    merge(&services, "three", false, json!({"spec": {"type": "ClusterIP"}})).await;
    eventually("a Service that is no load balancer keeps no address", async || {
        let status = services.get("three").await.unwrap().status?.load_balancer;
        status.and_then(|balancer| balancer.ingress).is_none().then_some(())
    })
    .await;
    delete(&services, "two").await;
    eventually("only what has no load balancer is left", async || {
        let left = services.list(&ListParams::default()).await.unwrap().items;
        left.iter().all(|service| service.name_any() != "two").then_some(())
    })
    .await;
    daemon.stop().await;
}
