//! Two instances, one leader.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, Client};
use kube_controller_manager::run;
use serde_json::json;

use crate::{
    USER,
    neighbour::{ApiServer, create, eventually},
};

async fn holder(client: &Client, not: &str) -> String {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    eventually("somebody new leads", async || {
        let lease = leases.get_opt("kube-controller-manager").await.unwrap()?;
        lease.spec?.holder_identity.filter(|holder| !holder.is_empty() && holder != not)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_takes_over_when_the_first_stops() {
    let server = ApiServer::start().await;
    let client = server.admin().await;
    let flags = ["--controllers=root-ca-certificate-publisher-controller", "--use-service-account-credentials"];
    let first = server.daemon(run, USER, &flags).await;
    let leader = holder(&client, "").await;
    let second = server.daemon(run, USER, &flags).await;
    // A standby is well and ready, and has no controllers.
    let checks = second.passes("/healthz?verbose").await;
    assert!(checks.contains("[+]leaderElection ok\n"), "{checks}");
    second.passes("/readyz").await;
    assert!(!checks.contains("root-ca-certificate-publisher-controller"), "{checks}");
    let checks = eventually("the leader's controllers are up", async || {
        let checks = first.get("/healthz?verbose").await?.1;
        checks.contains("root-ca-certificate-publisher-controller").then_some(checks)
    });
    checks.await;

    first.stop().await;
    let next = holder(&client, &leader).await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let spec = leases.get("kube-controller-manager").await.unwrap().spec.unwrap();
    assert_eq!((spec.holder_identity, spec.lease_transitions), (Some(next), Some(1)));
    create(&Api::<Namespace>::all(client.clone()), json!({"metadata": {"name": "after"}})).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "after");
    eventually("the second works", async || maps.get_opt("kube-root-ca.crt").await.unwrap()).await;
    second.stop().await;
}
