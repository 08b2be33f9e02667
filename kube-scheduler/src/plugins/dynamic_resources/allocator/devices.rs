//! ResourceSlices, parsed once: what allocation reads of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use common::meta::Quantity;
use common::meta::nodeselector::Term;
use k8s_openapi::api::core::v1::{Node, NodeSelector};
use k8s_openapi::api::resource::v1::{self as api, ResourceSlice};
use parking_lot::Mutex;

use super::capacity::Capacity;
use crate::plugins::dynamic_resources::cel::{self, Program, value::Value};

/// Programs whose verdicts a slice remembers.
const REMEMBERED: usize = 64;

/// A device in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// The driver.
    pub driver: Arc<str>,
    /// The pool.
    pub pool: Arc<str>,
    /// The device's name within the pool.
    pub device: Arc<str>,
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// The nodes that a slice or device is for.
#[derive(Debug)]
pub enum Reach {
    /// One.
    Node(String),
    /// All.
    All,
    /// Those that match one of the terms.
    Selector(Vec<Term>),
    /// Each device says for itself.
    PerDevice,
    /// None: nothing that this build knows is set.
    Nowhere,
}

impl Reach {
    fn of(node: Option<&String>, all: Option<bool>, selector: Option<&NodeSelector>) -> Self {
        match (node.filter(|name| !name.is_empty()), all, selector) {
            (Some(name), ..) => Self::Node(name.clone()),
            (None, Some(true), _) => Self::All,
            (None, _, Some(selector)) => Self::Selector(Term::parse_all(selector)),
            (None, _, None) => Self::Nowhere,
        }
    }

    /// Whether a node is among them.
    pub fn includes(&self, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        match self {
            Self::Node(only) => only == name,
            Self::All => true,
            Self::Selector(terms) => {
                let labels = node.metadata.labels.as_ref();
                terms.iter().any(|term| term.matches(name, |key| labels?.get(key).map(String::as_str)))
            }
            Self::PerDevice | Self::Nowhere => false,
        }
    }
}

/// Amounts by counter.
pub type Counters = BTreeMap<String, Quantity>;

fn counters(api: &BTreeMap<String, api::Counter>) -> Counters {
    api.iter().map(|(name, counter)| (name.clone(), super::amount(&counter.value))).collect()
}

/// A device.
#[derive(Debug)]
pub struct Device {
    /// Which one.
    pub id: DeviceId,
    /// As expressions see it, or what is wrong with it.
    pub input: Result<Value, String>,
    /// What it has of each capacity.
    pub capacity: BTreeMap<String, Capacity>,
    /// What it takes from each counter set.
    pub consumes: Vec<(String, Counters)>,
    /// Whether several claims may use it at once.
    pub multiple: bool,
    /// Its own nodes, where each device of the slice says so.
    pub reach: Reach,
}

/// A slice of a pool.
#[derive(Debug)]
pub struct Slice {
    /// The object.
    pub api: Arc<ResourceSlice>,
    /// The driver.
    pub driver: Arc<str>,
    /// The pool.
    pub pool: Arc<str>,
    /// Its nodes.
    pub reach: Reach,
    /// Its devices, in the object's order.
    pub devices: Vec<Device>,
    /// The counter sets that it defines.
    pub counter_sets: Vec<(String, Counters)>,
    verdicts: Mutex<HashMap<u64, Arc<[AtomicU8]>>>,
}

const YES: u8 = 1;
const NO: u8 = 2;

impl Slice {
    /// Parses a slice.
    pub fn new(api: Arc<ResourceSlice>) -> Self {
        let spec = &api.spec;
        let (driver, pool): (Arc<str>, Arc<str>) = (spec.driver.as_str().into(), spec.pool.name.as_str().into());
        let device = |device: &api::Device| {
            let multiple = device.allow_multiple_allocations == Some(true);
            Device {
                id: DeviceId { driver: driver.clone(), pool: pool.clone(), device: device.name.as_str().into() },
                input: cel::input(&driver, device, multiple),
                capacity: device.capacity.iter().flatten().map(|(name, c)| (name.clone(), Capacity::of(c))).collect(),
                consumes: device
                    .consumes_counters
                    .iter()
                    .flatten()
                    .map(|consumed| (consumed.counter_set.clone(), counters(&consumed.counters)))
                    .collect(),
                multiple,
                reach: Reach::of(device.node_name.as_ref(), device.all_nodes, device.node_selector.as_ref()),
            }
        };
        let devices = spec.devices.iter().flatten().map(device).collect();
        let sets = spec.shared_counters.iter().flatten();
        let counter_sets = sets.map(|set| (set.name.clone(), counters(&set.counters))).collect();
        let reach = match Reach::of(spec.node_name.as_ref(), spec.all_nodes, spec.node_selector.as_ref()) {
            Reach::Nowhere if spec.per_device_node_selection == Some(true) => Reach::PerDevice,
            reach => reach,
        };
        Self { driver, pool, reach, devices, counter_sets, verdicts: Mutex::default(), api }
    }

    /// metadata.name
    pub fn name(&self) -> &str {
        self.api.metadata.name.as_deref().unwrap_or_default()
    }

    /// The object of a device.
    pub fn device_api(&self, at: usize) -> Option<&api::Device> {
        self.api.spec.devices.as_ref()?.get(at)
    }

    /// Whether a program selects a device. Each program runs once per device, for all pods and nodes.
    pub fn selected_by(&self, program: &Program, at: usize) -> Result<bool, String> {
        let column = self.column(program.id);
        match column[at].load(Ordering::Relaxed) {
            YES => return Ok(true),
            NO => return Ok(false),
            _ => {}
        }
        let verdict = self.devices[at].input.as_ref().map_err(Clone::clone).and_then(|input| program.matches(input))?;
        column[at].store(if verdict { YES } else { NO }, Ordering::Relaxed);
        Ok(verdict)
    }

    fn column(&self, program: u64) -> Arc<[AtomicU8]> {
        let mut verdicts = self.verdicts.lock();
        if let Some(column) = verdicts.get(&program) {
            return column.clone();
        }
        if verdicts.len() >= REMEMBERED {
            verdicts.clear();
        }
        let column: Arc<[AtomicU8]> = self.devices.iter().map(|_| AtomicU8::new(0)).collect();
        verdicts.insert(program, column.clone());
        column
    }
}
