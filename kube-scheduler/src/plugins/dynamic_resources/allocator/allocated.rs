//! What is taken of the cluster's devices. Copies are cheap.

use std::collections::BTreeMap;

use common::meta::Quantity;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceRequestAllocationResult};

use super::amount;
use super::capacity::Amounts;
use super::devices::DeviceId;

/// What claims have of one device.
#[derive(Clone, Debug, Default, PartialEq)]
struct Use {
    /// By how many claims it is held alone (more than one is a mistake that someone made).
    whole: u32,
    /// How many shares of it are given away.
    shares: u32,
    /// How much of it the shares take.
    capacity: Amounts,
}

/// Devices in use.
#[derive(Clone, Debug, Default)]
pub struct Allocated {
    devices: imbl::HashMap<DeviceId, Use>,
}

fn id(result: &DeviceRequestAllocationResult) -> DeviceId {
    DeviceId {
        driver: result.driver.as_str().into(),
        pool: result.pool.as_str().into(),
        device: result.device.as_str().into(),
    }
}

impl Allocated {
    /// Counts an allocation in. Administrative access takes nothing.
    pub fn add(&mut self, allocation: &AllocationResult, sharing: bool) {
        self.each(allocation, sharing, |used, shared| match shared {
            None => used.whole += 1,
            Some(capacity) => {
                used.shares += 1;
                for (name, taken) in capacity {
                    used.capacity.entry(name).or_insert(Quantity::zero()).add(&taken);
                }
            }
        });
    }

    /// Takes an allocation out again.
    pub fn remove(&mut self, allocation: &AllocationResult, sharing: bool) {
        self.each(allocation, sharing, |used, shared| match shared {
            None => used.whole = used.whole.saturating_sub(1),
            Some(capacity) => {
                used.shares = used.shares.saturating_sub(1);
                for (name, taken) in capacity {
                    used.capacity.entry(name).or_insert(Quantity::zero()).sub(&taken);
                }
            }
        });
    }

    fn each(&mut self, allocation: &AllocationResult, sharing: bool, change: impl Fn(&mut Use, Option<Amounts>)) {
        let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        for result in results.filter(|result| result.admin_access != Some(true)) {
            let shared = (sharing && result.share_id.is_some()).then(|| -> BTreeMap<_, _> {
                result.consumed_capacity.iter().flatten().map(|(name, taken)| (name.clone(), amount(taken))).collect()
            });
            let id = id(result);
            let used = self.devices.entry(id.clone()).or_default();
            change(used, shared);
            if used.whole == 0 && used.shares == 0 {
                self.devices.remove(&id);
            }
        }
    }

    /// Whether a claim has the whole device.
    pub fn is_whole(&self, id: &DeviceId) -> bool {
        self.devices.get(id).is_some_and(|used| used.whole > 0)
    }

    /// Whether anyone has any of it.
    pub fn is_used(&self, id: &DeviceId) -> bool {
        self.devices.contains_key(id)
    }

    /// How much of it shares take.
    pub fn capacity(&self, id: &DeviceId) -> Option<&Amounts> {
        self.devices.get(id).filter(|used| used.shares > 0).map(|used| &used.capacity)
    }

    /// How many devices are in use.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether no device is.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}
