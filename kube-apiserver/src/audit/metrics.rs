//! `apiserver_audit_*`.

use std::sync::LazyLock;

use common::telemetry::register;
use prometheus::{IntCounter, IntCounterVec, Opts};

use super::policy::Level;

fn counter(name: &str, help: &str) -> IntCounter {
    register(IntCounter::new(name, help).expect("constant metric"))
}

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), &[label]).expect("constant metric"))
}

/// Events that were handed to the backends.
pub fn event() {
    static EVENTS: LazyLock<IntCounter> = LazyLock::new(|| {
        counter("apiserver_audit_event_total", "Counter of audit events generated and sent to the audit backend.")
    });
    EVENTS.inc();
}

/// Events that a backend could not record.
pub fn failed(plugin: &str, events: usize, error: &dyn std::fmt::Display) {
    static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
        let help = "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.";
        counters("apiserver_audit_error_total", help, "plugin")
    });
    ERRORS.with_label_values(&[plugin]).inc_by(events as u64);
    tracing::error!(plugin, events, %error, "Error in audit plugin");
}

/// Requests by what the policy says about them.
pub fn level(level: Level) {
    static LEVELS: LazyLock<IntCounterVec> = LazyLock::new(|| {
        let help = "Counter of policy levels for audit events (1 per request).";
        counters("apiserver_audit_level_total", help, "level")
    });
    LEVELS.with_label_values(&[level.as_str()]).inc();
}

/// Requests that were refused because they could not be recorded.
pub fn rejected() {
    static REJECTED: LazyLock<IntCounter> = LazyLock::new(|| {
        let help = "Counter of apiserver requests rejected due to an error in audit logging backend.";
        counter("apiserver_audit_requests_rejected_total", help)
    });
    REJECTED.inc();
}
