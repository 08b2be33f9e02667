//! A cgroup root per node, in every hierarchy of v1 and in v2: two kubelets below one root would delete each other's pods.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::{Proc, wait_for};

/// Mount points of all cgroup hierarchies.
fn hierarchies() -> Result<Vec<(PathBuf, bool)>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (_, target, kind) = (words.next()?, words.next()?, words.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| (PathBuf::from(target), kind == "cgroup2"))
        })
        .collect())
}

/// Creates `/name` in every hierarchy, ready to hold pods.
pub fn create(name: &str) -> Result<()> {
    for (root, v2) in hierarchies()? {
        let group = root.join(name);
        if v2 {
            // Fails for controllers that are bound to v1: then there is nothing to delegate.
            for controller in ["cpuset", "cpu", "io", "memory", "pids"] {
                let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        fs::create_dir_all(&group).with_context(|| format!("creating cgroup {}", group.display()))?;
        if !v2 {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(root.join(file)) {
                    fs::write(group.join(file), value).with_context(|| format!("filling {file}"))?;
                }
            }
        }
    }
    Ok(())
}

fn descend(group: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        descend(&entry.path(), visit);
    }
    visit(group);
}

fn members(group: &Path) -> Vec<Proc> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter_map(Proc::of).collect()
}

fn groups(name: &str) -> Result<Vec<PathBuf>> {
    Ok(hierarchies()?.into_iter().map(|(root, _)| root.join(name)).collect())
}

/// Kills every process below `/name`, and waits until they are gone.
pub fn kill(name: &str) -> Result<()> {
    let groups = groups(name)?;
    wait_for(Duration::from_secs(10), || {
        let mut left = 0;
        for group in &groups {
            descend(group, &mut |group| {
                for process in members(group) {
                    left += 1;
                    let _ = process.signal(Signal::SIGKILL);
                }
            });
        }
        left == 0
    });
    Ok(())
}

/// Kills every process below `/name` and removes the groups. Returns what could not be removed.
pub fn remove(name: &str) -> Result<Vec<PathBuf>> {
    kill(name)?;
    let groups = groups(name)?;
    wait_for(Duration::from_secs(5), || {
        for group in &groups {
            descend(group, &mut |group| {
                let _ = fs::remove_dir(group);
            });
        }
        groups.iter().all(|group| !group.exists())
    });
    Ok(groups.into_iter().filter(|group| group.exists()).collect())
}
