//! The in-tree plugins, one file each, and how a profile's choice of them is put together.

/// The [`Plugin`](crate::framework::plugin::Plugin) of a file: its `NAME`, and the extension points that its type implements.
macro_rules! extension_points {
    ($plugin:ident { $($as_point:ident: $point:ident),+ $(,)? }) => {
        impl Plugin for $plugin {
            fn name(&self) -> &'static str {
                NAME
            }
            $(fn $as_point(&self) -> Option<&dyn $point> {
                Some(self)
            })+
        }
    };
}

pub mod balanced_allocation;
pub mod default_binder;
pub mod default_preemption;
pub mod dynamic_resources;
pub mod fit;
pub mod gang_scheduling;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_declared_features;
pub mod node_name;
pub mod node_ports;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod priority_sort;
pub mod registry;
pub mod resource_scoring;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod topology_spread;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;
