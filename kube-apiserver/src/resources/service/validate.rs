//! Validation of Services.

use common::meta::ip;
use serde_json::Value;

use super::{externally_accessible, is_headless, needs_cluster_ip, needs_health_check_port};
use crate::resources::{
    checks,
    field::{ErrorKind, ErrorList, Path},
    metadata,
    value::{at, int_at, is_set, list_at, same_at, str_at, strings_at},
};

const SPEC: Path<'static> = Path::root("spec");
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) fn service(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let (mode, hints) = (checks::annotation(obj, TOPOLOGY_MODE), checks::annotation(obj, TOPOLOGY_HINTS));
    if let (Some(mode), Some(hints)) = (mode, hints)
        && mode != hints
    {
        let text = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errs.invalid(&Path::root("metadata.annotations").key(TOPOLOGY_MODE), mode, text);
    }
    let kind = str_at(obj, "spec.type");
    let headless = is_headless(obj);
    let ports = list_at(obj, "spec.ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errs.required(&SPEC.child("ports"), "");
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        let path = SPEC.child("clusterIPs");
        errs.invalid(&path.index(0), "None", format!("may not be set to 'None' for {kind} services"));
    }
    if kind == "ExternalName" {
        external_name(obj, errs);
    }
    let repeated = checks::repeats(ports, |port| str_at(port, "name"));
    for (i, port) in ports.iter().enumerate() {
        service_port(port, i, (ports, repeated[i]), errs);
    }
    metadata::labels(strings_at(obj, "spec.selector"), &SPEC.child("selector"), errs);
    session_affinity(obj, errs);
    validate_cluster_ips(obj, old, errs);
    external_ips(obj, old, errs);
    checks::one_of(kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &SPEC.child("type"), errs);
    port_conflicts(obj, kind, errs);
    source_ranges(obj, old, kind, errs);
    load_balancer(obj, kind, errs);
    traffic_policies(obj, kind, errs);
}

fn external_name(obj: &Value, errs: &mut ErrorList) {
    for (field, set) in [
        ("clusterIPs", is_set(obj, "spec.clusterIPs")),
        ("ipFamilies", is_set(obj, "spec.ipFamilies")),
        ("ipFamilyPolicy", at(obj, "spec.ipFamilyPolicy").is_some()),
    ] {
        if set {
            errs.forbidden(&SPEC.child(field), "may not be set for ExternalName services");
        }
    }
    let name = str_at(obj, "spec.externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errs.required(&SPEC.child("externalName"), ""),
        name => checks::subdomain(name, &SPEC.child("externalName"), errs),
    }
}

fn service_port(port: &Value, i: usize, (all, repeated): (&[Value], bool), errs: &mut ErrorList) {
    let ports = SPEC.child("ports");
    let path = ports.index(i);
    match str_at(port, "name") {
        "" if all.len() > 1 => errs.required(&path.child("name"), ""),
        "" => {}
        name => {
            checks::label(name, &path.child("name"), errs);
            if repeated {
                errs.duplicate(&path.child("name"), name);
            }
        }
    }
    checks::port(int_at(port, "port").unwrap_or_default(), &path.child("port"), errs);
    checks::one_of(str_at(port, "protocol"), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errs);
    checks::port_or_name(port.get("targetPort"), &path.child("targetPort"), errs);
    if let Some(app) = at(port, "appProtocol").and_then(Value::as_str) {
        checks::qualified(app, &path.child("appProtocol"), errs);
    }
}

fn session_affinity(obj: &Value, errs: &mut ErrorList) {
    let affinity = str_at(obj, "spec.sessionAffinity");
    checks::one_of(affinity, &["ClientIP", "None"], &SPEC.child("sessionAffinity"), errs);
    let path = SPEC.child("sessionAffinityConfig");
    match affinity {
        "ClientIP" => {
            let timeout = int_at(obj, "spec.sessionAffinityConfig.clientIP.timeoutSeconds");
            let needed = "when session affinity type is ClientIP";
            match timeout {
                None if at(obj, "spec.sessionAffinityConfig").is_none() => errs.required(&path, needed),
                None if at(obj, "spec.sessionAffinityConfig.clientIP").is_none() => {
                    errs.required(&path.child("clientIP"), needed);
                }
                None => errs.required(&path.child("clientIP.timeoutSeconds"), needed),
                Some(seconds) if !(1..=86400).contains(&seconds) => {
                    errs.invalid(
                        &path.child("clientIP.timeoutSeconds"),
                        seconds,
                        "must be greater than 0 and less than 86400",
                    );
                }
                Some(_) => {}
            }
        }
        "None" if at(obj, "spec.sessionAffinityConfig").is_some() => {
            errs.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn external_ips(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    let path = SPEC.child("externalIPs");
    let known = old.map(|old| list_at(old, "spec.externalIPs")).unwrap_or_default();
    for (i, ip) in list_at(obj, "spec.externalIPs").iter().enumerate() {
        let (text, path) = (ip.as_str().unwrap_or_default(), path.index(i));
        let before = errs.0.len();
        checks::legacy_ip(text, known, &path, errs);
        if errs.0.len() == before {
            checks::endpoint_ip(text, &path, errs);
        }
    }
}

fn port_conflicts(obj: &Value, kind: &str, errs: &mut ErrorList) {
    let root = SPEC.child("ports");
    let ports = list_at(obj, "spec.ports");
    let node_port = |port: &Value| int_at(port, "nodePort").unwrap_or_default();
    for (i, port) in ports.iter().enumerate() {
        let node = node_port(port);
        if node != 0 && kind == "ClusterIP" {
            errs.forbidden(&root.index(i).child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    let protocol = |port: &Value| str_at(port, "protocol").to_string();
    let repeated_nodes = checks::repeats(ports, |port| (node_port(port), str_at(port, "protocol")));
    let repeated = checks::repeats(ports, |port| (int_at(port, "port").unwrap_or_default(), str_at(port, "protocol")));
    for (i, port) in ports.iter().enumerate() {
        let node = node_port(port);
        if node != 0 && repeated_nodes[i] {
            errs.duplicate(&root.index(i).child("nodePort"), node);
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let number = int_at(port, "port").unwrap_or_default();
        if repeated[i] {
            let shown = [
                ("Name", "".into()),
                ("Protocol", protocol(port).into()),
                ("AppProtocol", Value::Null),
                ("Port", number.into()),
                ("TargetPort", 0.into()),
                ("NodePort", 0.into()),
            ];
            errs.of_struct(ErrorKind::Duplicate, &root.index(i), &shown, "");
        }
    }
}

/// Who may use a load balancer: by the field or, in old objects, by an annotation. What was stored stays valid.
fn source_ranges(obj: &Value, old: Option<&Value>, kind: &str, errs: &mut ErrorList) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = list_at(obj, "spec.loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let path = SPEC.child("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" {
            errs.forbidden(&path, only);
        }
        let trimmed = |range: &Value| range.as_str().unwrap_or_default().trim().to_owned();
        let known = old.map(|old| list_at(old, "spec.loadBalancerSourceRanges")).unwrap_or_default();
        let known: Vec<Value> = known.iter().map(|range| trimmed(range).into()).collect();
        for (i, range) in ranges.iter().enumerate() {
            checks::legacy_cidr(&trimmed(range), &known, &path.index(i), errs);
        }
    } else if let Some(text) = checks::annotation(obj, SOURCE_RANGES) {
        let path = Path::root("metadata.annotations");
        let path = path.key(SOURCE_RANGES);
        if kind != "LoadBalancer" {
            errs.forbidden(&path, only);
        }
        let changed = old.is_none_or(|old| checks::annotation(old, SOURCE_RANGES) != Some(text));
        if changed && !text.trim().is_empty() {
            text.split(',').for_each(|range| checks::legacy_cidr(range.trim(), &[], &path, errs));
        }
    }
}

fn load_balancer(obj: &Value, kind: &str, errs: &mut ErrorList) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let allocate = at(obj, "spec.allocateLoadBalancerNodePorts");
    if allocate.is_some() && kind != "LoadBalancer" {
        errs.forbidden(&SPEC.child("allocateLoadBalancerNodePorts"), only);
    }
    if allocate.is_none() && kind == "LoadBalancer" {
        errs.required(&Path::root("allocateLoadBalancerNodePorts"), "");
    }
    if let Some(class) = at(obj, "spec.loadBalancerClass").and_then(Value::as_str) {
        let path = SPEC.child("loadBalancerClass");
        if kind == "LoadBalancer" {
            checks::qualified(class, &path, errs);
        } else {
            errs.forbidden(&path, only);
        }
    }
}

fn traffic_policies(obj: &Value, kind: &str, errs: &mut ErrorList) {
    let external = str_at(obj, "spec.externalTrafficPolicy");
    let path = SPEC.child("externalTrafficPolicy");
    if externally_accessible(obj) {
        checks::one_of(external, &["Cluster", "Local"], &path, errs);
    } else if !external.is_empty() {
        errs.invalid(&path, external, "may only be set for externally-accessible services");
    }
    let health = int_at(obj, "spec.healthCheckNodePort").unwrap_or_default();
    let path = SPEC.child("healthCheckNodePort");
    if needs_health_check_port(obj) {
        if health == 0 {
            errs.required(&path, "");
        } else {
            checks::port(health, &path, errs);
        }
    } else if health != 0 {
        errs.invalid(
            &path,
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    let path = SPEC.child("internalTrafficPolicy");
    match at(obj, "spec.internalTrafficPolicy").and_then(Value::as_str) {
        None if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") => errs.required(&path, ""),
        None | Some("Cluster" | "Local") => {}
        Some(other) => errs.not_supported(&path, other, &["Cluster", "Local"]),
    }
    if let Some(distribution) = at(obj, "spec.trafficDistribution").and_then(Value::as_str) {
        let supported = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        if !supported.contains(&distribution) {
            errs.not_supported(&SPEC.child("trafficDistribution"), distribution, &supported);
        }
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` against each other.
pub(crate) fn validate_cluster_ips(obj: &Value, old: Option<&Value>, errs: &mut ErrorList) {
    if str_at(obj, "spec.type") == "ExternalName" {
        return;
    }
    let ips = list_at(obj, "spec.clusterIPs");
    let families = list_at(obj, "spec.ipFamilies");
    let path = SPEC.child("clusterIPs");
    let first = str_at(obj, "spec.clusterIP");
    match (first, ips) {
        ("", []) => {}
        ("", _) => errs.invalid(&path, ips.to_vec(), "must be empty when `clusterIP` is not specified"),
        (_, []) => errs.required(&path, ""),
        (first, [head, ..]) if head != first => {
            errs.invalid(&path, ips.to_vec(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families_path = SPEC.child("ipFamilies");
    for (i, family) in families.iter().enumerate() {
        let text = family.as_str().unwrap_or_default();
        if !matches!(text, "IPv4" | "IPv6") {
            errs.not_supported(&families_path.index(i), text, &["IPv4", "IPv6"]);
        }
        if families[..i].contains(family) {
            errs.duplicate(&families_path.index(i), text);
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = at(obj, "spec.ipFamilyPolicy").and_then(Value::as_str)
        && !policies.contains(&policy)
    {
        errs.not_supported(&SPEC.child("ipFamilyPolicy"), policy, &policies);
    }
    if well_formed(ips, old, errs) {
        against_families(ips, families, is_headless(obj), errs);
    }
}

fn well_formed(ips: &[Value], old: Option<&Value>, errs: &mut ErrorList) -> bool {
    let path = SPEC.child("clusterIPs");
    let known = old.map(|old| list_at(old, "spec.clusterIPs")).unwrap_or_default();
    let mut good = true;
    for (i, ip) in ips.iter().enumerate() {
        let text = ip.as_str().unwrap_or_default();
        if i == 0 && text == "None" {
            if ips.len() > 1 {
                good = false;
                errs.invalid(&path, ips.to_vec(), "'None' must be the first and only value");
            }
        } else {
            let before = errs.0.len();
            checks::legacy_ip(text, known, &path.index(i), errs);
            good &= errs.0.len() == before;
        }
    }
    if ips.len() > 2 {
        errs.invalid(&path, ips.to_vec(), "may only hold up to 2 values");
    }
    good
}

fn against_families(ips: &[Value], families: &[Value], headless: bool, errs: &mut ErrorList) {
    let path = SPEC.child("clusterIPs");
    let v6 = |ip: &Value| ip.as_str().is_some_and(|text| text.contains(':'));
    if ips.len() > 1 && (v6(&ips[0]) == v6(&ips[1]) || ips.len() > 2) {
        errs.invalid(&path, ips.to_vec(), "may specify no more than one IP for each IP family");
    }
    if headless {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(families).enumerate() {
        let (family, text) = (family.as_str().unwrap_or_default(), ip.as_str().unwrap_or_default());
        if (family == "IPv4" && v6(ip)) || (family == "IPv6" && !v6(ip)) {
            errs.invalid(&path.index(i), text, format!("expected an {family} value as indicated by `ipFamilies[{i}]`"));
        }
    }
}

pub(super) fn update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        balancer_status(new, old, errs);
        return;
    }
    let external = |obj: &Value| !needs_cluster_ip(obj);
    if !external(new) && !external(old) {
        keep_addresses(new, old, errs);
        if is_headless(new) == is_headless(old) && !is_headless(new) {
            keep_families(new, old, errs);
        }
    }
    let balancer = |obj: &Value| str_at(obj, "spec.type") == "LoadBalancer";
    if balancer(new) && balancer(old) && !same_at(new, old, "spec.loadBalancerClass") {
        errs.invalid(
            &SPEC.child("loadBalancerClass"),
            checks::shown(new, "spec.loadBalancerClass"),
            "may not change once set",
        );
    }
    if needs_health_check_port(new) && needs_health_check_port(old) && !same_at(new, old, "spec.healthCheckNodePort") {
        errs.forbidden(&SPEC.child("healthCheckNodePort"), "field is immutable");
    }
    service(new, Some(old), errs);
}

fn keep_addresses(new: &Value, old: &Value, errs: &mut ErrorList) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let path = SPEC.child("clusterIPs");
    let (now, before) = (list_at(new, "spec.clusterIPs"), list_at(old, "spec.clusterIPs"));
    if now.len() == before.len() {
        for (i, _) in before.iter().enumerate().filter(|(i, ip)| now[*i] != **ip) {
            errs.invalid(&path.index(i), now.to_vec(), "may not change once set");
        }
        return;
    }
    if now.is_empty() {
        errs.invalid(&path.index(0), Value::Null, "primary clusterIP can not be unset");
    } else if !before.is_empty() && now.first() != before.first() {
        errs.invalid(&path.index(0), now.to_vec(), "may not change once set");
    }
    if before.len() > now.len() && now.len() == 1 && str_at(new, "spec.ipFamilyPolicy") != "SingleStack" {
        errs.invalid(
            &SPEC.child("ipFamilyPolicy"),
            checks::shown(new, "spec.ipFamilyPolicy"),
            "must be set to 'SingleStack' when releasing the secondary clusterIP",
        );
    }
}

fn keep_families(new: &Value, old: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("ipFamilies");
    let (now, before) = (list_at(new, "spec.ipFamilies"), list_at(old, "spec.ipFamilies"));
    let fixed = "may not change once set";
    if now.len() == before.len() {
        for _ in now.iter().zip(before).filter(|(now, before)| now != before) {
            errs.invalid(&path.index(0), now.to_vec(), fixed);
        }
        return;
    }
    let ips = list_at(new, "spec.clusterIPs");
    if before.len() > now.len() && ips.is_empty() {
        errs.invalid(&path.index(0), now.to_vec(), "primary ipFamily can not be unset");
    }
    if !now.is_empty() && !before.is_empty() && now.first() != before.first() {
        errs.invalid(&path.index(0), ips.to_vec(), fixed);
    }
    if before.len() > now.len() && now.len() == 1 && str_at(new, "spec.ipFamilyPolicy") != "SingleStack" {
        errs.invalid(
            &SPEC.child("ipFamilyPolicy"),
            checks::shown(new, "spec.ipFamilyPolicy"),
            "must be set to 'SingleStack' when releasing the secondary ipFamily",
        );
    }
}

fn balancer_status(obj: &Value, old: &Value, errs: &mut ErrorList) {
    let root = Path::root("status.loadBalancer.ingress");
    let ingress = list_at(obj, "status.loadBalancer.ingress");
    if !ingress.is_empty() && str_at(obj, "spec.type") != "LoadBalancer" {
        errs.forbidden(&root, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    let known = known_addresses(old);
    for (i, entry) in ingress.iter().enumerate() {
        let path = root.index(i);
        ingress_address(entry, &known, &path, errs);
        let (ip, mode_path) = (str_at(entry, "ip"), path.child("ipMode"));
        match at(entry, "ipMode").and_then(Value::as_str) {
            None if !ip.is_empty() => errs.required(&mode_path, "must be specified when `ip` is set"),
            None => {}
            Some(_) if ip.is_empty() => errs.forbidden(&mode_path, "may not be specified when `ip` is not set"),
            Some("VIP" | "Proxy") => {}
            Some(mode) => errs.not_supported(&mode_path, mode, &["Proxy", "VIP"]),
        }
        ingress_hostname(entry, &path, errs);
    }
}

/// The addresses of a load balancer's status, which may stay as they are.
pub(crate) fn known_addresses(old: &Value) -> Vec<Value> {
    list_at(old, "status.loadBalancer.ingress").iter().filter_map(|entry| at(entry, "ip").cloned()).collect()
}

/// The address of an entry of a load balancer's status.
pub(crate) fn ingress_address(entry: &Value, known: &[Value], path: &Path<'_>, errs: &mut ErrorList) {
    let ip = str_at(entry, "ip");
    if !ip.is_empty() {
        checks::legacy_ip(ip, known, &path.child("ip"), errs);
    }
}

/// The name in an entry of a load balancer's status.
pub(crate) fn ingress_hostname(entry: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let (hostname, path) = (str_at(entry, "hostname"), path.child("hostname"));
    if !hostname.is_empty() {
        checks::subdomain(hostname, &path, errs);
        if ip::sloppy_ip(hostname).is_some() {
            errs.invalid(&path, hostname, "must be a DNS name, not an IP address");
        }
    }
}
