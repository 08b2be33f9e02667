//! EndpointSlices.

use common::meta::ip::{self, ip_warning};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    checks,
    field::{ErrorList, Path},
    metadata, names,
    rules::Rules,
    table::{AGE, NAME, Row, age, name, text},
    value::{at, each, int_at, list_at, same_at, set_default, str_at},
};

const TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_HINTS: usize = 8;

pub(crate) const RULES: &[Rules] = &[Rules {
    group: "discovery.k8s.io",
    resource: "endpointslices",
    kind: "EndpointSlice",
    generation: true,
    // Consumers select slices by label, so labels count as content.
    prepare_update: |new, old, _, _| {
        if !same_at(new, old, "metadata.labels") {
            metadata::bump_generation(new, old);
        }
    },
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
    warnings: |obj, old, _| warnings(obj, old),
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

/// Of names for addresses, and of addresses that new objects should not have; controllers that copy them are not told.
fn warnings(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_none() && str_at(obj, "addressType") == "FQDN" {
        out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    let manager = checks::label_of(obj, "endpointslice.kubernetes.io/managed-by");
    if matches!(manager, Some("endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io")) {
        return out;
    }
    let root = Path::root("endpoints");
    for (i, endpoint) in list_at(obj, "endpoints").iter().enumerate() {
        let path = root.index(i);
        let path = path.child("addresses");
        for (j, address) in list_at(endpoint, "addresses").iter().enumerate() {
            out.extend(ip_warning(path.index(j), address.as_str().unwrap_or_default()));
        }
    }
    out
}

fn ports(obj: &Value, errs: &mut ErrorList) {
    let root = Path::root("ports");
    let ports = list_at(obj, "ports");
    if ports.len() > 20000 {
        errs.too_many(&root, ports.len(), 20000);
        return;
    }
    let repeated = checks::repeats(ports, |item| str_at(item, "name"));
    for (i, port) in ports.iter().enumerate() {
        let path = root.index(i);
        let name = str_at(port, "name");
        if !name.is_empty() {
            checks::label(name, &path.child("name"), errs);
        }
        if repeated[i] {
            errs.duplicate(&path.child("name"), name);
        }
        let protocol = str_at(port, "protocol");
        if !PROTOCOLS.contains(&protocol) {
            errs.not_supported(&path.child("protocol"), protocol, &PROTOCOLS);
        }
        if let Some(app) = at(port, "appProtocol").and_then(Value::as_str) {
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
            self::address(address, kind, &addresses_path, j, errs);
        }
        if let Some(node) = at(endpoint, "nodeName").and_then(Value::as_str) {
            checks::subdomain(node, &path.child("nodeName"), errs);
        }
        if let Some(hostname) = at(endpoint, "hostname").and_then(Value::as_str) {
            checks::label(hostname, &path.child("hostname"), errs);
        }
        hints(endpoint, &path.child("hints"), errs);
    }
}

fn address(address: &str, kind: &str, list: &Path<'_>, index: usize, errs: &mut ErrorList) {
    let path = list.index(index);
    let complaints = match kind {
        "IPv4" => ip::legacy_ip(address),
        "IPv6" => ip::canonical_ip(address),
        "FQDN" => return checks::domain_name(address, &path, errs),
        _ => return,
    };
    if complaints.is_empty() {
        if ip::sloppy_ip(address).is_some_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
            errs.invalid(list, address, format!("must be an {kind} address"));
        }
        checks::endpoint_ip(address, &path, errs);
    }
    checks::complain(address, complaints, &path, errs);
}

fn hints(endpoint: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let rules: [(&str, names::Rule); 2] = [("forZones", names::label_value), ("forNodes", names::dns1123_subdomain)];
    for (list, rule) in rules {
        let root = path.child(list);
        let hints = list_at(endpoint, &format!("hints.{list}"));
        if hints.len() > MAX_HINTS {
            errs.too_many(&root, hints.len(), MAX_HINTS);
            return;
        }
        let repeated = checks::repeats(hints, |item| str_at(item, "name"));
        for (i, hint) in hints.iter().enumerate() {
            let (path, name) = (root.index(i), str_at(hint, "name"));
            if repeated[i] {
                errs.duplicate(&path.child("name"), name);
            }
            checks::complain(name, rule(name), &path.child("name"), errs);
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
