//! Upstream's metrics of this controller.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerStatus;

use crate::shared::metrics::{Buckets, Counter, Gauge, Histogram};

static TOTAL: Counter = Counter::new(
    "horizontal_pod_autoscaler_controller_reconciliations_total",
    "Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
    &["action", "error"],
);
static SECONDS: Histogram = Histogram::new(
    "horizontal_pod_autoscaler_controller_reconciliation_duration_seconds",
    "The time(seconds) that the HPA controller takes to reconcile once. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
    &["action", "error"],
    Buckets::Exponential(0.001, 2.0, 15),
);
/// Autoscalers that there are.
pub(super) static AUTOSCALERS: Gauge = Gauge::new(
    "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers",
    "Current number of controlled HPA objects.",
    &[],
);
static DESIRED: Gauge = Gauge::new(
    "horizontal_pod_autoscaler_controller_desired_replicas",
    "Current desired replica count for HPA objects.",
    &["namespace", "hpa_name"],
);

/// What one look did: the status before and after it.
pub(super) fn reconciled(
    before: Option<&HorizontalPodAutoscalerStatus>,
    after: &HorizontalPodAutoscalerStatus,
    ok: bool,
    took: Duration,
) {
    let labels = [action(before, after), if ok { "none" } else { "internal" }];
    TOTAL.inc(&labels);
    SECONDS.took(&labels, took);
}

/// Up or down when the scale was set, which the status notes with the time.
fn action(before: Option<&HorizontalPodAutoscalerStatus>, after: &HorizontalPodAutoscalerStatus) -> &'static str {
    let scaled = before.and_then(|b| b.last_scale_time.as_ref()) != after.last_scale_time.as_ref();
    match after.desired_replicas.cmp(&after.current_replicas.unwrap_or(0)) {
        std::cmp::Ordering::Greater if scaled => "scale_up",
        std::cmp::Ordering::Less if scaled => "scale_down",
        _ => "none",
    }
}

/// What an autoscaler wants now.
pub(super) fn desired((namespace, name): (&str, &str), status: &HorizontalPodAutoscalerStatus) {
    DESIRED.set(&[namespace, name], f64::from(status.desired_replicas));
}

/// An autoscaler is gone.
pub(super) fn forget((namespace, name): (&str, &str)) {
    DESIRED.forget(&[namespace, name]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_action_is_what_was_done() {
        let status = |current: i32, desired: i32, at: &str| -> HorizontalPodAutoscalerStatus {
            serde_json::from_value(json!({"currentReplicas": current, "desiredReplicas": desired,
                "lastScaleTime": format!("2026-01-01T00:00:{at}Z")}))
            .unwrap()
        };
        let before = status(2, 2, "00");
        assert_eq!(action(Some(&before), &status(2, 5, "01")), "scale_up");
        assert_eq!(action(Some(&before), &status(5, 2, "01")), "scale_down");
        assert_eq!(action(Some(&before), &status(2, 2, "00")), "none");
        assert_eq!(action(Some(&before), &status(2, 5, "00")), "none", "wanted and not done");
    }
}
