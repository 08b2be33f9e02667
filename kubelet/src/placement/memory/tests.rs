//! The static policy on two NUMA nodes of 8 GiB, of which 1 GiB each is kept back.

use clap::Parser;
use serde_json::json;

use super::*;
use crate::placement::topology::fixtures;

fn config(root: &std::path::Path, reserved: &str) -> Config {
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmemoryManagerPolicy: Static\nfailSwapOn: false\nevictionHard: {{memory.available: 512Mi}}\nkubeReserved: {{memory: 1536Mi}}\nreservedMemory: {reserved}\n"
    );
    let path = root.join("config.yaml");
    std::fs::write(&path, text).unwrap();
    let flags = [format!("--config={}", path.display()), format!("--root-dir={}", root.display())];
    let all = ["kubelet".to_owned(), "--hostname-override=n".to_owned()].into_iter().chain(flags);
    Config::complete(&crate::Options::try_parse_from(all).unwrap()).unwrap()
}

const GOOD: &str = "[{numaNode: 0, limits: {memory: 1Gi}}, {numaNode: 1, limits: {memory: 1Gi}}]";

fn manager(root: &std::path::Path, reserved: &str) -> anyhow::Result<Manager> {
    Manager::new(&config(root, reserved), &fixtures::machine(2, 1, 4, 2)).map(Option::unwrap)
}

fn pod(uid: &str, memory: &[(&str, &str)]) -> Pod {
    let of = |(name, memory): &(&str, &str)| {
        let amounts = json!({"cpu": "1", "memory": memory});
        json!({"name": name, "resources": {"requests": amounts, "limits": amounts}})
    };
    let (inits, rest): (Vec<_>, Vec<_>) = memory.iter().partition(|(name, _)| name.starts_with("init"));
    let list = |list: Vec<(&str, &str)>| list.iter().map(of).collect::<Vec<_>>();
    serde_json::from_value(
        json!({"metadata": {"uid": uid}, "spec": {"initContainers": list(inits), "containers": list(rest)}}),
    )
    .unwrap()
}

async fn allocate(manager: &Manager, pod: &Pod, affinity: Hint) -> Result<Vec<String>, String> {
    let mut nodes = Vec::new();
    for container in crate::placement::containers(pod) {
        manager.allocate(pod, container, affinity).await.map_err(|refusal| refusal.message)?;
        nodes.push(manager.nodes_of(spec::uid(pod), &container.name).to_string());
    }
    Ok(nodes)
}

#[tokio::test]
async fn memory_is_of_one_node_if_one_has_enough() {
    let root = tempfile::tempdir().unwrap();
    let first = manager(root.path(), GOOD).unwrap();
    assert_eq!(allocate(&first, &pod("a", &[("c", "5Gi")]), Hint::default()).await.unwrap(), ["0"]);
    assert_eq!(allocate(&first, &pod("b", &[("c", "3Gi")]), Hint::default()).await.unwrap(), ["1"]);
    let hints = first.hints(&pod("x", &[("c", "4Gi")]), &pod("x", &[("c", "4Gi")]).spec.unwrap().containers[0]);
    assert_eq!(hints["memory"], Some(vec![Hint { nodes: Some(Mask::of([1])), preferred: true }]));
    // Nodes that serve alone do not serve together.
    let error = allocate(&first, &pod("c", &[("c", "6Gi")]), Hint::default()).await.unwrap_err();
    assert!(error.contains("no NUMA nodes with enough memory is available"), "{error}");
    let second = manager(root.path(), GOOD).unwrap();
    assert_eq!(second.nodes_of("a", "c").to_string(), "0");
    second.retain(&|_| false);
    assert_eq!(allocate(&second, &pod("d", &[("c", "10Gi")]), Hint::default()).await.unwrap(), ["0-1"]);
    let left = allocate(&second, &pod("e", &[("c", "1Gi")]), Hint::default()).await.unwrap();
    assert_eq!(left, ["0-1"], "nodes that serve as a group serve nobody alone");
    second.retain(&|_| false);
    let free = second.inner.lock();
    assert!(free.state.machine.values().all(|node| node.assignments == 0 && node.memory[MEMORY].free == 7 << 30));
}

#[tokio::test]
async fn init_containers_leave_their_memory_to_the_next() {
    let root = tempfile::tempdir().unwrap();
    let manager = manager(root.path(), GOOD).unwrap();
    let hint = Hint { nodes: Some(Mask::of([0])), preferred: true };
    allocate(&manager, &pod("a", &[("init-1", "4Gi"), ("init-2", "3Gi"), ("main", "5Gi")]), hint).await.unwrap();
    let free = |manager: &Manager| manager.inner.lock().state.machine[&0].memory[MEMORY].free >> 30;
    assert_eq!(free(&manager), 2);
    manager.retain(&|_| false);
    assert_eq!(free(&manager), 7);
}

#[test]
fn reservations_must_add_up() {
    for (reserved, want) in [
        ("[]", "the reserved memory configuration is required"),
        ("[{numaNode: 0, limits: {memory: 1Gi}}]", "determined by Node Allocatable feature"),
        ("[{numaNode: 7, limits: {memory: 2Gi}}]", "references a NUMA node 7 that does not exist"),
        ("[{numaNode: 0, limits: {cpu: 2}}]", "the limit type \"cpu\" for NUMA node 0 is not supported"),
        ("[{numaNode: 0, limits: {memory: 0}}]", "reserved memory may not be zero"),
        ("[{numaNode: 0, limits: {memory: 2Gi}}, {numaNode: 0, limits: {memory: 1Gi}}]", "has a duplicate value"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let error = manager(root.path(), reserved).err().unwrap().to_string();
        assert!(error.contains(want), "{reserved}: {error}");
    }
}
