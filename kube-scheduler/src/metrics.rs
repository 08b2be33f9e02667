//! Upstream's metrics, by name and label.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, exponential_buckets,
};

use crate::queue::QueuedPod;

fn register<T: prometheus::core::Collector + Clone + 'static>(metric: prometheus::Result<T>) -> T {
    let metric = metric.expect("metric definitions are constant");
    // Registering twice (two schedulers in one test process) is harmless.
    let _ = common::telemetry::registry().register(Box::new(metric.clone()));
    metric
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(format!("scheduler_{name}"), help), labels))
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(format!("scheduler_{name}"), help), labels))
}

fn options(name: &str, help: &str, start: f64, factor: f64, count: usize) -> HistogramOpts {
    let buckets = exponential_buckets(start, factor, count).unwrap_or_default();
    HistogramOpts::new(format!("scheduler_{name}"), help).buckets(buckets)
}

/// Attempts by result and profile.
pub static SCHEDULE_ATTEMPTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "schedule_attempts_total",
        "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while \
         'error' means an internal scheduler problem.",
        &["result", "profile"],
    )
});

/// Latency of an attempt, binding included.
pub static ATTEMPT_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Scheduling attempt latency in seconds (scheduling algorithm + binding)";
    register(HistogramVec::new(
        options("scheduling_attempt_duration_seconds", help, 0.001, 2.0, 15),
        &["result", "profile"],
    ))
});

/// Latency of the decision alone.
pub static ALGORITHM_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Scheduling algorithm latency in seconds";
    register(Histogram::with_opts(options("scheduling_algorithm_duration_seconds", help, 0.001, 2.0, 15)))
});

/// From entering the queue to bound.
pub static SLI_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might \
                involve multiple scheduling attempts.";
    register(HistogramVec::new(options("pod_scheduling_sli_duration_seconds", help, 0.01, 2.0, 20), &["attempts"]))
});

/// Attempts that a scheduled pod took.
pub static POD_ATTEMPTS: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Number of attempts to successfully schedule a pod.";
    register(Histogram::with_opts(options("pod_scheduling_attempts", help, 1.0, 2.0, 5)))
});

/// Pods that a five-minute flush rescued.
pub static SCHEDULED_AFTER_FLUSH: LazyLock<IntCounter> = LazyLock::new(|| {
    let help =
        "Number of pods that were successfully scheduled after being flushed from unschedulablePods due to timeout.";
    register(IntCounter::new("scheduler_pod_scheduled_after_flush_total", help))
});

/// Pods per queue.
pub static PENDING_PODS: LazyLock<IntGaugeVec> =
    LazyLock::new(|| gauges("pending_pods", "Number of pending pods, by the queue type.", &["queue"]));

/// Pods added to queues.
pub static INCOMING_PODS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of pods added to scheduling queues by event and queue type.";
    counters("queue_incoming_pods_total", help, &["queue", "event"])
});

/// Unschedulable pods by the plugin that rejected them.
pub static UNSCHEDULABLE_PODS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "The number of unschedulable pods broken down by plugin name.";
    gauges("unschedulable_pods", help, &["plugin", "profile"])
});

/// Nodes, pods and assumed pods in the cache.
pub static CACHE_SIZE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauges("cache_size", "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.", &["type"])
});

/// Latency of an extension point.
pub static EXTENSION_POINT_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Latency for running all plugins of a specific extension point.";
    register(HistogramVec::new(
        options("framework_extension_point_duration_seconds", help, 0.0001, 2.0, 12),
        &["extension_point", "status", "profile"],
    ))
});

/// Latency of event handlers.
pub static EVENT_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Event handling latency in seconds.";
    register(HistogramVec::new(options("event_handling_duration_seconds", help, 0.0001, 2.0, 12), &["event"]))
});

/// Tasks under way (upstream counts goroutines).
pub static GOROUTINES: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    gauges("goroutines", "Number of running goroutines split by the work they do such as binding.", &["operation"])
});

/// Claims that the scheduler made, by outcome.
pub static CLAIMS_MADE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("resourceclaim_creates_total", "Number of ResourceClaims creation requests within scheduler", &["status"])
});

/// Allocations of devices with binding conditions.
pub static BINDING_CONDITIONS_ALLOCATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of allocations using devices with BindingConditions, counted per driver per scheduling attempt";
    counters("dra_bindingconditions_allocations_total", help, &["profile", "driver", "status"])
});

/// How long binding conditions took.
pub static BINDING_CONDITIONS_WAIT: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Time in seconds spent waiting for BindingConditions to be satisfied during PreBind.";
    register(HistogramVec::new(
        options("dra_bindingconditions_wait_duration_seconds", help, 0.1, 2.0, 14),
        &["profile", "driver", "status"],
    ))
});

/// Attempts at pod groups by result and profile.
pub static POD_GROUP_ATTEMPTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "podgroup_schedule_attempts_total",
        "Number of attempts to schedule pod group, by the result. 'unschedulable' means a pod group could not be \
         scheduled, while 'error' means an internal scheduler problem.",
        &["result", "profile"],
    )
});

/// Latency of an attempt at a pod group.
pub static POD_GROUP_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Pod group scheduling attempt latency in seconds (scheduling algorithm + binding)";
    let options = options("podgroup_scheduling_attempt_duration_seconds", help, 0.001, 2.0, 15);
    register(HistogramVec::new(options, &["result", "profile"]))
});

/// Latency of the decision on a pod group.
pub static POD_GROUP_ALGORITHM_DURATION: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Pod group scheduling algorithm latency in seconds";
    register(Histogram::with_opts(options("podgroup_scheduling_algorithm_duration_seconds", help, 0.001, 2.0, 15)))
});

/// Preemptions tried.
pub static PREEMPTION_ATTEMPTS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Total preemption attempts in the cluster till now";
    register(IntCounter::new("scheduler_preemption_attempts_total", help))
});

/// Victims per preemption.
pub static PREEMPTION_VICTIMS: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Number of selected preemption victims";
    register(Histogram::with_opts(options("preemption_victims", help, 1.0, 2.0, 7)))
});

/// Time that carrying out a preemption took (upstream's goroutine).
pub static PREEMPTION_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration in seconds for running goroutines for the preemption.";
    register(HistogramVec::new(options("preemption_goroutines_duration_seconds", help, 0.01, 2.0, 20), &["result"]))
});

/// Preemptions carried out.
pub static PREEMPTION_EXECUTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("preemption_goroutines_execution_total", "Number of preemption goroutines executed.", &["result"])
});

/// Times that plugins were asked.
pub static PLUGIN_EVALUATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of attempts to schedule pods by each plugin and the extension point (available only in PreFilter, \
                Filter, PreScore, and Score).";
    counters("plugin_evaluation_total", help, &["plugin", "extension_point", "profile"])
});

/// Latency of queueing hints.
pub static HINT_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration for running a queueing hint function of a plugin.";
    register(HistogramVec::new(
        options("queueing_hint_execution_duration_seconds", help, 0.00001, 1.5, 20),
        &["plugin", "event", "hint"],
    ))
});

/// Time spent waiting on Permit.
pub static PERMIT_WAIT: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration of waiting on permit.";
    register(HistogramVec::new(options("permit_wait_duration_seconds", help, 0.001, 2.0, 15), &["result"]))
});

/// Failures of volume scheduling by stage.
pub static VOLUME_ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("volume_scheduling_stage_error_total", "Volume scheduling stage error count", &["operation"])
});

/// Makes every metric appear from the start, as upstream's do.
pub fn register_all() {
    for queue in ["active", "backoff", "unschedulable", "gated"] {
        PENDING_PODS.with_label_values(&[queue]).set(0);
    }
    for kind in ["nodes", "pods", "assumed_pods"] {
        CACHE_SIZE.with_label_values(&[kind]).set(0);
    }
    LazyLock::force(&SCHEDULE_ATTEMPTS);
    LazyLock::force(&ATTEMPT_DURATION);
    LazyLock::force(&ALGORITHM_DURATION);
    LazyLock::force(&SLI_DURATION);
    LazyLock::force(&POD_ATTEMPTS);
    LazyLock::force(&SCHEDULED_AFTER_FLUSH);
    LazyLock::force(&INCOMING_PODS);
    LazyLock::force(&UNSCHEDULABLE_PODS);
    LazyLock::force(&EXTENSION_POINT_DURATION);
    LazyLock::force(&EVENT_DURATION);
    LazyLock::force(&PREEMPTION_ATTEMPTS);
    LazyLock::force(&PREEMPTION_VICTIMS);
    LazyLock::force(&PREEMPTION_DURATION);
    LazyLock::force(&PREEMPTION_EXECUTIONS);
    LazyLock::force(&PLUGIN_EVALUATIONS);
    LazyLock::force(&HINT_DURATION);
    LazyLock::force(&PERMIT_WAIT);
    LazyLock::force(&VOLUME_ERRORS);
    LazyLock::force(&CLAIMS_MADE);
    LazyLock::force(&BINDING_CONDITIONS_ALLOCATIONS);
    LazyLock::force(&BINDING_CONDITIONS_WAIT);
    GOROUTINES.with_label_values(&["binding"]).set(0);
}

/// One finished attempt.
pub fn attempt(result: &str, profile: &str, took: Duration) {
    SCHEDULE_ATTEMPTS.with_label_values(&[result, profile]).inc();
    ATTEMPT_DURATION.with_label_values(&[result, profile]).observe(took.as_secs_f64());
}

/// One finished attempt at a pod group.
pub fn pod_group(result: &str, profile: &str, took: Duration) {
    POD_GROUP_ATTEMPTS.with_label_values(&[result, profile]).inc();
    POD_GROUP_DURATION.with_label_values(&[result, profile]).observe(took.as_secs_f64());
}

/// One extension point run.
pub fn extension_point(point: &str, status: &str, profile: &str, took: Duration) {
    EXTENSION_POINT_DURATION.with_label_values(&[point, status, profile]).observe(took.as_secs_f64());
}

/// Counts a pod for (or off) each plugin that rejected it.
pub fn count_reasons(pod: &QueuedPod, by: i64) {
    for plugin in pod.unschedulable_plugins.union(&pod.pending_plugins) {
        count_reason(plugin, &pod.pod.template.scheduler_name, by);
    }
}

/// Counts one rejection.
pub fn count_reason(plugin: &str, profile: &str, by: i64) {
    UNSCHEDULABLE_PODS.with_label_values(&[plugin, profile]).add(by);
}

/// The attempts label, capped as upstream's.
pub fn attempts_label(attempts: u32) -> String {
    if attempts >= 15 { "15+".to_owned() } else { attempts.to_string() }
}
