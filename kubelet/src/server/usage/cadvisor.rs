//! `/metrics/cadvisor`: the `container_*` and `machine_*` series that dashboards are made of. Pure.

use super::exposition::{Exposition, Kind, float, seconds};
use super::network::Interface;
use super::snapshot::Snapshot;
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::stats::{ContainerUsage, Usage};

/// One cgroup with its labels and figures.
struct Row<'a> {
    labels: [(&'static str, String); 6],
    usage: ContainerUsage,
    started: Option<f64>,
    processes: Option<u64>,
    network: &'a [Interface],
}

fn labels(
    container: &str,
    id: &str,
    image: &str,
    name: &str,
    namespace: &str,
    pod: &str,
) -> [(&'static str, String); 6] {
    [("container", container), ("id", id), ("image", image), ("name", name), ("namespace", namespace), ("pod", pod)]
        .map(|(label, value)| (label, value.to_owned()))
}

/// A cgroup's figures in the form of a container's.
fn figures(usage: &Usage) -> ContainerUsage {
    ContainerUsage {
        cpu_nanos: Some(usage.cpu_nanos),
        working_set: Some(usage.working_set),
        memory_usage: Some(usage.memory_usage),
        rss: Some(usage.rss),
        page_faults: Some(usage.page_faults),
        major_page_faults: Some(usage.major_page_faults),
        ..ContainerUsage::default()
    }
}

fn rows(snapshot: &Snapshot) -> Vec<Row<'_>> {
    let whole = |id: &str, usage: &Usage, network| Row {
        labels: labels("", id, "", "", "", ""),
        usage: figures(usage),
        started: Some(snapshot.booted.as_duration().as_secs_f64()),
        processes: Some(usage.processes),
        network,
    };
    let mut rows = vec![
        whole("/", &snapshot.node, &snapshot.network[..]),
        whole(&snapshot.all_pods_cgroup, &snapshot.all_pods, &[]),
    ];
    for pod in snapshot.pods.iter().filter(|pod| !pod.containers.is_empty()) {
        let (name, namespace) = (spec::name(&pod.record.pod), spec::namespace(&pod.record.pod));
        let started = pod.record.status.start_time.as_ref().map(|time| time.0.as_duration().as_secs_f64());
        rows.push(Row {
            labels: labels("", &pod.cgroup, "", "", namespace, name),
            usage: figures(&pod.usage),
            started,
            processes: Some(pod.usage.processes),
            network: &pod.network,
        });
        for entry in &pod.containers {
            let id = format!("{}/{}", pod.cgroup, entry.usage.id);
            rows.push(Row {
                labels: labels(&entry.usage.name, &id, &entry.image, &entry.usage.id, namespace, name),
                usage: entry.usage.clone(),
                started: entry.started.map(|time| time.as_duration().as_secs_f64()),
                processes: None,
                network: &[],
            });
        }
    }
    rows
}

/// The text.
pub(in crate::server) fn text(kubelet: &Kubelet, snapshot: &Snapshot) -> Vec<u8> {
    let mut text = Exposition::default();
    let rows = rows(snapshot);
    let at = snapshot.at.as_millisecond();
    cpu(&mut text, &rows, at);
    plain(&mut text, &rows, at);
    failures(&mut text, &rows, at);
    network(&mut text, &rows, at);
    machine(&mut text, kubelet, at);
    text.into_bytes()
}

fn borrowed<'a>(labels: &'a [(&'static str, String); 6]) -> Vec<(&'a str, &'a str)> {
    labels.iter().map(|(label, value)| (*label, value.as_str())).collect()
}

fn cpu(text: &mut Exposition, rows: &[Row<'_>], at: i64) {
    let name = "container_cpu_usage_seconds_total";
    text.family(name, "Cumulative cpu time consumed in seconds.", Kind::Counter);
    for row in rows {
        let Some(nanos) = row.usage.cpu_nanos else { continue };
        let mut labels = borrowed(&row.labels);
        labels.insert(1, ("cpu", "total"));
        text.sample(name, &labels, seconds(nanos), Some(at));
    }
}

fn plain(text: &mut Exposition, rows: &[Row<'_>], at: i64) {
    type Value = fn(&Row<'_>) -> Option<f64>;
    let families: [(&str, &str, Value); 7] = [
        (
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |row| row.usage.memory_usage.map(float),
        ),
        ("container_memory_working_set_bytes", "Current working set in bytes.", |row| row.usage.working_set.map(float)),
        ("container_memory_rss", "Size of RSS in bytes.", |row| row.usage.rss.map(float)),
        ("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", |row| {
            row.usage.disk_used.map(float)
        }),
        ("container_processes", "Number of processes running inside the container.", |row| row.processes.map(float)),
        ("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", |row| row.started),
        ("container_last_seen", "Last time a container was seen by the exporter", |_| None),
    ];
    for (name, help, value) in families {
        text.family(name, help, Kind::Gauge);
        for row in rows {
            #[allow(clippy::cast_precision_loss, reason = "milliseconds of this age are exact")]
            let seen = (name == "container_last_seen").then_some((at / 1000) as f64);
            if let Some(value) = seen.or_else(|| value(row)) {
                text.sample(name, &borrowed(&row.labels), value, Some(at));
            }
        }
    }
}

fn failures(text: &mut Exposition, rows: &[Row<'_>], at: i64) {
    let name = "container_memory_failures_total";
    text.family(name, "Cumulative count of memory allocation failures.", Kind::Counter);
    for row in rows {
        for (kind, count) in [("pgfault", row.usage.page_faults), ("pgmajfault", row.usage.major_page_faults)] {
            let Some(count) = count else { continue };
            let mut labels = borrowed(&row.labels);
            labels.insert(1, ("failure_type", kind));
            labels.push(("scope", "hierarchy"));
            text.sample(name, &labels, float(count), Some(at));
        }
    }
}

fn network(text: &mut Exposition, rows: &[Row<'_>], at: i64) {
    type Value = fn(&Interface) -> [u64; 4];
    let directions: [(&str, &str, Value); 2] = [
        ("receive", "received", |interface| interface.received),
        ("transmit", "transmitted", |interface| interface.sent),
    ];
    for (direction, done, counters) in directions {
        for (index, what, subject) in [
            (0, "bytes", "bytes"),
            (1, "packets", "packets"),
            (2, "errors", "errors encountered while"),
            (3, "packets_dropped", "packets dropped while"),
        ] {
            let name = format!("container_network_{direction}_{what}_total");
            text.family(&name, &format!("Cumulative count of {subject} {done}"), Kind::Counter);
            for row in rows {
                for interface in row.network {
                    let mut labels = borrowed(&row.labels);
                    labels.insert(3, ("interface", &interface.name));
                    text.sample(&name, &labels, float(counters(interface)[index]), Some(at));
                }
            }
        }
    }
}

fn machine(text: &mut Exposition, kubelet: &Kubelet, at: i64) {
    let machine = &kubelet.node.machine;
    let labels = [
        ("boot_id", machine.boot_id.as_str()),
        ("machine_id", machine.machine_id.as_str()),
        ("system_uuid", machine.system_uuid.as_str()),
    ];
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", machine.cpus),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", machine.memory_bytes),
    ] {
        text.family(name, help, Kind::Gauge);
        text.sample(name, &labels, float(u64::try_from(value).unwrap_or(0)), Some(at));
    }
}
