//! How full a node would be: the arithmetic shared by NodeResourcesFit and NodeResourcesBalancedAllocation.
//!
//! Works column by column over all feasible nodes. Scalar resources that the pod does not request are left out, and so is
//! any resource that a node does not have.

use crate::cache::resources::{CPU, MEMORY};
use crate::cache::snapshot::Snapshot;
use crate::config::args::{ResourceSpec, ScoringStrategy, ScoringStrategyType};
use crate::framework::plugin::MAX_SCORE;
use crate::framework::requests::{Requests, is_scalar_resource};

/// One resource that is scored, resolved against a pod and a snapshot.
pub struct Column {
    number: usize,
    weight: i64,
    request: i64,
    /// Whether cpu and memory count with the defaults for containers that request none.
    with_defaults: bool,
}

/// Resolves the scored resources. With `with_defaults`, cpu and memory use the scoring defaults.
pub fn columns(snapshot: &Snapshot, specs: &[ResourceSpec], requests: &Requests, with_defaults: bool) -> Vec<Column> {
    specs
        .iter()
        .filter_map(|spec| {
            let request = match spec.name.as_str() {
                "cpu" if with_defaults => requests.nonzero_cpu,
                "memory" if with_defaults => requests.nonzero_memory,
                name => requests.get(name),
            };
            if request == 0 && is_scalar_resource(&spec.name) {
                return None;
            }
            let number = snapshot.resources.column(&spec.name)?;
            Some(Column { number, weight: spec.weight, request, with_defaults })
        })
        .collect()
}

impl Column {
    fn used(&self, snapshot: &Snapshot, row: usize) -> i64 {
        match self.number {
            CPU if self.with_defaults => snapshot.nonzero_cpu[row],
            MEMORY if self.with_defaults => snapshot.nonzero_memory[row],
            number => snapshot.requested[number][row],
        }
    }
}

/// A piecewise linear function through the points of a shape.
#[derive(Clone, Debug)]
pub struct Shape(Vec<(i64, i64)>);

impl Shape {
    /// From a configured shape; its 0-10 scores become 0-100.
    pub fn new(strategy: &ScoringStrategy) -> Self {
        let points = strategy.requested_to_capacity_ratio.iter().flat_map(|ratio| &ratio.shape);
        Self(points.map(|p| (i64::from(p.utilization), i64::from(p.score) * (MAX_SCORE / 10))).collect())
    }

    fn at(&self, utilization: i64) -> i64 {
        let mut before: Option<(i64, i64)> = None;
        for &(x, y) in &self.0 {
            if utilization <= x {
                return before.map_or(y, |(x0, y0)| y0 + (y - y0) * (utilization - x0) / (x - x0));
            }
            before = Some((x, y));
        }
        before.map_or(0, |(_, y)| y)
    }
}

/// A strategy ready to score.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// Emptier is better.
    Least,
    /// Fuller is better.
    Most,
    /// As the shape says.
    Ratio(Shape),
}

impl Strategy {
    /// From the configuration.
    pub fn new(strategy: &ScoringStrategy) -> Self {
        match strategy.type_ {
            ScoringStrategyType::LeastAllocated => Self::Least,
            ScoringStrategyType::MostAllocated => Self::Most,
            ScoringStrategyType::RequestedToCapacityRatio => Self::Ratio(Shape::new(strategy)),
        }
    }

    fn one(&self, requested: i64, capacity: i64) -> i64 {
        match self {
            Self::Least if requested > capacity => 0,
            Self::Least => (capacity - requested) * MAX_SCORE / capacity,
            Self::Most => requested.min(capacity) * MAX_SCORE / capacity,
            Self::Ratio(shape) if requested > capacity => shape.at(MAX_SCORE),
            Self::Ratio(shape) => shape.at(requested * MAX_SCORE / capacity),
        }
    }

    /// Fills the scores of all nodes.
    pub fn score(&self, snapshot: &Snapshot, columns: &[Column], nodes: &[u32], scores: &mut [i64]) {
        for (score, slot) in scores.iter_mut().zip(nodes) {
            let row = *slot as usize;
            let (mut sum, mut weights) = (0, 0);
            for column in columns {
                let capacity = snapshot.allocatable[column.number][row];
                if capacity == 0 {
                    continue;
                }
                let one = self.one(column.used(snapshot, row) + column.request, capacity);
                if one > 0 || !matches!(self, Self::Ratio(_)) {
                    sum += one * column.weight;
                    weights += column.weight;
                }
            }
            *score = match self {
                _ if weights == 0 => 0,
                Self::Ratio(_) => (sum as f64 / weights as f64).round() as i64,
                _ => sum / weights,
            };
        }
    }
}

/// How evenly the resources of a node are used: 100 minus the standard deviation of the used fractions.
fn evenness(fractions: &[f64]) -> i64 {
    let deviation = match fractions {
        [] | [_] => 0.0,
        [a, b] => ((a - b) / 2.0).abs(),
        many => {
            let mean = many.iter().sum::<f64>() / many.len() as f64;
            (many.iter().map(|f| (f - mean) * (f - mean)).sum::<f64>() / many.len() as f64).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

/// Scores how much a pod evens out each node: 50 plus half of 50 plus the gain.
pub fn balance(snapshot: &Snapshot, columns: &[Column], nodes: &[u32], scores: &mut [i64]) {
    let mut with_pod = Vec::with_capacity(columns.len());
    let mut without = Vec::with_capacity(columns.len());
    for (score, slot) in scores.iter_mut().zip(nodes) {
        let row = *slot as usize;
        with_pod.clear();
        without.clear();
        for column in columns {
            let capacity = snapshot.allocatable[column.number][row];
            if capacity == 0 {
                continue;
            }
            let used = column.used(snapshot, row);
            without.push((used as f64 / capacity as f64).min(1.0));
            with_pod.push(((used + column.request) as f64 / capacity as f64).min(1.0));
        }
        *score = MAX_SCORE / 2 + (MAX_SCORE / 2 + evenness(&with_pod) - evenness(&without)) / 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_is_piecewise_linear() {
        let shape = Shape(vec![(10, 10), (40, 20), (70, 100)]);
        for (x, y) in [(0, 10), (10, 10), (25, 15), (40, 20), (55, 60), (70, 100), (100, 100)] {
            assert_eq!(shape.at(x), y, "at {x}");
        }
    }

    #[test]
    fn single_resource_formulas() {
        let ratio = Strategy::Ratio(Shape(vec![(0, 0), (100, 100)]));
        for (strategy, requested, capacity, expected) in [
            (&Strategy::Least, 3000, 4000, 25),
            (&Strategy::Least, 5000, 4000, 0),
            (&Strategy::Most, 3000, 4000, 75),
            (&Strategy::Most, 5000, 4000, 100),
            (&ratio, 3000, 4000, 75),
            (&ratio, 5000, 4000, 100),
        ] {
            assert_eq!(strategy.one(requested, capacity), expected, "{strategy:?} {requested}/{capacity}");
        }
    }

    #[test]
    fn evenness_of_fractions() {
        assert_eq!(evenness(&[]), 100);
        assert_eq!(evenness(&[0.7]), 100);
        assert_eq!(evenness(&[0.6, 0.2]), 80);
        assert_eq!(evenness(&[0.0, 0.5, 1.0]), 59);
    }
}
