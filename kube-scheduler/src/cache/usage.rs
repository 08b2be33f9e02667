//! What the pods of one node use together, kept up to date pod by pod.

use std::sync::Arc;

use super::resources::{CPU, EPHEMERAL, MEMORY, ResourceIndex};
use crate::framework::pod::PodInfo;
use crate::framework::template::HostPort;

/// The sum over the pods on one node.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Requested, per resource column (may be shorter than the index: missing is zero).
    pub requested: Vec<i64>,
    /// Millicores with scoring defaults.
    pub nonzero_cpu: i64,
    /// Bytes with scoring defaults.
    pub nonzero_memory: i64,
    /// Host ports in use, with repetitions.
    pub ports: Vec<HostPort>,
    /// The pods.
    pub pods: Arc<Vec<Arc<PodInfo>>>,
}

impl Usage {
    /// Adds a pod. Columns for its resources are made as needed.
    pub fn add(&mut self, pod: Arc<PodInfo>, index: &mut ResourceIndex) {
        self.account(&pod, index, 1);
        self.ports.extend(pod.template.ports.iter().cloned());
        Arc::make_mut(&mut self.pods).push(pod);
    }

    /// Removes a pod by uid and returns it.
    pub fn remove(&mut self, uid: &str, index: &mut ResourceIndex) -> Option<Arc<PodInfo>> {
        let position = self.pods.iter().position(|pod| &*pod.uid == uid)?;
        let pod = Arc::make_mut(&mut self.pods).swap_remove(position);
        self.account(&pod, index, -1);
        for port in &pod.template.ports {
            if let Some(position) = self.ports.iter().position(|used| used == port) {
                self.ports.swap_remove(position);
            }
        }
        Some(pod)
    }

    fn account(&mut self, pod: &PodInfo, index: &mut ResourceIndex, sign: i64) {
        let requests = &pod.template.requests;
        self.charge(CPU, sign * requests.cpu);
        self.charge(MEMORY, sign * requests.memory);
        self.charge(EPHEMERAL, sign * requests.ephemeral);
        for (name, value) in &requests.scalars {
            let column = index.column_or_add(name);
            self.charge(column, sign * value);
        }
        self.nonzero_cpu += sign * requests.nonzero_cpu;
        self.nonzero_memory += sign * requests.nonzero_memory;
    }

    fn charge(&mut self, column: usize, value: i64) {
        if self.requested.len() <= column {
            self.requested.resize(column + 1, 0);
        }
        self.requested[column] += value;
    }

    /// What is requested of a column.
    pub fn requested(&self, column: usize) -> i64 {
        self.requested.get(column).copied().unwrap_or(0)
    }
}
