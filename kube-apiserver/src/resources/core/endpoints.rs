//! Endpoints.

use common::meta::ip::ip_warning;
use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    rules::Rules,
    table::{AGE, NAME, Row, age, name, text},
    value::{at, each, int_at, list_at, same_at, set_if_zero, str_at},
};

pub(crate) const RULES: &[Rules] = &[Rules {
    resource: "endpoints",
    kind: "Endpoints",
    create_on_update: true,
    defaults: |obj| {
        for subset in each(obj, "subsets") {
            for port in each(subset, "ports") {
                set_if_zero(port, "protocol", "TCP");
            }
        }
    },
    validate,
    // Subsets that do not change are not looked at: rules have become stricter.
    validate_update: |new, old, _, errs| {
        if !same_at(new, old, "subsets") {
            validate(new, errs);
        }
    },
    warnings: |obj, _, _| warnings(obj),
    columns: &[NAME, text("Endpoints"), AGE],
    row,
    ..Rules::GENERIC
}];

fn validate(obj: &Value, errs: &mut ErrorList) {
    let path = Path::root("subsets");
    for (i, subset) in list_at(obj, "subsets").iter().enumerate() {
        let path = path.index(i);
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| list_at(subset, list).is_empty()) {
            errs.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in lists {
            for (j, address) in list_at(subset, list).iter().enumerate() {
                self::address(address, &path.child(list).index(j), errs);
            }
        }
        let ports = list_at(subset, "ports");
        for (j, port) in ports.iter().enumerate() {
            self::port(port, ports.len() > 1, &path.child("ports").index(j), errs);
        }
    }
}

fn address(address: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let ip = str_at(address, "ip");
    checks::legacy_ip(ip, &[], &path.child("ip"), errs);
    let hostname = str_at(address, "hostname");
    if !hostname.is_empty() {
        checks::label(hostname, &path.child("hostname"), errs);
    }
    if let Some(node) = at(address, "nodeName").and_then(Value::as_str) {
        checks::subdomain(node, &path.child("nodeName"), errs);
    }
    checks::endpoint_ip(ip, &path.child("ip"), errs);
}

fn port(port: &Value, needs_name: bool, path: &Path<'_>, errs: &mut ErrorList) {
    match str_at(port, "name") {
        "" if needs_name => errs.required(&path.child("name"), ""),
        "" => {}
        name => checks::label(name, &path.child("name"), errs),
    }
    checks::port(int_at(port, "port").unwrap_or_default(), &path.child("port"), errs);
    checks::one_of(str_at(port, "protocol"), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errs);
    if let Some(app) = at(port, "appProtocol").and_then(Value::as_str) {
        checks::qualified(app, &path.child("appProtocol"), errs);
    }
}

/// Of addresses that new objects should not have; the controller copies those of pods and is not told.
fn warnings(obj: &Value) -> Vec<String> {
    if checks::label_of(obj, "endpoints.kubernetes.io/managed-by") == Some("endpoint-controller") {
        return Vec::new();
    }
    let root = Path::root("subsets");
    let mut out = Vec::new();
    for (i, subset) in list_at(obj, "subsets").iter().enumerate() {
        for list in ["addresses", "notReadyAddresses"] {
            for (j, address) in list_at(subset, list).iter().enumerate() {
                let path = root.index(i);
                let path = path.child(list);
                out.extend(ip_warning(path.index(j).child("ip"), str_at(address, "ip")));
            }
        }
    }
    out
}

fn row(obj: &Value, now: Timestamp) -> Row {
    const SHOWN: usize = 3;
    let mut all = Vec::new();
    for subset in list_at(obj, "subsets") {
        let ips = list_at(subset, "addresses").iter().map(|address| str_at(address, "ip"));
        let ports = list_at(subset, "ports");
        if ports.is_empty() {
            all.extend(ips.map(str::to_string));
            continue;
        }
        for port in ports {
            let number = int_at(port, "port").unwrap_or_default();
            all.extend(
                ips.clone()
                    .map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }),
            );
        }
    }
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(",");
    let cell = match (list_at(obj, "subsets").is_empty(), all.len() > SHOWN) {
        (true, _) => "<none>".to_string(),
        (false, true) => format!("{shown} + {} more...", all.len() - SHOWN),
        (false, false) => shown,
    };
    vec![name(obj), cell.into(), age(obj, now)]
}
