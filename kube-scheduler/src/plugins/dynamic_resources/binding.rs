//! Binding conditions (KEP-5007): devices that must be made ready before a pod that has them can be bound.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{AllocatedDeviceStatus, DeviceRequestAllocationResult, ResourceClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::claims::allocation;

/// How far a claim's devices are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// All conditions are met (or there are none).
    Ready,
    /// Not all conditions are met.
    Waiting,
    /// The driver gave up.
    Failed(String),
}

/// The devices of an allocated claim.
pub fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let devices = allocation(claim).and_then(|allocation| allocation.devices.as_ref());
    devices.into_iter().flat_map(|devices| devices.results.iter().flatten())
}

fn waits(result: &DeviceRequestAllocationResult) -> bool {
    result.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty())
}

/// Whether any device of the claim has binding conditions.
pub fn has_conditions(claim: &ResourceClaim) -> bool {
    results(claim).any(waits)
}

fn status<'c>(claim: &'c ResourceClaim, of: &DeviceRequestAllocationResult) -> Option<&'c AllocatedDeviceStatus> {
    let statuses = claim.status.as_ref()?.devices.as_ref()?;
    statuses.iter().find(|status| status.driver == of.driver && status.pool == of.pool && status.device == of.device)
}

fn truth<'c>(status: &'c AllocatedDeviceStatus, condition: &str) -> Option<&'c Condition> {
    let conditions = status.conditions.as_ref()?;
    conditions.iter().find(|known| known.type_ == condition && known.status == "True")
}

/// How far the claim's devices are.
pub fn readiness(claim: &ResourceClaim) -> Readiness {
    if allocation(claim).is_none() {
        return Readiness::Waiting;
    }
    for result in results(claim).filter(|result| waits(result)) {
        let Some(status) = status(claim, result) else { return Readiness::Waiting };
        let failures = result.binding_failure_conditions.iter().flatten();
        if let Some(failed) = failures.into_iter().find_map(|condition| truth(status, condition)) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let (reason, message) = (&failed.reason, &failed.message);
            let text = format!("device binding failed: claim={name}, reason={reason}, message={message:?}");
            return Readiness::Failed(text);
        }
        if !result.binding_conditions.iter().flatten().all(|condition| truth(status, condition).is_some()) {
            return Readiness::Waiting;
        }
    }
    Readiness::Ready
}

/// Whether a claim with binding conditions was allocated longer ago than it may take.
pub fn timed_out(claim: &ResourceClaim, limit: Duration, now: Timestamp) -> bool {
    let since = allocation(claim).and_then(|allocation| allocation.allocation_timestamp.as_ref());
    let conditions = results(claim).any(|result| result.binding_conditions.is_some());
    conditions && since.is_some_and(|since| now.duration_since(since.0).unsigned_abs() > limit && now > since.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_decide() {
        let claim = |conditions: serde_json::Value| -> ResourceClaim {
            serde_json::from_value(json!({
                "metadata": {"name": "c"}, "spec": {},
                "status": {
                    "allocation": {"allocationTimestamp": "1970-01-01T00:00:00Z", "devices": {"results": [{
                        "driver": "d", "pool": "p", "device": "x", "request": "r",
                        "bindingConditions": ["Attached"], "bindingFailureConditions": ["Broken"]}]}},
                    "devices": [{"driver": "d", "pool": "p", "device": "x", "conditions": conditions}],
                },
            }))
            .unwrap()
        };
        let condition = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "reason": "R", "message": "m",
                   "lastTransitionTime": "1970-01-01T00:00:00Z"})
        };
        assert_eq!(readiness(&claim(json!([]))), Readiness::Waiting);
        assert_eq!(readiness(&claim(json!([condition("Attached", "False")]))), Readiness::Waiting);
        assert_eq!(readiness(&claim(json!([condition("Attached", "True")]))), Readiness::Ready);
        let failed = readiness(&claim(json!([condition("Attached", "True"), condition("Broken", "True")])));
        assert_eq!(failed, Readiness::Failed("device binding failed: claim=c, reason=R, message=\"m\"".into()));
        let waiting = claim(json!([]));
        assert!(has_conditions(&waiting));
        let later = |seconds| Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!timed_out(&waiting, Duration::from_secs(600), later(600)));
        assert!(timed_out(&waiting, Duration::from_secs(600), later(601)));
    }
}
