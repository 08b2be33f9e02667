//! Pods on this node: where they come from, one worker per pod, and what others may ask about them.
//!
//! ```text
//!  static files ─┐                        ┌─ worker(pod a): Syncing -> Terminating -> Terminated
//!                ├─> PodManager ── mail ──┤
//!  apiserver ────┘        ^               └─ worker(pod b) ...
//!                         └── PLEG, probes, objects: "look again"
//! ```

pub(crate) mod actions;
pub(crate) mod admission;
pub(crate) mod api_source;
pub(crate) mod backoff;
pub(crate) mod conditions;
pub(crate) mod defaults;
pub(crate) mod dns;
pub(crate) mod env;
pub(crate) mod fields;
pub(crate) mod hooks;
pub(crate) mod hosts;
pub(crate) mod housekeeping;
mod kill;
mod mailbox;
mod manager;
pub(crate) mod messages;
pub(crate) mod mirror;
pub(crate) mod phase;
mod preemption;
pub(crate) mod resize;
pub(crate) mod services;
pub(crate) mod spec;
mod start;
pub(crate) mod static_source;
pub(crate) mod status;
pub(crate) mod status_manager;
pub(crate) mod surroundings;
mod sync;
pub(crate) mod url_source;
mod worker;

pub(crate) use manager::Entry;
pub use manager::{PodManager, PodRecord};
