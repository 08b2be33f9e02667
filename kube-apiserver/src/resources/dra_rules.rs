//! Rules of the resource.k8s.io group. CEL expressions are bounded here and compiled by the scheduler.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    checks, dra_devices, dra_policies,
    field::{ErrorList, Path},
    metadata, names,
    pod::scheduling,
    storage_rules::driver_name,
    value::{at, bool_at, int_at, list_at, map_at, same_at, str_at},
};

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");
const MAX_REQUESTS: usize = 32;
const MAX_CHOICES: usize = 8;
const MAX_RESERVED: usize = 256;
const MAX_EXPRESSION: usize = 10 * 1024;
pub(super) const MAX_PARAMETERS: usize = 10 * 1024;
const MAX_DEVICES: usize = 128;
/// With taints, counters or list attributes devices take more room.
const MAX_ADVANCED_DEVICES: usize = 64;
const MAX_FACTS: usize = 32;
const MAX_TAINTS: usize = 16;
const MAX_COUNTER_SETS: usize = 8;
const MAX_CONSUMPTIONS: usize = 2;

type Names<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// Every item of a bounded list; too long a list is not looked into.
pub(super) fn each(
    holder: &Value,
    field: &str,
    max: usize,
    path: &Path<'_>,
    errs: &mut ErrorList,
    mut item: impl FnMut(&Value, &Path<'_>, &mut ErrorList),
) {
    let (list, root) = (list_at(holder, field), path.child(field));
    if list.len() > max {
        errs.too_many(&root, list.len(), max);
        return;
    }
    for (i, value) in list.iter().enumerate() {
        item(value, &root.index(i), errs);
    }
}

/// As [`each`], and no two items with the same key.
pub(super) fn each_once(
    holder: &Value,
    field: &str,
    (max, key): (usize, fn(&Value) -> String),
    path: &Path<'_>,
    errs: &mut ErrorList,
    item: impl FnMut(&Value, &Path<'_>, &mut ErrorList),
) {
    each(holder, field, max, path, errs, item);
    let (list, root) = (list_at(holder, field), path.child(field));
    if list.len() > max {
        return;
    }
    let repeated = checks::repeats(list, key);
    for (i, value) in list.iter().enumerate() {
        if repeated[i] {
            errs.duplicate(&root.index(i), key(value));
        }
    }
}

fn name_of(value: &Value) -> String {
    str_at(value, "name").to_owned()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The spec of a claim.
pub(super) fn claim_spec(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let devices = spec.get("devices").unwrap_or(&Value::Null);
    let path = path.child("devices");
    let names = request_names(devices);
    each_once(devices, "requests", (MAX_REQUESTS, name_of), &path, errs, request);
    each(devices, "constraints", MAX_REQUESTS, &path, errs, |constraint, path, errs| {
        each_once(constraint, "requests", (MAX_REQUESTS, text_of), path, errs, |name, path, errs| {
            request_reference(name, &names, path, errs);
        });
        match ["matchAttribute", "distinctAttribute"].iter().find(|field| at(constraint, field).is_some()) {
            Some(field) => qualified(str_at(constraint, field), true, &path.child(field), errs),
            None => errs.required(
                path,
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            ),
        }
    });
    each(devices, "config", MAX_REQUESTS, &path, errs, |config, path, errs| {
        each_once(config, "requests", (MAX_REQUESTS, text_of), path, errs, |name, path, errs| {
            request_reference(name, &names, path, errs);
        });
        configuration(config, path, errs);
    });
}

fn request_names(devices: &Value) -> Names<'_> {
    let choices = |request| list_at(request, "firstAvailable").iter().map(|c| str_at(c, "name")).collect();
    list_at(devices, "requests").iter().map(|request| (str_at(request, "name"), choices(request))).collect()
}

fn request_reference(name: &Value, names: &Names<'_>, path: &Path<'_>, errs: &mut ErrorList) {
    let text = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let name = name.as_str().unwrap_or_default();
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() <= 2 {
        parts.iter().for_each(|part| checks::label(part, path, errs));
        let choices = names.get(parts[0]);
        if choices.is_some_and(|choices| parts.get(1).is_none_or(|part| choices.contains(part))) {
            return;
        }
    }
    errs.invalid(path, name, text);
}

fn request(request: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    checks::label(str_at(request, "name"), &path.child("name"), errs);
    let (choices, exactly) = (list_at(request, "firstAvailable"), at(request, "exactly"));
    let one = "exactly one of `exactly` or `firstAvailable` is required";
    match (choices.is_empty(), exactly) {
        (true, None) => errs.required(path, one),
        (false, Some(_)) => errs.invalid(path, Value::Null, format!("{one}, but multiple fields are set")),
        (true, Some(exactly)) => wanted(exactly, &path.child("exactly"), errs),
        (false, None) => {
            each_once(request, "firstAvailable", (MAX_CHOICES, name_of), path, errs, |choice, path, errs| {
                checks::label(str_at(choice, "name"), &path.child("name"), errs);
                wanted(choice, path, errs);
            });
        }
    }
}

/// Class, selectors, amount and tolerations of a request.
fn wanted(request: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let class = path.child("deviceClassName");
    match str_at(request, "deviceClassName") {
        "" => errs.required(&class, ""),
        name => checks::subdomain(name, &class, errs),
    }
    each(request, "selectors", MAX_REQUESTS, path, errs, selector);
    let count = int_at(request, "count").unwrap_or_default();
    match str_at(request, "allocationMode") {
        "All" if count != 0 => {
            errs.invalid(&path.child("count"), count, "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => errs.invalid(&path.child("count"), count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        other => errs.not_supported(&path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    each(request, "tolerations", MAX_TAINTS, path, errs, toleration);
}

fn selector(selector: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let path = path.child("cel");
    match at(selector, "cel") {
        None => errs.required(&path, ""),
        Some(cel) => match str_at(cel, "expression") {
            "" => errs.required(&path.child("expression"), ""),
            text if text.len() > MAX_EXPRESSION => errs.too_long(&path.child("expression"), MAX_EXPRESSION),
            _ => {}
        },
    }
}

fn toleration(toleration: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let (key, operator, value) =
        (str_at(toleration, "key"), str_at(toleration, "operator"), str_at(toleration, "value"));
    if !key.is_empty() {
        checks::qualified(key, &path.child("key"), errs);
    }
    match operator {
        "Exists" if !value.is_empty() => {
            errs.invalid(&path.child("value"), value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => names::label_value(value).into_iter().for_each(|t| errs.invalid(&path.child("value"), value, t)),
        "" => errs.required(&path.child("operator"), ""),
        other => errs.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = str_at(toleration, "effect");
    let effects = ["NoExecute", "NoSchedule", "None"];
    if !effect.is_empty() && !effects.contains(&effect) {
        errs.not_supported(&path.child("effect"), effect, &effects);
    }
}

fn configuration(config: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let path = path.child("opaque");
    let Some(opaque) = at(config, "opaque") else {
        errs.required(&path, "");
        return;
    };
    driver_name(str_at(opaque, "driver"), &path.child("driver"), errs);
    match at(opaque, "parameters") {
        None => errs.required(&path.child("parameters"), ""),
        Some(value) if value.to_string().len() > MAX_PARAMETERS => {
            errs.too_long(&path.child("parameters"), MAX_PARAMETERS);
        }
        Some(value) if !value.is_object() => {
            errs.invalid(&path.child("parameters"), "<value omitted>", "must be a valid JSON object");
        }
        Some(_) => {}
    }
}

/// A name with an optional (or required) domain, as attributes have.
fn qualified(name: &str, needs_domain: bool, path: &Path<'_>, errs: &mut ErrorList) {
    let (domain, id) = match name.split_once('/') {
        Some((domain, id)) => (Some(domain), id),
        None => (None, name),
    };
    if name.is_empty() {
        errs.required(path, "name required");
        return;
    }
    match domain {
        None if needs_domain => errs.invalid(path, name, "must include a domain"),
        Some("") => errs.required(path, "the domain must not be empty"),
        Some(domain) => checks::subdomain(domain, path, errs),
        None => {}
    }
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    if id.is_empty() {
        errs.required(path, "the name must not be empty");
    } else if !id.starts_with(starts) || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        errs.invalid(
            path,
            id,
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
        );
    }
    if id.len() > 32 {
        errs.too_long(path, 32);
    }
}

/// A changed claim: the spec stays, status follows its own rules.
pub(super) fn claim_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        claim_status(new, old, errs);
    } else {
        checks::immutable(new, old, "spec", errs);
    }
}

fn claim_status(new: &Value, old: &Value, errs: &mut ErrorList) {
    let status = new.get("status").unwrap_or(&Value::Null);
    let path = STATUS.child("reservedFor");
    let uid: fn(&Value) -> String = |consumer| str_at(consumer, "uid").to_owned();
    each_once(status, "reservedFor", (MAX_RESERVED, uid), &STATUS, errs, |consumer, path, errs| {
        for field in ["resource", "name", "uid"] {
            if str_at(consumer, field).is_empty() {
                errs.required(&path.child(field), "");
            }
        }
    });
    dra_devices::statuses(status, &STATUS, errs);
    let reserved = list_at(status, "reservedFor");
    let allocation = at(status, "allocation");
    if !reserved.is_empty() && allocation.is_none() {
        errs.forbidden(&path, "may not be specified when `allocated` is not set");
    }
    let before = list_at(old, "status.reservedFor");
    let doomed = !str_at(new, "metadata.deletionTimestamp").is_empty();
    if allocation.is_some() && doomed && reserved.iter().any(|consumer| !before.contains(consumer)) {
        errs.forbidden(
            &path,
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
        );
    }
    match (at(old, "status.allocation"), allocation) {
        (Some(_), Some(_)) => metadata::immutable(new, old, "status.allocation", &STATUS.child("allocation"), errs),
        (None, Some(allocation)) => {
            let names = request_names(new.pointer("/spec/devices").unwrap_or(&Value::Null));
            self::allocation(allocation, &names, &STATUS.child("allocation"), errs);
        }
        _ => {}
    }
}

fn allocation(allocation: &Value, names: &Names<'_>, path: &Path<'_>, errs: &mut ErrorList) {
    let devices = allocation.get("devices").unwrap_or(&Value::Null);
    let root = path.child("devices");
    each(devices, "results", MAX_REQUESTS, &root, errs, |result, path, errs| {
        request_reference(result.get("request").unwrap_or(&Value::Null), names, &path.child("request"), errs);
        driver_name(str_at(result, "driver"), &path.child("driver"), errs);
        pool_name(str_at(result, "pool"), &path.child("pool"), errs);
        checks::label(str_at(result, "device"), &path.child("device"), errs);
    });
    each(devices, "config", 2 * MAX_REQUESTS, &root, errs, |config, path, errs| {
        checks::one_of(str_at(config, "source"), &["FromClaim", "FromClass"], &path.child("source"), errs);
        each_once(config, "requests", (MAX_REQUESTS, text_of), path, errs, |name, path, errs| {
            request_reference(name, names, path, errs);
        });
        configuration(config, path, errs);
    });
    if let Some(selector) = at(allocation, "nodeSelector") {
        scheduling::node_selector(selector, &path.child("nodeSelector"), errs);
    }
}

pub(super) fn pool_name(name: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    if name.len() > 253 {
        errs.too_long(path, 253);
    }
    name.split('/').for_each(|part| checks::subdomain(part, path, errs));
}

/// A DeviceClass.
pub(super) fn class(obj: &Value, errs: &mut ErrorList) {
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    each(spec, "selectors", MAX_REQUESTS, &SPEC, errs, selector);
    each(spec, "config", MAX_REQUESTS, &SPEC, errs, configuration);
    if let Some(name) = at(spec, "extendedResourceName").and_then(Value::as_str)
        && !names::is_extended_resource(name)
    {
        errs.invalid(&SPEC.child("extendedResourceName"), name, "must be a valid extended resource name");
    }
}

/// A ResourceClaimTemplate.
pub(super) fn template(obj: &Value, errs: &mut ErrorList) {
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    metadata::validate_maps(spec, &SPEC.child("metadata"), errs);
    claim_spec(spec.get("spec").unwrap_or(&Value::Null), &SPEC.child("spec"), errs);
}

/// A ResourceSlice.
pub(super) fn slice(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    driver_name(str_at(spec, "driver"), &SPEC.child("driver"), errs);
    pool_name(str_at(spec, "pool.name"), &SPEC.child("pool.name"), errs);
    if let count @ ..=0 = int_at(spec, "pool.resourceSliceCount").unwrap_or_default() {
        errs.invalid(&SPEC.child("pool.resourceSliceCount"), count, "must be greater than zero");
    }
    if let generation @ ..0 = int_at(spec, "pool.generation").unwrap_or_default() {
        errs.invalid(&SPEC.child("pool.generation"), generation, "must be greater than or equal to zero");
    }
    if let Some(old) = old {
        for field in ["pool.name", "driver", "nodeName"] {
            metadata::immutable(obj, old, &format!("spec.{field}"), &SPEC.child(field), errs);
        }
    }
    nodes(spec, &["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"], &SPEC, errs);
    if at(spec, "sharedCounters").is_some() && at(spec, "devices").is_some() {
        errs.invalid(&SPEC, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    devices(spec, old, errs);
    each_once(spec, "sharedCounters", (MAX_COUNTER_SETS, name_of), &SPEC, errs, |set, path, errs| {
        match str_at(set, "name") {
            "" => errs.required(&path.child("name"), ""),
            name => checks::label(name, &path.child("name"), errs),
        }
        if map_at(set, "counters").is_none_or(|counters| counters.is_empty()) {
            errs.required(&path.child("counters"), "");
        }
    });
}

/// Exactly one of the ways to say on which nodes devices are.
fn nodes(holder: &Value, ways: &[&str], path: &Path<'_>, errs: &mut ErrorList) {
    let mut set = Vec::new();
    for way in ways {
        let Some(value) = at(holder, way) else { continue };
        let path = path.child(way);
        match value {
            Value::String(name) if name.is_empty() => {
                errs.invalid(&path, "", "must be either unset or set to a non-empty string");
                continue;
            }
            Value::String(name) => checks::subdomain(name, &path, errs),
            Value::Bool(false) => {
                errs.invalid(&path, false, "must be either unset or set to true");
                continue;
            }
            Value::Object(_) => {
                scheduling::node_selector(value, &path, errs);
                if list_at(value, "nodeSelectorTerms").len() != 1 {
                    let terms = list_at(value, "nodeSelectorTerms").to_vec();
                    errs.invalid(&path.child("nodeSelectorTerms"), terms, "must have exactly one node selector term");
                }
            }
            _ => {}
        }
        set.push(format!("`{way}`"));
    }
    let all: Vec<String> = ways.iter().map(|way| format!("`{way}`")).collect();
    let one = format!("exactly one of {} is required", all.join(", "));
    match set.len() {
        0 => errs.required(path, one),
        1 => {}
        _ => errs.invalid(path, format!("{{{}}}", set.join(", ")), format!("{one}, but multiple fields are set")),
    }
}

fn devices(spec: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let lists = ["bools", "ints", "strings", "versions"];
    let advanced = list_at(spec, "devices").iter().any(|device| {
        !list_at(device, "taints").is_empty()
            || !list_at(device, "consumesCounters").is_empty()
            || map_at(device, "attributes")
                .is_some_and(|map| map.values().any(|value| lists.iter().any(|list| at(value, list).is_some())))
    });
    let max = if advanced { MAX_ADVANCED_DEVICES } else { MAX_DEVICES };
    let before = old.map(|old| list_at(old, "spec.devices")).unwrap_or_default();
    let per_device = bool_at(spec, "perDeviceNodeSelection");
    each_once(spec, "devices", (max, name_of), &SPEC, errs, |device, path, errs| {
        let known = before.iter().find(|b| str_at(b, "name") == str_at(device, "name"));
        self::device(device, known, per_device, path, errs);
    });
}

fn device(device: &Value, old: Option<&Value>, per_device: bool, path: &Path<'_>, errs: &mut ErrorList) {
    checks::label(str_at(device, "name"), &path.child("name"), errs);
    let facts: usize =
        ["attributes", "capacity"].iter().filter_map(|m| map_at(device, m)).map(serde_json::Map::len).sum();
    if facts > MAX_FACTS {
        errs.invalid(path, facts, format!("the total number of attributes and capacities must not exceed {MAX_FACTS}"));
    }
    for map in ["attributes", "capacity"] {
        let root = path.child(map);
        for (key, value) in map_at(device, map).into_iter().flatten() {
            qualified(key, false, &root.key(key), errs);
            match map {
                "attributes" => dra_devices::attribute(value, &root.key(key), errs),
                _ => dra_policies::capacity(device, value, &root.key(key), errs),
            }
        }
    }
    if old.is_none_or(|old| !same_at(old, device, "taints")) {
        each(device, "taints", MAX_TAINTS, path, errs, taint);
    }
    let set: fn(&Value) -> String = |consumption| str_at(consumption, "counterSet").to_owned();
    each_once(device, "consumesCounters", (MAX_CONSUMPTIONS, set), path, errs, dra_devices::consumption);
    let ways = ["nodeName", "nodeSelector", "allNodes"];
    if per_device {
        nodes(device, &ways, path, errs);
    } else if ways.iter().any(|way| at(device, way).is_some()) {
        let text = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        errs.invalid(path, Value::Null, text);
    }
}

fn taint(taint: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    checks::qualified(str_at(taint, "key"), &path.child("key"), errs);
    let value = str_at(taint, "value");
    names::label_value(value).into_iter().for_each(|text| errs.invalid(&path.child("value"), value, text));
    checks::one_of(str_at(taint, "effect"), &["NoExecute", "NoSchedule", "None"], &path.child("effect"), errs);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: impl Fn(&mut ErrorList)) -> Vec<String> {
        let mut errs = ErrorList::new();
        check(&mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn claims() {
        let spec = json!({"devices": {"requests": [
                {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}},
                {"name": "a", "exactly": {"allocationMode": "All", "count": 2}}, {"name": "b"}],
            "constraints": [{"requests": ["a", "c"], "matchAttribute": "example.com/numa"}]}});
        assert_eq!(
            texts(|errs| claim_spec(&spec, &SPEC, errs)),
            [
                "spec.devices.requests[1].exactly.deviceClassName: Required value",
                "spec.devices.requests[1].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[2]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1]: Duplicate value: \"a\"",
                "spec.devices.constraints[0].requests[1]: Invalid value: \"c\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            ]
        );
        let status = |allocated: bool| {
            json!({"spec": {"devices": {}}, "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
            "allocation": if allocated { json!({"devices": {}}) } else { Value::Null }}})
        };
        assert_eq!(texts(|errs| claim_update(&status(true), &json!({}), Some("status"), errs)), Vec::<String>::new());
        assert_eq!(
            texts(|errs| claim_update(&status(false), &json!({}), Some("status"), errs)),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
    }

    #[test]
    fn slices() {
        let obj = json!({"spec": {"driver": "d.example.com", "pool": {"name": "p", "resourceSliceCount": 1}, "nodeName": "n", "allNodes": true,
            "devices": [{"name": "gpu", "attributes": {"model": {"string": "x"}, "1x": {}}, "nodeName": "n"}]}});
        assert_eq!(
            texts(|errs| slice(&obj, None, errs))
                .iter()
                .map(|t| t.split(": ").take(2).collect::<Vec<_>>().join(": "))
                .collect::<Vec<_>>(),
            [
                "spec: Invalid value",
                "spec.devices[0].attributes[1x]: Invalid value",
                "spec.devices[0].attributes[1x]: Invalid value",
                "spec.devices[0]: Invalid value",
            ]
        );
    }
}
