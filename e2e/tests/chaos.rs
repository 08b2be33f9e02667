//! Daemons die, a node reboots; nothing that was acknowledged is lost and the cluster converges again. One after another:
//! each test leaves the cluster whole. Needs root and CORTEN_CLUSTER; hack/test.sh gives both.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use e2e::{
    Cluster, Proc,
    testing::{Namespace, cluster, eventually},
};
use nix::sys::signal::Signal;

const GUESTBOOK: &str = include_str!("../../manifests/examples/guestbook.yaml");

/// Chaos knows no neighbours.
static ALONE: Mutex<()> = Mutex::new(());

fn converged(cluster: &Cluster, namespace: &Namespace<'_>) -> Result<()> {
    eventually("every node to be ready", || {
        let nodes = cluster.kubectl_ok(&["get", "nodes", "--no-headers"])?;
        ensure!(nodes.matches(" Ready ").count() == cluster.workers().count(), "{nodes}");
        Ok(())
    })?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    let ip = namespace.field("service/guestbook", "{.spec.clusterIP}")?;
    for worker in cluster.workers() {
        eventually("the service to answer with every pod", || {
            let answers = cluster.answers(&worker.name, &format!("http://{ip}/cgi-bin/whoami"), 30)?;
            let pods = namespace.field("pods", "{.items[*].metadata.name}")?;
            let pods: Vec<&str> = pods.split_whitespace().collect();
            ensure!(
                answers.len() == pods.len() && answers.keys().all(|pod| pods.contains(&pod.as_str())),
                "{answers:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Writes config maps until told to stop; returns the names that the server acknowledged.
fn writer(cluster: &Cluster, namespace: &str, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("load-{i}");
        let written = cluster.kubectl(&["-n", namespace, "create", "configmap", &name, "--from-literal=a=b"]);
        if written.is_ok_and(|output| output.success) {
            acknowledged.push(name);
        }
    }
    acknowledged
}

#[test]
fn every_daemon_survives_kill_9_under_load() -> Result<()> {
    let _alone = ALONE.lock();
    let mut cluster = cluster()?;
    let readers = cluster.clone();
    let namespace = Namespace::create(&readers, "chaos-kill")?;
    namespace.apply(GUESTBOOK)?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    let started: Vec<String> = container_ids(&namespace)?;

    let stop = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| -> Result<Vec<String>> {
        let load = scope.spawn(|| writer(&readers, "chaos-kill", &stop));
        let names: Vec<String> =
            cluster.state.daemons.keys().filter(|name| !name.starts_with("containerd")).cloned().collect();
        let result = names.iter().try_for_each(|name| -> Result<()> {
            cluster.kill(name, Signal::SIGKILL)?;
            // What changes while it is away must be noticed when it is back.
            let _ = readers.kubectl(&[
                "-n",
                "chaos-kill",
                "delete",
                "pod",
                "-l",
                "app=guestbook",
                "--wait=false",
                "--request-timeout=2s",
            ]);
            thread::sleep(Duration::from_secs(1));
            cluster.start(name)?;
            thread::sleep(Duration::from_secs(1));
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let written = load.join().unwrap_or_default();
        result.map(|()| written)
    })?;
    ensure!(cluster.dead().is_empty(), "{:?}", cluster.dead());
    ensure!(!acknowledged.is_empty(), "the load wrote nothing");
    converged(&readers, &namespace)?;
    let stored = namespace.kubectl(&["get", "configmaps", "-o", "name"])?;
    let stored: Vec<&str> = stored.lines().filter_map(|line| line.strip_prefix("configmap/")).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !stored.contains(&name.as_str())).collect();
    ensure!(lost.is_empty(), "acknowledged but lost: {lost:?}");
    ensure!(container_ids(&namespace)?.iter().all(|id| !started.contains(id)), "the deleted pods are still there");
    Ok(())
}

fn container_ids(namespace: &Namespace<'_>) -> Result<Vec<String>> {
    let ids = namespace.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=guestbook",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[0].containerID}",
    ])?;
    Ok(ids.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn a_restarted_kubelet_leaves_running_containers_alone() -> Result<()> {
    let _alone = ALONE.lock();
    let mut cluster = cluster()?;
    let readers = cluster.clone();
    let namespace = Namespace::create(&readers, "chaos-kubelet")?;
    namespace.apply(GUESTBOOK)?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    let before = container_ids(&namespace)?;
    for worker in readers.workers() {
        let kubelet = format!("kubelet-{}", worker.name);
        cluster.kill(&kubelet, Signal::SIGKILL)?;
        cluster.start(&kubelet)?;
    }
    converged(&readers, &namespace)?;
    thread::sleep(Duration::from_secs(3));
    ensure!(container_ids(&namespace)? == before, "containers were replaced");
    Ok(())
}

#[test]
fn a_node_that_reboots_comes_back_with_its_pods() -> Result<()> {
    let _alone = ALONE.lock();
    let mut cluster = cluster()?;
    let readers = cluster.clone();
    let namespace = Namespace::create(&readers, "chaos-reboot")?;
    namespace.apply(GUESTBOOK)?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    cluster.reboot("n1")?;
    converged(&readers, &namespace)?;
    let restarts = namespace.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=guestbook",
        "-o",
        "jsonpath={range .items[?(@.spec.nodeName==\"n1\")]}{.status.containerStatuses[0].restartCount} {end}",
    ])?;
    ensure!(restarts.split_whitespace().all(|count| count != "0"), "restart counts on the rebooted node: {restarts}");
    Ok(())
}

#[test]
fn a_dead_kubelet_makes_its_node_not_ready_and_its_pods_leave_the_service() -> Result<()> {
    let _alone = ALONE.lock();
    let mut cluster = cluster()?;
    let readers = cluster.clone();
    let namespace = Namespace::create(&readers, "chaos-lost")?;
    namespace.apply(GUESTBOOK)?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    cluster.kill("kubelet-n2", Signal::SIGKILL)?;
    let result = (|| {
        eventually("the node to become not ready", || {
            let status = readers.kubectl_ok(&[
                "get",
                "node",
                "n2",
                "-o",
                "jsonpath={.status.conditions[?(@.type==\"Ready\")].status} {.spec.taints[*].key}",
            ])?;
            ensure!(status.starts_with("Unknown") && status.contains("node.kubernetes.io/unreachable"), "{status}");
            Ok(())
        })?;
        eventually("its endpoints to become unready", || {
            let ready = namespace.kubectl(&[
                "get",
                "endpointslices",
                "-l",
                "kubernetes.io/service-name=guestbook",
                "-o",
                "jsonpath={range .items[*].endpoints[?(@.nodeName==\"n2\")]}{.conditions.ready} {end}",
            ])?;
            ensure!(!ready.contains("true"), "{ready}");
            Ok(())
        })
    })();
    cluster.start("kubelet-n2")?;
    result?;
    converged(&readers, &namespace)
}

#[test]
fn a_daemon_that_ends_by_itself_is_started_again() -> Result<()> {
    let _alone = ALONE.lock();
    let mut cluster = cluster()?;
    let (before, process) = started(&mut cluster, "kube-scheduler")?;
    process.signal(Signal::SIGKILL)?;
    eventually("the supervisor to start it", || {
        let (now, process) = started(&mut cluster, "kube-scheduler")?;
        ensure!(now > before && process.alive(), "started again {now} times");
        Ok(())
    })?;
    // Who is stopped through us is not, as every other test here relies on. The supervisor may die as well.
    let supervisor = cluster.state.supervisor.context("no supervisor is recorded")?;
    supervisor.signal(Signal::SIGKILL)?;
    ensure!(supervisor.wait(Duration::from_secs(10)), "the supervisor is still there");
    cluster.restart("kube-scheduler")?;
    ensure!(cluster.state.supervisor.is_some_and(|next| next != supervisor && next.alive()), "no supervisor");
    Ok(())
}

/// How often the supervisor has started a daemon again, and its process.
fn started(cluster: &mut Cluster, name: &str) -> Result<(u32, Proc)> {
    cluster.reload()?;
    let daemon = cluster.daemon(name)?;
    Ok((daemon.restarts, daemon.process.context("never started")?))
}

#[test]
fn an_outage_of_the_api_server_beyond_all_leases_heals_by_itself() -> Result<()> {
    let _alone = ALONE.lock();
    let mut cluster = cluster()?;
    let readers = cluster.clone();
    let namespace = Namespace::create(&readers, "chaos-outage")?;
    namespace.apply(GUESTBOOK)?;
    namespace.kubectl(&["rollout", "status", "deployment/guestbook", "--timeout=180s"])?;
    let leaders = ["kube-controller-manager", "kube-scheduler", "cloud-controller-manager"];
    let before = leaders.map(|name| started(&mut cluster, name).map_or(0, |(restarts, _)| restarts));
    cluster.kill("kube-apiserver", Signal::SIGKILL)?;
    let lost = leaders.iter().zip(before).try_for_each(|(name, before)| {
        eventually("a daemon that lost its lease to be started again", || {
            let (now, _) = started(&mut cluster, name)?;
            ensure!(now > before, "{name} was started again {now} times");
            Ok(())
        })
    });
    let stopped = cluster.dead().contains(&"kube-apiserver".to_owned());
    cluster.start("kube-apiserver")?;
    lost?;
    ensure!(stopped, "a daemon that was killed through us was started by the supervisor");
    eventually("the API server", || cluster.kubectl_ok(&["get", "--raw", "/readyz"]))?;
    // The controller manager and the scheduler work again.
    namespace.kubectl(&["scale", "deployment/guestbook", "--replicas=5"])?;
    converged(&readers, &namespace)
}

#[test]
fn kube_proxy_cleans_up_after_itself_and_starts_anew() -> Result<()> {
    let _alone = ALONE.lock();
    let mut cluster = cluster()?;
    let readers = cluster.clone();
    let namespace = Namespace::create(&readers, "chaos-proxy")?;
    namespace.apply(GUESTBOOK)?;
    converged(&readers, &namespace)?;
    cluster.kill("kube-proxy-n2", Signal::SIGTERM)?;
    ensure!(readers.run_on("n2", &["nft", "list", "tables"])?.contains("kube-proxy"), "rules must outlive the daemon");
    let program = readers.daemon("kube-proxy-n2")?.argv[0].clone();
    readers.run_on("n2", &[&program, "--cleanup"])?;
    let tables = readers.run_on("n2", &["nft", "list", "tables"]);
    cluster.start("kube-proxy-n2")?;
    let tables = tables?;
    ensure!(!tables.contains("kube-proxy"), "{tables}");
    converged(&readers, &namespace)
}
