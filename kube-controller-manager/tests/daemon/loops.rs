//! What the controllers bring about together, under the identities and rights that they have in a cluster.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, PersistentVolumeClaim, Pod, ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use kube_controller_manager::run;
use serde_json::{Value, json};

use crate::{
    USER,
    neighbour::{ApiServer, Daemon, add_node, create, delete, eventually, merge, object},
};

/// Nobody plays the kubelet's heartbeat.
const PATIENT: &str = "--node-monitor-grace-period=1h";
const STARTING: &str = "--node-startup-grace-period=1h";

/// A server, and every controller at work.
pub async fn start() -> (ApiServer, Client, Daemon) {
    start_only("*,bootstrapsigner,tokencleaner").await
}

/// A server, and these controllers.
pub async fn start_only(controllers: &str) -> (ApiServer, Client, Daemon) {
    let server = ApiServer::start().await;
    let file = |flag: &str, name: &str| format!("{flag}={}", server.path(name).display());
    let files = [
        file("--root-ca-file", "ca.crt"),
        file("--cluster-signing-cert-file", "ca.crt"),
        file("--cluster-signing-key-file", "ca.key"),
        file("--service-account-private-key-file", "sa.key"),
    ];
    let mut flags = vec!["--leader-elect=false", "--use-service-account-credentials", "--kube-api-qps=-1"];
    let controllers = format!("--controllers={controllers}");
    flags.extend([&controllers, PATIENT, STARTING]);
    flags.extend(files.iter().map(String::as_str));
    let daemon = server.daemon(run, USER, &flags).await;
    let client = server.admin().await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    eventually("the default service account is there", async || accounts.get_opt("default").await.unwrap()).await;
    (server, client, daemon)
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
        {"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}})
}

fn deployment(replicas: u32) -> Value {
    let selector = json!({"matchLabels": {"app": "web"}});
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": selector, "template": template("one")}})
}

async fn pods(api: &Api<Pod>, count: usize) -> Vec<Pod> {
    eventually(&format!("there are {count} pods"), async || {
        let pods = api.list(&ListParams::default()).await.unwrap().items;
        (pods.len() == count && pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_none())).then_some(pods)
    })
    .await
}

/// Plays the kubelet.
pub async fn make_ready(api: &Api<Pod>, pod: &Pod, ip: &str) {
    let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready});
    merge(api, &pod.name_any(), true, json!({ "status": status })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_scales_rolls_and_is_collected() {
    let (_server, client, daemon) = start().await;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let sets: Api<ReplicaSet> = Api::default_namespaced(client.clone());
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    create(&deployments, deployment(3)).await;
    let three = pods(&api, 3).await;
    let set = sets.list(&ListParams::default()).await.unwrap().items.remove(0);
    assert_eq!(set.owner_references()[0].name, "web");
    for pod in &three {
        assert_eq!(pod.owner_references()[0].uid, set.uid().unwrap());
    }
    let events: Api<Event> = Api::default_namespaced(client.clone());
    eventually("the scaling is told", async || {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        all.into_iter().find(|e| {
            e.reason.as_deref() == Some("ScalingReplicaSet") && e.involved_object.name.as_deref() == Some("web")
        })
    })
    .await;

    merge(&deployments, "web", false, json!({"spec": {"replicas": 1}})).await;
    let kept = pods(&api, 1).await.remove(0);
    assert!(three.iter().any(|pod| pod.uid() == kept.uid()), "scaling down removes, it does not replace");
    make_ready(&api, &kept, "10.0.0.1").await;
    eventually("the deployment is available", async || {
        let status = deployments.get("web").await.unwrap().status?;
        (status.available_replicas == Some(1) && status.replicas == Some(1)).then_some(())
    })
    .await;

    merge(&deployments, "web", false, json!({"spec": {"template": template("two")}})).await;
    let new = eventually("the new pod is there", async || {
        let pods = api.list(&ListParams::default()).await.unwrap().items;
        pods.into_iter().find(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("two"))
    })
    .await;
    assert!(api.get_opt(&kept.name_any()).await.unwrap().is_some(), "the old one goes when the new one is ready");
    make_ready(&api, &new, "10.0.0.2").await;
    assert_eq!(pods(&api, 1).await[0].uid(), new.uid());

    delete(&deployments, "web").await;
    eventually("replica sets and pods are collected", async || {
        let left = sets.list(&ListParams::default()).await.unwrap().items.len();
        (left == 0 && api.list(&ListParams::default()).await.unwrap().items.is_empty()).then_some(())
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_follows_its_pods() {
    let (_server, client, daemon) = start().await;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let (endpoints, slices): (Api<Endpoints>, Api<EndpointSlice>) =
        (Api::default_namespaced(client.clone()), Api::default_namespaced(client.clone()));
    create(
        &services,
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
    )
    .await;
    create(&Api::<Deployment>::default_namespaced(client.clone()), deployment(2)).await;
    let two = pods(&api, 2).await;
    // Slices have only pods whose node is known.
    add_node(&client, "n1", 8).await;
    for pod in &two {
        let binding = json!({"metadata": {"name": pod.name_any()}, "target": {"kind": "Node", "name": "n1"}});
        let path = format!("/api/v1/namespaces/default/pods/{}/binding", pod.name_any());
        let request = http::Request::post(path).header("content-type", "application/json");
        client.request_text(request.body(binding.to_string().into_bytes()).unwrap()).await.unwrap();
    }
    make_ready(&api, &two[0], "10.0.0.1").await;
    make_ready(&api, &two[1], "10.0.0.2").await;
    let addresses = async |wanted: &[&str]| {
        eventually(&format!("endpoints are {wanted:?}"), async || {
            let subsets = endpoints.get_opt("web").await.unwrap()?.subsets.unwrap_or_default();
            let mut old: Vec<String> =
                subsets.iter().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.ip.clone()).collect();
            let of_web = ListParams::default().labels("kubernetes.io/service-name=web");
            let found = slices.list(&of_web).await.unwrap().items;
            let ready = found.iter().flat_map(|slice| slice.endpoints.iter().flatten()).filter(|endpoint| {
                endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
            });
            let mut new: Vec<String> = ready.flat_map(|endpoint| endpoint.addresses.clone()).collect();
            old.sort();
            new.sort();
            (old == wanted && new == wanted).then_some(())
        })
        .await;
    };
    addresses(&["10.0.0.1", "10.0.0.2"]).await;
    let unready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:01Z"}]);
    merge(&api, &two[0].name_any(), true, json!({"status": {"conditions": unready}})).await;
    addresses(&["10.0.0.2"]).await;
    delete(&services, "web").await;
    eventually("endpoints and slices are gone", async || {
        let slices = slices.list(&ListParams::default().labels("kubernetes.io/service-name=web")).await.unwrap();
        (slices.items.is_empty() && endpoints.get_opt("web").await.unwrap().is_none()).then_some(())
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_furnished_and_emptied() {
    let (server, client, daemon) = start().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    create(&namespaces, json!({"metadata": {"name": "new"}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "new");
    let first = eventually("it has an account", async || accounts.get_opt("default").await.unwrap()).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "new");
    let map = eventually("it has the root CA", async || maps.get_opt("kube-root-ca.crt").await.unwrap()).await;
    assert_eq!(map.data.unwrap()["ca.crt"], std::fs::read_to_string(server.path("ca.crt")).unwrap());
    delete(&accounts, "default").await;
    eventually("the account comes back", async || {
        accounts.get_opt("default").await.unwrap().filter(|account| account.uid() != first.uid())
    })
    .await;

    let api: Api<Deployment> = Api::namespaced(client.clone(), "new");
    create(&api, deployment(2)).await;
    let pods_of: Api<Pod> = Api::namespaced(client.clone(), "new");
    pods(&pods_of, 2).await;
    delete(&namespaces, "new").await;
    eventually("the namespace is gone", async || namespaces.get_opt("new").await.unwrap().is_none().then_some(()))
        .await;
    assert!(pods_of.list(&ListParams::default()).await.unwrap().items.is_empty());
    assert!(maps.list(&ListParams::default()).await.unwrap().items.is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_limits_and_is_given_back() {
    let (_server, client, daemon) = start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    eventually("the root CA is there", async || maps.get_opt("kube-root-ca.crt").await.unwrap()).await;
    let quotas: Api<ResourceQuota> = Api::default_namespaced(client.clone());
    let used = async |wanted: Value| {
        eventually(&format!("in use: {wanted}"), async || {
            let status = quotas.get("q").await.unwrap().status?;
            (json!(status.hard) == json!({"configmaps": "2", "pods": "1"}) && json!(status.used) == wanted)
                .then_some(())
        })
        .await;
    };
    create(&quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "2", "pods": "1"}}})).await;
    used(json!({"configmaps": "1", "pods": "0"})).await;

    let named = |name: &str| json!({"metadata": {"name": name}});
    create(&maps, named("a")).await;
    used(json!({"configmaps": "2", "pods": "0"})).await;
    let refused = maps.create(&PostParams::default(), &object(named("b"))).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    let why = "exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2";
    assert!(status.code == 403 && status.message.ends_with(why), "{}", status.message);
    delete(&maps, "a").await;
    used(json!({"configmaps": "1", "pods": "0"})).await;
    create(&maps, named("b")).await;

    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "one"}]}});
    create(&pods, pod("one")).await;
    let refused = pods.create(&PostParams::default(), &object(pod("two"))).await.unwrap_err();
    assert!(refused.to_string().contains("exceeded quota: q, requested: pods=1"), "{refused}");
    merge(&pods, "one", true, json!({"status": {"phase": "Succeeded"}})).await;
    used(json!({"configmaps": "2", "pods": "0"})).await;
    create(&pods, pod("two")).await;
    delete(&pods, "two").await;
    used(json!({"configmaps": "2", "pods": "0"})).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_counts_services_and_claims() {
    let (_server, client, daemon) = start().await;
    let quotas: Api<ResourceQuota> = Api::default_namespaced(client.clone());
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    let names = ["persistentvolumeclaims", "requests.storage", "services", "services.nodeports"];
    let used = async |wanted: [&str; 4]| {
        eventually(&format!("in use: {wanted:?}"), async || {
            let used = quotas.get("q").await.unwrap().status?.used?;
            let found = names.map(|name| used.get(name).map(|quantity| quantity.0.clone()).unwrap_or_default());
            (found == wanted).then_some(())
        })
        .await;
    };
    let service =
        |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    let claim = |name: &str, size: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "resources": {"requests": {"storage": size}}}})
    };
    let hard =
        json!({"services": "5", "services.nodeports": "1", "persistentvolumeclaims": "2", "requests.storage": "3Gi"});
    create(&quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    // The API server's own Service is in this namespace.
    used(["0", "0", "1", "0"]).await;
    create(&services, service("one", "NodePort")).await;
    create(&claims, claim("one", "1Gi")).await;
    used(["1", "1Gi", "2", "1"]).await;
    let refused = services.create(&PostParams::default(), &object(service("two", "NodePort"))).await.unwrap_err();
    assert!(refused.to_string().contains("requested: services.nodeports=1, used: services.nodeports=1"), "{refused}");
    let refused = claims.create(&PostParams::default(), &object(claim("two", "4Gi"))).await.unwrap_err();
    assert!(refused.to_string().contains("requested: requests.storage=4Gi, used: requests.storage=1Gi"), "{refused}");
    merge(&services, "one", false, json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": null}]}}))
        .await;
    used(["1", "1Gi", "2", "0"]).await;
    delete(&services, "one").await;
    delete(&claims, "one").await;
    used(["0", "0", "1", "0"]).await;
    daemon.stop().await;
}
