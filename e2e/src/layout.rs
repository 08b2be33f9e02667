//! Where a cluster's files live: everything below one directory, so that removing it removes the cluster's state.

use std::path::{Path, PathBuf};

/// Paths below the state directory of one cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// A layout rooted at `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The state directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that records nodes, processes and options.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// A certificate, key or other file of the cluster's PKI.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.root.join("pki").join(file)
    }

    /// The kubeconfig of one identity, e.g. `admin`, `kube-scheduler`, `kubelet-n1`.
    pub fn kubeconfig(&self, identity: &str) -> PathBuf {
        self.root.join("kubeconfig").join(identity)
    }

    /// A configuration file of a daemon.
    pub fn config(&self, file: &str) -> PathBuf {
        self.root.join("config").join(file)
    }

    /// The log of a daemon, e.g. `kubelet-n1`.
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.root.join("logs").join(format!("{daemon}.log"))
    }

    /// The private part of a node's file system.
    pub fn node(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// The control plane's data: the embedded store or etcd.
    pub fn data(&self, what: &str) -> PathBuf {
        self.root.join("data").join(what)
    }
}
