//! Volumes whose contents outlive the pod or come from elsewhere: CSI, local and NFS volumes.
//!
//! ```text
//!  wanted ──> attached (by the controller) ──> staged on the node ──> mounted for the pod
//!                                                   │                       │
//!                no pod has it: unstaged <──────────┴── pod ended: unmounted ┘
//! ```
//! [`book`] remembers how far each volume is; before a driver is called it says "perhaps", so that whatever happens, what
//! may be mounted is taken down one day. Operations on one volume never overlap.

mod backoff;
mod book;
pub(super) mod device;
mod expand;
mod local;
mod manager;
mod mount;
mod nfs;
mod reconstruct;
mod resolve;
mod unmount;

use std::path::PathBuf;

pub(crate) use manager::VolumeManager;
pub(super) use mount::{Problem, ensure, is_node_full, published_path};
pub(crate) use reconstruct::reconstruct;
pub(super) use resolve::{Resolved, Uses, resolve};
pub(crate) use unmount::run as run_janitor;
pub(super) use unmount::tear_down_pod;

use super::csi;

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Csi(Box<csi::Volume>),
    /// A directory or a block device of the node.
    Local {
        path: PathBuf,
        fs_type: String,
    },
    /// `server:/path`.
    Nfs(String),
}

/// A claim that a volume is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Bytes that the volume has, and those that the claim knows of.
    pub(super) volume_size: i64,
    pub(super) known_size: i64,
}

/// A volume as a pod wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct External {
    /// Upstream's name for it on the node: `kubernetes.io/csi/<driver>^<handle>`.
    pub(crate) unique: String,
    /// Of the PersistentVolume, or in the pod when there is none.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The pod gets the device itself.
    pub(crate) block: bool,
    pub(crate) read_only: bool,
    pub(crate) mount_options: Vec<String>,
    pub(crate) access_modes: Vec<String>,
    pub(crate) claim: Option<Claim>,
}

impl External {
    /// Its part of directory names.
    pub(crate) fn plugin(&self) -> &'static str {
        match self.kind {
            Kind::Csi(_) => "csi",
            Kind::Local { .. } => "local-volume",
            Kind::Nfs(_) => "nfs",
        }
    }

    /// There is something to do once per node.
    pub(super) fn is_staged(&self) -> bool {
        match &self.kind {
            Kind::Csi(source) => !source.ephemeral,
            Kind::Local { .. } => true,
            Kind::Nfs(_) => false,
        }
    }
}

/// What a failed step leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Everything is as before.
    #[error("{0}")]
    NotBegun(String),
    /// It was tried, and is not there.
    #[error("{0}")]
    Final(String),
    /// It may be there.
    #[error("{0}")]
    Uncertain(String),
}
