//! What the kubelet counts, under upstream's names. Gauges of pods and containers are computed when they are read.

use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use crate::pods::spec;
use crate::shared::Kubelet;

/// Counters and durations of this process.
pub(crate) struct Metrics {
    runtime_calls: IntCounterVec,
    runtime_errors: IntCounterVec,
    runtime_duration: HistogramVec,
    /// Of a relist of the runtime.
    pub(crate) relist: Histogram,
    /// From one relist to the next.
    pub(crate) relist_interval: Histogram,
    pub(crate) relist_seen: Gauge,
    pub(crate) started_pods: IntCounter,
    pub(crate) started_pod_errors: IntCounterVec,
    /// By kind of container.
    pub(crate) started_containers: IntCounterVec,
    /// By kind of container and reason.
    pub(crate) started_container_errors: IntCounterVec,
    pub(crate) pod_start: Histogram,
    pub(crate) pod_sync: HistogramVec,
    pub(crate) image_pull: HistogramVec,
    pub(crate) preemptions: IntCounterVec,
    pub(crate) admission_rejections: IntCounterVec,
    pub(crate) topology_requests: IntCounter,
    pub(crate) topology_errors: IntCounter,
    pub(crate) shutdown_start: Gauge,
    pub(crate) shutdown_end: Gauge,
    http_requests: IntCounterVec,
    http_duration: HistogramVec,
    probes: IntCounterVec,
    probe_duration: HistogramVec,
}

/// The one of this process.
pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

const WELL_FORMED: &str = "metrics are constants";

fn registered<C: Collector + Clone + 'static>(metric: prometheus::Result<C>) -> C {
    #[allow(clippy::expect_used, reason = "constant metrics")]
    common::telemetry::register(metric.expect(WELL_FORMED))
}

fn counter(name: &str, help: &str) -> IntCounter {
    registered(IntCounter::new(name, help))
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

fn histograms(name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> HistogramVec {
    registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
}

fn histogram(name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
    registered(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
}

fn gauge(name: &str, help: &str) -> Gauge {
    registered(Gauge::new(name, help))
}

/// Upstream's names of calls: `run_podsandbox`, `update_container`.
fn operation(method: &str) -> String {
    match method {
        "update_container_resources" => "update_container".to_owned(),
        method => method.replace("pod_sandbox", "podsandbox"),
    }
}

impl Metrics {
    fn new() -> Self {
        let default = || prometheus::DEFAULT_BUCKETS.to_vec();
        let calls = || (0..14).map(|power| 0.005 * 2.5f64.powi(power)).collect::<Vec<_>>();
        let starts = vec![
            0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0,
            480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
        ];
        let pulls = vec![1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];
        Self {
            runtime_calls: counters(
                "kubelet_runtime_operations_total",
                "Cumulative number of runtime operations by operation type.",
                &["operation_type"],
            ),
            runtime_errors: counters(
                "kubelet_runtime_operations_errors_total",
                "Cumulative number of runtime operation errors by operation type.",
                &["operation_type"],
            ),
            runtime_duration: histograms(
                "kubelet_runtime_operations_duration_seconds",
                "Duration in seconds of runtime operations. Broken down by operation type.",
                &["operation_type"],
                calls(),
            ),
            relist: histogram(
                "kubelet_pleg_relist_duration_seconds",
                "Duration in seconds for relisting pods in PLEG.",
                default(),
            ),
            relist_interval: histogram(
                "kubelet_pleg_relist_interval_seconds",
                "Interval in seconds between relisting in PLEG.",
                default(),
            ),
            relist_seen: gauge(
                "kubelet_pleg_last_seen_seconds",
                "Timestamp in seconds when PLEG was last seen active.",
            ),
            started_pods: counter("kubelet_started_pods_total", "Cumulative number of pods started"),
            started_pod_errors: counters(
                "kubelet_started_pods_errors_total",
                "Cumulative number of errors when starting pods",
                &["code"],
            ),
            started_containers: counters(
                "kubelet_started_containers_total",
                "Cumulative number of containers started",
                &["container_type"],
            ),
            started_container_errors: counters(
                "kubelet_started_containers_errors_total",
                "Cumulative number of errors when starting containers",
                &["container_type", "code"],
            ),
            pod_start: histogram(
                "kubelet_pod_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                starts,
            ),
            pod_sync: histograms(
                "kubelet_pod_worker_duration_seconds",
                "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
                &["operation_type"],
                default(),
            ),
            image_pull: histograms(
                "kubelet_image_pull_duration_seconds",
                "Duration in seconds to pull an image.",
                &["image_size_in_bytes"],
                pulls,
            ),
            preemptions: counters(
                "kubelet_preemptions",
                "Cumulative number of pod preemptions by preemption resource",
                &["preemption_signal"],
            ),
            admission_rejections: counters(
                "kubelet_admission_rejections_total",
                "Cumulative number pod admission rejections by the Kubelet.",
                &["reason"],
            ),
            topology_requests: counter(
                "kubelet_topology_manager_admission_requests_total",
                "The number of admission requests where resources have to be aligned.",
            ),
            topology_errors: counter(
                "kubelet_topology_manager_admission_errors_total",
                "The number of admission request failures where resources could not be aligned.",
            ),
            shutdown_start: gauge(
                "kubelet_graceful_shutdown_start_time_seconds",
                "Last graceful shutdown start time since unix epoch in seconds",
            ),
            shutdown_end: gauge(
                "kubelet_graceful_shutdown_end_time_seconds",
                "Last graceful shutdown end time since unix epoch in seconds",
            ),
            http_requests: counters(
                "kubelet_http_requests_total",
                "Number of the http requests received since the server started",
                &["method", "path", "server_type", "long_running"],
            ),
            http_duration: histograms(
                "kubelet_http_requests_duration_seconds",
                "Duration in seconds to serve http requests",
                &["method", "path", "server_type", "long_running"],
                default(),
            ),
            probes: counters(
                "prober_probe_total",
                "Cumulative number of a liveness, readiness or startup probe for a container by result.",
                &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
            ),
            probe_duration: histograms(
                "prober_probe_duration_seconds",
                "Duration in seconds for a probe response.",
                &["probe_type", "container", "pod", "namespace"],
                default(),
            ),
        }
    }

    /// A call of the runtime has ended.
    pub(crate) fn called_runtime(&self, method: &str, took: Duration, good: bool) {
        let operation = operation(method);
        self.runtime_calls.with_label_values(&[&operation]).inc();
        self.runtime_duration.with_label_values(&[&operation]).observe(took.as_secs_f64());
        if !good {
            self.runtime_errors.with_label_values(&[&operation]).inc();
        }
    }

    /// A request of our server has ended.
    pub(crate) fn served(&self, method: &str, path: &str, (server, long): (&str, bool), took: Duration) {
        let labels = [method, path, server, if long { "true" } else { "false" }];
        self.http_requests.with_label_values(&labels).inc();
        self.http_duration.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// A probe has ended.
    pub(crate) fn probed(
        &self,
        kind: &str,
        result: &str,
        pod: &k8s_openapi::api::core::v1::Pod,
        container: &str,
        took: Duration,
    ) {
        let (name, namespace, uid) = (spec::name(pod), spec::namespace(pod), spec::uid(pod));
        self.probes.with_label_values(&[kind, result, container, name, namespace, uid]).inc();
        self.probe_duration.with_label_values(&[kind, container, name, namespace]).observe(took.as_secs_f64());
    }

    /// Forgets a pod's probes.
    pub(crate) fn forget_probes(&self, pod: &k8s_openapi::api::core::v1::Pod) {
        let (name, namespace, uid) = (spec::name(pod), spec::namespace(pod), spec::uid(pod));
        let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        for container in containers {
            for kind in ["Liveness", "Readiness", "Startup"] {
                for result in ["successful", "failed", "unknown"] {
                    let _ = self.probes.remove_label_values(&[kind, result, &container.name, name, namespace, uid]);
                }
                let _ = self.probe_duration.remove_label_values(&[kind, &container.name, name, namespace]);
            }
        }
    }
}

/// Gauges over what the kubelet holds.
struct Census {
    kubelet: Weak<Kubelet>,
    node: GaugeVec,
    desired: GaugeVec,
    active: GaugeVec,
    mirrors: Gauge,
    running_pods: Gauge,
    running_containers: GaugeVec,
}

/// Counts pods and containers whenever metrics are read.
pub(crate) fn watch(kubelet: &Arc<Kubelet>) -> prometheus::Result<()> {
    let vec = |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
    let node = vec("kubelet_node_name", "The node's name. The count is always 1.", &["node"])?;
    node.with_label_values(&[&kubelet.config.node_name]).set(1.0);
    let census = Census {
        kubelet: Arc::downgrade(kubelet),
        node,
        desired: vec(
            "kubelet_desired_pods",
            "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
            &["static"],
        )?,
        active: vec(
            "kubelet_active_pods",
            "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
            &["static"],
        )?,
        mirrors: Gauge::new(
            "kubelet_mirror_pods",
            "The number of mirror pods the kubelet will try to create (one per admitted static pod)",
        )?,
        running_pods: Gauge::new("kubelet_running_pods", "Number of pods that have a running pod sandbox")?,
        running_containers: vec(
            "kubelet_running_containers",
            "Number of containers currently running",
            &["container_state"],
        )?,
    };
    if let Err(error) = common::telemetry::registry().register(Box::new(census)) {
        tracing::debug!(%error, "metrics of pods not registered");
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "numbers of pods")]
fn set(gauge: &Gauge, count: usize) {
    gauge.set(count as f64);
}

impl Census {
    fn count(&self, kubelet: &Kubelet) {
        let pods = kubelet.pods.list();
        for (label, of_kind) in [("true", true), ("false", false)] {
            let mine = || pods.iter().filter(|record| spec::is_static(&record.pod) == of_kind);
            let over = |phase: Option<&str>| matches!(phase, Some("Failed" | "Succeeded"));
            set(&self.desired.with_label_values(&[label]), mine().count());
            let active = mine().filter(|record| !over(record.status.phase.as_deref())).count();
            set(&self.active.with_label_values(&[label]), active);
            if of_kind {
                set(&self.mirrors, mine().count());
            }
        }
        let (sandboxes, containers) = kubelet.pleg.census();
        set(&self.running_pods, sandboxes);
        for (state, count) in containers {
            set(&self.running_containers.with_label_values(&[state]), count);
        }
    }
}

impl Collector for Census {
    fn desc(&self) -> Vec<&Desc> {
        let vectors = [&self.node, &self.desired, &self.active, &self.running_containers];
        let gauges = [&self.mirrors, &self.running_pods];
        vectors.into_iter().flat_map(|v| v.desc()).chain(gauges.into_iter().flat_map(|gauge| gauge.desc())).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(kubelet) = self.kubelet.upgrade() else { return Vec::new() };
        self.count(&kubelet);
        let vectors = [&self.node, &self.desired, &self.active, &self.running_containers];
        let gauges = [&self.mirrors, &self.running_pods];
        vectors
            .into_iter()
            .flat_map(|v| v.collect())
            .chain(gauges.into_iter().flat_map(|gauge| gauge.collect()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        for (method, want) in [
            ("run_pod_sandbox", "run_podsandbox"),
            ("list_pod_sandbox", "list_podsandbox"),
            ("update_container_resources", "update_container"),
            ("exec_sync", "exec_sync"),
        ] {
            assert_eq!(operation(method), want);
        }
        METRICS.called_runtime("run_pod_sandbox", Duration::from_millis(20), false);
        let text = String::from_utf8(common::telemetry::gather_text()).unwrap();
        for line in [
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.03125\"} 1",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }
}
