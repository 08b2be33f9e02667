//! Eviction: measures memory, disk and PIDs against the thresholds, reports pressure and ends pods until it is gone.

mod local;
mod rank;
mod thresholds;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::node::machine;
use crate::pods::spec;
use crate::pods::status::Verdict;
use crate::shared::Kubelet;
pub(crate) use thresholds::Thresholds;
use thresholds::{Crossed, Observed};

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

fn measure(kubelet: &Kubelet) -> Observed {
    let disk = machine::disk(&kubelet.config.root_dir);
    let (processes, most) = machine::processes();
    [
        (machine::available_memory(), kubelet.node.machine.memory_bytes),
        (disk.available, disk.capacity),
        (disk.inodes_free, disk.inodes),
        (most - processes, most),
    ]
}

/// Watches until shutdown.
pub(crate) async fn run(
    kubelet: Arc<Kubelet>,
    mut thresholds: Thresholds,
    changed: Arc<tokio::sync::Notify>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
        if kubelet.config.file.local_storage_capacity_isolation {
            local::enforce(&kubelet).await;
        }
        let (met, crossed) = thresholds.observe(&measure(&kubelet), Instant::now());
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
    let quantity = |number: i64| if crossed.bytes { format!("{}Ki", number / 1024) } else { number.to_string() };
    let message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        crossed.resource,
        quantity(crossed.threshold),
        quantity(crossed.available)
    );
    kubelet.events.pod(&victim, true, "Evicted", &message);
    let verdict = Verdict { phase: "Failed", reason: "Evicted".into(), message };
    // A soft threshold leaves time: the pod's own, up to what the node allows.
    let longest = kubelet.config.file.eviction_max_pod_grace_period;
    let grace = if crossed.soft { spec::grace(&victim).min(longest) } else { 0 };
    kubelet.pods.evict(spec::uid(&victim), grace, verdict);
}
