//! NUMA nodes that something could come from, and the choice among them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// NUMA nodes, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mask(u64);

impl Mask {
    pub(crate) fn of(nodes: impl IntoIterator<Item = usize>) -> Self {
        Self(nodes.into_iter().filter(|node| *node < 64).fold(0, |bits, node| bits | 1 << node))
    }

    pub(crate) fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn has(self, node: usize) -> bool {
        node < 64 && self.0 & (1 << node) != 0
    }

    pub(crate) fn nodes(self) -> Vec<usize> {
        (0..64).filter(|node| self.has(*node)).collect()
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` is in it.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Fewer nodes, or as many of lower numbers.
    pub(crate) fn is_narrower_than(self, other: Self) -> bool {
        (self.count(), self.0) < (other.count(), other.0)
    }

    /// All sets of the given nodes, smaller ones first.
    pub(crate) fn all(nodes: &BTreeSet<usize>) -> Vec<Self> {
        let nodes: Vec<usize> = nodes.iter().copied().collect();
        let mut masks = Vec::new();
        for size in 1..=nodes.len() {
            combinations(&nodes, size, &mut |chosen| {
                masks.push(Self::of(chosen.iter().copied()));
                true
            });
        }
        masks
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02b}", self.0)
    }
}

/// Calls `found` with each choice of `size` of the items, in order, until it answers false.
pub(crate) fn combinations(items: &[usize], size: usize, found: &mut dyn FnMut(&[usize]) -> bool) {
    fn step(items: &[usize], size: usize, chosen: &mut Vec<usize>, found: &mut dyn FnMut(&[usize]) -> bool) -> bool {
        if size == 0 {
            return found(chosen);
        }
        for index in 0..items.len().saturating_sub(size - 1) {
            chosen.push(items[index]);
            let more = step(&items[index + 1..], size - 1, chosen, found);
            chosen.pop();
            if !more {
                return false;
            }
        }
        true
    }
    if size > 0 {
        step(items, size, &mut Vec::new(), found);
    }
}

/// One possibility. No mask: anywhere is as good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) nodes: Option<Mask>,
    pub(crate) preferred: bool,
}

/// Possibilities by resource: `None` = all the same; none at all = impossible. No resources = no wish.
pub(crate) type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// How the possibilities are judged.
pub(crate) struct Judge {
    pub(crate) all: Mask,
    /// Distances by node; present when close nodes are better than low numbers.
    pub(crate) distances: Option<BTreeMap<usize, Vec<u64>>>,
    /// Only single nodes count.
    pub(crate) single: bool,
}

impl Judge {
    /// The best choice that suits all.
    pub(crate) fn merge(&self, hints: impl Iterator<Item = Hints>) -> Hint {
        let mut lists = flatten(hints);
        if self.single {
            let fits = |hint: &Hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.count() == 1);
            lists.iter_mut().for_each(|list| list.retain(fits));
        }
        let enough = lists.iter().filter_map(|list| narrowest(list)).map(Mask::count).max().unwrap_or(0);
        let mut best: Option<(Mask, bool)> = None;
        permutations(&lists, &mut Vec::new(), &mut |chosen| {
            let candidate = self.combine(chosen);
            if candidate.0.count() > 0 {
                best = Some(match best {
                    None => candidate,
                    Some(best) => self.better(best, candidate, enough),
                });
            }
        });
        let (nodes, preferred) = best.unwrap_or((self.all, false));
        if self.single && nodes == self.all {
            return Hint { nodes: None, preferred };
        }
        Hint { nodes: Some(nodes), preferred }
    }

    /// What one choice per resource has in common; it is preferred when all of them are, and are the same.
    fn combine(&self, chosen: &[Hint]) -> (Mask, bool) {
        let mut masks = chosen.iter().filter_map(|hint| hint.nodes);
        let first = masks.clone().next();
        let same = masks.clone().all(|mask| Some(mask) == first);
        let common = masks.try_fold(self.all, |all, mask| Some(all.and(mask))).unwrap_or(self.all);
        (common, same && chosen.iter().all(|hint| hint.preferred))
    }

    /// `enough`: how many nodes even the most demanding resource needs; more are a waste, fewer can't be aligned.
    fn better(&self, current: (Mask, bool), candidate: (Mask, bool), enough: usize) -> (Mask, bool) {
        let tie = || if self.pick(current.0, candidate.0) == current.0 { current } else { candidate };
        match (current.1, candidate.1) {
            (false, true) => return candidate,
            (true, false) => return current,
            (true, true) => return tie(),
            (false, false) => {}
        }
        use std::cmp::Ordering::{Equal, Greater, Less};
        let (have, new) = (current.0.count(), candidate.0.count());
        match (have.cmp(&enough), new.cmp(&enough)) {
            (Greater, _) | (Equal, Equal) => tie(),
            (Equal, _) | (Less, Greater) => current,
            (Less, Equal) => candidate,
            (Less, Less) => match new.cmp(&have) {
                Greater => candidate,
                Less => current,
                Equal => tie(),
            },
        }
    }

    fn pick(&self, one: Mask, other: Mask) -> Mask {
        let narrower = if one.is_narrower_than(other) { one } else { other };
        let Some(distances) = self.distances.as_ref().filter(|_| !self.single && one.count() == other.count()) else {
            return narrower;
        };
        match average(distances, one).total_cmp(&average(distances, other)) {
            std::cmp::Ordering::Less => one,
            std::cmp::Ordering::Greater => other,
            std::cmp::Ordering::Equal => narrower,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "distances are small")]
fn average(distances: &BTreeMap<usize, Vec<u64>>, mask: Mask) -> f64 {
    let nodes = mask.nodes();
    let position: BTreeMap<usize, usize> = distances.keys().enumerate().map(|(index, id)| (*id, index)).collect();
    let between = |from: usize, to: usize| distances.get(&from)?.get(*position.get(&to)?).copied();
    let pairs = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
    let sum: u64 = pairs.filter_map(|(from, to)| between(from, to)).sum();
    sum as f64 / (nodes.len() * nodes.len()).max(1) as f64
}

fn flatten(hints: impl Iterator<Item = Hints>) -> Vec<Vec<Hint>> {
    let mut lists = Vec::new();
    for provider in hints {
        if provider.is_empty() {
            lists.push(vec![Hint { nodes: None, preferred: true }]);
        }
        for (_, list) in provider {
            lists.push(match list {
                None => vec![Hint { nodes: None, preferred: true }],
                Some(list) if list.is_empty() => vec![Hint { nodes: None, preferred: false }],
                Some(list) => list,
            });
        }
    }
    lists
}

fn narrowest(list: &[Hint]) -> Option<Mask> {
    list.iter().filter_map(|hint| hint.nodes).reduce(|best, mask| if mask.is_narrower_than(best) { mask } else { best })
}

fn permutations(lists: &[Vec<Hint>], chosen: &mut Vec<Hint>, found: &mut dyn FnMut(&[Hint])) {
    let Some((first, rest)) = lists.split_first() else {
        found(chosen);
        return;
    };
    for hint in first {
        chosen.push(*hint);
        permutations(rest, chosen, found);
        chosen.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(nodes: &[usize], preferred: bool) -> Hint {
        Hint { nodes: Some(Mask::of(nodes.iter().copied())), preferred }
    }

    fn resource(name: &str, hints: &[Hint]) -> Hints {
        Hints::from([(name.to_owned(), Some(hints.to_vec()))])
    }

    fn judge(nodes: usize, single: bool) -> Judge {
        Judge { all: Mask::of(0..nodes), distances: None, single }
    }

    #[test]
    fn resources_meet_on_one_node() {
        let both = [hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)];
        let only_second = [hint(&[1], true), hint(&[0, 1], false)];
        for (hints, single, want) in [
            (vec![resource("a", &both), resource("b", &only_second)], false, hint(&[1], true)),
            (vec![resource("a", &both), resource("b", &only_second)], true, hint(&[1], true)),
            (vec![resource("a", &both), Hints::new()], false, hint(&[0], true)),
            (vec![resource("a", &[hint(&[0], true)]), resource("b", &[hint(&[1], true)])], false, hint(&[0, 1], false)),
            (vec![resource("a", &[hint(&[0, 1], true)])], false, hint(&[0, 1], true)),
            (vec![resource("a", &[hint(&[0, 1], true)])], true, Hint { nodes: None, preferred: false }),
            (vec![resource("a", &[]), resource("b", &both)], false, hint(&[0], false)),
            (vec![Hints::new()], true, Hint { nodes: None, preferred: true }),
            (vec![Hints::new()], false, hint(&[0, 1], true)),
        ] {
            let shown = format!("{hints:?} {single}");
            assert_eq!(judge(2, single).merge(hints.into_iter()), want, "{shown}");
        }
    }

    #[test]
    fn close_nodes_are_better_when_that_is_asked_for() {
        let pairs = [hint(&[0, 1], true), hint(&[0, 2], true), hint(&[1, 2], true)];
        let distances = BTreeMap::from([(0, vec![10, 30, 30]), (1, vec![30, 10, 20]), (2, vec![30, 20, 10])]);
        let merged = judge(3, false).merge([resource("a", &pairs)].into_iter());
        assert_eq!(merged, hint(&[0, 1], true));
        let close = Judge { distances: Some(distances), ..judge(3, false) };
        assert_eq!(close.merge([resource("a", &pairs)].into_iter()), hint(&[1, 2], true));
    }

    #[test]
    fn all_sets_of_nodes() {
        let masks: Vec<Vec<usize>> = Mask::all(&[0, 1, 3].into()).into_iter().map(Mask::nodes).collect();
        assert_eq!(masks.len(), 7);
        assert_eq!(masks[..4], [vec![0], vec![1], vec![3], vec![0, 1]]);
        assert_eq!(masks[6], [0, 1, 3]);
    }
}
