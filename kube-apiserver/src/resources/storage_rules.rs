//! Rules of the storage.k8s.io group.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    checks,
    field::{ErrorList, Path},
    names,
    quantity::Quantity,
    value::{at, int_at, list_at, map_at, same, same_at, str_at, strings_at},
};

const SPEC: Path<'static> = Path::root("spec");
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_SIZE: usize = 256 * 1024;
const MAX_METADATA: usize = 256 * 1024;
const MAX_MESSAGE: usize = 1024;
const MAX_NODE_ID: usize = 256;

/// A StorageClass.
pub(super) fn storage_class(obj: &Value, errs: &mut ErrorList) {
    provisioner(obj, "provisioner", errs);
    parameters(obj, true, errs);
    let policy = str_at(obj, "reclaimPolicy");
    if !matches!(policy, "" | "Delete" | "Retain") {
        errs.not_supported(&Path::root("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    let mode = Path::root("volumeBindingMode");
    match at(obj, "volumeBindingMode").and_then(Value::as_str) {
        None => errs.required(&mode, ""),
        Some("Immediate" | "WaitForFirstConsumer") => {}
        Some(other) => errs.not_supported(&mode, other, &["Immediate", "WaitForFirstConsumer"]),
    }
    topologies(obj, errs);
}

/// What of a StorageClass never changes.
pub(super) fn storage_class_update(new: &Value, old: &Value, errs: &mut ErrorList) {
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        checks::immutable(new, old, field, errs);
    }
}

fn provisioner(obj: &Value, field: &str, errs: &mut ErrorList) {
    match str_at(obj, field) {
        "" => errs.required(&Path::root(field), ""),
        name => checks::qualified(&name.to_lowercase(), &Path::root(field), errs),
    }
}

fn parameters(obj: &Value, may_be_empty: bool, errs: &mut ErrorList) {
    let path = Path::root("parameters");
    let count = map_at(obj, "parameters").map_or(0, serde_json::Map::len);
    if count > MAX_PARAMETERS {
        errs.too_long(&path, MAX_PARAMETERS);
        return;
    }
    if strings_at(obj, "parameters").any(|(key, _)| key.is_empty()) {
        errs.invalid(&path, "", "field can not be empty.");
    }
    if strings_at(obj, "parameters").map(|(k, v)| k.len() + v.len()).sum::<usize>() > MAX_PARAMETERS_SIZE {
        errs.too_long(&path, MAX_PARAMETERS_SIZE);
    }
    if !may_be_empty && count == 0 {
        errs.required(&path, "must contain at least one key/value pair");
    }
}

fn topologies(obj: &Value, errs: &mut ErrorList) {
    let root = Path::root("allowedTopologies");
    let terms = list_at(obj, "allowedTopologies");
    for (i, term) in terms.iter().enumerate() {
        let path = root.index(i);
        let list = path.child("matchLabelExpressions");
        let expressions = list_at(term, "matchLabelExpressions");
        if expressions.is_empty() {
            errs.required(&list, "must specify at least one label selector requirement");
        }
        for (j, expression) in expressions.iter().enumerate() {
            let path = list.index(j);
            let key = str_at(expression, "key");
            if expressions[..j].iter().any(|other| str_at(other, "key") == key) {
                errs.duplicate(&path.child("key"), key);
            }
            let values = list_at(expression, "values");
            if values.is_empty() {
                errs.required(&path.child("values"), "");
            }
            for (k, value) in values.iter().enumerate().filter(|(k, value)| values[..*k].contains(value)) {
                errs.duplicate(&path.child("values").index(k), value.clone());
            }
            checks::qualified(key, &path.child("key"), errs);
        }
        if terms[..i].iter().any(|other| same(Some(other), Some(term))) {
            errs.duplicate(&list, "");
        }
    }
}

/// A VolumeAttributesClass.
pub(super) fn attributes_class(obj: &Value, errs: &mut ErrorList) {
    provisioner(obj, "driverName", errs);
    parameters(obj, false, errs);
}

/// A changed VolumeAttributesClass.
pub(super) fn attributes_class_update(new: &Value, old: &Value, errs: &mut ErrorList) {
    for field in ["driverName", "parameters"] {
        if !same_at(new, old, field) {
            errs.forbidden(&Path::root(field), format!("updates to {field} are forbidden."));
        }
    }
    attributes_class(new, errs);
}

/// The name of a CSI driver.
pub(crate) fn driver_name(name: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if name.is_empty() {
        return errs.required(path, "");
    }
    if name.len() > 63 {
        errs.too_long(path, 63);
    }
    checks::complain(name, names::dns1123_subdomain(&name.to_lowercase()), path, errs);
}

/// A CSIDriver.
pub(super) fn driver(obj: &Value, errs: &mut ErrorList) {
    for (field, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if at(obj, &format!("spec.{field}")).is_none() {
            errs.required(&SPEC.child(shown), "");
        }
    }
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    if let Some(policy) = at(obj, "spec.fsGroupPolicy").and_then(Value::as_str).filter(|p| !policies.contains(p)) {
        errs.not_supported(&SPEC.child("fsGroupPolicy"), policy, &policies);
    }
    token_requests(obj, errs);
    for mode in list_at(obj, "spec.volumeLifecycleModes").iter().filter_map(Value::as_str) {
        if !matches!(mode, "Persistent" | "Ephemeral") {
            errs.not_supported(&SPEC.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
        }
    }
    if let Some(seconds) = int_at(obj, "spec.nodeAllocatableUpdatePeriodSeconds").filter(|s| *s < 10) {
        let path = SPEC.child("nodeAllocatableUpdatePeriodSeconds");
        errs.invalid(&path, seconds, "must be greater than or equal to 10 seconds");
    }
    if let Some(value) = at(obj, "spec.serviceAccountTokenInSecrets")
        && list_at(obj, "spec.tokenRequests").is_empty()
    {
        let text = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errs.invalid(&SPEC.child("serviceAccountTokenInSecrets"), value.clone(), text);
    }
}

fn token_requests(obj: &Value, errs: &mut ErrorList) {
    let root = SPEC.child("tokenRequests");
    let requests = list_at(obj, "spec.tokenRequests");
    let repeated = checks::repeats(requests, |item| str_at(item, "audience"));
    for (i, request) in requests.iter().enumerate() {
        let path = root.index(i);
        let audience = str_at(request, "audience");
        if repeated[i] {
            errs.duplicate(&path.child("audience"), audience);
            continue;
        }
        let path = path.child("expirationSeconds");
        match int_at(request, "expirationSeconds") {
            Some(seconds) if seconds < 600 => {
                errs.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
            }
            Some(seconds) if seconds > 1 << 32 => {
                errs.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
}

/// A changed CSIDriver.
pub(super) fn driver_update(new: &Value, old: &Value, errs: &mut ErrorList) {
    driver(new, errs);
    for (field, shown) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
        super::metadata::immutable(new, old, &format!("spec.{field}"), &SPEC.child(shown), errs);
    }
}

/// A CSINode; of drivers that stay only `allocatable` may change.
pub(super) fn csi_node(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let root = SPEC.child("drivers");
    let drivers = list_at(obj, "spec.drivers");
    let repeated = checks::repeats(drivers, |item| str_at(item, "name"));
    for (i, driver) in drivers.iter().enumerate() {
        let path = root.index(i);
        let name = str_at(driver, "name");
        driver_name(name, &path.child("name"), errs);
        let id = str_at(driver, "nodeID");
        if id.is_empty() {
            errs.required(&path.child("nodeID"), "");
        }
        if id.len() > MAX_NODE_ID {
            errs.invalid(&path.child("nodeID"), id, format!("must be {MAX_NODE_ID} characters or less"));
        }
        checks::non_negative(driver, "allocatable.count", &path.child("allocatable.count"), errs);
        if repeated[i] {
            errs.duplicate(&path.child("name"), name);
        }
        let mut seen = BTreeSet::new();
        for key in list_at(driver, "topologyKeys").iter().filter_map(Value::as_str) {
            if key.is_empty() {
                errs.required(&path, "");
            }
            if !seen.insert(key) {
                errs.duplicate(&path, key);
            }
            checks::qualified(key, &path, errs);
        }
    }
    let before = old.map(|old| list_at(old, "spec.drivers")).unwrap_or_default();
    for driver in drivers {
        let known = before.iter().find(|b| str_at(b, "name") == str_at(driver, "name"));
        let fixed = ["nodeID", "topologyKeys"];
        if known.is_some_and(|known| fixed.iter().any(|field| !same_at(known, driver, field))) {
            errs.invalid(&root, driver.clone(), "field is immutable");
        }
    }
}

/// A CSIStorageCapacity.
pub(super) fn capacity(obj: &Value, errs: &mut ErrorList) {
    if let Some(selector) = at(obj, "nodeTopology") {
        checks::label_selector(selector, &Path::root("nodeTopology"), errs);
    }
    let class = str_at(obj, "storageClassName");
    names::dns1123_subdomain(class)
        .into_iter()
        .for_each(|text| errs.invalid(&Path::root("storageClassName"), class, text));
    if let Some(amount) = at(obj, "capacity").filter(|c| Quantity::of(c).is_some_and(|q| q.sign() < 0)) {
        errs.invalid(&Path::root("capacity"), amount.clone(), "must be greater than or equal to 0");
    }
}

/// What of a CSIStorageCapacity never changes.
pub(super) fn capacity_update(new: &Value, old: &Value, errs: &mut ErrorList) {
    for field in ["nodeTopology", "storageClassName"] {
        checks::immutable(new, old, field, errs);
    }
}

/// A VolumeAttachment.
pub(super) fn attachment(obj: &Value, errs: &mut ErrorList) {
    driver_name(str_at(obj, "spec.attacher"), &SPEC.child("attacher"), errs);
    let (name, inline) = (at(obj, "spec.source.persistentVolumeName"), at(obj, "spec.source.inlineVolumeSpec"));
    let path = SPEC.child("source");
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (name, inline) {
        (None, None) => errs.required(&path, one),
        (Some(_), Some(_)) => errs.forbidden(&path, one),
        (Some(name), None) => {
            let path = path.child("persistentVolumeName");
            if name == "" {
                errs.required(&path, "must specify non empty persistentVolumeName");
            }
            checks::subdomain(name.as_str().unwrap_or_default(), &path, errs);
        }
        (None, Some(_)) => {}
    }
    checks::subdomain(str_at(obj, "spec.nodeName"), &SPEC.child("nodeName"), errs);
    attachment_status(obj, errs);
}

/// The status of a VolumeAttachment.
pub(super) fn attachment_status(obj: &Value, errs: &mut ErrorList) {
    let status = Path::root("status");
    let size: usize = strings_at(obj, "status.attachmentMetadata").map(|(k, v)| k.len() + v.len()).sum();
    if size > MAX_METADATA {
        errs.too_long(&status.child("attachmentMetadata"), MAX_METADATA);
    }
    for field in ["attachError", "detachError"] {
        let Some(error) = at(obj, &format!("status.{field}")) else { continue };
        let path = status.child(field);
        if str_at(error, "message").len() > MAX_MESSAGE {
            errs.too_long(&path.child("message"), MAX_METADATA);
        }
        if let Some(code) = int_at(error, "errorCode").filter(|code| *code < 0) {
            errs.invalid(&path.child("errorCode"), code, "must be between 0 and 2147483647, inclusive");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(check: impl Fn(&mut ErrorList)) -> Vec<String> {
        let mut errs = ErrorList::new();
        check(&mut errs);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn classes_are_fixed() {
        let class = |provisioner: &str| {
            json!({"provisioner": provisioner, "volumeBindingMode": "Immediate",
            "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": []}]}]})
        };
        assert_eq!(
            complaints(|errs| storage_class(&class(""), errs)),
            ["provisioner: Required value", "allowedTopologies[0].matchLabelExpressions[0].values: Required value"]
        );
        assert_eq!(
            complaints(|errs| storage_class_update(&class("a"), &class("b"), errs)),
            ["provisioner: Invalid value: \"a\": field is immutable"]
        );
        let attributes = json!({"driverName": "d", "parameters": {}});
        assert_eq!(
            complaints(|errs| attributes_class(&attributes, errs)),
            ["parameters: Required value: must contain at least one key/value pair"]
        );
    }

    #[test]
    fn drivers_nodes_and_attachments() {
        let driver = json!({"spec": {"attachRequired": true, "podInfoOnMount": true, "storageCapacity": true, "fsGroupPolicy": "x",
            "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}]}});
        assert_eq!(
            complaints(|errs| super::driver(&driver, errs)),
            [
                "spec.fsGroupPolicy: Unsupported value: \"x\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ]
        );
        let node = |id: &str, count: i64| json!({"spec": {"drivers": [{"name": "d", "nodeID": id, "allocatable": {"count": count}}]}});
        assert_eq!(complaints(|errs| csi_node(&node("a", 2), Some(&node("a", 1)), errs)), Vec::<String>::new());
        assert_eq!(complaints(|errs| csi_node(&node("b", 1), Some(&node("a", 1)), errs)).len(), 1);
        let attachment = json!({"spec": {"attacher": "a", "nodeName": "n", "source": {}}});
        assert_eq!(
            complaints(|errs| super::attachment(&attachment, errs)),
            ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
        );
    }
}
