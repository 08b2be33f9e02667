//! What a cluster is made of.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use ring::digest::{SHA256, digest};

use crate::daemons::{Component, beside_this_program};

/// How the control plane runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ControlPlane {
    /// As daemons of the machine `cp`, on which no pods run.
    #[default]
    Daemons,
    /// As static pods of the kubelet on `cp`, from images and with etcd, as kubeadm sets a machine up.
    StaticPods,
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept.
    pub root: PathBuf,
    /// Prefix of cgroup names; by default one that only this directory has.
    pub name: Option<String>,
    /// How the control plane runs.
    pub control_plane: ControlPlane,
    /// Number of nodes that run pods beside the control plane.
    pub nodes: usize,
    /// Keep the state in etcd instead of the API server's embedded store. Static pods always do.
    pub etcd: bool,
    /// Paths of components that are not beside this program.
    pub components: BTreeMap<Component, PathBuf>,
    /// The container runtime.
    pub containerd: PathBuf,
    /// Install the cluster DNS addon.
    pub dns: bool,
    /// Pods' addresses.
    pub pod_cidr: String,
    /// Services' addresses.
    pub service_cidr: String,
    /// The cluster DNS service's address.
    pub dns_address: String,
}

impl Options {
    /// Two nodes, embedded store, components beside this program.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            name: None,
            control_plane: ControlPlane::Daemons,
            nodes: 2,
            etcd: false,
            components: BTreeMap::new(),
            containerd: "/usr/bin/containerd".into(),
            dns: true,
            pod_cidr: "10.244.0.0/16".into(),
            service_cidr: "10.96.0.0/16".into(),
            dns_address: "10.96.0.10".into(),
        }
    }

    /// The program of a component.
    pub(crate) fn path(&self, component: Component) -> String {
        let default = || beside_this_program().join(component.binary());
        self.components.get(&component).cloned().unwrap_or_else(default).display().to_string()
    }

    /// The cluster's name: the given one, or one made of its directory, so that clusters beside each other differ.
    pub(crate) fn name(&self, root: &Path) -> String {
        self.name.clone().unwrap_or_else(|| {
            let hash = digest(&SHA256, root.as_os_str().as_encoded_bytes());
            let hex: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("corten-{hex}")
        })
    }

    /// What must hold before anything is started.
    pub(crate) fn check(&self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a cluster needs root: it makes network namespaces, mounts and cgroups");
        }
        if self.nodes == 0 || self.nodes > 50 {
            bail!("--nodes={} is not between 1 and 50", self.nodes);
        }
        let mut programs: Vec<PathBuf> = Component::ALL.map(|component| self.path(component).into()).to_vec();
        programs.push(self.containerd.clone());
        programs.push(beside_this_program().join("cluster"));
        if self.control_plane == ControlPlane::StaticPods {
            let on_nodes = [Component::Kubelet, Component::Proxy];
            if let Some(component) = self.components.keys().find(|component| !on_nodes.contains(component)) {
                bail!("--{component}=PATH is for a control plane of daemons: static pods run images");
            }
            programs.push("/usr/bin/etcd".into());
        }
        for program in programs {
            if !program.exists() {
                bail!("{} does not exist: build it, or give another path", program.display());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_in_two_directories_have_two_names() {
        let options = Options::new("unused");
        let name = options.name(Path::new("/a"));
        assert_ne!(name, options.name(Path::new("/b")));
        assert_eq!(name, options.name(Path::new("/a")));
        assert!(name.strip_prefix("corten-").is_some_and(|hash| hash.len() == 8), "{name}");
        let given = Options { name: Some("mine".into()), ..options };
        assert_eq!(given.name(Path::new("/a")), "mine");
    }
}
