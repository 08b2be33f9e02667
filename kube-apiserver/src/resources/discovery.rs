//! EndpointSlices.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    checks,
    core::endpoint_ip,
    field::{ErrorList, Path},
    names,
    rules::Rules,
    table::{AGE, NAME, Row, age, name, text},
    value::{at, each, int_at, list_at, same_at, set_default, str_at},
};

const TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];

pub(crate) const RULES: &[Rules] = &[Rules {
    group: "discovery.k8s.io",
    resource: "endpointslices",
    kind: "EndpointSlice",
    generation: true,
    defaults: |obj| {
        for port in each(obj, "ports") {
            set_default(port, "name", "");
            set_default(port, "protocol", "TCP");
        }
    },
    validate: |obj, errs| slice(obj, None, errs),
    validate_update: |new, old, _, errs| {
        slice(new, Some(old), errs);
        checks::immutable(new, old, "addressType", errs);
    },
    columns: &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE],
    row,
    ..Rules::GENERIC
}];

fn slice(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let kind = str_at(obj, "addressType");
    checks::one_of(kind, &TYPES, &Path::root("addressType"), errs);
    ports(obj, errs);
    if old.is_none_or(|old| !same_at(obj, old, "endpoints")) {
        endpoints(obj, kind, errs);
    }
}

fn ports(obj: &Value, errs: &mut ErrorList) {
    let root = Path::root("ports");
    let ports = list_at(obj, "ports");
    if ports.len() > 20000 {
        errs.too_many(&root, ports.len(), 20000);
        return;
    }
    for (i, port) in ports.iter().enumerate() {
        let path = root.index(i);
        let name = str_at(port, "name");
        if !name.is_empty() {
            checks::label(name, &path.child("name"), errs);
        }
        if ports[..i].iter().any(|other| str_at(other, "name") == name) {
            errs.duplicate(&path.child("name"), name);
        }
        checks::one_of(str_at(port, "protocol"), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errs);
        let app = str_at(port, "appProtocol");
        if !app.is_empty() {
            checks::qualified(app, &path.child("appProtocol"), errs);
        }
    }
}

fn endpoints(obj: &Value, kind: &str, errs: &mut ErrorList) {
    let root = Path::root("endpoints");
    let endpoints = list_at(obj, "endpoints");
    if endpoints.len() > 1000 {
        errs.too_many(&root, endpoints.len(), 1000);
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = root.index(i);
        let addresses_path = path.child("addresses");
        let addresses = list_at(endpoint, "addresses");
        match addresses.len() {
            0 => errs.required(&addresses_path, "must contain at least 1 address"),
            count if count > 100 => errs.too_many(&addresses_path, count, 100),
            _ => {}
        }
        for (j, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            let each_path = addresses_path.index(j);
            match kind {
                "IPv4" | "IPv6" => {
                    if names::ip(address).is_some_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
                        errs.invalid(&addresses_path, address, format!("must be an {kind} address"));
                    }
                    endpoint_ip(address, &each_path, errs);
                }
                "FQDN" => checks::subdomain(address.strip_suffix('.').unwrap_or(address), &each_path, errs),
                _ => {}
            }
        }
        if let Some(node) = at(endpoint, "nodeName").and_then(Value::as_str) {
            checks::subdomain(node, &path.child("nodeName"), errs);
        }
        if let Some(hostname) = at(endpoint, "hostname").and_then(Value::as_str) {
            checks::label(hostname, &path.child("hostname"), errs);
        }
        for (list, max) in [("forZones", 8), ("forNodes", 8)] {
            let hints = list_at(endpoint, &format!("hints.{list}"));
            if hints.len() > max {
                errs.too_many(&path.child("hints").child(list), hints.len(), max);
            }
        }
    }
}

/// The first three of a list, and how many more there are.
fn first_three(all: &[String]) -> Value {
    const SHOWN: usize = 3;
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(",");
    match all.len() {
        0 => "<unset>".into(),
        count if count > SHOWN => format!("{shown} + {} more...", count - SHOWN).into(),
        _ => shown.into(),
    }
}

fn row(obj: &Value, now: Timestamp) -> Row {
    let ports: Vec<String> = list_at(obj, "ports")
        .iter()
        .map(|port| match (int_at(port, "port"), at(port, "name").and_then(Value::as_str)) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_string(),
            (None, None) => "*".to_string(),
        })
        .collect();
    let addresses: Vec<String> = list_at(obj, "endpoints")
        .iter()
        .flat_map(|endpoint| list_at(endpoint, "addresses"))
        .filter_map(|address| address.as_str().map(str::to_string))
        .collect();
    vec![name(obj), str_at(obj, "addressType").into(), first_three(&ports), first_three(&addresses), age(obj, now)]
}
