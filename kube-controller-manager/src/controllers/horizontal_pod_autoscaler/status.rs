//! Conditions and quantities of an autoscaler's status. Pure.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) const ACTIVE: &str = "ScalingActive";
pub(super) const ABLE: &str = "AbleToScale";
pub(super) const LIMITED: &str = "ScalingLimited";
pub(super) const AT_ZERO: &str = "ScaledToZero";

/// Sets a condition; its time changes with its status only.
pub(super) fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    is: bool,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) {
    let text = if is { "True" } else { "False" };
    let list = status.conditions.get_or_insert_default();
    let place = list.iter().position(|c| c.type_ == kind).unwrap_or_else(|| {
        list.push(HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() });
        list.len() - 1
    });
    let Some(condition) = list.get_mut(place) else { return };
    if condition.status != text {
        condition.last_transition_time = Some(Time(now));
    }
    condition.status = text.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.into());
}

/// Drops a condition.
pub(super) fn remove(status: &mut HorizontalPodAutoscalerStatus, kind: &str) {
    status.conditions.get_or_insert_default().retain(|c| c.type_ != kind);
}

/// Thousandths as a quantity: decimal, or for memory binary.
pub(super) fn quantity(milli: i64, resource: &str) -> Quantity {
    let bytes = milli / 1000 + i64::from(milli % 1000 > 0);
    if resource == "memory" && bytes >= 1024 {
        let (mut number, mut suffix) = (bytes, 0);
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        while number % 1024 == 0 && suffix + 1 < SUFFIXES.len() {
            number /= 1024;
            suffix += 1;
        }
        return Quantity(format!("{number}{}", SUFFIXES[suffix]));
    }
    let text = format!("{milli}m");
    Quantity(text.parse::<common::meta::Quantity>().map_or(text, |q| q.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (milli, resource, want) in [
            (250, "cpu", "250m"),
            (2000, "cpu", "2"),
            (104_857_600_000, "memory", "100Mi"),
            (1_025_000, "memory", "1025"),
            (1_023_000, "memory", "1023"),
            (2_000_000, "", "2k"),
        ] {
            assert_eq!(quantity(milli, resource).0, want, "{milli} {resource}");
        }
    }

    #[test]
    fn conditions() {
        let mut s = HorizontalPodAutoscalerStatus::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        set(&mut s, ABLE, true, "A", "a", at(1));
        set(&mut s, ABLE, true, "B", "b", at(2));
        let c = s.conditions.clone().unwrap().remove(0);
        assert_eq!((c.reason.as_deref(), c.last_transition_time), (Some("B"), Some(Time(at(1)))));
        set(&mut s, ABLE, false, "C", "c", at(3));
        assert_eq!(s.conditions.as_ref().unwrap()[0].last_transition_time, Some(Time(at(3))));
        remove(&mut s, ABLE);
        assert!(s.conditions.unwrap().is_empty());
    }
}
