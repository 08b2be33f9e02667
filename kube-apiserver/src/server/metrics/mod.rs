//! What the server reports about requests, under upstream's names and labels.
//!
//! The label values of a route are resolved once and kept: counting a request is a look-up of static keys and a few
//! atomic additions.

mod body;
mod requests;

use std::{sync::OnceLock, time::Duration};

use common::telemetry::register;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, exponential_buckets,
};

pub use body::observe;
pub use requests::{Kind, Request, dropped, termination};

/// What the `component` label says.
const COMPONENT: &str = "apiserver";

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), labels).expect("constant metric"))
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(name, help), labels).expect("constant metric"))
}

fn histogram(name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> HistogramVec {
    register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels).expect("constant metric"))
}

/// How an attempt to authenticate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// There is a user.
    Success,
    /// No mechanism knows the credentials, or there are none.
    Failure,
    /// Credentials that are wrong.
    Error,
}

struct Access {
    users: IntCounterVec,
    attempts: [(IntCounter, Histogram); 3],
    verdicts: [(IntCounter, Histogram); 3],
}

fn access() -> &'static Access {
    static ACCESS: OnceLock<Access> = OnceLock::new();
    ACCESS.get_or_init(|| {
        let buckets = || exponential_buckets(0.001, 2.0, 15).expect("constant buckets");
        let attempts = counter("authentication_attempts", "Counter of authenticated attempts.", &["result"]);
        let took = histogram(
            "authentication_duration_seconds",
            "Authentication duration in seconds broken out by result.",
            &["result"],
            buckets(),
        );
        let authorizations = counter(
            "authorization_attempts_total",
            "Counter of authorization attempts broken down by result.",
            &["result"],
        );
        let decided = histogram(
            "authorization_duration_seconds",
            "Authorization duration in seconds broken out by result.",
            &["result"],
            buckets(),
        );
        let of = |count: &IntCounterVec, time: &HistogramVec, label: &str| {
            (count.with_label_values(&[label]), time.with_label_values(&[label]))
        };
        Access {
            users: counter(
                "authenticated_user_requests",
                "Counter of authenticated requests broken out by username.",
                &["username"],
            ),
            attempts: ["success", "failure", "error"].map(|label| of(&attempts, &took, label)),
            verdicts: ["allowed", "denied", "no-opinion"].map(|label| of(&authorizations, &decided, label)),
        }
    })
}

/// Counts an attempt to authenticate.
pub fn authentication(attempt: Attempt, user: &str, took: Duration) {
    let (count, time) = &access().attempts[attempt as usize];
    count.inc();
    time.observe(took.as_secs_f64());
    if attempt == Attempt::Success {
        access().users.with_label_values(&[user_class(user)]).inc();
    }
}

/// Counts a decision of the authorizers.
pub fn authorization(allowed: bool, denied: bool, took: Duration) {
    let (count, time) = &access().verdicts[if allowed { 0 } else { 2 - usize::from(denied) }];
    count.inc();
    time.observe(took.as_secs_f64());
}

/// Names of users are not for metrics: upstream keeps five and puts the others into two classes.
fn user_class(user: &str) -> &str {
    match user {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => user,
        other if other.contains('@') => "email_id",
        _ => "other",
    }
}

/// `apiserver_current_inflight_requests`: of reads, of writes.
pub fn inflight() -> &'static [IntGauge; 2] {
    static GAUGES: OnceLock<[IntGauge; 2]> = OnceLock::new();
    GAUGES.get_or_init(|| {
        let family = gauge(
            "apiserver_current_inflight_requests",
            "Number of requests that are served at this moment, by kind.",
            &["request_kind"],
        );
        ["readOnly", "mutating"].map(|kind| family.with_label_values(&[kind]))
    })
}

/// `apiserver_storage_size_bytes`.
pub fn storage_size() -> &'static IntGauge {
    static GAUGE: OnceLock<IntGauge> = OnceLock::new();
    GAUGE.get_or_init(|| {
        let family = gauge(
            "apiserver_storage_size_bytes",
            "Size of the storage database file physically allocated in bytes.",
            &["storage_cluster_id"],
        );
        family.with_label_values(&["etcd-0"])
    })
}

/// Events sent to the watchers of one served resource.
#[derive(Clone)]
pub struct WatchEvents {
    count: IntCounter,
    sizes: Histogram,
}

impl WatchEvents {
    /// The counters of a resource.
    #[must_use]
    pub fn of(group: &str, version: &str, resource: &str) -> Self {
        static FAMILIES: OnceLock<(IntCounterVec, HistogramVec)> = OnceLock::new();
        const LABELS: &[&str] = &["group", "version", "resource"];
        let (counts, sizes) = FAMILIES.get_or_init(|| {
            let buckets = exponential_buckets(1024.0, 2.0, 8).expect("constant buckets");
            let help = "Watch event size distribution in bytes";
            (
                counter("apiserver_watch_events_total", "Number of events sent in watch clients", LABELS),
                histogram("apiserver_watch_events_sizes", help, LABELS, buckets),
            )
        });
        let labels = &[group, version, resource];
        Self { count: counts.with_label_values(labels), sizes: sizes.with_label_values(labels) }
    }

    /// Counts one event of so many bytes.
    pub fn sent(&self, bytes: usize) {
        self.count.inc();
        self.sizes.observe(bytes as f64);
    }
}

/// Says once what was built.
pub fn build_info() {
    let labels = [
        "major",
        "minor",
        "git_version",
        "git_commit",
        "git_tree_state",
        "build_date",
        "go_version",
        "compiler",
        "platform",
    ];
    let info = common::config::version::info();
    let values = [
        info.major,
        info.minor,
        info.git_version,
        info.git_commit,
        info.git_tree_state,
        info.build_date,
        info.go_version,
        info.compiler,
        info.platform,
    ];
    let help = "A metric with a constant '1' value labeled by build information.";
    gauge("kubernetes_build_info", help, &labels).with_label_values(&values).set(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_classes() {
        for (user, class) in
            [("admin", "admin"), ("jane@example.com", "email_id"), ("system:node:n1", "other"), ("kubelet", "kubelet")]
        {
            assert_eq!(user_class(user), class);
        }
    }
}
