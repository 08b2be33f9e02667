//! Ingresses, ingress classes, network policies, ServiceCIDRs and IPAddresses.

use common::meta::ip;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    checks,
    field::{ErrorKind, ErrorList, Path},
    metadata::{self, NameRule},
    names,
    rules::Rules,
    service::balancer_addresses,
    table::{AGE, NAME, Row, age, name, or_none, selector, text},
    value::{at, existing, list_at, same_at, set, set_default, str_at},
};

mod ingress;
mod policy;

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
        validate: ingress::create,
        validate_update: ingress::update,
        warnings: ingress::warnings,
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
        validate: ingress::class,
        validate_update: |new, old, _, errs| {
            checks::immutable(new, old, "spec.controller", errs);
            ingress::class(new, errs);
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
        defaults: policy::defaults,
        validate: policy::create,
        validate_update: |new, old, _, errs| policy::update(new, old, errs),
        warnings: |obj, _, _| policy::warnings(obj),
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
        prepare_update: |new, old, sub, _| {
            if sub.is_some() {
                metadata::keep_for_status(new, old);
            }
        },
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
            if !same_at(new, old, "spec.parentRef") {
                let parent = checks::shown(new, "spec.parentRef");
                let members =
                    [("Group", "group"), ("Resource", "resource"), ("Namespace", "namespace"), ("Name", "name")];
                let shown = checks::internal(&parent, &members, &"".into());
                errs.of_struct(ErrorKind::Invalid, &SPEC.child("parentRef"), &shown, "field is immutable");
            }
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

fn service_cidr(obj: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("cidrs");
    let cidrs = list_at(obj, "spec.cidrs");
    if cidrs.is_empty() {
        return errs.required(&path, "at least one CIDR required");
    }
    if cidrs.len() > 2 {
        return errs.invalid(&path, serde_json::json!({"CIDRs": cidrs}), "may only hold up to 2 values");
    }
    for (i, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
        checks::complain(cidr, ip::canonical_cidr(cidr), &path.index(i), errs);
    }
    let family = |cidr: &Value| cidr.as_str().and_then(ip::Cidr::sloppy).map(|cidr| cidr.addr.is_ipv4());
    if let [a, b] = cidrs
        && family(a).is_some()
        && family(a) == family(b)
    {
        let text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errs.invalid(&path, cidrs.to_vec(), text);
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
        return errs.invalid(&path, now.to_vec(), "field is immutable");
    }
    for (i, (new, _)) in now.iter().zip(before).enumerate().filter(|(_, (new, old))| new != old) {
        errs.invalid(&path.index(i), new.clone(), "field is immutable");
    }
    if grows {
        service_cidr(new, errs);
    }
}

/// Members that name something, each a segment of a URL path.
fn segments(holder: &Value, fields: &[&str], path: &Path<'_>, errs: &mut ErrorList) {
    for field in fields {
        match str_at(holder, field) {
            "" => errs.required(&path.child(field), ""),
            value => checks::complain(value, names::path_segment(value, false), &path.child(field), errs),
        }
    }
}

fn ip_address(obj: &Value, errs: &mut ErrorList) {
    let path = SPEC.child("parentRef");
    let Some(parent) = at(obj, "spec.parentRef") else {
        return errs.required(&path, "");
    };
    let group = str_at(parent, "group");
    if !group.is_empty() {
        checks::subdomain(group, &path.child("group"), errs);
    }
    segments(parent, &["resource", "name"], &path, errs);
    let namespace = str_at(parent, "namespace");
    checks::complain(namespace, names::path_segment(namespace, false), &path.child("namespace"), errs);
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
