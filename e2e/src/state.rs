//! What is recorded of a running cluster, so that a later command, or a clean-up after a crash, can find everything again.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{layout::Layout, process::Proc};

/// A machine of the cluster: a process that holds its namespaces open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeState {
    /// Host name.
    pub name: String,
    /// IPv4 address on the cluster's bridge.
    pub ip: String,
    /// The process that holds the network, mount and UTS namespaces.
    pub holder: Proc,
    /// Inode of the mount namespace: whoever lives in it belongs to the node.
    pub mount_namespace: u64,
    /// Inode of the network namespace.
    pub network_namespace: u64,
    /// Whether a kubelet runs here.
    pub runs_pods: bool,
}

/// A daemon: how it was started, so that it can be started again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DaemonState {
    /// The node whose namespaces it runs in.
    pub node: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment on top of the inherited one.
    pub env: BTreeMap<String, String>,
    /// The last process started.
    pub process: Option<Proc>,
    /// Whether it shall run: the supervisor starts it again when it ended, unless it was ended through us.
    pub wanted: bool,
    /// How often the supervisor has started it again.
    pub restarts: u32,
}

/// The record of one cluster, kept in `state.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Short name: prefix of cgroups.
    pub name: String,
    /// The `cluster` program, which is also the supervisor.
    pub program: PathBuf,
    /// The process that starts daemons again when they end; there is none before `up` is done.
    pub supervisor: Option<Proc>,
    /// The bridge's namespace first, then the control plane, then the workers.
    pub nodes: Vec<NodeState>,
    /// By name, e.g. `kube-apiserver`, `kubelet-n1`.
    pub daemons: BTreeMap<String, DaemonState>,
}

/// A cluster on disk and in memory.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Where its files are.
    pub layout: Layout,
    /// What runs.
    pub state: State,
}

/// The namespace that holds the bridge.
pub(crate) const SWITCH: &str = "switch";
/// The machine of the control plane. It runs pods only when the control plane is made of static pods.
pub(crate) const CONTROL_PLANE: &str = "cp";

impl Cluster {
    /// Opens the cluster whose state directory is `root`.
    ///
    /// # Errors
    /// When there is none, or its record can't be read.
    pub fn open(root: &Path) -> Result<Self> {
        let layout = Layout::new(root);
        let file = layout.state_file();
        if !file.exists() {
            bail!("no cluster at {}: run `up` first", root.display());
        }
        let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let state = serde_json::from_slice(&text).with_context(|| format!("parsing {}", file.display()))?;
        Ok(Self { layout, state })
    }

    /// Waits until nobody else changes the record; the lock goes with the returned file, also when its process dies.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.layout.state_file().with_extension("lock");
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        file.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(file)
    }

    /// Changes the record under the lock: the supervisor and other commands change it too.
    pub(crate) fn update<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        self.reload()?;
        let value = change(self)?;
        self.save()?;
        Ok(value)
    }

    /// Writes the record; atomically, so that a crash leaves the old or the new one.
    pub(crate) fn save(&self) -> Result<()> {
        let file = self.layout.state_file();
        let temporary = file.with_extension("tmp");
        std::fs::write(&temporary, serde_json::to_vec_pretty(&self.state)?)?;
        std::fs::rename(&temporary, &file).with_context(|| format!("writing {}", file.display()))
    }

    /// The machine of that name.
    ///
    /// # Errors
    /// When the cluster has none of that name.
    pub fn node(&self, name: &str) -> Result<&NodeState> {
        self.state
            .nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| format!("no node {name}; there are {}", self.names().join(", ")))
    }

    /// The nodes that run pods.
    pub fn workers(&self) -> impl Iterator<Item = &NodeState> {
        self.state.nodes.iter().filter(|node| node.runs_pods)
    }

    fn names(&self) -> Vec<&str> {
        self.state.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    /// Re-reads the record: another process may have restarted a daemon.
    ///
    /// # Errors
    /// As [`Cluster::open`].
    pub fn reload(&mut self) -> Result<()> {
        *self = Self::open(self.layout.root())?;
        Ok(())
    }
}
