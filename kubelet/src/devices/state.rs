//! Devices of all plugins and who has them; which ones to give. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::plugin::Plugin;
use super::wire;
use crate::placement::hints::{Hint, Mask};

/// A plugin that is away for this long takes its resource with it.
const GRACE: Duration = Duration::from_secs(300);
/// NUMA node of a device that is on none.
const NOWHERE: i64 = -1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) healthy: bool,
    pub(super) nodes: Vec<usize>,
}

/// Devices of a container, by NUMA node, and what they need.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Given {
    pub(super) devices: BTreeMap<i64, Vec<String>>,
    pub(super) answer: wire::ContainerAllocateResponse,
}

impl Given {
    pub(super) fn ids(&self) -> BTreeSet<String> {
        self.devices.values().flatten().cloned().collect()
    }
}

/// By pod, container and resource.
pub(super) type Gifts = BTreeMap<(String, String, String), Given>;

/// A registered plugin.
#[derive(Clone)]
pub(super) struct Registered {
    pub(super) plugin: Plugin,
    pub(super) options: wire::DevicePluginOptions,
    /// Tells a registration from a later one of the same resource.
    pub(super) number: u64,
}

#[derive(Default)]
pub(super) struct Resource {
    pub(super) devices: BTreeMap<String, Device>,
    pub(super) plugin: Option<Registered>,
    pub(super) gone_since: Option<Instant>,
}

impl Resource {
    pub(super) fn healthy(&self) -> BTreeSet<String> {
        self.devices.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id.clone()).collect()
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) resources: BTreeMap<String, Resource>,
    pub(super) gifts: Gifts,
    /// Devices of a pod's init containers, which those after them may have.
    pub(super) reusable: HashMap<String, BTreeMap<String, BTreeSet<String>>>,
}

/// What is to be decided for one resource of one container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Taken already: of init containers that are over.
    pub(super) reused: BTreeSet<String>,
    /// In the order in which to take from: near, far, and nowhere.
    pub(super) groups: [BTreeSet<String>; 3],
    pub(super) needed: usize,
}

impl Choice {
    /// Devices that the plugin is asked to choose among: the near ones if they are more than enough, else all when they are not.
    pub(super) fn open(&self) -> Option<BTreeSet<String>> {
        let left = self.needed - self.reused.len();
        let [near, far, nowhere] = &self.groups;
        match left {
            0 => None,
            left if left < near.len() => Some(near.clone()),
            left if left == near.len() => None,
            _ => Some(near.iter().chain(far).chain(nowhere).cloned().collect()),
        }
    }

    /// Takes the near ones that must be taken anyway, then what the plugin likes, then any.
    pub(super) fn settle(self, preferred: &[String]) -> BTreeSet<String> {
        let open = self.open().unwrap_or_default();
        let mut taken = self.reused;
        let [near, far, nowhere] = self.groups;
        let room_for_all_near = self.needed - taken.len() >= near.len();
        let first = if room_for_all_near { near.clone() } else { BTreeSet::new() };
        let liked = preferred.iter().filter(|id| open.contains(*id)).cloned();
        for id in first.into_iter().chain(liked).chain(near).chain(far).chain(nowhere) {
            if taken.len() >= self.needed {
                break;
            }
            taken.insert(id);
        }
        taken
    }
}

impl State {
    fn in_use(&self, resource: &str) -> BTreeSet<String> {
        self.gifts.iter().filter(|((_, _, of), _)| of == resource).flat_map(|(_, given)| given.ids()).collect()
    }

    /// A plugin has, or a container had, devices of that name.
    pub(super) fn knows(&self, resource: &str) -> bool {
        self.resources.contains_key(resource) || self.gifts.keys().any(|(_, _, of)| of == resource)
    }

    /// What to give; `None` when the container has it already.
    pub(super) fn choose(
        &self,
        (pod, container): (&str, &str),
        resource: &str,
        needed: usize,
        affinity: Hint,
    ) -> Result<Option<Choice>, String> {
        let key = (pod.to_owned(), container.to_owned(), resource.to_owned());
        let have = self.gifts.get(&key).map(Given::ids).unwrap_or_default();
        if !have.is_empty() && have.len() != needed {
            return Err(format!(
                "pod {pod:?} container {container:?} changed request for resource {resource:?} from {} to {needed}",
                have.len()
            ));
        }
        let Some(known) = self.resources.get(resource) else {
            return Err(format!("cannot allocate unregistered device {resource}"));
        };
        let healthy = known.healthy();
        if healthy.is_empty() {
            return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        if !have.is_subset(&healthy) {
            return Err(format!(
                "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
            ));
        }
        if !have.is_empty() || needed == 0 {
            return Ok(None);
        }
        let reusable = self.reusable.get(pod).and_then(|of| of.get(resource)).cloned().unwrap_or_default();
        let reused: BTreeSet<String> = reusable.into_iter().take(needed).collect();
        let available: BTreeSet<String> = &healthy - &self.in_use(resource);
        let missing = needed - reused.len();
        if available.len() < missing {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {missing}, Available: {}",
                available.len()
            ));
        }
        Ok(Some(Choice { reused, groups: by_nearness(known, available, affinity), needed }))
    }

    /// Notes a gift.
    pub(super) fn give(
        &mut self,
        key: (String, String, String),
        ids: &BTreeSet<String>,
        answer: wire::ContainerAllocateResponse,
    ) {
        let known = self.resources.get(&key.2);
        let mut devices: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for id in ids {
            let nodes =
                known.and_then(|known| known.devices.get(id)).map(|device| device.nodes.clone()).unwrap_or_default();
            if nodes.is_empty() {
                devices.entry(NOWHERE).or_default().push(id.clone());
            }
            for node in nodes {
                devices.entry(i64::try_from(node).unwrap_or(NOWHERE)).or_default().push(id.clone());
            }
        }
        self.gifts.insert(key, Given { devices, answer });
    }

    /// Sets of nodes with enough devices for `needed` of them.
    pub(super) fn hints(&self, pod: &str, resource: &str, needed: usize, nodes: &BTreeSet<usize>) -> Option<Vec<Hint>> {
        let known = self.resources.get(resource)?;
        if !known.devices.values().any(|device| !device.nodes.is_empty()) {
            return None;
        }
        let mine = |(of, _, name): &(String, String, String)| of == pod && name == resource;
        let own: BTreeSet<String> =
            self.gifts.iter().filter(|(key, _)| mine(key)).flat_map(|(_, given)| given.ids()).collect();
        let available: BTreeSet<String> =
            if own.is_empty() { &known.healthy() - &self.in_use(resource) } else { own.clone() };
        if available.len() < needed {
            return Some(Vec::new());
        }
        let within = |id: &String, mask: Mask| {
            known.devices.get(id).is_some_and(|device| device.nodes.iter().any(|node| mask.has(*node)))
        };
        let mut least = nodes.len();
        let mut hints = Vec::new();
        for mask in Mask::all(nodes) {
            if known.devices.keys().filter(|id| within(id, mask)).count() >= needed {
                least = least.min(mask.count());
            }
            // A device that is nowhere is near everything.
            let free =
                |id: &&String| within(id, mask) || known.devices.get(*id).is_some_and(|device| device.nodes.is_empty());
            if available.iter().filter(free).count() >= needed {
                hints.push(Hint { nodes: Some(mask), preferred: false });
            }
        }
        for hint in &mut hints {
            hint.preferred = hint.nodes.is_some_and(|mask| mask.count() == least);
        }
        Some(hints)
    }

    /// Resources with all devices and the healthy ones; those whose plugin stayed away are none any more, and are told.
    pub(super) fn capacity(&mut self) -> (BTreeMap<String, (usize, usize)>, Vec<String>) {
        let expired = |resource: &Resource| resource.gone_since.is_some_and(|since| since.elapsed() > GRACE);
        let gone: Vec<String> =
            self.resources.iter().filter(|(_, r)| expired(r)).map(|(name, _)| name.clone()).collect();
        self.resources.retain(|name, _| !gone.contains(name));
        let count = |resource: &Resource| (resource.devices.len(), resource.healthy().len());
        (self.resources.iter().map(|(name, resource)| (name.clone(), count(resource))).collect(), gone)
    }
}

/// Devices within the affinity, outside of it, and on no node.
fn by_nearness(known: &Resource, available: BTreeSet<String>, affinity: Hint) -> [BTreeSet<String>; 3] {
    let mut groups: [BTreeSet<String>; 3] = Default::default();
    let aligned = known.devices.values().any(|device| !device.nodes.is_empty());
    for id in available {
        let nodes = known.devices.get(&id).map(|device| device.nodes.as_slice()).unwrap_or_default();
        let group = match affinity.nodes.filter(|_| aligned) {
            None => 2,
            Some(_) if nodes.is_empty() => 2,
            Some(mask) if nodes.iter().any(|node| mask.has(*node)) => 0,
            Some(_) => 1,
        };
        groups[group].insert(id);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let device = |id: &str, healthy, nodes: &[usize]| (id.to_owned(), Device { healthy, nodes: nodes.to_vec() });
        let devices = [
            device("a0", true, &[0]),
            device("a1", true, &[0]),
            device("b0", true, &[1]),
            device("b1", true, &[1]),
            device("sick", false, &[0]),
        ];
        let resource = Resource { devices: devices.into(), ..Resource::default() };
        State { resources: [("r".to_owned(), resource)].into(), ..State::default() }
    }

    fn near(node: usize) -> Hint {
        Hint { nodes: Some(Mask::of([node])), preferred: true }
    }

    fn ids(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn near_devices_first_and_among_them_those_the_plugin_likes() {
        for (affinity, needed, liked, want) in [
            (near(1), 1, &[][..], &["b0"][..]),
            (near(1), 1, &["b1"], &["b1"]),
            (near(1), 1, &["a1"], &["b0"]),
            (near(1), 3, &["a1"], &["a1", "b0", "b1"]),
            (Hint::default(), 2, &["b1", "a1"], &["a1", "b1"]),
        ] {
            let choice = state().choose(("p", "c"), "r", needed, affinity).unwrap().unwrap();
            let liked: Vec<String> = liked.iter().map(|id| (*id).to_owned()).collect();
            assert_eq!(choice.settle(&liked), ids(want), "{affinity:?} {needed}");
        }
    }

    #[test]
    fn refusals_say_why() {
        let mut state = state();
        let ask = |state: &State, resource: &str, needed| {
            state.choose(("p", "c"), resource, needed, Hint::default()).unwrap_err()
        };
        assert_eq!(ask(&state, "x", 1), "cannot allocate unregistered device x");
        assert_eq!(ask(&state, "r", 5), "requested number of devices unavailable for r. Requested: 5, Available: 4");
        let key = ("p".to_owned(), "c".to_owned(), "r".to_owned());
        state.give(key, &ids(&["a0"]), wire::ContainerAllocateResponse::default());
        assert_eq!(state.choose(("p", "c"), "r", 1, Hint::default()), Ok(None));
        assert!(ask(&state, "r", 2).contains("changed request for resource \"r\" from 1 to 2"));
        state.resources.get_mut("r").unwrap().devices.get_mut("a0").unwrap().healthy = false;
        assert!(ask(&state, "r", 1).contains("no longer healthy"));
    }

    #[test]
    fn hints_say_where_enough_is_free() {
        let mut state = state();
        let nodes = BTreeSet::from([0, 1]);
        let preferred = |state: &State, needed| -> Vec<Vec<usize>> {
            let hints = state.hints("p", "r", needed, &nodes).unwrap();
            hints.into_iter().filter(|hint| hint.preferred).map(|hint| hint.nodes.unwrap().nodes()).collect()
        };
        assert_eq!(preferred(&state, 2), [vec![0], vec![1]]);
        assert_eq!(preferred(&state, 4), [vec![0, 1]]);
        let key = ("q".to_owned(), "c".to_owned(), "r".to_owned());
        state.give(key, &ids(&["a0"]), wire::ContainerAllocateResponse::default());
        assert_eq!(preferred(&state, 2), [vec![1]]);
        assert_eq!(state.hints("p", "r", 4, &nodes), Some(Vec::new()));
        assert_eq!(state.hints("p", "other", 1, &nodes), None);
    }
}
