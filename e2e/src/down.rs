//! Takes a cluster down, also one that crashed half-way: no process, mount, namespace, cgroup or file is left behind.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    cgroup, node,
    process::{Proc, wait_for},
    state::{Cluster, NodeState},
    up::cgroup_name,
};

/// Ends everything that the record in `root` names, and removes `root`.
///
/// # Errors
/// When something can't be ended or removed; the record stays, so that `down` can be repeated.
pub fn down(root: &Path) -> Result<()> {
    let mut cluster = Cluster::open(root)?;
    cluster.end_supervisor()?;
    // Daemons first, politely: the API server syncs its store, the kubelet stops writing.
    for daemon in cluster.state.daemons.values() {
        if let Some(process) = daemon.process {
            process.signal(Signal::SIGTERM)?;
        }
    }
    let processes = || cluster.state.daemons.values().filter_map(|daemon| daemon.process);
    wait_for(Duration::from_secs(5), || !processes().any(Proc::alive));
    let mut left = Vec::new();
    for machine in &cluster.state.nodes {
        left.extend(end_machine(&cluster, machine)?);
    }
    if !left.is_empty() {
        bail!("could not remove {}", left.join(", "));
    }
    fs::remove_dir_all(cluster.layout.root()).with_context(|| format!("removing {}", cluster.layout.root().display()))
}

/// Ends one machine; returns what is left of it.
fn end_machine(cluster: &Cluster, machine: &NodeState) -> Result<Vec<String>> {
    let mut left = Vec::new();
    if machine.runs_pods {
        let groups = cgroup::remove(&cgroup_name(cluster, &machine.name))?;
        left.extend(groups.into_iter().map(|group| format!("cgroup {}", group.display())));
    }
    let gone = wait_for(Duration::from_secs(10), || {
        let all = node::processes(machine);
        for process in &all {
            let _ = process.signal(Signal::SIGKILL);
        }
        all.is_empty()
    });
    if !gone {
        left.push(format!("processes of node {}", machine.name));
    }
    // Killing the shims can leave groups that only they were about to remove.
    if machine.runs_pods {
        cgroup::remove(&cgroup_name(cluster, &machine.name))?;
    }
    Ok(left)
}
