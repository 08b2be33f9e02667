//! The local cluster: nodes as network namespaces on a private bridge without a route out, real containerd, runc and
//! CNI, and a path per component so that any of the six daemons can be swapped. People, tests and benches share it.
#![doc = "See docs/local-cluster.md."]

pub mod bench;
mod cgroup;
mod daemons;
mod down;
pub mod image;
mod kubectl;
mod layout;
mod manifests;
mod node;
mod options;
pub mod pki;
mod process;
mod state;
mod static_pods;
mod supervisor;
pub mod testing;
mod up;

pub use daemons::Component;
pub use down::down;
pub use kubectl::{Output, inside};
pub use layout::Layout;
pub use options::{ControlPlane, Options};
pub use process::{Proc, run, spawn};
pub use state::{Cluster, State};
pub use supervisor::supervise;
pub use up::up;
