//! A control plane of static pods (`up --control-plane=static-pods`): the committed manifests on our images, with etcd.
//! Needs root and CORTEN_CLUSTER; hack/test.sh gives both.

use anyhow::{Result, ensure};
use e2e::{
    Cluster,
    testing::{Namespace, cluster, eventually},
};

const GUESTBOOK: &str = include_str!("../../manifests/examples/guestbook.yaml");
const PODS: [&str; 5] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "cloud-controller-manager"];

fn field(cluster: &Cluster, pod: &str, jsonpath: &str) -> Result<String> {
    let pod = format!("pod/{pod}-cp");
    cluster.kubectl_ok(&["-n", "kube-system", "get", &pod, "-o", &format!("jsonpath={jsonpath}")])
}

fn ready(cluster: &Cluster, pod: &str) -> Result<()> {
    eventually(&format!("{pod} to be ready"), || {
        let ready = field(cluster, pod, "{.status.conditions[?(@.type==\"Ready\")].status}")?;
        ensure!(ready == "True", "Ready is {ready:?}");
        Ok(())
    })
}

/// SIGKILL to a container's first process, behind the kubelet's back. Returns the container's id.
fn kill_container(cluster: &Cluster, pod: &str) -> Result<String> {
    let id = field(cluster, pod, "{.status.containerStatuses[0].containerID}")?;
    let bare = id.trim_start_matches("containerd://");
    cluster.run_on("cp", &["ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", bare])?;
    Ok(id)
}

/// Waits until the kubelet has put another container in a killed one's place.
fn replaced(cluster: &Cluster, pod: &str, killed: &str) -> Result<()> {
    eventually(&format!("{pod} to be back"), || {
        let status = field(
            cluster,
            pod,
            "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].state} \
             {.status.containerStatuses[0].restartCount}",
        )?;
        ensure!(!status.contains(killed) && status.contains("running") && !status.ends_with(" 0"), "{status}");
        Ok(())
    })?;
    ready(cluster, pod)
}

#[test]
fn kubectl_sees_the_control_plane_as_mirror_pods() -> Result<()> {
    let cluster = cluster()?;
    for pod in PODS {
        ready(&cluster, pod)?;
        let facts = field(
            &cluster,
            pod,
            "{.metadata.annotations.kubernetes\\.io/config\\.mirror} {.metadata.ownerReferences[0].kind} \
             {.spec.nodeName} {.spec.priorityClassName} {.status.phase} {.spec.containers[0].image}",
        )?;
        let words: Vec<&str> = facts.split_whitespace().collect();
        let [mirror, rest @ ..] = words.as_slice() else { anyhow::bail!("{pod}: {facts}") };
        ensure!(!mirror.is_empty(), "{pod}: {facts}");
        let image = if pod == "etcd" { "corten.dev/etcd:local".to_owned() } else { format!("corten.dev/{pod}:v1.36") };
        ensure!(rest == ["Node", "cp", "system-node-critical", "Running", &image], "{pod}: {facts}");
        let log = cluster.kubectl_ok(&["-n", "kube-system", "logs", &format!("{pod}-cp"), "--tail=5"])?;
        ensure!(!log.is_empty(), "{pod} has logged nothing");
    }
    let nodes = cluster.kubectl_ok(&["get", "node", "cp"])?;
    ensure!(nodes.contains(" Ready ") && nodes.contains("control-plane"), "{nodes}");
    Ok(())
}

#[test]
fn a_deleted_mirror_pod_comes_back_and_its_container_stays() -> Result<()> {
    let cluster = cluster()?;
    ready(&cluster, "kube-scheduler")?;
    let facts = "{.metadata.uid} {.status.containerStatuses[0].containerID}";
    let before = field(&cluster, "kube-scheduler", facts)?;
    cluster.kubectl_ok(&["-n", "kube-system", "delete", "pod", "kube-scheduler-cp", "--wait=false"])?;
    eventually("another mirror pod of the same container", || {
        let now = field(&cluster, "kube-scheduler", facts)?;
        let [(uid, container), (old_uid, old_container)] =
            [&now, &before].map(|text| text.split_once(' ').unwrap_or_default());
        ensure!(uid != old_uid && container == old_container, "{now}, before {before}");
        Ok(())
    })
}

#[test]
fn the_control_plane_works_and_its_killed_containers_come_back() -> Result<()> {
    let cluster = cluster()?;
    let namespace = Namespace::create(&cluster, "static-pods")?;
    namespace.apply(GUESTBOOK)?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    let nodes = namespace.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"])?;
    ensure!(!nodes.split_whitespace().any(|node| node == "cp"), "pods on the tainted control plane: {nodes}");

    let scheduler = kill_container(&cluster, "kube-scheduler")?;
    replaced(&cluster, "kube-scheduler", &scheduler)?;
    let apiserver = kill_container(&cluster, "kube-apiserver")?;
    replaced(&cluster, "kube-apiserver", &apiserver)?;

    namespace.kubectl(&["scale", "deployment/guestbook", "--replicas=5"])?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    let ip = namespace.field("service/guestbook", "{.spec.clusterIP}")?;
    for node in cluster.workers() {
        eventually("all five pods to answer", || {
            let answers = cluster.answers(&node.name, &format!("http://{ip}/cgi-bin/whoami"), 50)?;
            ensure!(answers.len() == 5, "{answers:?} from {}", node.name);
            Ok(())
        })?;
    }
    Ok(())
}
