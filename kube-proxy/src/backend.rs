//! What the sync loop asks of a mode, whatever it programs. Blocking: the loop calls it from a thread for that.

use ipnet::IpNet;

use crate::{
    iptables::IptablesError,
    model::{Routed, ServiceKey},
    nftables::NftError,
};

/// Changes besides Services and endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Ranges of cluster IPs, of both families.
    pub service_cidrs: Vec<IpNet>,
    /// Endpoints of all service ports.
    pub endpoints: usize,
}

/// One Service as it was routed when rules were written last, and as it is to be routed.
#[derive(Debug)]
pub(crate) struct ServiceChange {
    pub service: ServiceKey,
    pub old: Vec<Routed>,
    pub new: Vec<Routed>,
}

/// What a sync wrote, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    /// Rules are right, but something old could not be removed.
    pub cleanup_failed: bool,
    /// iptables only: rules of ours in the tables filter and nat, and those written now.
    pub rules: Option<[(usize, usize); 2]>,
}

/// Why rules could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    #[error(transparent)]
    Nftables(#[from] NftError),
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// The thread that wrote rules ended before it was done.
    #[error("writing rules was cut short")]
    Lost,
}

/// One mode in one family. After an error the next call must be [`Backend::full`].
pub(crate) trait Backend: Send {
    /// Makes the rules be these, whatever was there.
    ///
    /// # Errors
    /// When the kernel or a program refuses; what was there is whole or in parts still there.
    fn full(&mut self, all: &[Routed], around: &Surroundings) -> Result<Applied, BackendError>;

    /// Changes the rules of some Services.
    ///
    /// # Errors
    /// As [`Backend::full`].
    fn partial(&mut self, changed: &[ServiceChange], around: &Surroundings) -> Result<Applied, BackendError>;

    /// Whether the rules are still there, as far as a quick look tells.
    fn is_intact(&mut self) -> bool;
}
