//! A set of CPUs or NUMA nodes, written as the kernel writes it: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// More than any machine has: a longer range is a mistake.
const MOST: usize = 1 << 16;

/// The set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuSet(pub(crate) BTreeSet<usize>);

impl CpuSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut set = BTreeSet::new();
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("{text:?} is not a number"));
        for range in text.trim().split(',').filter(|range| !range.trim().is_empty()) {
            let (first, last) = match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(range)?, number(range)?),
            };
            if first > last || last >= MOST {
                return Err(format!("invalid range {range:?}"));
            }
            set.extend(first..=last);
        }
        Ok(Self(set))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.peek() == Some(&(last + 1)) {
                last += 1;
                rest.next();
            }
            match first == last {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(cpus in proptest::collection::btree_set(0usize..200, 0..40)) {
            let set = CpuSet(cpus);
            prop_assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
        }
    }

    #[test]
    fn ranges() {
        assert_eq!("0-3,8".parse::<CpuSet>().unwrap().len(), 5);
        assert_eq!("8,0-2,3\n".parse::<CpuSet>().unwrap().to_string(), "0-3,8");
        for bad in ["3-1", "x", "1-", "0-99999999"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }
}
