//! Defaults and validation of NetworkPolicies.

use common::meta::ip::{self, cidr_warnings};
use serde_json::Value;

use super::SPEC;
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    value::{at, each, int_at, is_set, list_at, member, set, set_default, str_at},
};

const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

/// What an update lets pass because the stored object has it already.
#[derive(Default)]
struct Known {
    invalid_selector_values: bool,
    cidrs: Vec<Value>,
}

pub(super) fn defaults(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    if !is_set(spec, "policyTypes") {
        let egress = is_set(spec, "egress");
        set(spec, "policyTypes", if egress { vec!["Ingress", "Egress"] } else { vec!["Ingress"] });
    }
    set_default(spec, "podSelector", serde_json::json!({}));
    for (direction, _) in DIRECTIONS {
        for rule in each(spec, direction) {
            each(rule, "ports").for_each(|port| set_default(port, "protocol", "TCP"));
        }
    }
}

/// Every block of addresses of a policy with its path.
fn each_block(obj: &Value, mut visit: impl FnMut(&Value, &Path<'_>)) {
    for (direction, peers) in DIRECTIONS {
        let root = SPEC.child(direction);
        for (i, rule) in list_at(obj, &format!("spec.{direction}")).iter().enumerate() {
            let path = root.index(i);
            let list = path.child(peers);
            for (j, peer) in list_at(rule, peers).iter().enumerate() {
                if let Some(block) = at(peer, "ipBlock") {
                    visit(block, &list.index(j).child("ipBlock"));
                }
            }
        }
    }
}

pub(super) fn create(obj: &Value, errs: &mut ErrorList) {
    spec(obj, &Known::default(), errs);
}

pub(super) fn update(new: &Value, old: &Value, errs: &mut ErrorList) {
    let mut problems = ErrorList::new();
    let selector = at(old, "spec.podSelector").unwrap_or(&Value::Null);
    checks::label_selector(selector, &SPEC, &mut problems);
    let mut known = Known { invalid_selector_values: !problems.is_empty(), cidrs: Vec::new() };
    each_block(old, |block, _| {
        known.cidrs.extend(block.get("cidr").cloned());
        known.cidrs.extend_from_slice(list_at(block, "except"));
    });
    spec(new, &known, errs);
}

pub(super) fn warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    each_block(obj, |block, path| {
        out.extend(cidr_warnings(path.child("cidr"), str_at(block, "cidr")));
        for (i, except) in list_at(block, "except").iter().enumerate() {
            out.extend(cidr_warnings(path.child("except").index(i), except.as_str().unwrap_or_default()));
        }
    });
    out
}

fn selector(selector: &Value, known: &Known, path: &Path<'_>, errs: &mut ErrorList) {
    checks::label_selector_with(selector, known.invalid_selector_values, path, errs);
}

fn spec(obj: &Value, known: &Known, errs: &mut ErrorList) {
    if let Some(pods) = at(obj, "spec.podSelector") {
        selector(pods, known, &SPEC.child("podSelector"), errs);
    }
    for (direction, peers) in DIRECTIONS {
        let root = SPEC.child(direction);
        for (i, rule) in list_at(obj, &format!("spec.{direction}")).iter().enumerate() {
            let path = root.index(i);
            for (j, port) in list_at(rule, "ports").iter().enumerate() {
                self::port(port, &path.child("ports").index(j), errs);
            }
            for (j, peer) in list_at(rule, peers).iter().enumerate() {
                self::peer(peer, known, &path.child(peers).index(j), errs);
            }
        }
    }
    let types = list_at(obj, "spec.policyTypes");
    let path = SPEC.child("policyTypes");
    if types.len() > 2 {
        errs.invalid(&path, types.to_vec(), "may not specify more than two policyTypes");
        return;
    }
    for (i, kind) in types.iter().filter_map(Value::as_str).enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            errs.not_supported(&path.index(i), kind, &["Ingress", "Egress"]);
        }
    }
}

fn port(port: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    if let Some(protocol) = at(port, "protocol").and_then(Value::as_str)
        && !PROTOCOLS.contains(&protocol)
    {
        errs.not_supported(&path.child("protocol"), protocol, &PROTOCOLS);
    }
    let (end, end_path) = (int_at(port, "endPort"), path.child("endPort"));
    let number = at(port, "port");
    match (end, number, number.and_then(Value::as_i64)) {
        (Some(end), Some(_), None) => {
            errs.invalid(&end_path, end, "may not be specified when `port` is non-numeric");
        }
        (Some(end), None, _) => errs.invalid(&end_path, end, "may not be specified when `port` is not specified"),
        _ => {}
    }
    if number.is_some() {
        checks::port_or_name(number, &path.child("port"), errs);
    }
    if let (Some(end), Some(start)) = (end, number.and_then(Value::as_i64)) {
        if end < start {
            errs.invalid(&end_path, start, "must be greater than or equal to `port`");
        }
        checks::port(end, &end_path, errs);
    }
}

fn peer(peer: &Value, known: &Known, path: &Path<'_>, errs: &mut ErrorList) {
    let selectors = ["podSelector", "namespaceSelector"];
    for name in selectors {
        if let Some(value) = at(peer, name) {
            selector(value, known, &path.child(name), errs);
        }
    }
    let block = at(peer, "ipBlock");
    if let Some(block) = block {
        self::block(block, known, &path.child("ipBlock"), errs);
    }
    let selects = selectors.iter().any(|name| at(peer, name).is_some());
    match (block, selects) {
        (None, false) => errs.required(path, "must specify a peer"),
        (Some(_), true) => errs.forbidden(path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn block(block: &Value, known: &Known, path: &Path<'_>, errs: &mut ErrorList) {
    let network = |text: &str| ip::Cidr::sloppy(text).and_then(ip::Cidr::network);
    let cidr = str_at(block, "cidr");
    if cidr.is_empty() {
        return errs.required(&path.child("cidr"), "");
    }
    checks::legacy_cidr(cidr, &known.cidrs, &path.child("cidr"), errs);
    let Some(range) = network(cidr) else { return };
    for (i, except) in list_at(block, "except").iter().filter_map(Value::as_str).enumerate() {
        let path = path.child("except");
        checks::legacy_cidr(except, &known.cidrs, &path.index(i), errs);
        if network(except).is_some_and(|except| !range.contains(&except) || except == range) {
            errs.invalid(&path.index(i), except, "must be a strict subset of `cidr`");
        }
    }
}
