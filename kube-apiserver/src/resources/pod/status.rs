//! Rules of pod status updates.

use serde_json::Value;

use common::meta::ip::sloppy_ip;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    value::{each, existing, int_at, is_set, list_at, same_at, set, str_at},
};

/// Keeps what a status update may not lose: the QoS class and observed generations.
pub(crate) fn prepare(new: &mut Value, old: &Value) {
    let Some(status) = existing(new, "status") else { return };
    if str_at(status, "qosClass").is_empty() && is_set(old, "status.qosClass") {
        set(status, "qosClass", str_at(old, "status.qosClass"));
    }
    if int_at(status, "observedGeneration").unwrap_or_default() == 0
        && let Some(generation) = int_at(old, "status.observedGeneration")
    {
        set(status, "observedGeneration", generation);
    }
    for condition in each(status, "conditions") {
        if int_at(condition, "observedGeneration").unwrap_or_default() != 0 {
            continue;
        }
        let kind = str_at(condition, "type").to_string();
        let previous = list_at(old, "status.conditions").iter().find(|c| str_at(c, "type") == kind);
        if let Some(generation) = previous.and_then(|c| int_at(c, "observedGeneration")) {
            set(condition, "observedGeneration", generation);
        }
    }
}

/// Rules of a change through `/status`.
pub(crate) fn validate(new: &Value, old: &Value, errs: &mut ErrorList) {
    let path = Path::root("status");
    if !same_at(new, old, "status.qosClass") {
        errs.invalid(&path.child("qosClass"), str_at(new, "status.qosClass"), "field is immutable");
    }
    let nominated = str_at(new, "status.nominatedNodeName");
    if !nominated.is_empty() {
        for text in crate::resources::names::dns1123_subdomain(nominated) {
            errs.invalid(&path.child("nominatedNodeName"), nominated, text);
        }
    }
    if int_at(new, "status.observedGeneration").is_some_and(|g| g < 0) {
        errs.invalid(
            &path.child("observedGeneration"),
            int_at(new, "status.observedGeneration").unwrap_or_default(),
            "must be greater than or equal to 0",
        );
    }
    let always = str_at(old, "spec.restartPolicy") == "Always";
    for (list, checked) in [("containerStatuses", true), ("initContainerStatuses", false)] {
        if checked {
            no_restart_of_terminated(new, old, list, always, &path, errs);
        }
    }
    addresses(new, old, "podIPs", &path, errs);
    let hosts = list_at(new, "status.hostIPs");
    if let Some(first) = hosts.first().map(|entry| str_at(entry, "ip")).filter(|ip| *ip != str_at(new, "status.hostIP"))
    {
        errs.invalid(&path.child("hostIPs").index(0).child("ip"), first, "must be equal to `hostIP`");
    }
    addresses(new, old, "hostIPs", &path, errs);
}

/// A container that ended in a pod that restarts nothing (or only failures) may not run again.
fn no_restart_of_terminated(new: &Value, old: &Value, list: &str, always: bool, path: &Path<'_>, errs: &mut ErrorList) {
    if always {
        return;
    }
    let on_failure = str_at(old, "spec.restartPolicy") == "OnFailure";
    let field = format!("status.{list}");
    for previous in list_at(old, &field) {
        let Some(ended) = previous.get("state").and_then(|s| s.get("terminated")).filter(|t| !t.is_null()) else {
            continue;
        };
        if on_failure && int_at(ended, "exitCode") != Some(0) {
            continue;
        }
        let own_policy = list_at(old, "spec.containers")
            .iter()
            .any(|c| c.get("name") == previous.get("name") && is_set(c, "restartPolicy"));
        let current = list_at(new, &field).iter().find(|c| c.get("name") == previous.get("name"));
        let still_ended =
            current.is_none_or(|c| c.get("state").and_then(|s| s.get("terminated")).is_some_and(|t| !t.is_null()));
        if !still_ended && !own_policy {
            errs.forbidden(
                &path.child(list).index(0).child("state"),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}

/// At most one address of each family; what was stored before stays valid.
fn addresses(new: &Value, old: &Value, list: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let field = format!("status.{list}");
    let known: Vec<Value> = list_at(old, &field).iter().filter_map(|entry| entry.get("ip").cloned()).collect();
    let entries = list_at(new, &field);
    let root = path.child(list);
    for (i, entry) in entries.iter().enumerate() {
        checks::legacy_ip(str_at(entry, "ip"), &known, &root.index(i), errs);
    }
    let families: Vec<bool> =
        entries.iter().filter_map(|entry| sloppy_ip(str_at(entry, "ip"))).map(|ip| ip.is_ipv4()).collect();
    if entries.len() > 2 || (entries.len() == 2 && (families.len() < 2 || families[0] == families[1])) {
        let shown: Vec<Value> = entries.iter().map(|e| serde_json::json!({"IP": str_at(e, "ip")})).collect();
        errs.invalid(&root, shown, "may specify no more than one IP for each IP family");
    }
}
