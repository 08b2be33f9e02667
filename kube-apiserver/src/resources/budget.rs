//! What a PodDisruptionBudget says about the eviction of a pod.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    checks::selector_matches,
    metadata::time,
    pod::update_condition,
    value::{at, int_at, list_at, map_at, member, set, str_at},
};

/// More evictions than this may not wait for the controller.
const MAX_DISRUPTED: usize = 2000;
/// Seconds after which a client may ask again while the controller has not caught up.
pub(crate) const RETRY_SECONDS: u32 = 10;

/// Why a pod can't be evicted now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 429; the text is that of the cause. With the seconds to wait when they are known.
    Budget(String, u32),
    /// 403.
    Forbidden(&'static str),
}

/// Whether a pod is charged to a budget.
pub(crate) fn selects(budget: &Value, pod: &Value) -> bool {
    at(budget, "spec.selector").is_some_and(|selector| selector_matches(selector, &pod["metadata"]["labels"]))
}

/// Pods that ended, have not begun or are on their way out disrupt nothing.
pub(crate) fn is_harmless(pod: &Value) -> bool {
    is_over(pod) || str_at(pod, "status.phase") == "Pending"
}

/// Pods that ended or are on their way out.
pub(crate) fn is_over(pod: &Value) -> bool {
    matches!(str_at(pod, "status.phase"), "Succeeded" | "Failed")
        || !str_at(pod, "metadata.deletionTimestamp").is_empty()
}

/// Whether the budget lets go of a pod that is not ready, without counting it.
pub(crate) fn frees_unhealthy(budget: &Value, pod: &Value) -> bool {
    let ready =
        list_at(pod, "status.conditions").iter().any(|c| str_at(c, "type") == "Ready" && str_at(c, "status") == "True");
    let (current, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
    !ready && (str_at(budget, "spec.unhealthyPodEvictionPolicy") == "AlwaysAllow" || current >= desired && desired > 0)
}

fn number(budget: &Value, field: &str) -> i64 {
    int_at(budget, &format!("status.{field}")).unwrap_or_default()
}

/// The cause of a 429 when the controller has not caught up with the budget.
pub(crate) fn still_processed(budget: &str) -> Refusal {
    Refusal::Budget(format!("The disruption budget {budget} is still being processed by the server."), RETRY_SECONDS)
}

/// Takes one disruption of `pod` from the budget's status.
pub(crate) fn charge(budget: &mut Value, pod: &str, now: Timestamp) -> Result<(), Refusal> {
    let name = str_at(budget, "metadata.name");
    if number(budget, "observedGeneration") < int_at(budget, "metadata.generation").unwrap_or_default() {
        return Err(still_processed(name));
    }
    let allowed = number(budget, "disruptionsAllowed");
    if allowed < 0 {
        return Err(Refusal::Forbidden("pdb disruptions allowed is negative"));
    }
    if map_at(budget, "status.disruptedPods").is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        return Err(Refusal::Forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(Refusal::Budget(exhausted(budget), 0));
    }
    let generation = int_at(budget, "status.observedGeneration").unwrap_or_default();
    let Some(status) = member(budget, "status") else { return Ok(()) };
    set(status, "disruptionsAllowed", allowed - 1);
    if allowed == 1 {
        let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
            "message": "", "observedGeneration": generation});
        update_condition(status, condition, now);
    }
    if let Some(pods) = member(status, "disruptedPods") {
        set(pods, pod, time(now));
    }
    Ok(())
}

/// Why a budget allows no disruption.
fn exhausted(budget: &Value) -> String {
    let name = str_at(budget, "metadata.name");
    let condition = list_at(budget, "status.conditions").iter().find(|c| str_at(c, "type") == "DisruptionAllowed");
    let why = condition.filter(|c| str_at(c, "status") == "False" && !str_at(c, "message").is_empty());
    let (reason, message) = why.map(|c| (str_at(c, "reason"), str_at(c, "message"))).unwrap_or_default();
    let (current, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
    match () {
        () if reason == "SyncFailed" => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            )
        }
        () if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        () if why.is_some() => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        }
        () => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {"selector": {"matchLabels": {"a": "b"}}},
            "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 2}})
    }

    #[test]
    fn disruptions_are_counted() {
        let now = Timestamp::UNIX_EPOCH;
        let mut one = budget(1);
        assert_eq!(charge(&mut one, "p", now), Ok(()));
        assert_eq!(one["status"]["disruptedPods"]["p"], "1970-01-01T00:00:00Z");
        assert_eq!(one["status"]["conditions"][0]["reason"], "InsufficientPods");
        let text = "The disruption budget b needs 2 healthy pods and has 2 currently";
        assert_eq!(charge(&mut one, "q", now), Err(Refusal::Budget(text.into(), 0)));
        let mut behind = budget(1);
        behind["metadata"]["generation"] = 2.into();
        assert_eq!(charge(&mut behind, "q", now), Err(still_processed("b")));
        assert!(matches!(charge(&mut budget(-1), "q", now), Err(Refusal::Forbidden(_))));
    }

    #[test]
    fn pods_that_are_not_ready_may_go() {
        let pod = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}});
        assert!(selects(&budget(0), &pod) && frees_unhealthy(&budget(0), &pod));
        let mut short = budget(0);
        short["status"]["currentHealthy"] = 1.into();
        assert!(!frees_unhealthy(&short, &pod));
        short["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert!(frees_unhealthy(&short, &pod));
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(!frees_unhealthy(&short, &ready) && !is_harmless(&ready));
        assert!(is_harmless(&json!({"status": {"phase": "Pending"}})));
    }
}
