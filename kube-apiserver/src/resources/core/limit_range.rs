//! What a LimitRange may say.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::resources::{
    amounts::{Amounts, Quantity, amounts},
    checks,
    field::{ErrorList, Path},
    names,
    value::{at, list_at, map_at, str_at},
};

/// Lists of amounts of which the first must not be above the second: both with their names, the list that is told, whether
/// its first amount is shown.
const ORDER: [(&str, &str, &str, &str, &str, bool); 6] = [
    ("min", "min", "max", "max", "min", true),
    ("min", "min", "defaultRequest", "default request", "defaultRequest", false),
    ("defaultRequest", "default request", "max", "max", "defaultRequest", true),
    ("defaultRequest", "default request", "default", "default limit", "defaultRequest", true),
    ("min", "min", "default", "default", "default", true),
    ("default", "default", "max", "max", "default", false),
];

pub(super) fn validate(obj: &Value, errs: &mut ErrorList) {
    let root = Path::root("spec.limits");
    let limits = list_at(obj, "spec.limits");
    let repeated = checks::repeats(limits, |item| str_at(item, "type"));
    for (i, limit) in limits.iter().enumerate() {
        let path = root.index(i);
        let kind = str_at(limit, "type");
        limit_type(kind, &path.child("type"), errs);
        if repeated[i] {
            errs.duplicate(&path.child("type"), kind);
        }
        let of_pods = kind == "Pod";
        let says = |list: &&str| map_at(limit, list).is_some_and(|amounts| !amounts.is_empty());
        for list in ["default", "defaultRequest"].into_iter().filter(|list| of_pods && says(list)) {
            errs.forbidden(&path.child(list), "may not be specified when `type` is 'Pod'");
        }
        let bounds_storage = ["min.storage", "max.storage"].iter().any(|bound| at(limit, bound).is_some());
        if kind == "PersistentVolumeClaim" && !bounds_storage {
            let text = "either minimum or maximum storage value is required, but neither was provided";
            errs.required(&path.child("limits"), text);
        }
        let list = |name: &str| match name {
            "default" | "defaultRequest" if of_pods => Amounts::new(),
            name => amounts(limit, name),
        };
        limit_amounts(&list, &path, errs);
    }
}

fn limit_type(kind: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let complaints = names::label_key(kind);
    if complaints.is_empty() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        errs.invalid(path, kind, "must be a standard limit type or fully qualified");
    }
    checks::complain(kind, complaints, path, errs);
}

fn limit_amounts(list: &dyn Fn(&str) -> Amounts, path: &Path<'_>, errs: &mut ErrorList) {
    let ratios = list("maxLimitRequestRatio");
    let lists = ["max", "min", "default", "defaultRequest"].map(list);
    let resources: BTreeSet<&String> = lists.iter().chain([&ratios]).flat_map(Amounts::keys).collect();
    for resource in resources {
        let [max, min, default, request] = lists.each_ref().map(|list| list.get(resource).copied());
        let amount = |name: &str| match name {
            "max" => max,
            "min" => min,
            "default" => default,
            _ => request,
        };
        for (low, low_name, high, high_name, told, shows_low) in ORDER {
            let (Some(low), Some(high)) = (amount(low), amount(high)) else { continue };
            if low > high {
                let text = format!("{low_name} value {low} is greater than {high_name} value {high}");
                let shown = if shows_low { low } else { high };
                errs.invalid(&path.child(told).key(resource), shown.to_string(), text);
            }
        }
        let ratio_path = path.child("maxLimitRequestRatio");
        if let Some(ratio) = ratios.get(resource) {
            limit_ratio(*ratio, min.zip(max), &ratio_path.key(resource), errs);
        }
        let overcommits =
            !resource.contains("hugepages-") && (!resource.contains('/') || resource.contains("kubernetes.io/"));
        if let (false, Some(default), Some(request)) = (overcommits, default, request)
            && default != request
        {
            let text = format!("default value {default} must equal to defaultRequest value {request} in {resource}");
            errs.invalid(&path.child("defaultRequest").key(resource), request.to_string(), text);
        }
    }
}

fn limit_ratio(ratio: Quantity, bounds: Option<(Quantity, Quantity)>, path: &Path<'_>, errs: &mut ErrorList) {
    if ratio.as_f64() < 1.0 {
        errs.invalid(path, ratio.to_string(), format!("ratio {ratio} is less than 1"));
    }
    let most = bounds.map(|(min, max)| max.as_f64() / min.as_f64());
    if let Some(most) = most.filter(|most| ratio.as_f64() > *most) {
        errs.invalid(path, ratio.to_string(), format!("ratio {ratio} is greater than max/min = {most:.6}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_and_defaults_are_in_order() {
        let complaints = |limit: Value| {
            let mut errs = ErrorList::new();
            validate(&json!({"spec": {"limits": [limit]}}), &mut errs);
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let good = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "2"}, "default": {"cpu": "1"},
            "defaultRequest": {"cpu": "500m"}, "maxLimitRequestRatio": {"cpu": "20"}});
        assert_eq!(complaints(good), Vec::<String>::new());
        let bad = json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "500m"}, "default": {"cpu": "2"},
            "maxLimitRequestRatio": {"cpu": "0"}});
        assert_eq!(
            complaints(bad),
            [
                "spec.limits[0].min[cpu]: Invalid value: \"1\": min value 1 is greater than max value 500m",
                "spec.limits[0].default[cpu]: Invalid value: \"500m\": default value 2 is greater than max value 500m",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"0\": ratio 0 is less than 1",
            ]
        );
        assert_eq!(
            complaints(json!({"type": "PersistentVolumeClaim"})),
            [
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"
            ]
        );
        assert_eq!(
            complaints(json!({"type": "Thing"})),
            ["spec.limits[0].type: Invalid value: \"Thing\": must be a standard limit type or fully qualified"]
        );
        let ratio = complaints(
            json!({"type": "Pod", "default": {}, "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
        );
        assert_eq!(ratio.len(), 1);
        assert!(ratio[0].ends_with("ratio 3 is greater than max/min = 2.000000"), "{ratio:?}");
    }
}
