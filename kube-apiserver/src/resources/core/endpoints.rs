//! Endpoints.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    rules::Rules,
    table::{AGE, NAME, Row, age, name, text},
    value::{each, int_at, list_at, set_if_zero, str_at},
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
    validate_update: |new, _, _, errs| validate(new, errs),
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
    endpoint_ip(str_at(address, "ip"), &path.child("ip"), errs);
    let hostname = str_at(address, "hostname");
    if !hostname.is_empty() {
        checks::label(hostname, &path.child("hostname"), errs);
    }
    let node = str_at(address, "nodeName");
    if !node.is_empty() {
        checks::subdomain(node, &path.child("nodeName"), errs);
    }
}

/// An address that traffic may be sent to.
pub(crate) fn endpoint_ip(text: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let Some(ip) = names::ip(text) else {
        errs.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        return;
    };
    if ip.is_unspecified() {
        errs.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errs.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        errs.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        errs.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn port(port: &Value, needs_name: bool, path: &Path<'_>, errs: &mut ErrorList) {
    match str_at(port, "name") {
        "" if needs_name => errs.required(&path.child("name"), ""),
        "" => {}
        name => checks::label(name, &path.child("name"), errs),
    }
    checks::port(int_at(port, "port").unwrap_or_default(), &path.child("port"), errs);
    checks::one_of(str_at(port, "protocol"), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errs);
    let app = str_at(port, "appProtocol");
    if !app.is_empty() {
        checks::qualified(app, &path.child("appProtocol"), errs);
    }
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
