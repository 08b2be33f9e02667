//! `/metrics/resource`: CPU and memory of node, pods and containers, for metrics-server and the like. Pure.

use super::exposition::{Exposition, Kind, float, seconds};
use super::snapshot::{ContainerEntry, PodEntry, Snapshot};
use crate::pods::spec;

/// The text; without a snapshot only the error flag.
pub(in crate::server) fn text(snapshot: Option<&Snapshot>) -> Vec<u8> {
    let mut text = Exposition::default();
    if let Some(snapshot) = snapshot {
        containers(&mut text, snapshot);
        node(&mut text, snapshot);
        pods(&mut text, snapshot);
    }
    let failed = if snapshot.is_some() { 0.0 } else { 1.0 };
    for name in ["resource_scrape_error", "scrape_error"] {
        text.family(name, "1 if there was an error while getting container metrics, 0 otherwise", Kind::Gauge);
        text.sample(name, &[], failed, None);
    }
    text.into_bytes()
}

fn containers(text: &mut Exposition, snapshot: &Snapshot) {
    let at = Some(snapshot.at.as_millisecond());
    type Value = fn(&ContainerEntry) -> Option<f64>;
    let families: [(&str, &str, Kind, Value, bool); 3] = [
        (
            "container_cpu_usage_seconds_total",
            "Cumulative cpu time consumed by the container in core-seconds",
            Kind::Counter,
            |entry| entry.usage.cpu_nanos.map(seconds),
            true,
        ),
        (
            "container_memory_working_set_bytes",
            "Current working set of the container in bytes",
            Kind::Gauge,
            |entry| entry.usage.working_set.map(float),
            true,
        ),
        (
            "container_start_time_seconds",
            "Start time of the container since unix epoch in seconds",
            Kind::Gauge,
            |entry| entry.started.map(|started| started.as_duration().as_secs_f64()),
            false,
        ),
    ];
    for (name, help, kind, value, stamped) in families {
        text.family(name, help, kind);
        for pod in &snapshot.pods {
            for entry in &pod.containers {
                let Some(value) = value(entry) else { continue };
                let labels = [
                    ("container", entry.usage.name.as_str()),
                    ("namespace", spec::namespace(&pod.record.pod)),
                    ("pod", spec::name(&pod.record.pod)),
                ];
                text.sample(name, &labels, value, at.filter(|_| stamped));
            }
        }
    }
}

fn node(text: &mut Exposition, snapshot: &Snapshot) {
    let at = Some(snapshot.at.as_millisecond());
    let name = "node_cpu_usage_seconds_total";
    text.family(name, "Cumulative cpu time consumed by the node in core-seconds", Kind::Counter);
    text.sample(name, &[], seconds(snapshot.node.cpu_nanos), at);
    let name = "node_memory_working_set_bytes";
    text.family(name, "Current working set of the node in bytes", Kind::Gauge);
    text.sample(name, &[], float(snapshot.node.working_set), at);
}

fn pods(text: &mut Exposition, snapshot: &Snapshot) {
    let at = Some(snapshot.at.as_millisecond());
    type Value = fn(&PodEntry) -> f64;
    let families: [(&str, &str, Kind, Value); 2] = [
        (
            "pod_cpu_usage_seconds_total",
            "Cumulative cpu time consumed by the pod in core-seconds",
            Kind::Counter,
            |entry| seconds(entry.usage.cpu_nanos),
        ),
        ("pod_memory_working_set_bytes", "Current working set of the pod in bytes", Kind::Gauge, |entry| {
            float(entry.usage.working_set)
        }),
    ];
    for (name, help, kind, value) in families {
        text.family(name, help, kind);
        // A pod without a running container has no usage to speak of.
        for entry in snapshot.pods.iter().filter(|entry| !entry.containers.is_empty()) {
            let labels = [("namespace", spec::namespace(&entry.record.pod)), ("pod", spec::name(&entry.record.pod))];
            text.sample(name, &labels, value(entry), at);
        }
    }
}
