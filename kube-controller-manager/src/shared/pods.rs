//! Predicates on pods that upstream's controllers agree on.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::meta::MetaExt;

/// The pod's phase, empty when unset.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// The node it is bound to, empty when unbound.
pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// A condition by type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_deref()?.iter().find(|c| c.type_ == kind)
}

/// Condition Ready is True.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When it became ready, if it is and says so.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0)
}

/// Ready for at least `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    min_ready_seconds == 0
        || ready_since(pod).is_some_and(|since| since + SignedDuration::from_secs(min_ready_seconds.into()) <= now)
}

/// How long until the pod turns available, if it is ready and not yet.
pub(crate) fn time_to_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<SignedDuration> {
    if min_ready_seconds == 0 || is_available(pod, min_ready_seconds, now) {
        return None;
    }
    let at = ready_since(pod)? + SignedDuration::from_secs(min_ready_seconds.into());
    Some(at.duration_since(now).max(SignedDuration::from_millis(1)))
}

/// Succeeded or Failed.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !pod.is_deleting()
}

/// Being deleted and not finished yet.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.is_deleting()
}

/// The key under which expectations remember a pod: a pod of the same name is another pod.
pub(crate) fn uid_key(pod: &Pod) -> String {
    pod.uid_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(ready: &str, since: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}}))
        .unwrap()
    }

    #[test]
    fn availability() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let p = pod("True", "2026-01-01T00:00:30Z");
        assert!(is_available(&p, 0, now));
        assert!(is_available(&p, 30, now));
        assert!(!is_available(&p, 31, now));
        assert_eq!(time_to_available(&p, 31, now), Some(SignedDuration::from_secs(1)));
        assert_eq!(time_to_available(&p, 30, now), None);
        let q = pod("False", "2026-01-01T00:00:30Z");
        assert!(!is_available(&q, 0, now));
        assert_eq!(time_to_available(&q, 31, now), None);
        assert!(is_active(&p));
    }
}
