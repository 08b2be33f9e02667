//! Allocation of devices to claims, pure: slices, classes, claims and what is taken already in, allocation results out.
//!
//! A [`Problem`] is a pod's claims, prepared once; [`allocate`] solves it for one node. The search tries every combination of
//! devices in a fixed order and takes the first that satisfies all requests and constraints.

use common::meta::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

pub mod allocated;
pub mod capacity;
pub mod constraint;
pub mod devices;
pub mod inventory;
pub mod problem;
pub mod result;
pub mod search;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use self::allocated::Allocated;
pub use self::inventory::Inventory;
pub use self::problem::Problem;
pub use self::search::{Failure, allocate};

/// What upstream's gates switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// DRAPrioritizedList
    pub prioritized_list: bool,
    /// DRAPartitionableDevices
    pub partitionable_devices: bool,
    /// DRADeviceTaints
    pub device_taints: bool,
    /// DRADeviceBindingConditions and DRAResourceClaimDeviceStatus
    pub binding_conditions: bool,
    /// DRAConsumableCapacity
    pub consumable_capacity: bool,
    /// DRAExtendedResource
    pub extended_resources: bool,
    /// DRASchedulerFilterTimeout
    pub filter_timeout: bool,
}

impl Default for Features {
    /// As in v1.36 without flags.
    fn default() -> Self {
        Self {
            prioritized_list: true,
            partitionable_devices: true,
            device_taints: true,
            binding_conditions: true,
            consumable_capacity: true,
            extended_resources: true,
            filter_timeout: true,
        }
    }
}

/// An amount of the API; what validation let through parses.
pub fn amount(api: &ApiQuantity) -> Quantity {
    api.0.parse().unwrap_or(Quantity::zero())
}
