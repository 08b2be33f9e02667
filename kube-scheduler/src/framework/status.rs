//! The verdict of a plugin: a code, the plugin's name and its reasons.

use std::borrow::Cow;
use std::sync::Arc;

/// Upstream's status codes (success is expressed by `Ok`, skip by the outcome types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// An internal failure; the pod is retried with back-off.
    Error,
    /// The pod does not fit; preempting other pods might help.
    Unschedulable,
    /// The pod does not fit and preemption cannot help.
    UnschedulableAndUnresolvable,
    /// The pod waits for something outside of the scheduler.
    Pending,
}

impl Code {
    /// Upstream's spelling, as used in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "Error",
            Self::Unschedulable => "Unschedulable",
            Self::UnschedulableAndUnresolvable => "UnschedulableAndUnresolvable",
            Self::Pending => "Pending",
        }
    }
}

/// Why a plugin did not say yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What kind of no.
    pub code: Code,
    /// The plugin that said it; empty for the framework itself.
    pub plugin: &'static str,
    /// Reasons, one per fact, in upstream's words.
    pub reasons: Vec<Cow<'static, str>>,
}

impl Status {
    /// A status with one reason.
    pub fn new(code: Code, plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, plugin, reasons: vec![reason.into()] }
    }

    /// A shared `Unschedulable` status.
    pub fn unschedulable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Arc<Self> {
        Arc::new(Self::new(Code::Unschedulable, plugin, reason))
    }

    /// A shared `UnschedulableAndUnresolvable` status.
    pub fn unresolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Arc<Self> {
        Arc::new(Self::new(Code::UnschedulableAndUnresolvable, plugin, reason))
    }

    /// A shared `Error` status.
    pub fn error(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Arc<Self> {
        Arc::new(Self::new(Code::Error, plugin, reason))
    }

    /// Whether the pod was refused (as opposed to an internal error).
    pub fn is_rejected(&self) -> bool {
        self.code != Code::Error
    }

    /// The reasons joined as upstream joins them.
    pub fn message(&self) -> String {
        self.reasons.join(", ")
    }
}

/// What a filter answers for one node.
pub type Verdict = Result<(), Arc<Status>>;
