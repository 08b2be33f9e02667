//! Which container images lie on which nodes.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Node;

use crate::framework::bitset::BitSet;

/// One image name.
#[derive(Default)]
pub struct Image {
    /// Size as first reported.
    pub size: i64,
    /// Where it lies.
    pub nodes: BitSet,
    /// How many nodes that is.
    pub count: usize,
}

/// All image names, and which names each slot reported.
#[derive(Default)]
pub struct Images {
    by_name: HashMap<String, Image>,
    by_slot: HashMap<u32, Vec<String>>,
}

impl Images {
    /// An image by its normalised name.
    pub fn get(&self, name: &str) -> Option<&Image> {
        self.by_name.get(name)
    }

    pub(super) fn write(&mut self, slot: u32, node: Option<&Node>) {
        for name in self.by_slot.remove(&slot).unwrap_or_default() {
            if let Some(image) = self.by_name.get_mut(&name) {
                image.nodes.remove(slot);
                image.count -= 1;
                if image.count == 0 {
                    self.by_name.remove(&name);
                }
            }
        }
        let reported = node.and_then(|node| node.status.as_ref()).and_then(|status| status.images.as_ref());
        let mut names = Vec::new();
        for report in reported.into_iter().flatten() {
            for name in report.names.iter().flatten() {
                let image = self.by_name.entry(name.clone()).or_default();
                if image.count == 0 {
                    image.size = report.size_bytes.unwrap_or(0);
                }
                if !image.nodes.contains(slot) {
                    image.nodes.insert(slot);
                    image.count += 1;
                    names.push(name.clone());
                }
            }
        }
        if !names.is_empty() {
            self.by_slot.insert(slot, names);
        }
    }
}
