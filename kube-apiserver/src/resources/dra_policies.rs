//! Policies of a device's capacity: which amounts requests may take of a device that several claims share (KEP-5075).

use std::cmp::Ordering;

use serde_json::Value;

use super::{
    dra_rules::each_once,
    field::{ErrorList, Path},
    quantity::Quantity,
    value::{at, bool_at, list_at},
};

const MAX_OPTIONS: usize = 10;

/// The policy of one capacity of `device`, if there is one.
pub(super) fn capacity(device: &Value, capacity: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(policy) = at(capacity, "requestPolicy") else { return };
    let path = path.child("requestPolicy");
    if !bool_at(device, "allowMultipleAllocations") {
        return errs.forbidden(&path, "allowMultipleAllocations must be true");
    }
    let (values, range) = (!list_at(policy, "validValues").is_empty(), at(policy, "validRange"));
    let way = match (values, range) {
        (true, Some(_)) => {
            let text = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            return errs.forbidden(&path, text);
        }
        (true, None) => "validValues",
        (false, Some(_)) => "validRange",
        (false, None) => return,
    };
    let Some(default) = amount(policy, "default") else {
        return errs.required(&path.child("default"), format!("required when {way} is defined"));
    };
    // What is no quantity was refused when the object was read.
    let Some(whole) = amount(capacity, "value") else { return };
    match range {
        Some(range) => self::range(range, default, whole, &path.child(way), errs),
        None => options(policy, default, whole, &path, errs),
    }
}

fn amount(holder: &Value, field: &str) -> Option<Quantity> {
    at(holder, field).and_then(Quantity::of)
}

fn more(a: Quantity, b: Quantity) -> bool {
    a.compare(b) == Ordering::Greater
}

fn options(policy: &Value, default: Quantity, whole: Quantity, path: &Path<'_>, errs: &mut ErrorList) {
    let root = path.child("validValues");
    let list: Vec<Quantity> = list_at(policy, "validValues").iter().filter_map(Quantity::of).collect();
    for (i, pair) in list.windows(2).enumerate() {
        if more(pair[0], pair[1]) {
            errs.invalid(&root.index(i + 1), pair[1].canonical(), "values must be sorted in ascending order");
        }
    }
    let key: fn(&Value) -> String = |value| Quantity::of(value).map(Quantity::canonical).unwrap_or_default();
    each_once(policy, "validValues", (MAX_OPTIONS, key), path, errs, |option, path, errs| {
        if let Some(option) = Quantity::of(option).filter(|option| more(*option, whole)) {
            let text = format!("option is larger than capacity value: {}", whole.canonical());
            errs.invalid(path, option.canonical(), text);
        }
    });
    if list.len() > MAX_OPTIONS || !list.iter().any(|option| option.compare(default) == Ordering::Equal) {
        errs.invalid(&root, default.canonical(), "default value is not valid according to the requestPolicy");
    }
}

fn range(range: &Value, default: Quantity, whole: Quantity, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(min) = amount(range, "min") else {
        return errs.required(&path.child("min"), "required when validRange is defined");
    };
    let (max, step) = (amount(range, "max"), amount(range, "step"));
    let mut refuse = |refused: bool, field: &str, shown: Quantity, text: &str, limit: Quantity| {
        if refused {
            errs.invalid(&path.child(field), shown.canonical(), format!("{text}: {}", limit.canonical()));
        }
    };
    refuse(more(min, whole), "min", min, "min is larger than capacity value", whole);
    refuse(more(min, default), "min", default, "default is less than min", min);
    if let Some(max) = max {
        refuse(more(min, max), "max", min, "min is larger than max", max);
        refuse(more(max, whole), "max", max, "max is larger than capacity value", whole);
        refuse(more(default, max), "max", default, "default is more than max", max);
    }
    let Some(step) = step else { return };
    let first = min.plus(step);
    if more(first, whole) {
        let text = format!("one step {} is larger than capacity value: {}", first.canonical(), whole.canonical());
        errs.invalid(&path.child("step"), step.canonical(), text);
    }
    for value in [Some(default), max].into_iter().flatten() {
        // A step of nothing leads nowhere; upstream divides by it.
        let distance = i128::from(value.whole()) - i128::from(min.whole());
        if distance.checked_rem(i128::from(step.whole())).is_none_or(|rest| rest != 0) {
            let text =
                format!("value is not a multiple of a given step ({}) from ({})", step.canonical(), min.canonical());
            errs.invalid(&path.child("step"), value.canonical(), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(shared: bool, value: &str, policy: Value) -> Vec<String> {
        let mut errs = ErrorList::new();
        let device = json!({"allowMultipleAllocations": shared});
        let given = json!({"value": value, "requestPolicy": policy});
        capacity(&device, &given, &Path::root("c"), &mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_policy_is_for_shared_devices_and_of_one_sort() {
        let range = json!({"min": "1Gi"});
        assert_eq!(
            texts(false, "10Gi", json!({})),
            ["c.requestPolicy: Forbidden: allowMultipleAllocations must be true"]
        );
        assert_eq!(
            texts(true, "10Gi", json!({"default": "1Gi", "validValues": ["1Gi"], "validRange": range})),
            [
                "c.requestPolicy: Forbidden: exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time"
            ]
        );
        assert_eq!(
            texts(true, "10Gi", json!({"validRange": range})),
            ["c.requestPolicy.default: Required value: required when validRange is defined"]
        );
        assert_eq!(texts(true, "10Gi", json!({"default": "1Gi"})), [""; 0]);
    }

    #[test]
    fn options_ascend_fit_and_contain_the_default() {
        assert_eq!(texts(true, "10Gi", json!({"default": "2Gi", "validValues": ["1Gi", "2Gi", "10Gi"]})), [""; 0]);
        assert_eq!(
            texts(true, "10Gi", json!({"default": "3Gi", "validValues": ["2Gi", "1Gi", "1024Mi", "11Gi"]})),
            [
                "c.requestPolicy.validValues[1]: Invalid value: \"1Gi\": values must be sorted in ascending order",
                "c.requestPolicy.validValues[3]: Invalid value: \"11Gi\": option is larger than capacity value: 10Gi",
                "c.requestPolicy.validValues[2]: Duplicate value: \"1Gi\"",
                "c.requestPolicy.validValues: Invalid value: \"3Gi\": default value is not valid according to the requestPolicy",
            ]
        );
    }

    #[test]
    fn ranges_hold_their_default_and_are_whole_steps() {
        let valid = json!({"default": "2", "validRange": {"min": "1", "max": "9", "step": "1"}});
        assert_eq!(texts(true, "10", valid), [""; 0]);
        assert_eq!(
            texts(true, "10", json!({"default": "2", "validRange": {"min": "3", "max": "12", "step": "0"}})),
            [
                "c.requestPolicy.validRange.min: Invalid value: \"2\": default is less than min: 3",
                "c.requestPolicy.validRange.max: Invalid value: \"12\": max is larger than capacity value: 10",
                "c.requestPolicy.validRange.step: Invalid value: \"2\": value is not a multiple of a given step (0) from (3)",
                "c.requestPolicy.validRange.step: Invalid value: \"12\": value is not a multiple of a given step (0) from (3)",
            ]
        );
    }
}
