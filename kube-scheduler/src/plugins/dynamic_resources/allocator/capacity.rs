//! Capacity of devices, and what a request takes of it (KEP-5075).

use std::collections::BTreeMap;

use common::meta::Quantity;
use common::meta::quantity::Format;
use k8s_openapi::api::resource::v1::{CapacityRequestPolicy, DeviceCapacity};

use super::amount;

/// Amounts by capacity name.
pub type Amounts = BTreeMap<String, Quantity>;

/// One capacity of a device.
#[derive(Debug, Clone)]
pub struct Capacity {
    /// All that there is.
    pub value: Quantity,
    policy: Option<Policy>,
}

#[derive(Debug, Clone)]
struct Policy {
    default: Option<Quantity>,
    range: Option<Range>,
    values: Vec<Quantity>,
}

#[derive(Debug, Clone)]
struct Range {
    min: Quantity,
    max: Option<Quantity>,
    step: Option<i64>,
}

impl Policy {
    fn of(api: &CapacityRequestPolicy) -> Self {
        let range = api.valid_range.as_ref().map(|range| Range {
            min: amount(&range.min),
            max: range.max.as_ref().map(amount),
            step: range.step.as_ref().map(|step| amount(step).value()).filter(|step| *step > 0),
        });
        Self {
            default: api.default.as_ref().map(amount),
            range,
            values: api.valid_values.iter().flatten().map(amount).collect(),
        }
    }

    /// Rounds a request up to what is allowed.
    fn round_up(&self, wanted: Quantity) -> Quantity {
        match &self.range {
            Some(range) if wanted < range.min => range.min,
            Some(Range { min, step: Some(step), .. }) => {
                let over = wanted.value().saturating_sub(min.value());
                let steps = over / step + i64::from(over % step != 0);
                Quantity::new(min.value().saturating_add(step.saturating_mul(steps)), Format::BinarySI)
            }
            Some(_) => wanted,
            None => self.values.iter().copied().find(|value| wanted <= *value).unwrap_or(wanted),
        }
    }

    fn allows(&self, consumed: Quantity) -> bool {
        if self.default == Some(consumed) {
            return true;
        }
        match &self.range {
            Some(range) => {
                range.max.is_none_or(|max| consumed <= max)
                    && range.step.is_none_or(|step| consumed.value().saturating_sub(range.min.value()) % step == 0)
            }
            None => self.values.is_empty() || self.values.contains(&consumed),
        }
    }
}

impl Capacity {
    /// Parses a device's capacity.
    pub fn of(api: &DeviceCapacity) -> Self {
        Self { value: amount(&api.value), policy: api.request_policy.as_ref().map(Policy::of) }
    }

    /// What a request takes; without one, the default, and without that, everything.
    fn consumed(&self, wanted: Option<Quantity>) -> Quantity {
        match (wanted, &self.policy) {
            (None, policy) => policy.as_ref().and_then(|policy| policy.default).unwrap_or(self.value),
            (Some(wanted), None) => wanted,
            (Some(wanted), Some(policy)) => policy.round_up(wanted),
        }
    }
}

/// What a request takes of a device that has this left; `None` when there is not enough, or no such capacity.
pub fn take(has: &BTreeMap<String, Capacity>, wanted: &Amounts, used: &[Option<&Amounts>]) -> Option<Amounts> {
    if wanted.keys().any(|name| !has.contains_key(name)) {
        return None;
    }
    let mut taken = Amounts::new();
    for (name, capacity) in has {
        let consumed = capacity.consumed(wanted.get(name).copied());
        if capacity.policy.as_ref().is_some_and(|policy| !policy.allows(consumed)) {
            return None;
        }
        let mut total = consumed;
        for used in used.iter().flatten() {
            total.add(&used.get(name).copied().unwrap_or(Quantity::zero()));
        }
        if total > capacity.value {
            return None;
        }
        taken.insert(name.clone(), consumed);
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_are_rounded_and_bounded() {
        let capacity = |policy: serde_json::Value| -> BTreeMap<String, Capacity> {
            let api = serde_json::from_value(json!({"value": "10Gi", "requestPolicy": policy})).unwrap();
            BTreeMap::from([("memory".to_owned(), Capacity::of(&api))])
        };
        let range = json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "8Gi", "step": "1Gi"}});
        let values = json!({"default": "2Gi", "validValues": ["2Gi", "4Gi"]});
        for (policy, wanted, used, expected) in [
            (json!(null), None, None, Some("10Gi")),
            (json!(null), None, Some("1"), None),
            (json!(null), Some("3Gi"), Some("7Gi"), Some("3Gi")),
            (json!(null), Some("3Gi"), Some("8Gi"), None),
            (range.clone(), None, None, Some("1Gi")),
            (range.clone(), Some("500Mi"), None, Some("1Gi")),
            (range.clone(), Some("1500Mi"), None, Some("2Gi")),
            (range.clone(), Some("9Gi"), None, None),
            (range, Some("7900Mi"), Some("2Gi"), Some("8Gi")),
            (values.clone(), Some("3Gi"), None, Some("4Gi")),
            (values, Some("5Gi"), None, None),
        ] {
            let amounts = |text: &str| Amounts::from([("memory".to_owned(), text.parse().unwrap())]);
            let used = used.map(amounts);
            let taken = take(&capacity(policy.clone()), &wanted.map(amounts).unwrap_or_default(), &[used.as_ref()]);
            assert_eq!(taken, expected.map(amounts), "{policy} {wanted:?} {used:?}");
        }
        let unknown = Amounts::from([("cores".to_owned(), Quantity::zero())]);
        assert_eq!(take(&capacity(json!(null)), &unknown, &[]), None);
    }
}
