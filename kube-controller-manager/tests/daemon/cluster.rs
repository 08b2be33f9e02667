//! What a cluster needs before the first workload: certificates, tokens, roles; and mirrored endpoints, ranges, annotations.

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Node, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

use crate::loops::start;
use crate::neighbour::{add_node, create, delete, eventually, merge, object};

/// A request for a certificate of a node, from this signer.
async fn request(client: &Client, name: &str, signer: &str, usages: &[&str]) -> Api<CertificateSigningRequest> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:n1");
    let text = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let spec = json!({"signerName": signer, "usages": usages, "request": "", "expirationSeconds": 86400});
    let mut csr: CertificateSigningRequest = object(json!({"metadata": {"name": name}, "spec": spec}));
    csr.spec.request = ByteString(text.into_bytes());
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    api.create(&PostParams::default(), &csr).await.unwrap();
    api
}

async fn certificate(api: &Api<CertificateSigningRequest>, name: &str) -> String {
    let issued = async || api.get(name).await.unwrap().status?.certificate;
    String::from_utf8(eventually(&format!("{name} is issued"), issued).await.0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_approved_and_signed() {
    let (_server, client, daemon) = start().await;
    let client_usages = ["client auth", "digital signature"];
    // The requester may have one for any node, so nobody needs to approve it.
    let requests = request(&client, "kubelet", "kubernetes.io/kube-apiserver-client-kubelet", &client_usages).await;
    let pem = certificate(&requests, "kubelet").await;
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let parsed = block.parse_x509().unwrap();
    let names: Vec<&str> = parsed.subject().iter_common_name().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, ["system:node:n1"]);
    let life = parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
    assert_eq!(life, 86400, "as long as was asked for");
    let conditions = requests.get("kubelet").await.unwrap().status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("AutoApproved"));

    // Others wait for somebody to approve them.
    request(&client, "person", "kubernetes.io/kube-apiserver-client", &client_usages).await;
    request(&client, "server", "kubernetes.io/kubelet-serving", &["server auth", "digital signature"]).await;
    for name in ["person", "server"] {
        let mut csr = requests.get(name).await.unwrap();
        assert!(csr.status.as_ref().is_none_or(|status| status.conditions.is_none()));
        let approved = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": ""}]});
        csr.status = Some(object(approved));
        requests.replace_subresource("approval", name, &PostParams::default(), &csr).await.unwrap();
    }
    certificate(&requests, "person").await;
    let failed = eventually("a serving certificate without names is refused", async || {
        let conditions = requests.get("server").await.unwrap().status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == "Failed")
    })
    .await;
    assert_eq!(failed.message.as_deref(), Some("DNS or IP subjectAltName is required"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_live_with_their_accounts() {
    let (server, client, daemon) = start().await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    create(&accounts, json!({"metadata": {"name": "robot"}})).await;
    let secret = |account: &str| {
        let annotations = json!({"kubernetes.io/service-account.name": account});
        json!({"metadata": {"name": "token", "annotations": annotations}, "type": "kubernetes.io/service-account-token"})
    };
    create(&secrets, secret("robot")).await;
    let data = eventually("the secret has its token", async || {
        secrets.get("token").await.unwrap().data.filter(|data| data.contains_key("token"))
    })
    .await;
    assert_eq!(data["namespace"].0, b"default");
    assert_eq!(data["ca.crt"].0, std::fs::read(server.path("ca.crt")).unwrap());
    // The API server knows the bearer.
    let review = json!({"spec": {"token": String::from_utf8(data["token"].0.clone()).unwrap()}});
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &object(review)).await.unwrap().status.unwrap();
    assert_eq!(answer.user.unwrap_or_default().username.as_deref(), Some("system:serviceaccount:default:robot"));
    delete(&accounts, "robot").await;
    eventually("the secret goes with its account", async || {
        secrets.get_opt("token").await.unwrap().is_none().then_some(())
    })
    .await;

    let system: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let token = |id: &str, expiration: &str| {
        let data = json!({"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true",
            "expiration": expiration});
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token", "stringData": data})
    };
    create(&maps, json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "x"}})).await;
    create(&system, token("abcdef", "2999-01-01T00:00:00Z")).await;
    create(&system, token("ghijkl", "2020-01-01T00:00:00Z")).await;
    eventually("the expired token is gone", async || {
        system.get_opt("bootstrap-token-ghijkl").await.unwrap().is_none().then_some(())
    })
    .await;
    let signatures = async |wanted: &[&str]| {
        eventually(&format!("signatures are {wanted:?}"), async || {
            let data = maps.get("cluster-info").await.unwrap().data.unwrap();
            let keys: Vec<&str> = data.keys().filter_map(|key| key.strip_prefix("jws-kubeconfig-")).collect();
            (keys == wanted).then_some(())
        })
        .await;
    };
    signatures(&["abcdef"]).await;
    delete(&system, "bootstrap-token-abcdef").await;
    signatures(&[]).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_is_completed() {
    let (_server, client, daemon) = start().await;
    // A role that selects others has their rules.
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let rule = json!({"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["things"]});
    let selector = json!({"clusterRoleSelectors": [{"matchLabels": {"into": "whole"}}]});
    create(&roles, json!({"metadata": {"name": "whole"}, "aggregationRule": selector, "rules": []})).await;
    create(&roles, json!({"metadata": {"name": "part", "labels": {"into": "whole"}}, "rules": [rule]})).await;
    let rules = async |count: usize| {
        eventually(&format!("the role has {count} rules"), async || {
            let rules = roles.get("whole").await.unwrap().rules.unwrap_or_default();
            (rules.len() == count).then_some(())
        })
        .await;
    };
    rules(1).await;
    delete(&roles, "part").await;
    rules(0).await;

    // Endpoints that a person wrote have slices.
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let endpoints: Api<Endpoints> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    create(&services, json!({"metadata": {"name": "outside"}, "spec": {"ports": [{"port": 80}]}})).await;
    let subset = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]);
    create(&endpoints, json!({"metadata": {"name": "outside"}, "subsets": subset("10.9.9.1")})).await;
    let mirrored = async |wanted: &[&str]| {
        eventually(&format!("mirrored addresses are {wanted:?}"), async || {
            let of = ListParams::default().labels("kubernetes.io/service-name=outside");
            let list = slices.list(&of).await.unwrap().items;
            let found = list.iter().flat_map(|s| s.endpoints.iter().flatten()).flat_map(|e| e.addresses.clone());
            (found.collect::<Vec<_>>() == wanted).then_some(())
        })
        .await;
    };
    mirrored(&["10.9.9.1"]).await;
    merge(&endpoints, "outside", false, json!({"subsets": subset("10.9.9.2")})).await;
    mirrored(&["10.9.9.2"]).await;
    delete(&endpoints, "outside").await;
    mirrored(&[]).await;

    // A second range is ready, and goes when nobody uses it.
    let cidrs: Api<ServiceCIDR> = Api::all(client.clone());
    create(&cidrs, json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.98.0.0/24"]}})).await;
    let is_ready = |value: Value| value["status"]["conditions"][0]["status"] == "True";
    eventually("the range is ready", async || is_ready(json!(cidrs.get("more").await.unwrap())).then_some(())).await;
    delete(&cidrs, "more").await;
    eventually("the range is gone", async || cidrs.get_opt("more").await.unwrap().is_none().then_some(())).await;

    add_node(&client, "n1", 1).await;
    let nodes: Api<Node> = Api::all(client);
    eventually("the node is annotated", async || {
        let annotations = nodes.get("n1").await.unwrap().metadata.annotations?;
        annotations.get("node.alpha.kubernetes.io/ttl").filter(|ttl| *ttl == "0").map(drop)
    })
    .await;
    daemon.stop().await;
}
