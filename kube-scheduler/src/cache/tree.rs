//! The order in which nodes are tried: zones take turns, so that a sample of the first nodes spans all zones.

use std::collections::BTreeMap;

/// Node slots by zone.
#[derive(Default)]
pub struct ZoneTree {
    zones: Vec<(String, Vec<u32>)>,
}

/// The zone of a node from its well-known labels; empty when it has none.
pub fn zone_of(labels: Option<&BTreeMap<String, String>>) -> String {
    let label = |keys: [&str; 2]| {
        keys.iter().find_map(|key| labels.and_then(|labels| labels.get(*key))).map_or("", String::as_str)
    };
    let region = label(["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]);
    let zone = label(["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]);
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
}

impl ZoneTree {
    /// Adds a node to its zone.
    pub fn add(&mut self, zone: String, slot: u32) {
        match self.zones.iter_mut().find(|(name, _)| *name == zone) {
            Some((_, slots)) => {
                if !slots.contains(&slot) {
                    slots.push(slot);
                }
            }
            None => self.zones.push((zone, vec![slot])),
        }
    }

    /// Takes a node out of its zone.
    pub fn remove(&mut self, zone: &str, slot: u32) {
        if let Some((_, slots)) = self.zones.iter_mut().find(|(name, _)| name == zone) {
            slots.retain(|other| *other != slot);
        }
        self.zones.retain(|(_, slots)| !slots.is_empty());
    }

    /// All slots, one of each zone at a time.
    pub fn interleaved(&self) -> Vec<u32> {
        let longest = self.zones.iter().map(|(_, slots)| slots.len()).max().unwrap_or(0);
        (0..longest)
            .flat_map(|turn| self.zones.iter().filter_map(move |(_, slots): &(String, Vec<u32>)| slots.get(turn)))
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_take_turns() {
        let mut tree = ZoneTree::default();
        for (slot, zone) in ["a", "a", "b", "a", "c"].into_iter().enumerate() {
            tree.add(zone.into(), slot as u32);
        }
        assert_eq!(tree.interleaved(), [0, 2, 4, 1, 3]);
        tree.remove("b", 2);
        assert_eq!(tree.interleaved(), [0, 4, 1, 3]);
    }
}
