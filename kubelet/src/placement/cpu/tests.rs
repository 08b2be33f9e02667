//! The static policy on a machine of two sockets with two NUMA nodes each, four cores per node, two threads per core.

use clap::Parser;
use serde_json::json;

use super::*;
use crate::placement::topology::fixtures::machine;

fn config(root: &std::path::Path, flags: &[&str]) -> Config {
    let root = format!("--root-dir={}", root.display());
    let all =
        ["kubelet", "--hostname-override=n", "--fail-swap-on=false", &root].into_iter().chain(flags.iter().copied());
    Config::complete(&crate::Options::try_parse_from(all).unwrap()).unwrap()
}

fn manager(root: &std::path::Path, flags: &[&str]) -> anyhow::Result<Option<Manager>> {
    let all: Vec<&str> = ["--cpu-manager-policy=static"].into_iter().chain(flags.iter().copied()).collect();
    Manager::new(&config(root, &all), &machine(2, 2, 4, 2), CpuSet::default(), Policy::Restricted)
}

fn pod(uid: &str, cpus: &[(&str, &str)]) -> Pod {
    let containers: Vec<_> = cpus
        .iter()
        .map(|(name, cpu)| {
            let amounts = json!({"cpu": cpu, "memory": "1Gi"});
            json!({"name": name, "resources": {"requests": amounts, "limits": amounts}})
        })
        .collect();
    let (inits, rest): (Vec<_>, Vec<_>) =
        containers.into_iter().partition(|c| c["name"].as_str().is_some_and(|name| name.starts_with("init")));
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"initContainers": inits, "containers": rest}}))
        .unwrap()
}

async fn allocate(manager: &Manager, pod: &Pod, affinity: Hint) -> Result<Vec<String>, Refusal> {
    let mut sets = Vec::new();
    for container in crate::placement::containers(pod) {
        manager.allocate(pod, container, affinity).await?;
        sets.push(manager.cpus_of(spec::uid(pod), &container.name).to_string());
    }
    Ok(sets)
}

#[tokio::test]
async fn whole_cpus_are_ones_own_and_survive_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let flags = ["--kube-reserved=cpu=500m", "--system-reserved=cpu=500m"];
    let first = manager(root.path(), &flags).unwrap().unwrap();
    assert_eq!(first.allocatable().to_string(), "1-31");
    let sets = allocate(&first, &pod("a", &[("c", "4"), ("shared", "1500m")]), Hint::default()).await.unwrap();
    assert_eq!(sets, ["1-2,17-18", "0,3-16,19-31"]);
    let second = manager(root.path(), &flags).unwrap().unwrap();
    assert_eq!(second.cpus_of("a", "c").to_string(), "1-2,17-18");
    assert!(second.lifts_quota("a", "c") && !second.lifts_quota("a", "shared") && second.lifts_pod_quota("a"));
    // What an init container had is had by the next one.
    let staged = pod("b", &[("init", "4"), ("main", "2")]);
    assert_eq!(allocate(&second, &staged, Hint::default()).await.unwrap(), ["3-4,19-20", "3,19"]);
    second.retain(&|uid| uid == "b");
    assert_eq!(second.cpus_of("x", "y").to_string(), "0-2,5-18,21-31");
    second.retain(&|_| false);
    assert_eq!(second.cpus_of("x", "y").to_string(), "0-31");
    let error = Manager::new(&config(root.path(), &flags), &machine(2, 2, 4, 2), CpuSet::default(), Policy::None);
    let error = error.err().unwrap().to_string();
    assert!(error.contains("configured policy \"none\" differs from state checkpoint policy \"static\""), "{error}");
}

#[tokio::test]
async fn affinity_and_options_decide_where() {
    for (options, affinity, count, want) in [
        ("", Some(2), "2", Ok("8,24")),
        ("align-by-socket=true", Some(2), "10", Ok("8-12,24-28")),
        ("full-pcpus-only=true", None, "2", Ok("1,17")),
        (
            "full-pcpus-only=true",
            None,
            "3",
            Err("SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"),
        ),
        ("distribute-cpus-across-numa=true", None, "10", Ok("4-8,20-24")),
        (
            "",
            None,
            "32",
            Err(
                "Allocate failed due to not enough cpus available to satisfy request: requested=32, available=31, which is unexpected",
            ),
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        let options = format!("--cpu-manager-policy-options={options}");
        let flags = ["--kube-reserved=cpu=1", "--feature-gates=CPUManagerPolicyAlphaOptions=true", &options];
        let manager = manager(root.path(), &flags).unwrap().unwrap();
        let affinity = Hint { nodes: affinity.map(|node| Mask::of([node])), preferred: true };
        let outcome = allocate(&manager, &pod("a", &[("c", count)]), affinity).await;
        match (outcome, want) {
            (Ok(sets), Ok(want)) if !options.ends_with("numa=true") => assert_eq!(sets[0], want, "{options}"),
            (Ok(sets), Ok(_)) => assert_eq!(sets[0].parse::<CpuSet>().unwrap().len(), 10),
            (Err(refusal), Err(want)) => assert_eq!(refusal.message, want),
            (outcome, want) => panic!("{options}: {outcome:?}, want {want:?}"),
        }
    }
}

#[test]
fn hints_prefer_the_fewest_nodes() {
    let root = tempfile::tempdir().unwrap();
    let manager = manager(root.path(), &["--kube-reserved=cpu=1"]).unwrap().unwrap();
    let hints = |cpus: &str| {
        let pod = pod("a", &[("c", cpus)]);
        let of_pod = manager.pod_hints(&pod);
        let hints = manager.hints(&pod, &pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!(hints, of_pod);
        hints.get("cpu").cloned().flatten()
    };
    let preferred = |cpus: &str| -> Vec<Vec<usize>> {
        let hints = hints(cpus).unwrap();
        hints.into_iter().filter(|hint| hint.preferred).map(|hint| hint.nodes.unwrap().nodes()).collect()
    };
    // Of node 0 one CPU is reserved.
    assert_eq!(preferred("8"), [vec![1], vec![2], vec![3]]);
    assert_eq!(preferred("7"), [vec![0], vec![1], vec![2], vec![3]]);
    assert_eq!(preferred("16"), [vec![1, 2], vec![1, 3], vec![2, 3]]);
    assert!(preferred("32").is_empty());
    assert_eq!(hints("1500m"), None);
}

#[test]
fn the_start_is_refused_with_a_reason() {
    for (flags, want) in [
        (&[][..], "requires systemreserved.cpu + kubereserved.cpu to be greater than zero"),
        (&["--kube-reserved=cpu=1", "--cpu-manager-policy-options=nope=true"], "unknown CPU Manager Policy option"),
        (&["--kube-reserved=cpu=33"], "unable to reserve the required amount of CPUs"),
        (&["--cpu-manager-policy=dynamic"], "unknown policy: \"dynamic\""),
    ] {
        let root = tempfile::tempdir().unwrap();
        let error = manager(root.path(), flags).err().unwrap().to_string();
        assert!(error.contains(want), "{error}");
    }
}
