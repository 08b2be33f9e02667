//! Every controller under its upstream name, and which of them `--controllers` asks for.

use crate::context::{Context, Task};
use crate::controllers::{node, node_lifecycle, route, service};

/// Requests informers, registers handlers; what it returns runs once the caches are in sync. None: the provider
/// lacks that part, which the controller has said in the log.
pub(crate) type Start = fn(&Context) -> anyhow::Result<Option<Task>>;

/// One line of the table.
pub(crate) struct Descriptor {
    pub(crate) name: &'static str,
    /// Its name in older releases, which metrics still carry.
    pub(crate) alias: &'static str,
    pub(crate) start: Start,
}

/// All of upstream's; all are on by default.
pub(crate) static CONTROLLERS: &[Descriptor] = &[
    Descriptor { name: "cloud-node-controller", alias: "cloud-node", start: node::start },
    Descriptor { name: "cloud-node-lifecycle-controller", alias: "cloud-node-lifecycle", start: node_lifecycle::start },
    Descriptor { name: "service-lb-controller", alias: "service", start: service::start },
    Descriptor { name: "node-route-controller", alias: "route", start: route::start },
];

/// The controllers that `--controllers` asks for. A name nobody knows is an error.
pub(crate) fn enabled(requested: &[String]) -> anyhow::Result<Vec<&'static Descriptor>> {
    common::controlplane::select_controllers(CONTROLLERS, |d| (d.name, std::slice::from_ref(&d.alias), true), requested)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection() {
        let names = |flag: &str| {
            let items: Vec<String> = flag.split(',').map(str::to_owned).collect();
            enabled(&items).map(|l| l.into_iter().map(|d| d.name).collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert_eq!(names("*").unwrap().len(), 4);
        assert_eq!(names("service").unwrap(), ["service-lb-controller"]);
        assert!(!names("*,-cloud-node").unwrap().contains(&"cloud-node-controller"));
        assert!(names("*,-service,service-lb-controller").unwrap().contains(&"service-lb-controller"));
        assert_eq!(names("*,-nope").unwrap_err(), "\"nope\" is not in the list of known controllers");
    }
}
