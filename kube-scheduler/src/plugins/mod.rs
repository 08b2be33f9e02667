//! The in-tree plugins, one file each, and how a profile's choice of them is put together.

pub mod balanced_allocation;
pub mod default_binder;
pub mod default_preemption;
pub mod dynamic_resources;
pub mod fit;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_unschedulable;
pub mod priority_sort;
pub mod registry;
pub mod resource_scoring;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod topology_spread;
