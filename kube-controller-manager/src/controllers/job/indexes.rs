//! Sets of completion indexes in the compact form of the API: `0-2,5,7,8`.

use std::collections::BTreeSet;
use std::fmt;

/// Disjoint, not adjacent, ascending ranges, ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    ranges: Vec<(i32, i32)>,
}

impl Indexes {
    /// Reads the API's text; what is malformed or not below `completions` is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let mut ranges: Vec<(i32, i32)> = Vec::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else {
                tracing::info!(interval = part, "corrupted indexes interval, ignoring");
                continue;
            };
            if first >= completions {
                break;
            }
            ranges.push((first, last.min(completions - 1)));
        }
        Self::of(ranges)
    }

    fn of(mut ranges: Vec<(i32, i32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }

    /// These, and the single indexes too.
    pub(super) fn with(&self, more: impl IntoIterator<Item = i32>) -> Self {
        Self::of(self.ranges.iter().copied().chain(more.into_iter().map(|i| (i, i))).collect())
    }

    /// These and those.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of(self.ranges.iter().chain(&other.ranges).copied().collect())
    }

    pub(super) fn has(&self, index: i32) -> bool {
        let place = self.ranges.partition_point(|(_, last)| *last < index);
        self.ranges.get(place).is_some_and(|(first, _)| *first <= index)
    }

    pub(super) fn total(&self) -> i32 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many indexes both have.
    pub(super) fn overlap(&self, other: &Self) -> i32 {
        let common = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.ranges.iter().map(|a| other.ranges.iter().map(|b| common(a, b)).sum::<i32>()).sum()
    }

    /// The first `count` indexes below `completions` that are missing here.
    pub(super) fn first_missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut missing = Vec::with_capacity(count);
        let mut candidate = 0;
        for (first, last) in self.ranges.iter().copied().chain([(completions, completions)]) {
            while candidate < first.min(completions) && missing.len() < count {
                missing.push(candidate);
                candidate += 1;
            }
            candidate = candidate.max(last.saturating_add(1));
        }
        missing
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(items: I) -> Self {
        let items: BTreeSet<i32> = items.into_iter().collect();
        Self::default().with(items)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text() {
        for (text, completions, want) in [
            ("", 5, ""),
            ("0-2,5,7,8", 20, "0-2,5,7,8"),
            ("1,2", 9, "1,2"),
            ("1,2,3", 9, "1-3"),
            ("0-9", 5, "0-4"),
            ("2,x,3,7-y", 9, "2,3"),
            ("7", 5, ""),
        ] {
            assert_eq!(Indexes::parse(text, completions).to_string(), want, "{text}");
        }
        assert_eq!(Indexes::parse("1-3,6", 10).first_missing(4, 10), [0, 4, 5, 7]);
        assert_eq!(Indexes::default().first_missing(9, 3), [0, 1, 2]);
        assert_eq!(Indexes::parse("0-5", 10).overlap(&Indexes::parse("4-8", 10)), 2);
    }

    proptest! {
        #[test]
        fn as_a_set(a in prop::collection::btree_set(0..40_i32, 0..20), b in prop::collection::btree_set(0..40_i32, 0..20)) {
            let (x, y): (Indexes, Indexes) = (a.iter().copied().collect(), b.iter().copied().collect());
            let both: BTreeSet<i32> = a.union(&b).copied().collect();
            prop_assert_eq!(x.union(&y), both.iter().copied().collect());
            prop_assert_eq!(x.total() as usize, a.len());
            prop_assert_eq!(x.overlap(&y) as usize, a.intersection(&b).count());
            prop_assert!((0..40).all(|i| x.has(i) == a.contains(&i)));
            prop_assert_eq!(Indexes::parse(&x.to_string(), 40), x.clone());
            let missing: Vec<i32> = (0..40).filter(|i| !a.contains(i)).take(5).collect();
            prop_assert_eq!(x.first_missing(5, 40), missing);
        }
    }
}
