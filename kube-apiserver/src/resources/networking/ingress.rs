//! Validation of Ingresses and IngressClasses.

use common::meta::ip;
use serde_json::Value;

use super::SPEC;
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    names,
    service::{ingress_address, ingress_hostname, known_addresses},
    value::{at, int_at, list_at, str_at},
};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const LONGEST_CONTROLLER: usize = 250;

/// What an update lets pass because the stored object has it already.
#[derive(Clone, Copy, Default)]
struct Leniency {
    secret_names: bool,
    wildcard_rules: bool,
}

impl Leniency {
    fn of(old: &Value) -> Leniency {
        let bad_secret = |tls: &Value| {
            let name = str_at(tls, "secretName");
            !name.is_empty() && !names::dns1123_subdomain(name).is_empty()
        };
        let bad_rule = |rule: &Value| {
            let mut errs = ErrorList::new();
            rule_value(rule, &SPEC, &mut errs);
            str_at(rule, "host").contains('*') && !errs.is_empty()
        };
        Leniency {
            secret_names: list_at(old, "spec.tls").iter().any(bad_secret),
            wildcard_rules: list_at(old, "spec.rules").iter().any(bad_rule),
        }
    }
}

pub(super) fn create(obj: &Value, errs: &mut ErrorList) {
    spec(obj, Leniency::default(), errs);
    let class = at(obj, "spec.ingressClassName").and_then(Value::as_str);
    if let (Some(annotation), Some(class)) = (checks::annotation(obj, CLASS_ANNOTATION), class)
        && annotation != class
    {
        let path = Path::root("annotations");
        errs.invalid(
            &path.child(CLASS_ANNOTATION),
            annotation,
            "must match `ingressClassName` when both are specified",
        );
    }
}

pub(super) fn update(new: &Value, old: &Value, sub: Option<&str>, errs: &mut ErrorList) {
    if sub.is_none() {
        return spec(new, Leniency::of(old), errs);
    }
    let (root, known) = (Path::root("status.loadBalancer.ingress"), known_addresses(old));
    for (i, entry) in list_at(new, "status.loadBalancer.ingress").iter().enumerate() {
        let path = root.index(i);
        ingress_address(entry, &known, &path, errs);
        ingress_hostname(entry, &path, errs);
    }
}

pub(super) fn warnings(obj: &Value, old: Option<&Value>, sub: Option<&str>) -> Vec<String> {
    match (old, sub) {
        (None, _)
            if checks::annotation(obj, CLASS_ANNOTATION).is_some() && at(obj, "spec.ingressClassName").is_none() =>
        {
            vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
        }
        (Some(_), Some(_)) => crate::resources::service::balancer_warnings(obj),
        _ => Vec::new(),
    }
}

fn spec(obj: &Value, lenient: Leniency, errs: &mut ErrorList) {
    let rules = list_at(obj, "spec.rules");
    let default = at(obj, "spec.defaultBackend");
    if rules.is_empty() && default.is_none() {
        let shown = checks::shown(obj, "spec.rules");
        errs.invalid(&SPEC, shown, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = default {
        backend(default, &SPEC.child("defaultBackend"), errs);
    }
    let root = SPEC.child("rules");
    for (i, rule) in rules.iter().enumerate() {
        let path = root.index(i);
        host(str_at(rule, "host"), &path.child("host"), errs);
        if !(lenient.wildcard_rules && str_at(rule, "host").contains('*')) {
            rule_value(rule, &path, errs);
        }
    }
    let root = SPEC.child("tls");
    for (i, tls) in list_at(obj, "spec.tls").iter().enumerate() {
        let path = root.index(i);
        for (j, name) in list_at(tls, "hosts").iter().filter_map(Value::as_str).enumerate() {
            dns_name(name, &path.child("hosts").index(j), errs);
        }
        let secret = str_at(tls, "secretName");
        if !secret.is_empty() && !lenient.secret_names {
            checks::subdomain(secret, &path.child("secretName"), errs);
        }
    }
    if let Some(class) = at(obj, "spec.ingressClassName").and_then(Value::as_str) {
        checks::subdomain(class, &SPEC.child("ingressClassName"), errs);
    }
}

fn dns_name(name: &str, path: &Path<'_>, errs: &mut ErrorList) {
    let rule = if name.contains('*') { names::wildcard_subdomain } else { names::dns1123_subdomain };
    checks::complain(name, rule(name), path, errs);
}

fn host(host: &str, path: &Path<'_>, errs: &mut ErrorList) {
    if host.is_empty() {
        return;
    }
    if ip::sloppy_ip(host).is_some() {
        errs.invalid(path, host, "must be a DNS name, not an IP address");
    }
    dns_name(host, path, errs);
}

fn rule_value(rule: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if at(rule, "http").is_none() {
        return;
    }
    let root = path.child("http.paths");
    let paths = list_at(rule, "http.paths");
    if paths.is_empty() {
        errs.required(&root, "");
    }
    for (i, entry) in paths.iter().enumerate() {
        http_path(entry, &root.index(i), errs);
    }
}

fn http_path(entry: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    const BAD: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
    let value = str_at(entry, "path");
    let value_path = path.child("path");
    match at(entry, "pathType").and_then(Value::as_str) {
        None => return errs.required(&path.child("pathType"), "pathType must be specified"),
        Some("Exact" | "Prefix") => {
            if !value.starts_with('/') {
                errs.invalid(&value_path, value, "must be an absolute path");
            }
            for bad in BAD.iter().filter(|bad| value.contains(**bad)) {
                errs.invalid(&value_path, value, format!("must not contain '{bad}'"));
            }
            for bad in ["/..", "/."].iter().filter(|bad| value.ends_with(**bad)) {
                errs.invalid(&value_path, value, format!("cannot end with '{bad}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !value.is_empty() && !value.starts_with('/') {
                errs.invalid(&value_path, value, "must be an absolute path");
            }
        }
        Some(kind) => errs.not_supported(&path.child("pathType"), kind, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(entry.get("backend").unwrap_or(&Value::Null), &path.child("backend"), errs);
}

fn backend(backend: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let service = path.child("service");
    match (at(backend, "resource"), at(backend, "service")) {
        (Some(_), Some(_)) => errs.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), None) => reference(resource, &path.child("resource"), errs),
        (None, Some(target)) => {
            match str_at(target, "name") {
                "" => errs.required(&service.child("name"), ""),
                name => checks::label(name, &service.child("name"), errs),
            }
            let number = int_at(target, "port.number").filter(|n| *n != 0);
            match (str_at(target, "port.name"), number) {
                ("", None) => errs.required(path, "port name or number is required"),
                ("", Some(number)) => checks::port(number, &service.child("port.number"), errs),
                (name, None) => checks::complain(name, names::port_name(name), &service.child("port.name"), errs),
                (_, Some(_)) => errs.invalid(path, "", "cannot set both port name & port number"),
            }
        }
        (None, None) => errs.invalid(path, "", "resource or service backend is required"),
    }
}

/// A reference to an object of any kind.
fn reference(reference: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    if let Some(group) = at(reference, "apiGroup").and_then(Value::as_str) {
        checks::subdomain(group, &path.child("apiGroup"), errs);
    }
    super::segments(reference, &["kind", "name"], path, errs);
}

pub(super) fn class(obj: &Value, errs: &mut ErrorList) {
    let controller = str_at(obj, "spec.controller");
    let path = SPEC.child("controller");
    if controller.len() > LONGEST_CONTROLLER {
        errs.too_long(&path, LONGEST_CONTROLLER);
    }
    checks::domain_prefixed_path(controller, &path, errs);
    let Some(parameters) = at(obj, "spec.parameters") else { return };
    let path = SPEC.child("parameters");
    reference(parameters, &path, errs);
    let (scope_path, namespace_path) = (path.child("scope"), path.child("namespace"));
    let namespace = at(parameters, "namespace").and_then(Value::as_str);
    match (at(parameters, "scope").and_then(Value::as_str), namespace) {
        (None, _) => errs.required(&scope_path, ""),
        (Some("Namespace"), None) => errs.required(&namespace_path, "`parameters.scope` is set to 'Namespace'"),
        (Some("Namespace"), Some(namespace)) => checks::label(namespace, &namespace_path, errs),
        (Some("Cluster"), Some(_)) => errs.forbidden(&namespace_path, "`parameters.scope` is set to 'Cluster'"),
        (Some("Cluster"), None) => {}
        (Some(scope), _) => errs.not_supported(&scope_path, scope, &["Cluster", "Namespace"]),
    }
}
