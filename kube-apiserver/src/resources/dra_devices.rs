//! Devices in detail: what they are like (in ResourceSlices), and how those of a claim do.

use serde_json::Value;

use super::{
    checks, conditions,
    dra_rules::{MAX_PARAMETERS, each, each_once, pool_name},
    field::{ErrorKind, ErrorList, Path},
    storage_rules::driver_name,
    value::{at, list_at, map_at, str_at},
};

const LONGEST_VALUE: usize = 64;
const MAX_COUNTERS: usize = 32;
const MAX_CONDITIONS: usize = 8;
const MAX_IPS: usize = 16;
const LONGEST_INTERFACE: usize = 256;
const LONGEST_HARDWARE_ADDRESS: usize = 128;
/// Go's names of an attribute's members in their order, and those of the API.
const VALUES: [(&str, &str); 8] = [
    ("IntValue", "int"),
    ("BoolValue", "bool"),
    ("StringValue", "string"),
    ("VersionValue", "version"),
    ("IntValues", "ints"),
    ("BoolValues", "bools"),
    ("StringValues", "strings"),
    ("VersionValues", "versions"),
];

/// An attribute: exactly one value, or one list of them.
pub(super) fn attribute(attribute: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let one = "exactly one value must be specified";
    for (field, is_version) in [("string", false), ("version", true)] {
        if let Some(text) = at(attribute, field).and_then(Value::as_str) {
            text_value(text, is_version, &path.child(field), errs);
        }
    }
    for field in ["bools", "ints", "strings", "versions"] {
        let Some(list) = at(attribute, field) else { continue };
        let (path, items) = (path.child(field), list_at(attribute, field));
        if items.is_empty() {
            errs.invalid(&path, list.clone(), "must not be empty if specified");
        }
        for (i, text) in items.iter().enumerate().filter_map(|(i, item)| Some((i, item.as_str()?))) {
            text_value(text, field == "versions", &path.index(i), errs);
        }
    }
    match VALUES.iter().filter(|(_, field)| at(attribute, field).is_some()).count() {
        0 => errs.invalid(path, "", one),
        1 => {}
        _ => {
            let shown = checks::internal(attribute, &VALUES, &Value::Null);
            errs.of_struct(ErrorKind::Invalid, path, &shown, one);
        }
    }
}

fn text_value(text: &str, is_version: bool, path: &Path<'_>, errs: &mut ErrorList) {
    if is_version && !is_semver(text) {
        errs.invalid(path, text, "must be a string compatible with semver.org spec 2.0.0");
    }
    if text.len() > LONGEST_VALUE {
        errs.too_long(path, LONGEST_VALUE);
    }
}

/// `1.2.3`, with `-pre.release` and `+build.metadata`.
fn is_semver(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| part == "0" || (!part.starts_with('0') && digits(part));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn digits(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

/// What a device takes from one set of counters.
pub(super) fn consumption(consumption: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    match str_at(consumption, "counterSet") {
        "" => errs.required(&path.child("counterSet"), ""),
        set => checks::label(set, &path.child("counterSet"), errs),
    }
    let root = path.child("counters");
    let counters = map_at(consumption, "counters");
    match counters.map_or(0, serde_json::Map::len) {
        0 => errs.required(&root, ""),
        count if count > MAX_COUNTERS => errs.too_many(&root, count, MAX_COUNTERS),
        _ => {}
    }
    counters.into_iter().flatten().for_each(|(name, _)| checks::label(name, &root.key(name), errs));
}

fn identity(device: &Value) -> String {
    ["driver", "pool", "device", "shareID"].map(|field| str_at(device, field)).join("/")
}

/// The devices of a claim's status: each is one that was allocated.
pub(super) fn statuses(status: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let allocated: Vec<String> = list_at(status, "allocation.devices.results").iter().map(identity).collect();
    each_once(status, "devices", (usize::MAX, identity), path, errs, |device, path, errs| {
        driver_name(str_at(device, "driver"), &path.child("driver"), errs);
        pool_name(str_at(device, "pool"), &path.child("pool"), errs);
        checks::label(str_at(device, "device"), &path.child("device"), errs);
        if !allocated.contains(&identity(device)) {
            errs.invalid(path, identity(device), "must be an allocated device in the claim");
        }
        let conditions = list_at(device, "conditions");
        if conditions.len() > MAX_CONDITIONS {
            errs.too_many(&path.child("conditions"), conditions.len(), MAX_CONDITIONS);
        }
        conditions::validate(conditions, &path.child("conditions"), errs);
        data(at(device, "data"), &path.child("data"), errs);
        if let Some(network) = at(device, "networkData") {
            network_data(network, &path.child("networkData"), errs);
        }
    });
}

fn data(data: Option<&Value>, path: &Path<'_>, errs: &mut ErrorList) {
    match data {
        Some(value) if value.to_string().len() > MAX_PARAMETERS => errs.too_long(path, MAX_PARAMETERS),
        Some(value) if !value.is_object() => {
            errs.invalid(path, "<value omitted>", "must be a valid JSON object");
        }
        _ => {}
    }
}

fn network_data(network: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for (field, max) in [("interfaceName", LONGEST_INTERFACE), ("hardwareAddress", LONGEST_HARDWARE_ADDRESS)] {
        if str_at(network, field).len() > max {
            errs.too_long(&path.child(field), max);
        }
    }
    each(network, "ips", MAX_IPS, path, errs, |ip, path, errs| {
        let text = ip.as_str().unwrap_or_default();
        checks::complain(text, common::meta::ip::interface_address(text), path, errs);
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(check: impl Fn(&Path<'_>, &mut ErrorList)) -> Vec<String> {
        let mut errs = ErrorList::new();
        check(&Path::root("x"), &mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn attributes_have_one_value() {
        let told = |value: Value| texts(|path, errs| attribute(&value, path, errs));
        assert_eq!(told(json!({"version": "1.2.3-rc.1+b"})), Vec::<String>::new());
        assert_eq!(told(json!({})), ["x: Invalid value: \"\": exactly one value must be specified"]);
        assert_eq!(told(json!({"ints": []})), ["x.ints: Invalid value: []: must not be empty if specified"]);
        assert_eq!(
            told(json!({"versions": ["1.02.3"]})),
            ["x.versions[0]: Invalid value: \"1.02.3\": must be a string compatible with semver.org spec 2.0.0"]
        );
        assert_eq!(
            told(json!({"int": 1, "bool": true})),
            [
                "x: Invalid value: {\"IntValue\":1,\"BoolValue\":true,\"StringValue\":null,\"VersionValue\":null,\"IntValues\":null,\"BoolValues\":null,\"StringValues\":null,\"VersionValues\":null}: exactly one value must be specified"
            ]
        );
    }

    #[test]
    fn statuses_are_of_allocated_devices() {
        let device = |name: &str| json!({"driver": "d.example.com", "pool": "p", "device": name});
        let status =
            json!({"allocation": {"devices": {"results": [device("a")]}}, "devices": [device("a"), device("b")]});
        assert_eq!(
            texts(|path, errs| statuses(&status, path, errs)),
            ["x.devices[1]: Invalid value: \"d.example.com/p/b/\": must be an allocated device in the claim"]
        );
        let network = json!({"ips": ["10.0.0.1/24", "10.0.0.1"]});
        assert_eq!(
            texts(|path, errs| network_data(&network, path, errs)),
            [
                "x.ips[1]: Invalid value: \"10.0.0.1\": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"
            ]
        );
        assert_eq!(texts(|path, errs| consumption(&json!({"counterSet": "A"}), path, errs)).len(), 2);
    }
}
