//! Who owns whom: a pure graph over all objects of the cluster, reduced to identities and owner references.
//!
//! Watch events go in, [`Effects`] come out: objects to look at for deletion, owners whose dependents are
//! to be orphaned. An owner that is named by a dependent and was not seen itself is *virtual* until a watch
//! shows it or the server says that it does not exist.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// An object's UID, shared between all places that name it.
pub(super) type Uid = Arc<str>;

/// Everything that names an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) kind: Arc<str>,
    pub(super) api_version: Arc<str>,
    /// Empty for cluster-scoped objects.
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) uid: Uid,
}

/// One owner reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) api_version: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) uid: Uid,
    pub(super) blocks: bool,
}

impl Owner {
    fn matches(&self, identity: &Identity) -> bool {
        self.uid == identity.uid
            && self.name == identity.name
            && self.kind == identity.kind
            && self.api_version == identity.api_version
    }

    pub(super) fn identity_in(&self, namespace: &Arc<str>) -> Identity {
        Identity {
            kind: self.kind.clone(),
            api_version: self.api_version.clone(),
            namespace: namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }
}

/// What a watch says about an object.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) identity: Identity,
    pub(super) owners: Box<[Owner]>,
    pub(super) deleting: bool,
    /// Has the finalizer of foreground deletion.
    pub(super) foreground: bool,
    /// Has the finalizer that asks for orphans.
    pub(super) orphan: bool,
}

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) owners: Box<[Owner]>,
    pub(super) dependents: BTreeSet<Uid>,
    /// Named by others and not seen itself.
    pub(super) is_virtual: bool,
    pub(super) deleting: bool,
    /// Being deleted in the foreground: waits for its dependents.
    pub(super) deleting_dependents: bool,
    orphaning: bool,
}

/// What follows from a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// Look at these.
    pub(super) delete: Vec<Uid>,
    /// Look at these again after their back-off.
    pub(super) delete_later: Vec<Uid>,
    /// Orphan the dependents of these.
    pub(super) orphan: Vec<Uid>,
    /// A dependent that names an owner in another namespace, and that owner as it names it.
    pub(super) wrong_namespace: Vec<(Identity, Identity)>,
}

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    absent: super::absent::AbsentOwners,
}

impl Graph {
    /// A copy of one node.
    pub(super) fn get(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }

    /// The dependents of a node.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Node> {
        let list = self.nodes.get(uid).map(|n| n.dependents.iter());
        list.into_iter().flatten().filter_map(|u| self.nodes.get(u).cloned()).collect()
    }

    /// Those dependents that keep a foreground deletion from finishing.
    pub(super) fn blocking_dependents(&self, uid: &str) -> Vec<Node> {
        let mut list = self.dependents(uid);
        list.retain(|d| d.owners.iter().any(|o| &*o.uid == uid && o.blocks));
        list
    }

    /// Owners that are known not to exist.
    pub(super) fn absent(&mut self) -> &mut super::absent::AbsentOwners {
        &mut self.absent
    }

    /// The objects of a kind that were observed, for comparison after a re-list.
    pub(super) fn observed_of(&self, api_version: &str, kind: &str) -> Vec<Uid> {
        let of_kind = |n: &&Node| !n.is_virtual && &*n.identity.kind == kind && &*n.identity.api_version == api_version;
        self.nodes.values().filter(of_kind).map(|n| n.identity.uid.clone()).collect()
    }

    /// An object was added or changed.
    pub(super) fn observe(&mut self, seen: Observed) -> Effects {
        let mut effects = Effects::default();
        let uid = seen.identity.uid.clone();
        if let Some(node) = self.nodes.get(&uid) {
            if node.is_virtual {
                let as_named = node.identity == seen.identity;
                self.materialize(&seen.identity, as_named, &mut effects);
            }
            self.update_owners(&uid, &seen.owners, &mut effects);
        } else {
            let node = Node {
                identity: seen.identity.clone(),
                owners: seen.owners.clone(),
                dependents: BTreeSet::new(),
                is_virtual: false,
                deleting: seen.deleting,
                deleting_dependents: false,
                orphaning: false,
            };
            self.nodes.insert(uid.clone(), node);
            self.link(&seen.identity, &seen.owners, &mut effects);
        }
        self.transition(&uid, &seen, &mut effects);
        effects
    }

    /// A virtual node turns out to exist, maybe under another name or namespace than its dependents said.
    fn materialize(&mut self, identity: &Identity, as_named: bool, effects: &mut Effects) {
        let strangers = if as_named { Vec::new() } else { self.partition(identity).1 };
        for dependent in strangers {
            let Some(node) = self.nodes.get(&dependent) else { continue };
            if !identity.namespace.is_empty() && node.identity.namespace != identity.namespace {
                note_wrong_namespace(node, &identity.uid, effects);
            }
            effects.delete.push(dependent);
        }
        if let Some(node) = self.nodes.get_mut(&identity.uid) {
            node.identity = identity.clone();
            node.is_virtual = false;
        }
    }

    fn update_owners(&mut self, uid: &Uid, owners: &[Owner], effects: &mut Effects) {
        let Some(node) = self.nodes.get_mut(uid) else { return };
        if *node.owners == *owners {
            return;
        }
        let identity = node.identity.clone();
        let old = std::mem::replace(&mut node.owners, owners.into());
        for was in old.iter().filter(|o| o.blocks) {
            // Removed or no longer blocking: that owner may be free to go now.
            let still = owners.iter().any(|o| o.uid == was.uid && o.blocks);
            if !still && self.nodes.contains_key(&was.uid) {
                effects.delete.push(was.uid.clone());
            }
        }
        let added: Vec<Owner> = owners.iter().filter(|o| !old.iter().any(|w| w.uid == o.uid)).cloned().collect();
        self.link(&identity, &added, effects);
        for was in old.iter().filter(|w| !owners.iter().any(|o| o.uid == w.uid)) {
            if let Some(owner) = self.nodes.get_mut(&was.uid) {
                owner.dependents.remove(uid);
            }
        }
    }

    /// Enters a dependent at its owners, making virtual ones as needed.
    fn link(&mut self, dependent: &Identity, owners: &[Owner], effects: &mut Effects) {
        let mut doubtful = false;
        for reference in owners {
            let Some(owner) = self.nodes.get_mut(&reference.uid) else {
                let identity = reference.identity_in(&dependent.namespace);
                let dependents = BTreeSet::from([dependent.uid.clone()]);
                let node = Node {
                    identity,
                    owners: Box::default(),
                    dependents,
                    is_virtual: true,
                    deleting: false,
                    deleting_dependents: false,
                    orphaning: false,
                };
                self.nodes.insert(reference.uid.clone(), node);
                effects.delete.push(reference.uid.clone());
                continue;
            };
            owner.dependents.insert(dependent.uid.clone());
            let elsewhere = owner.identity.namespace != dependent.namespace;
            if !owner.identity.namespace.is_empty() && elsewhere {
                if !owner.is_virtual {
                    effects.wrong_namespace.push((dependent.clone(), reference.identity_in(&dependent.namespace)));
                }
                doubtful = true;
            } else if !reference.matches(&owner.identity) || (elsewhere && owner.is_virtual) {
                doubtful = true;
            }
        }
        if doubtful {
            effects.delete.push(dependent.uid.clone());
        }
    }

    /// A deletion that waits for dependents or for their orphaning begins.
    fn transition(&mut self, uid: &Uid, seen: &Observed, effects: &mut Effects) {
        let Some(node) = self.nodes.get_mut(uid) else { return };
        node.deleting |= seen.deleting;
        let orphans = seen.deleting && seen.orphan;
        let waits = seen.deleting && seen.foreground;
        if orphans && !node.orphaning {
            node.orphaning = true;
            effects.orphan.push(uid.clone());
            return;
        }
        node.orphaning = orphans;
        if waits && !node.deleting_dependents {
            node.deleting_dependents = true;
            effects.delete.extend(node.dependents.iter().cloned());
            effects.delete.push(uid.clone());
        }
    }

    /// A watch says that the object is gone.
    pub(super) fn remove(&mut self, uid: &str) -> Effects {
        let mut effects = Effects::default();
        let Some(node) = self.nodes.remove(uid) else { return effects };
        let identity = node.identity.clone();
        self.removed(&node, identity, &mut effects);
        effects
    }

    fn removed(&mut self, node: &Node, identity: Identity, effects: &mut Effects) {
        for reference in &node.owners {
            let Some(owner) = self.nodes.get_mut(&reference.uid) else { continue };
            owner.dependents.remove(&node.identity.uid);
            if owner.deleting_dependents {
                effects.delete.push(reference.uid.clone());
            } else if owner.is_virtual && owner.dependents.is_empty() {
                // Nobody names it any more.
                self.nodes.remove(&reference.uid);
            }
        }
        if !node.dependents.is_empty() {
            self.absent.add(identity);
            effects.delete.extend(node.dependents.iter().cloned());
        }
    }

    /// The server says that no object of this identity exists.
    pub(super) fn verified_absent(&mut self, identity: &Identity) -> Effects {
        let mut effects = Effects::default();
        let Some(node) = self.nodes.get(&identity.uid) else { return effects };
        let (matching, others) = self.partition(identity);
        let keep = if node.is_virtual { !others.is_empty() } else { node.identity != *identity };
        if !keep {
            if let Some(node) = self.nodes.remove(&identity.uid) {
                self.removed(&node, identity.clone(), &mut effects);
            }
            return effects;
        }
        let (is_virtual, same) = (node.is_virtual, node.identity == *identity);
        if !matching.is_empty() {
            self.absent.add(identity.clone());
            effects.delete.extend(matching);
        }
        if is_virtual
            && same
            && let Some(next) = self.alternate(identity, &others)
            && let Some(node) = self.nodes.get_mut(&identity.uid)
        {
            // Some dependents call it something else: see whether that exists.
            node.identity = next;
            effects.delete_later.push(identity.uid.clone());
        }
        effects
    }

    /// The dependents that name exactly this identity, and those that name the UID otherwise. One may be in both.
    fn partition(&self, identity: &Identity) -> (Vec<Uid>, Vec<Uid>) {
        let (mut matching, mut others) = (Vec::new(), Vec::new());
        for dependent in self.dependents(&identity.uid) {
            let uid = dependent.identity.uid.clone();
            if !identity.namespace.is_empty() && identity.namespace != dependent.identity.namespace {
                others.push(uid);
                continue;
            }
            let named = || dependent.owners.iter().filter(|o| o.uid == identity.uid);
            if named().any(|o| o.matches(identity)) {
                matching.push(uid.clone());
            }
            if named().any(|o| !o.matches(identity)) {
                others.push(uid);
            }
        }
        (matching, others)
    }

    /// The next identity, in a fixed round, under which dependents name this UID.
    fn alternate(&self, absent: &Identity, dependents: &[Uid]) -> Option<Identity> {
        let cluster_scoped = absent.namespace.is_empty();
        let mut names: BTreeSet<Identity> = BTreeSet::new();
        for dependent in dependents.iter().filter_map(|u| self.nodes.get(u)) {
            for owner in dependent.owners.iter().filter(|o| o.uid == absent.uid) {
                let mut identity = owner.identity_in(&dependent.identity.namespace);
                if cluster_scoped && owner.kind == absent.kind && owner.api_version == absent.api_version {
                    identity.namespace = Arc::from("");
                }
                names.insert(identity);
            }
        }
        names.remove(absent);
        names.range(absent.clone()..).next().or_else(|| names.first()).cloned()
    }

    /// How many nodes there are, and how many of them virtual.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.nodes.len(), self.nodes.values().filter(|n| n.is_virtual).count())
    }
}

fn note_wrong_namespace(dependent: &Node, owner: &Uid, effects: &mut Effects) {
    if let Some(reference) = dependent.owners.iter().find(|o| o.uid == *owner) {
        let named = reference.identity_in(&dependent.identity.namespace);
        effects.wrong_namespace.push((dependent.identity.clone(), named));
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
