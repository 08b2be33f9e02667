//! From the number that metrics ask for to the one that is set: stabilization and rates over what was recommended and done before.
//! Pure but for the memory that is handed in.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// What one autoscaler recommended and did lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    recommendations: Vec<(Timestamp, i32)>,
    /// By how much it scaled.
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// What to normalize, and within what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) current: i32,
    pub(super) desired: i32,
    pub(super) min: i32,
    pub(super) max: i32,
    pub(super) behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// For scaling down, where no behavior says otherwise.
    pub(super) window: SignedDuration,
    pub(super) now: Timestamp,
}

/// Reason and message of a condition.
pub(super) type Why = (&'static str, &'static str);

/// The number to set.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Normalized {
    pub(super) replicas: i32,
    /// Of condition AbleToScale.
    pub(super) able: Why,
    /// Of condition ScalingLimited, and whether it is.
    pub(super) limited: (bool, Why),
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const UP_RATE: Why = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_RATE: Why = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const HIGHER: &str = "recent recommendations were higher than current one, applying the highest recent recommendation";
const LOWER: &str = "recent recommendations were lower than current one, applying the lowest recent recommendation";

impl Memory {
    /// The size that was found at first counts as recommended.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Remembers the wish and answers what may be done of it.
    pub(super) fn normalize(&mut self, request: Request<'_>) -> Normalized {
        let rules = request.behavior.and_then(|b| b.scale_up.as_ref().zip(b.scale_down.as_ref()));
        let stabilized = match rules {
            None => self.stabilize(&request),
            Some((up, down)) => self.stabilize_by(&request, up, down),
        };
        let able = match stabilized == request.desired {
            true => READY,
            false if rules.is_some() && request.desired >= request.current => ("ScaleUpStabilized", LOWER),
            false => ("ScaleDownStabilized", HIGHER),
        };
        let (replicas, why) = match rules {
            None => limit(request.current, stabilized, request.min, request.max),
            Some((up, down)) => self.limit_by(&Request { desired: stabilized, ..request }, up, down),
        };
        Normalized { replicas, able, limited: (replicas != stabilized, why) }
    }

    fn remember(&mut self, request: &Request<'_>, oldest: Timestamp) {
        self.recommendations.retain(|(at, _)| *at >= oldest);
        self.recommendations.push((request.now, request.desired));
    }

    fn stabilize(&mut self, request: &Request<'_>) -> i32 {
        let cutoff = request.now - request.window;
        let recent = self.recommendations.iter().filter(|(at, _)| *at >= cutoff).map(|(_, n)| *n);
        let highest = recent.fold(request.desired, i32::max);
        self.remember(request, cutoff);
        highest
    }

    fn stabilize_by(&mut self, request: &Request<'_>, up: &HPAScalingRules, down: &HPAScalingRules) -> i32 {
        let seconds =
            |rules: &HPAScalingRules| rules.stabilization_window_seconds.map(|s| SignedDuration::from_secs(s.into()));
        let up_cutoff = request.now - seconds(up).unwrap_or(SignedDuration::ZERO);
        let down_cutoff = request.now - seconds(down).unwrap_or(request.window);
        let since =
            |cutoff: Timestamp| self.recommendations.iter().filter(move |(at, _)| *at > cutoff).map(|(_, n)| *n);
        let lowest = since(up_cutoff).fold(request.desired, i32::min);
        let highest = since(down_cutoff).fold(request.desired, i32::max);
        self.remember(request, up_cutoff.min(down_cutoff));
        request.current.max(lowest).min(highest)
    }

    fn limit_by(&self, request: &Request<'_>, up: &HPAScalingRules, down: &HPAScalingRules) -> (i32, Why) {
        let Request { current, desired, .. } = *request;
        if desired > current {
            let rate = self.rate(request, up, true).max(current);
            let (most, why) = if request.max > rate { (rate, UP_RATE) } else { (request.max, TOO_MANY) };
            if desired > most {
                return (most, why);
            }
        } else if desired < current {
            let rate = self.rate(request, down, false).min(current);
            let (least, why) = if request.min < rate { (rate, DOWN_RATE) } else { (request.min, TOO_FEW) };
            if desired < least {
                return (least, why);
            }
        }
        (desired, WITHIN)
    }

    /// The size that the policies allow to reach now.
    fn rate(&self, request: &Request<'_>, rules: &HPAScalingRules, up: bool) -> i32 {
        let select = rules.select_policy.as_deref().unwrap_or("Max");
        if select == "Disabled" {
            return request.current;
        }
        let changed = |list: &[(Timestamp, i32)], seconds: i32| -> i32 {
            let cutoff = request.now - SignedDuration::from_secs(seconds.into());
            list.iter().filter(|(at, _)| *at > cutoff).map(|(_, n)| *n).fold(0, i32::saturating_add)
        };
        let limits = rules.policies.iter().flatten().map(|policy| {
            let seconds = policy.period_seconds;
            let start = request.current - changed(&self.ups, seconds) + changed(&self.downs, seconds);
            match (policy.type_.as_str(), up) {
                ("Pods", true) => start.saturating_add(policy.value),
                ("Pods", false) => start.saturating_sub(policy.value),
                (_, true) => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
                (_, false) => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            }
        });
        // The largest change is the highest limit going up and the lowest going down.
        let highest = (select == "Min") != up;
        let chosen = if highest { limits.max() } else { limits.min() };
        chosen.unwrap_or(request.current)
    }

    /// It scaled.
    pub(super) fn scaled(&mut self, request: &Request<'_>, to: i32) {
        let Some(behavior) = request.behavior else { return };
        let longest = |rules: Option<&HPAScalingRules>| {
            let periods = rules.and_then(|r| r.policies.as_deref()).unwrap_or(&[]).iter().map(|p| p.period_seconds);
            request.now - SignedDuration::from_secs(periods.max().unwrap_or(0).into())
        };
        let (list, cutoff) = match to > request.current {
            true => (&mut self.ups, longest(behavior.scale_up.as_ref())),
            false => (&mut self.downs, longest(behavior.scale_down.as_ref())),
        };
        list.retain(|(at, _)| *at >= cutoff);
        list.push((request.now, (to - request.current).abs()));
    }
}

/// Without a behavior: at most twice as many at once, four if there are few.
fn limit(current: i32, desired: i32, min: i32, max: i32) -> (i32, Why) {
    let rate = current.saturating_mul(2).max(4);
    let (most, why) = if max > rate { (rate, UP_RATE) } else { (max, TOO_MANY) };
    if desired < min {
        (min, TOO_FEW)
    } else if desired > most {
        (most, why)
    } else {
        (desired, WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn request<'a>(
        current: i32,
        desired: i32,
        behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
        now: i64,
    ) -> Request<'a> {
        Request { current, desired, min: 1, max: 100, behavior, window: SignedDuration::from_mins(5), now: at(now) }
    }

    fn behavior(up: Value, down: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(json!({"scaleUp": up, "scaleDown": down})).unwrap()
    }

    #[test]
    fn plain() {
        let mut m = Memory::default();
        m.begin(5, at(0));
        let n = m.normalize(request(5, 2, None, 10));
        assert_eq!((n.replicas, n.able.0, n.limited.0), (5, "ScaleDownStabilized", false));
        let n = m.normalize(request(5, 2, None, 301));
        assert_eq!((n.replicas, n.able.0), (2, "ReadyForNewScale"));
        let n = m.normalize(request(5, 50, None, 302));
        assert_eq!((n.replicas, n.limited), (10, (true, UP_RATE)));
        let n = m.normalize(Request { max: 8, ..request(5, 50, None, 303) });
        assert_eq!((n.replicas, n.limited), (8, (true, TOO_MANY)));
        let n = Memory::default().normalize(Request { min: 3, ..request(5, 0, None, 304) });
        assert_eq!((n.replicas, n.limited), (3, (true, TOO_FEW)));
        assert_eq!(Memory::default().normalize(request(1, 4, None, 0)).replicas, 4);
    }

    #[test]
    fn behaviors() {
        let pods = |n: i32| json!([{"type": "Pods", "value": n, "periodSeconds": 60}]);
        let percent = |n: i32| json!([{"type": "Percent", "value": n, "periodSeconds": 60}]);
        let both = json!([{"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 60}]);
        for (name, up, down, current, desired, want, why) in [
            ("pods up", json!({"policies": pods(3)}), json!({}), 5, 20, 8, UP_RATE),
            ("percent up", json!({"policies": percent(50)}), json!({}), 5, 20, 8, UP_RATE),
            ("the larger", json!({"policies": both}), json!({}), 10, 50, 20, UP_RATE),
            ("the smaller", json!({"policies": both, "selectPolicy": "Min"}), json!({}), 10, 50, 14, UP_RATE),
            ("never up", json!({"policies": both, "selectPolicy": "Disabled"}), json!({}), 10, 50, 10, UP_RATE),
            (
                "pods down",
                json!({}),
                json!({"policies": pods(2), "stabilizationWindowSeconds": 0}),
                10,
                1,
                8,
                DOWN_RATE,
            ),
            (
                "percent down",
                json!({}),
                json!({"policies": percent(50), "stabilizationWindowSeconds": 0}),
                9,
                1,
                4,
                DOWN_RATE,
            ),
            (
                "all the way",
                json!({}),
                json!({"policies": percent(100), "stabilizationWindowSeconds": 0}),
                9,
                0,
                1,
                TOO_FEW,
            ),
            ("within", json!({"policies": pods(3)}), json!({}), 5, 7, 7, WITHIN),
        ] {
            let b = behavior(up, down);
            let n = Memory::default().normalize(request(current, desired, Some(&b), 0));
            assert_eq!((n.replicas, n.limited.1), (want, why), "{name}");
        }
        // What was added in the period counts.
        let b = behavior(json!({"policies": pods(3)}), json!({}));
        let mut m = Memory::default();
        m.scaled(&request(5, 0, Some(&b), 0), 7);
        assert_eq!(m.normalize(request(7, 20, Some(&b), 30)).replicas, 8);
        assert_eq!(m.normalize(request(7, 20, Some(&b), 61)).replicas, 10);
        // And both directions stabilize.
        let b =
            behavior(json!({"policies": pods(50), "stabilizationWindowSeconds": 60}), json!({"policies": pods(50)}));
        let mut m = Memory::default();
        m.begin(5, at(0));
        let n = m.normalize(request(5, 9, Some(&b), 30));
        assert_eq!((n.replicas, n.able.0), (5, "ScaleUpStabilized"));
        assert_eq!(m.normalize(request(5, 9, Some(&b), 61)).replicas, 9);
        assert_eq!(m.normalize(request(9, 2, Some(&b), 70)).able.0, "ScaleDownStabilized");
    }
}
