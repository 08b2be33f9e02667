//! Joining a cluster with a bootstrap token, and certificates that the cluster signs and that are renewed.

use std::path::PathBuf;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::neighbour::{Daemon, create};
use crate::support::{Node, eventually, free_port};

/// What kubeadm gives to those who join.
async fn admit_bootstrappers(client: &kube::Client) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let data =
        json!({"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"});
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": data});
    create(&secrets, secret).await;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let approve = "system:certificates.k8s.io:certificatesigningrequests";
    for (name, role, group) in [
        ("bootstrap", "system:node-bootstrapper".to_owned(), "system:bootstrappers"),
        ("approve", format!("{approve}:nodeclient"), "system:bootstrappers"),
        ("renew", format!("{approve}:selfnodeclient"), "system:nodes"),
    ] {
        let group = json!({"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"});
        let role = json!({"kind": "ClusterRole", "name": role, "apiGroup": "rbac.authorization.k8s.io"});
        create(&bindings, json!({"metadata": {"name": name}, "subjects": [group], "roleRef": role})).await;
    }
}

async fn sign(node: &Node, duration: &str) -> Daemon {
    let file = |flag: &str, name: &str| format!("{flag}={}", node.api_server.path(name).display());
    let ca = [file("--cluster-signing-cert-file", "ca.crt"), file("--cluster-signing-key-file", "ca.key")];
    let duration = format!("--cluster-signing-duration={duration}");
    let flags = [
        "--leader-elect=false",
        "--use-service-account-credentials",
        "--controllers=csrapproving,csrsigning",
        &duration,
        &ca[0],
        &ca[1],
    ];
    node.api_server.daemon(kube_controller_manager::run, "system:kube-controller-manager", &flags).await
}

/// A kubeconfig with nothing but the token.
fn bootstrap_kubeconfig(node: &Node) -> PathBuf {
    let own = std::fs::read_to_string(node.api_server.kubeconfig("nobody", &[])).unwrap();
    let mut tree: serde_json::Value = serde_json::from_str(&own).unwrap();
    tree["users"][0]["user"] = json!({"token": "abcdef.0123456789abcdef"});
    node.api_server.write("bootstrap.kubeconfig", &tree.to_string())
}

fn flags(node: &Node) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", node.path("kubelet.conf").display()),
        format!("--bootstrap-kubeconfig={}", bootstrap_kubeconfig(node).display()),
    ]
}

const PEM: &str = "pki/kubelet-client-current.pem";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_by_a_token_and_stays_without_it() {
    let mut node = Node::prepare_with(json!({"rotateCertificates": true}), &["--enable-bootstrap-token-auth"]).await;
    std::fs::write(
        node.path("manifests/early.yaml"),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: early}\nspec: {containers: [{name: early, image: example.com/app:1}]}\n",
    )
    .unwrap();
    let flags = flags(&node);
    // The API server may be one of the node's own static pods.
    node.start_kubelet_with(&flags);
    eventually("the static pod to run before there is a certificate", async || {
        match node.runtime.running("early").len() {
            1 => Ok(()),
            count => Err(format!("{count} containers")),
        }
    })
    .await;
    node.api_server.boot().await;
    admit_bootstrappers(&node.client).await;
    let signer = sign(&node, "1h").await;
    node.wait_for_ready("True").await;
    let requests: Api<CertificateSigningRequest> = Api::all(node.client.clone());
    let request = requests.list(&ListParams::default()).await.unwrap().items.remove(0).spec;
    assert_eq!(request.username.as_deref(), Some("system:bootstrap:abcdef"));
    assert_eq!(request.usages.unwrap(), ["digital signature", "client auth"]);
    let target = std::fs::read_link(node.path(PEM)).unwrap().display().to_string();
    assert!(target.contains("kubelet-client-20"), "{target}");
    let kubeconfig = Kubeconfig::read_from(node.path("kubelet.conf")).unwrap();
    let user = kubeconfig.auth_infos[0].auth_info.clone().unwrap();
    assert_eq!(user.client_certificate, Some(node.path(PEM).display().to_string()));
    // The token is spent.
    let secrets: Api<Secret> = Api::namespaced(node.client.clone(), "kube-system");
    secrets.delete("bootstrap-token-abcdef", &DeleteParams::default()).await.unwrap();
    node.stop_kubelet().await;
    node.start_kubelet_with(&flags);
    node.run("after", json!({"containers": [{"name": "main"}]})).await;
    node.wait_for_pod_ready("after", "True").await;
    node.stop_kubelet().await;
    signer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_in_time() {
    let mut node = Node::prepare_with(json!({"rotateCertificates": true}), &["--enable-bootstrap-token-auth"]).await;
    node.api_server.boot().await;
    admit_bootstrappers(&node.client).await;
    // Signed certificates begin five minutes ago: of one minute more, nine tenths are over at once.
    let signer = sign(&node, "1m").await;
    let flags = flags(&node);
    node.start_kubelet_with(&flags);
    node.wait_for_ready("True").await;
    let first = std::fs::read_link(node.path(PEM)).unwrap();
    eventually("another certificate", async || match std::fs::read_link(node.path(PEM)) {
        Ok(target) if target != first => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let requests: Api<CertificateSigningRequest> = Api::all(node.client.clone());
    let renewed = requests.list(&ListParams::default()).await.unwrap().items;
    let users: Vec<_> = renewed.iter().filter_map(|request| request.spec.username.as_deref()).collect();
    assert!(users.contains(&"system:node:n1"), "{users:?}");
    node.stop_kubelet().await;
    signer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serving_certificate_is_signed_after_approval() {
    let port = free_port();
    let settings = json!({"enableServer": true, "address": "127.0.0.1", "port": port, "serverTLSBootstrap": true});
    let node = Node::start_with(settings).await;
    let signer = sign(&node, "1h").await;
    let requests: Api<CertificateSigningRequest> = Api::all(node.client.clone());
    let name = eventually("a request for the serving certificate", async || {
        let list = requests.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let serving = list.into_iter().find(|request| request.spec.signer_name == "kubernetes.io/kubelet-serving");
        serving.and_then(|request| request.metadata.name).ok_or_else(|| "none".to_owned())
    })
    .await;
    // A client that believes only the cluster's CA.
    let access = std::fs::read_to_string(node.api_server.kubeconfig("admin", &["system:masters"])).unwrap();
    let mut access: Kubeconfig = serde_json::from_str(&access).unwrap();
    access.clusters[0].cluster.as_mut().unwrap().server = Some(format!("https://127.0.0.1:{port}"));
    let config = kube::Config::from_custom_kubeconfig(access, &KubeConfigOptions::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let get = async || {
        let request = http::Request::get("/healthz").body(kube::client::Body::empty()).unwrap();
        client.send(request).await.map(|answer| answer.status().as_u16())
    };
    assert!(get().await.is_err(), "no certificate has been approved");
    let approved =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": ""}]}});
    let request =
        http::Request::patch(format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/approval"))
            .header("content-type", "application/merge-patch+json")
            .body(approved.to_string().into_bytes())
            .unwrap();
    node.client.request_text(request).await.unwrap();
    eventually("the server to show its certificate", async || match get().await {
        Ok(200 | 401 | 403) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(node.path("pki/kubelet-server-current.pem").exists());
    signer.stop().await;
}
