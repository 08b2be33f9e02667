//! Who gets which seats now: levels that need more than their own borrow what others do not use.

/// What a priority level needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    /// Seats that it has in any case.
    pub least: f64,
    /// Seats that it must not exceed.
    pub most: f64,
    /// Seats that it would fill; at least `least`.
    pub target: f64,
}

/// Targets below this count as this much, so that everybody gets something of a surplus.
const MIN_TARGET: f64 = 0.001;

/// Divides `seats`: everybody gets the same fraction of his target, but for those who meet one of their bounds. Also
/// says that fraction. `None` when the bounds cannot be met.
#[must_use]
pub fn divide(seats: f64, needs: &[Need]) -> Option<(Vec<f64>, f64)> {
    const TOLERANCE: f64 = 1e-7;
    let sound = |need: &Need| 0.0 <= need.least && need.least <= need.target && need.least <= need.most;
    let sum = |of: &dyn Fn(&Need) -> f64| needs.iter().map(of).sum::<f64>();
    let (least, most) = (sum(&|need| need.least), sum(&|need| need.most));
    if !needs.iter().all(sound) || least > seats + TOLERANCE || most < seats - TOLERANCE {
        return None;
    }
    let given = |need: &Need, fraction: f64| (fraction * need.target.max(MIN_TARGET)).clamp(need.least, need.most);
    // The sum grows with the fraction; halving the interval finds the place where it is right.
    let reach = |need: &Need| need.most / need.target.max(MIN_TARGET);
    let (mut low, mut high) = (0.0, needs.iter().map(reach).fold(0.0, f64::max));
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if sum(&|need| given(need, middle)) < seats { low = middle } else { high = middle }
    }
    Some((needs.iter().map(|need| given(need, high)).collect(), high))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn need(least: f64, most: f64, target: f64) -> Need {
        Need { least, most, target }
    }

    #[test]
    fn surplus_and_want_are_shared_in_proportion() {
        for (seats, needs, want) in [
            (10.0, vec![need(0.0, 10.0, 2.0), need(0.0, 10.0, 3.0)], Some(vec![4.0, 6.0])),
            (10.0, vec![need(6.0, 20.0, 6.0), need(1.0, 20.0, 12.0)], Some(vec![6.0, 4.0])),
            (10.0, vec![need(0.0, 2.0, 9.0), need(0.0, 20.0, 1.0)], Some(vec![2.0, 8.0])),
            (10.0, vec![need(5.0, 5.0, 5.0), need(5.0, 9.0, 7.0)], Some(vec![5.0, 5.0])),
            (10.0, vec![need(6.0, 7.0, 6.0), need(5.0, 9.0, 7.0)], None),
            (10.0, vec![need(1.0, 2.0, 1.0)], None),
        ] {
            let got = divide(seats, &needs).map(|(given, _)| given);
            let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
            match (&got, &want) {
                (Some(got), Some(want)) => assert!(near(got, want), "{got:?} {want:?}"),
                _ => assert_eq!(got, want),
            }
        }
    }

    proptest! {
        #[test]
        fn all_seats_are_given_within_bounds(parts in prop::collection::vec((0u32..50, 0u32..50, 0u32..100), 1..12), at in 0.0f64..1.0) {
            let needs: Vec<Need> = parts.iter().map(|(least, more, wish)| {
                need(f64::from(*least), f64::from(least + more), f64::from(least + wish))
            }).collect();
            let (low, high): (f64, f64) = (needs.iter().map(|n| n.least).sum(), needs.iter().map(|n| n.most).sum());
            let seats = low + (high - low) * at;
            let (given, _) = divide(seats, &needs).unwrap();
            prop_assert!((given.iter().sum::<f64>() - seats).abs() < 1e-3);
            prop_assert!(given.iter().zip(&needs).all(|(g, n)| n.least <= *g && *g <= n.most));
        }
    }
}
