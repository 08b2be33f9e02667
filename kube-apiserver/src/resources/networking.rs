//! Ingresses, ingress classes, network policies, ServiceCIDRs and IPAddresses.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    checks,
    field::{ErrorList, Path},
    metadata::NameRule,
    names,
    rules::Rules,
    service::balancer_addresses,
    table::{AGE, NAME, Row, age, name, or_none, selector, text},
    value::{at, each, existing, int_at, is_set, list_at, member, set, set_default, str_at},
};

const GROUP: &str = "networking.k8s.io";
const SPEC: Path<'static> = Path::root("spec");

pub(crate) const RULES: &[Rules] = &[
    Rules {
        group: GROUP,
        resource: "ingresses",
        kind: "Ingress",
        generation: true,
        status: true,
        prepare_create: |obj, _| set(obj, "status", serde_json::json!({"loadBalancer": {}})),
        validate: ingress,
        validate_update: |new, _, sub, errs| {
            if sub.is_none() {
                ingress(new, errs);
            }
        },
        columns: &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE],
        row: ingress_row,
        ..Rules::GENERIC
    },
    Rules {
        group: GROUP,
        resource: "ingressclasses",
        kind: "IngressClass",
        namespaced: false,
        generation: true,
        defaults: |obj| {
            if let Some(parameters) = existing(obj, "spec").and_then(|spec| existing(spec, "parameters")) {
                set_default(parameters, "scope", "Cluster");
            }
        },
        validate: ingress_class,
        validate_update: |new, old, _, errs| {
            ingress_class(new, errs);
            checks::immutable(new, old, "spec.controller", errs);
        },
        columns: &[NAME, text("Controller"), text("Parameters"), AGE],
        row: |obj, now| {
            let parameters = at(obj, "spec.parameters").map(|p| {
                let kind = match str_at(p, "apiGroup") {
                    "" => str_at(p, "kind").to_string(),
                    group => format!("{}.{group}", str_at(p, "kind")),
                };
                format!("{kind}/{}", str_at(p, "name"))
            });
            let parameters = parameters.unwrap_or_else(|| "<none>".to_string());
            vec![name(obj), str_at(obj, "spec.controller").into(), parameters.into(), age(obj, now)]
        },
        ..Rules::GENERIC
    },
    Rules {
        group: GROUP,
        resource: "networkpolicies",
        kind: "NetworkPolicy",
        generation: true,
        defaults: policy_defaults,
        validate: policy,
        validate_update: |new, _, _, errs| policy(new, errs),
        columns: &[NAME, text("Pod-Selector"), AGE],
        row: |obj, now| vec![name(obj), selector(obj, "spec.podSelector"), age(obj, now)],
        ..Rules::GENERIC
    },
    Rules {
        group: GROUP,
        resource: "servicecidrs",
        kind: "ServiceCIDR",
        namespaced: false,
        status: true,
        validate: service_cidr,
        validate_update: service_cidr_update,
        columns: &[NAME, text("CIDRs"), AGE],
        row: |obj, now| {
            let cidrs: Vec<&str> = list_at(obj, "spec.cidrs").iter().filter_map(Value::as_str).collect();
            vec![name(obj), cidrs.join(",").into(), age(obj, now)]
        },
        ..Rules::GENERIC
    },
    Rules {
        group: GROUP,
        resource: "ipaddresses",
        kind: "IPAddress",
        namespaced: false,
        name: NameRule::Ip,
        validate: ip_address,
        validate_update: |new, old, _, errs| {
            ip_address(new, errs);
            checks::immutable(new, old, "spec.parentRef", errs);
        },
        fields: &[("spec.parentRef", |obj| {
            format!("{}/{}", str_at(obj, "spec.parentRef.namespace"), str_at(obj, "spec.parentRef.name"))
        })],
        field_labels: &["metadata.name"],
        columns: &[NAME, text("ParentRef"), AGE],
        row: ip_address_row,
        ..Rules::GENERIC
    },
];

fn ingress(obj: &Value, errs: &mut ErrorList) {
    let rules = list_at(obj, "spec.rules");
    let default = at(obj, "spec.defaultBackend");
    if rules.is_empty() && default.is_none() {
        errs.invalid(&SPEC, Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = default {
        backend(default, &SPEC.child("defaultBackend"), errs);
    }
    let root = SPEC.child("rules");
    for (i, rule) in rules.iter().enumerate() {
        let path = root.index(i);
        host(str_at(rule, "host"), &path.child("host"), errs);
        if at(rule, "http").is_none() {
            continue;
        }
        let http = path.child("http");
        let paths = list_at(rule, "http.paths");
        if paths.is_empty() {
            errs.required(&http.child("paths"), "");
        }
        for (j, entry) in paths.iter().enumerate() {
            http_path(entry, &http.child("paths").index(j), errs);
        }
    }
    let root = SPEC.child("tls");
    for (i, tls) in list_at(obj, "spec.tls").iter().enumerate() {
        let path = root.index(i);
        for (j, name) in list_at(tls, "hosts").iter().filter_map(Value::as_str).enumerate() {
            dns_name(name, &path.child("hosts").index(j), errs);
        }
        let secret = str_at(tls, "secretName");
        if !secret.is_empty() {
            checks::subdomain(secret, &path.child("secretName"), errs);
        }
    }
    let class = str_at(obj, "spec.ingressClassName");
    if !class.is_empty() {
        checks::subdomain(class, &SPEC.child("ingressClassName"), errs);
    }
}

fn dns_name(name: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let texts = if name.contains('*') { names::wildcard_subdomain(name) } else { names::dns1123_subdomain(name) };
    texts.into_iter().for_each(|text| errs.invalid(path, name, text));
}

fn host(host: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if host.is_empty() {
        return;
    }
    if names::ip(host).is_some() {
        errs.invalid(path, host, "must be a DNS name, not an IP address");
    }
    dns_name(host, path, errs);
}

fn http_path(entry: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    const BAD: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
    let value = str_at(entry, "path");
    match str_at(entry, "pathType") {
        "" => {
            errs.required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errs.invalid(&path.child("path"), value, "must be an absolute path");
            }
            for bad in BAD.iter().filter(|bad| value.contains(**bad)) {
                errs.invalid(&path.child("path"), value, format!("must not contain '{bad}'"));
            }
            for bad in ["/..", "/."].iter().filter(|bad| value.ends_with(**bad)) {
                errs.invalid(&path.child("path"), value, format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errs.invalid(&path.child("path"), value, "must be an absolute path");
            }
        }
        kind => errs.not_supported(&path.child("pathType"), kind, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(entry.get("backend").unwrap_or(&Value::Null), &path.child("backend"), errs);
}

fn backend(backend: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let service = path.child("service");
    match (at(backend, "resource"), at(backend, "service")) {
        (Some(_), Some(_)) => errs.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), None) => {
            for field in ["kind", "name"] {
                if str_at(resource, field).is_empty() {
                    errs.required(&path.child("resource").child(field), "");
                }
            }
        }
        (None, Some(target)) => {
            match str_at(target, "name") {
                "" => errs.required(&service.child("name"), ""),
                name => checks::label(name, &service.child("name"), errs),
            }
            let number = int_at(target, "port.number").filter(|n| *n != 0);
            match (str_at(target, "port.name"), number) {
                ("", None) => errs.required(path, "port name or number is required"),
                ("", Some(number)) => checks::port(number, &service.child("port.number"), errs),
                (name, None) => names::port_name(name)
                    .into_iter()
                    .for_each(|text| errs.invalid(&service.child("port.name"), name, text)),
                (_, Some(_)) => errs.invalid(path, "", "cannot set both port name & port number"),
            }
        }
        (None, None) => errs.invalid(path, "", "resource or service backend is required"),
    }
}

fn ingress_row(obj: &Value, now: Timestamp) -> Row {
    const SHOWN: usize = 3;
    let rules = list_at(obj, "spec.rules");
    let hosts: Vec<&str> =
        rules.iter().map(|rule| str_at(rule, "host")).filter(|host| !host.is_empty()).take(SHOWN).collect();
    let cell = match (hosts.is_empty(), hosts.len() == SHOWN && rules.len() > SHOWN) {
        (true, _) => "*".to_string(),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - SHOWN),
        (false, false) => hosts.join(","),
    };
    let ports = if list_at(obj, "spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(obj),
        or_none(str_at(obj, "spec.ingressClassName")),
        cell.into(),
        balancer_addresses(obj, "status.loadBalancer.ingress").join(",").into(),
        ports.into(),
        age(obj, now),
    ]
}

fn ingress_class(obj: &Value, errs: &mut ErrorList) {
    let controller = str_at(obj, "spec.controller");
    let path = SPEC.child("controller");
    if controller.is_empty() {
        errs.required(&path, "");
    } else if controller.len() > 250 {
        errs.too_long(&path, 250);
    } else if !controller.contains('/') {
        errs.invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
}

fn policy_defaults(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    if !is_set(spec, "policyTypes") {
        let egress = is_set(spec, "egress");
        set(spec, "policyTypes", if egress { vec!["Ingress", "Egress"] } else { vec!["Ingress"] });
    }
    set_default(spec, "podSelector", serde_json::json!({}));
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            each(rule, "ports").for_each(|port| set_default(port, "protocol", "TCP"));
        }
    }
}

fn policy(obj: &Value, errs: &mut ErrorList) {
    if let Some(selector) = at(obj, "spec.podSelector") {
        checks::label_selector(selector, &SPEC.child("podSelector"), errs);
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let root = SPEC.child(direction);
        for (i, rule) in list_at(obj, &format!("spec.{direction}")).iter().enumerate() {
            let path = root.index(i);
            for (j, port) in list_at(rule, "ports").iter().enumerate() {
                policy_port(port, &path.child("ports").index(j), errs);
            }
            for (j, peer) in list_at(rule, peers).iter().enumerate() {
                policy_peer(peer, &path.child(peers).index(j), errs);
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

fn policy_port(port: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let protocol = str_at(port, "protocol");
    if !protocol.is_empty() && !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        errs.not_supported(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
    let end = int_at(port, "endPort");
    match port.get("port").filter(|p| !p.is_null()) {
        Some(number) => {
            checks::port_or_name(Some(number), &path.child("port"), errs);
            match (end, number.as_i64()) {
                (Some(end), Some(start)) if end < start => {
                    errs.invalid(&path.child("endPort"), end, "must be greater than or equal to `port`");
                }
                (Some(end), Some(_)) => checks::port(end, &path.child("endPort"), errs),
                (Some(end), None) => {
                    errs.invalid(&path.child("endPort"), end, "may not be specified when `port` is non-numeric");
                }
                (None, _) => {}
            }
        }
        None => {
            if let Some(end) = end {
                errs.invalid(&path.child("endPort"), end, "may not be specified when `port` is not specified");
            }
        }
    }
}

fn policy_peer(peer: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let mut kinds = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if let Some(value) = at(peer, selector) {
            kinds += 1;
            checks::label_selector(value, &path.child(selector), errs);
        }
    }
    if let Some(block) = at(peer, "ipBlock") {
        let block_path = path.child("ipBlock");
        let parse = |text: &str| text.parse::<ipnet::IpNet>().ok();
        let cidr = str_at(block, "cidr");
        match parse(cidr) {
            _ if cidr.is_empty() => errs.required(&block_path.child("cidr"), ""),
            None => errs.invalid(
                &block_path.child("cidr"),
                cidr,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            Some(range) => {
                for (i, except) in list_at(block, "except").iter().filter_map(Value::as_str).enumerate() {
                    if parse(except).is_none_or(|except| !range.contains(&except) || except == range) {
                        errs.invalid(&block_path.child("except").index(i), except, "must be a strict subset of `cidr`");
                    }
                }
            }
        }
        if kinds > 0 {
            errs.forbidden(path, "may not specify both ipBlock and another peer");
        }
        kinds += 1;
    }
    if kinds == 0 {
        errs.required(path, "must specify a peer");
    }
}

fn service_cidr(obj: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("cidrs");
    let cidrs = list_at(obj, "spec.cidrs");
    if cidrs.is_empty() {
        errs.required(&path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        errs.invalid(&path, cidrs.to_vec(), "may only hold up to 2 values");
        return;
    }
    let v6 = |cidr: &Value| cidr.as_str().is_some_and(|text| text.contains(':'));
    if cidrs.len() == 2 && v6(&cidrs[0]) == v6(&cidrs[1]) {
        errs.invalid(
            &path,
            cidrs.to_vec(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
    for (i, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
        match cidr.parse::<ipnet::IpNet>() {
            Err(_) => {
                errs.invalid(&path.index(i), cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
            }
            Ok(range) if range.trunc().to_string() != cidr => {
                errs.invalid(&path.index(i), cidr, format!("must be in canonical form (\"{}\")", range.trunc()))
            }
            Ok(_) => {}
        }
    }
}

fn service_cidr_update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub == Some("status") {
        return;
    }
    let path = SPEC.child("cidrs");
    let (now, before) = (list_at(new, "spec.cidrs"), list_at(old, "spec.cidrs"));
    let grows = before.len() == 1 && now.len() == 2;
    if now.len() != before.len() && !grows {
        errs.invalid(&path, now.to_vec(), "field is immutable");
        return;
    }
    for (i, (new, _)) in now.iter().zip(before).enumerate().filter(|(_, (new, old))| new != old) {
        errs.invalid(&path.index(i), new.clone(), "field is immutable");
    }
    if grows {
        service_cidr(new, errs);
    }
}

fn ip_address(obj: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("parentRef");
    let Some(parent) = at(obj, "spec.parentRef") else {
        errs.required(&path, "");
        return;
    };
    for field in ["resource", "name"] {
        match str_at(parent, field) {
            "" => errs.required(&path.child(field), ""),
            value => names::path_segment(value, false)
                .into_iter()
                .for_each(|text| errs.invalid(&path.child(field), value, text)),
        }
    }
}

fn ip_address_row(obj: &Value, now: Timestamp) -> Row {
    let parent = at(obj, "spec.parentRef").map(|parent| {
        let resource = match str_at(parent, "group") {
            "" => str_at(parent, "resource").to_string(),
            group => format!("{}.{group}", str_at(parent, "resource")),
        };
        match str_at(parent, "namespace") {
            "" => format!("{}/{}", resource.to_lowercase(), str_at(parent, "name")),
            namespace => format!("{}/{namespace}/{}", resource.to_lowercase(), str_at(parent, "name")),
        }
    });
    vec![name(obj), parent.unwrap_or_else(|| "<none>".to_string()).into(), age(obj, now)]
}
