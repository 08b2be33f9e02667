//! Two instances, one leader.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
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

#[tokio::test(flavor = "multi_thread")]
async fn migrated_controllers_run_under_a_lease_of_their_own() {
    const LEASE: &str = "test-migration";
    let server = ApiServer::start().await;
    let client = server.admin().await;
    // As with upstream's: the lease of a migration needs a role.
    let rule = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [LEASE], "verbs": ["get", "update"]});
    let roles = Api::<Role>::namespaced(client.clone(), "kube-system");
    create(&roles, json!({"metadata": {"name": LEASE}, "rules": [rule]})).await;
    let bindings = Api::<RoleBinding>::namespaced(client.clone(), "kube-system");
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": LEASE});
    let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER});
    create(&bindings, json!({"metadata": {"name": LEASE}, "roleRef": role, "subjects": [user]})).await;

    let path = std::env::temp_dir().join(format!("corten-migration-{}.yaml", std::process::id()));
    let config = format!(
        "apiVersion: controllermanager.config.k8s.io/v1\nkind: LeaderMigrationConfiguration\nleaderName: {LEASE}\ncontrollerLeaders:\n- {{name: root-ca-certificate-publisher-controller, component: \"*\"}}\n- {{name: ttl-controller, component: cloud-controller-manager}}\n"
    );
    std::fs::write(&path, config).unwrap();
    let file = format!("--leader-migration-config={}", path.display());
    let controllers = "--controllers=root-ca-certificate-publisher-controller,serviceaccount-controller,ttl-controller";
    let daemon = server
        .daemon(run, USER, &["--use-service-account-credentials", "--enable-leader-migration", &file, controllers])
        .await;
    let leader = holder(&client, "").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let held_by = async || leases.get_opt(LEASE).await.unwrap()?.spec?.holder_identity.filter(|who| !who.is_empty());
    assert_eq!(eventually("the migration's lease is held", held_by).await, leader);

    create(&Api::<Namespace>::all(client.clone()), json!({"metadata": {"name": "after"}})).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "after");
    eventually("a migrated controller works", async || maps.get_opt("kube-root-ca.crt").await.unwrap()).await;
    let checks = daemon.passes("/healthz?verbose").await;
    assert!(checks.contains("serviceaccount-controller") && !checks.contains("ttl-controller"), "{checks}");
    daemon.stop().await;
    std::fs::remove_file(path).unwrap();
    let released = async || leases.get(LEASE).await.unwrap().spec?.holder_identity.filter(String::is_empty);
    eventually("the migration's lease is given back", released).await;
}
