//! Validation of a pod's network identity: host network, DNS, host names.

use serde_json::Value;

use super::validate::Scope;
use crate::resources::{
    checks,
    field::{ErrorList, Path},
    value::{at, bool_at, int_at, list_at, str_at},
};

/// With the host's network a container port is a host port.
pub(crate) fn host_ports(scope: &Scope<'_>, path: &Path<'_>, errs: &mut ErrorList) {
    if !bool_at(scope.spec, "hostNetwork") {
        return;
    }
    let root = path.child("containers");
    for (i, container) in list_at(scope.spec, "containers").iter().enumerate() {
        for (j, port) in list_at(container, "ports").iter().enumerate() {
            let host = int_at(port, "hostPort").unwrap_or_default();
            let own = int_at(port, "containerPort").unwrap_or_default();
            if (scope.is_pod() || host != 0) && host != own {
                errs.invalid(
                    &root.index(i).child("ports").index(j).child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

/// `dnsPolicy` and `dnsConfig`.
pub(crate) fn dns(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    let policy = str_at(spec, "dnsPolicy");
    checks::one_of(policy, &policies, &path.child("dnsPolicy"), errs);
    let path = path.child("dnsConfig");
    let Some(config) = at(spec, "dnsConfig") else {
        if policy == "None" {
            errs.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = list_at(config, "nameservers");
    let servers_path = path.child("nameservers");
    if policy == "None" && servers.is_empty() {
        errs.required(&servers_path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        return;
    }
    if servers.len() > 3 {
        errs.invalid(&servers_path, servers.to_vec(), "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        checks::legacy_ip(server, &[], &servers_path.index(i), errs);
    }
    searches(config, &path.child("searches"), errs);
    for (i, option) in list_at(config, "options").iter().enumerate() {
        if str_at(option, "name").is_empty() {
            errs.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

fn searches(config: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    let searches: Vec<&str> = list_at(config, "searches").iter().filter_map(Value::as_str).collect();
    if searches.len() > 32 {
        errs.invalid(path, searches.clone(), "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        errs.invalid(
            path,
            searches.clone(),
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        // Underscores are tolerated in search paths.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "x");
        checks::subdomain(&name, &path.index(i), errs);
    }
}

/// `hostname`, `subdomain` and `hostnameOverride`.
pub(crate) fn host_names(spec: &Value, path: &Path<'_>, errs: &mut ErrorList) {
    for field in ["hostname", "subdomain"] {
        let name = str_at(spec, field);
        if !name.is_empty() {
            checks::label(name, &path.child(field), errs);
        }
    }
    let Some(name) = at(spec, "hostnameOverride").and_then(Value::as_str) else { return };
    let path = path.child("hostnameOverride");
    if bool_at(spec, "setHostnameAsFQDN") {
        errs.forbidden(&path, "may not be specified when setHostnameAsFQDN is true");
    }
    if bool_at(spec, "hostNetwork") {
        errs.forbidden(&path, "may not be specified when hostNetwork is true");
    }
    if name.len() > 64 {
        errs.too_long(&path, 64);
    }
    checks::subdomain(name, &path, errs);
}

/// Extra lines of the hosts file.
pub(crate) fn host_aliases(spec: &Value, root: &Path<'_>, errs: &mut ErrorList) {
    for (i, alias) in list_at(spec, "hostAliases").iter().enumerate() {
        let path = root.index(i);
        checks::legacy_ip(str_at(alias, "ip"), &[], &path.child("ip"), errs);
        for (j, name) in list_at(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            checks::subdomain(name, &path.child("hostnames").index(j), errs);
        }
    }
}
