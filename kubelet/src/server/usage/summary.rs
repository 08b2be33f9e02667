//! `/stats/summary`: the snapshot in the shape of `stats.k8s.io/v1alpha1`. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::network::Interface;
use super::snapshot::{ContainerEntry, ImageDisk, PodEntry, Snapshot};
use crate::node::machine::Disk;
use crate::pods::spec;
use crate::shared::Kubelet;
use crate::stats::Usage;
use crate::volumes::usage::VolumeUsage;

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// An object without its nulls: a figure that is not known is not there.
fn known(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        other => other,
    }
}

fn cpu(at: &str, usage: &Usage) -> Value {
    json!({"time": at, "usageNanoCores": usage.nano_cores, "usageCoreNanoSeconds": usage.cpu_nanos})
}

fn memory(at: &str, usage: &Usage, available: Option<u64>) -> Value {
    known(json!({
        "time": at, "availableBytes": available, "usageBytes": usage.memory_usage, "workingSetBytes": usage.working_set,
        "rssBytes": usage.rss, "pageFaults": usage.page_faults, "majorPageFaults": usage.major_page_faults
    }))
}

fn interface(interface: &Interface) -> Value {
    json!({
        "name": interface.name, "rxBytes": interface.received[0], "rxErrors": interface.received[2],
        "txBytes": interface.sent[0], "txErrors": interface.sent[2]
    })
}

/// The main interface's figures stand beside the list.
fn network(at: &str, interfaces: &[Interface], main: &str) -> Value {
    if interfaces.is_empty() {
        return Value::Null;
    }
    let found = interfaces.iter().find(|interface| interface.name == main);
    let mut fields = match found.map(interface) {
        Some(Value::Object(fields)) => fields,
        _ => Map::from_iter([("name".to_owned(), json!(""))]),
    };
    fields.insert("time".into(), json!(at));
    fields.insert("interfaces".into(), interfaces.iter().map(interface).collect());
    Value::Object(fields)
}

fn disk(at: &str, disk: &Disk, used: Option<u64>, inodes_used: Option<u64>) -> Value {
    known(json!({
        "time": at, "availableBytes": disk.available, "capacityBytes": disk.capacity, "usedBytes": used,
        "inodesFree": disk.inodes_free, "inodes": disk.inodes, "inodesUsed": inodes_used
    }))
}

fn whole_disk(at: &str, of: &Disk) -> Value {
    let difference = |all: i64, free: i64| u64::try_from(all.saturating_sub(free)).ok();
    disk(at, of, difference(of.capacity, of.available), difference(of.inodes, of.inodes_free))
}

fn container(at: &str, entry: &ContainerEntry, images: Option<&ImageDisk>, logs: &Disk) -> Value {
    let usage = &entry.usage;
    let rootfs = images.map(|images| disk(at, &images.disk, usage.disk_used, usage.inodes_used));
    known(json!({
        "name": usage.name, "startTime": entry.started.map(time),
        "cpu": known(json!({
            "time": at, "usageNanoCores": usage.nano_cores, "usageCoreNanoSeconds": usage.cpu_nanos
        })),
        "memory": known(json!({
            "time": at, "usageBytes": usage.memory_usage, "workingSetBytes": usage.working_set, "rssBytes": usage.rss,
            "pageFaults": usage.page_faults, "majorPageFaults": usage.major_page_faults
        })),
        "rootfs": rootfs, "logs": disk(at, logs, Some(entry.log_bytes), None)
    }))
}

fn pod(at: &str, entry: &PodEntry, snapshot: &Snapshot) -> Value {
    let pod = &entry.record.pod;
    let containers = entry.containers.iter();
    let of_containers: u64 = containers.clone().map(|entry| entry.usage.disk_used.unwrap_or(0) + entry.log_bytes).sum();
    let local = entry.volumes.iter().filter(|volume| volume.ephemeral);
    let of_volumes: u64 = local.map(|volume| u64::try_from(volume.used).unwrap_or(0)).sum();
    let ephemeral = of_containers + of_volumes;
    let containers: Vec<Value> =
        containers.map(|entry| container(at, entry, snapshot.images.as_ref(), &snapshot.disk)).collect();
    let started = entry.record.status.start_time.as_ref().map(|started| time(started.0));
    known(json!({
        "podRef": {"name": spec::name(pod), "namespace": spec::namespace(pod), "uid": spec::uid(pod)},
        "startTime": started, "containers": containers,
        "cpu": cpu(at, &entry.usage), "memory": memory(at, &entry.usage, None),
        "network": network(at, &entry.network, "eth0"),
        "ephemeral-storage": disk(at, &snapshot.disk, Some(ephemeral), None),
        "volume": volumes(spec::namespace(pod), &entry.volumes),
        "process_stats": {"process_count": entry.usage.processes}
    }))
}

/// Nothing rather than an empty list.
fn volumes(namespace: &str, volumes: &[VolumeUsage]) -> Value {
    if volumes.is_empty() {
        return Value::Null;
    }
    let one = |volume: &VolumeUsage| {
        known(json!({
            "time": time(volume.at), "name": volume.name,
            "availableBytes": volume.available, "capacityBytes": volume.capacity, "usedBytes": volume.used,
            "inodesFree": volume.inodes_free, "inodes": volume.inodes, "inodesUsed": volume.inodes_used,
            "pvcRef": volume.claim.as_ref().map(|claim| json!({"name": claim, "namespace": namespace})),
            "volumeHealthStats": volume.abnormal.map(|abnormal| json!({"abnormal": abnormal}))
        }))
    };
    volumes.iter().map(one).collect()
}

/// The whole summary; with `only_cpu_and_memory` just these.
pub(in crate::server) fn summary(kubelet: &Kubelet, snapshot: &Snapshot, only_cpu_and_memory: bool) -> Value {
    let at = &time(snapshot.at);
    let memory_total = u64::try_from(kubelet.node.machine.memory_bytes).unwrap_or(0);
    let main = snapshot.default_interface.as_deref().unwrap_or("eth0");
    let (processes, most) = crate::node::machine::processes();
    let available = |usage: &Usage| Some(memory_total.saturating_sub(usage.working_set));
    let images = snapshot.images.as_ref().map(|images| disk(at, &images.disk, images.used, images.inodes_used));
    let node = known(json!({
        "nodeName": kubelet.config.node_name, "startTime": time(snapshot.booted),
        "systemContainers": [{
            "name": "pods", "startTime": time(snapshot.booted), "cpu": cpu(at, &snapshot.all_pods),
            "memory": memory(at, &snapshot.all_pods, available(&snapshot.all_pods))
        }],
        "cpu": cpu(at, &snapshot.node), "memory": memory(at, &snapshot.node, available(&snapshot.node)),
        "network": network(at, &snapshot.network, main), "fs": whole_disk(at, &snapshot.disk),
        "runtime": {"imageFs": images, "containerFs": images},
        "rlimit": {"time": at, "maxpid": most, "curproc": processes}
    }));
    let pods: Vec<Value> = snapshot.pods.iter().map(|entry| pod(at, entry, snapshot)).collect();
    let mut summary = json!({"node": node, "pods": pods});
    if only_cpu_and_memory {
        keep_cpu_and_memory(&mut summary);
    }
    summary
}

fn keep_cpu_and_memory(summary: &mut Value) {
    let drop = |value: &mut Value, names: &[&str]| {
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|name, _| !names.contains(&name.as_str()));
        }
    };
    drop(&mut summary["node"], &["network", "fs", "runtime", "rlimit"]);
    for pod in summary["pods"].as_array_mut().into_iter().flatten() {
        drop(pod, &["network", "volume", "ephemeral-storage", "process_stats"]);
        for container in pod["containers"].as_array_mut().into_iter().flatten() {
            drop(container, &["rootfs", "logs"]);
        }
    }
}
