//! Eviction: measures memory, disk and PIDs against the hard thresholds, reports pressure and ends pods until it is
//! gone. Soft thresholds and minimum reclaim wait for issue 5.

mod rank;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::node::{machine, object};
use crate::pods::status::Verdict;
use crate::shared::Kubelet;

const PERIOD: Duration = Duration::from_secs(10);

/// What the node's conditions say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressures {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

/// Current pressure; a condition stays for the transition period after its cause is gone.
#[derive(Default)]
pub(crate) struct Pressure {
    last_seen: Mutex<[Option<Instant>; 3]>,
    now: Mutex<Pressures>,
}

impl Pressure {
    pub(crate) fn read(&self) -> Pressures {
        *self.now.lock()
    }

    fn observe(&self, met: [bool; 3], transition: Duration) -> bool {
        let mut last = self.last_seen.lock();
        let mut on = [false; 3];
        for (index, met) in met.into_iter().enumerate() {
            if met {
                last[index] = Some(Instant::now());
            }
            on[index] = last[index].is_some_and(|at| at.elapsed() < transition || met);
        }
        let fresh = Pressures { memory: on[0], disk: on[1], pids: on[2] };
        std::mem::replace(&mut *self.now.lock(), fresh) != fresh
    }
}

/// A threshold that is crossed.
struct Crossed {
    /// 0 memory, 1 disk, 2 PIDs.
    index: usize,
    resource: &'static str,
    threshold: i64,
    available: i64,
}

fn measure(kubelet: &Kubelet) -> Vec<Crossed> {
    let disk = machine::disk(&kubelet.config.root_dir);
    let (processes, most) = machine::processes();
    let signals = [
        (0, "memory", "memory.available", machine::available_memory(), kubelet.node.machine.memory_bytes),
        (1, "ephemeral-storage", "nodefs.available", disk.available, disk.capacity),
        (1, "inodes", "nodefs.inodesFree", disk.inodes_free, disk.inodes),
        (2, "pids", "pid.available", most - processes, most),
    ];
    let thresholds = &kubelet.config.file.eviction_hard;
    let crossed = signals.into_iter().filter_map(|(index, resource, signal, available, whole)| {
        let threshold = object::threshold(thresholds.get(signal)?, whole);
        (whole > 0 && available < threshold).then_some(Crossed { index, resource, threshold, available })
    });
    crossed.collect()
}

/// Watches until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, changed: Arc<tokio::sync::Notify>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
        let crossed = measure(&kubelet);
        let met = [0, 1, 2].map(|index| crossed.iter().any(|crossed| crossed.index == index));
        let transition = kubelet.config.file.eviction_pressure_transition_period.0;
        if kubelet.node.pressure.observe(met, transition) {
            changed.notify_one();
        }
        if let Some(worst) = crossed.into_iter().next() {
            relieve(&kubelet, &worst).await;
        }
    }
}

async fn relieve(kubelet: &Kubelet, crossed: &Crossed) {
    let message = format!("Attempting to reclaim {}", crossed.resource);
    kubelet.events.node(true, "EvictionThresholdMet", &message);
    let usage = rank::memory_usage(kubelet).await;
    let Some(victim) = rank::victim(&kubelet.pods.list(), &usage) else {
        tracing::warn!(resource = crossed.resource, "no pods are left to evict");
        return;
    };
    let quantity = |bytes: i64| {
        if crossed.index == 2 || crossed.resource == "inodes" {
            bytes.to_string()
        } else {
            format!("{}Ki", bytes / 1024)
        }
    };
    let message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        crossed.resource,
        quantity(crossed.threshold),
        quantity(crossed.available)
    );
    kubelet.events.pod(&victim, true, "Evicted", &message);
    let verdict = Verdict { phase: "Failed", reason: "Evicted".into(), message };
    kubelet.pods.evict(crate::pods::spec::uid(&victim), 0, verdict);
}
