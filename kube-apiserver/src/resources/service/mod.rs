//! Services: defaults, normalisation of linked fields, table columns.
//!
//! Order of a write: `alloc::Allocators::allocate_*` comes before `prepare_*` and validation, as validation wants allocated values.

use common::meta::ip::{cidr_warnings, ip_warning};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    field::Path,
    metadata::NameRule,
    rules::Rules,
    table::{AGE, Column, NAME, Row, age, labels, name, text, wide},
    value::{
        each, existing, int_at, is_set, keep_old, list_at, member, remove, same_at, set, set_default, set_if_zero,
        str_at,
    },
};

mod validate;

pub(crate) use validate::{ingress_address, ingress_hostname, known_addresses, validate_cluster_ips};

const SPEC: Path<'static> = Path::root("spec");
const COLUMNS: &[Column] =
    &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE, wide("Selector")];

pub(crate) const RULES: &[Rules] = &[Rules {
    resource: "services",
    kind: "Service",
    warnings: |service, _, sub| match sub {
        Some(_) => balancer_warnings(service),
        None => service_warnings(service),
    },
    name: NameRule::Label,
    status: true,
    create_on_update: true,
    defaults,
    prepare_create: |obj, _| set(obj, "status", json!({"loadBalancer": {}})),
    prepare_update: |new, old, sub, _| {
        if sub.is_none() {
            drop_type_dependent(new, old);
        }
    },
    validate: |obj, errs| validate::service(obj, None, errs),
    validate_update: validate::update,
    fields: &[
        ("spec.clusterIP", |obj| str_at(obj, "spec.clusterIP").to_string()),
        ("spec.type", |obj| str_at(obj, "spec.type").to_string()),
    ],
    field_labels: &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
    columns: COLUMNS,
    row,
    ..Rules::GENERIC
}];

/// Every type but ExternalName has cluster IPs (headless ones the value `None`).
pub(crate) fn needs_cluster_ip(service: &Value) -> bool {
    matches!(str_at(service, "spec.type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Types with node ports, unless the service wants none.
fn keeps_node_ports(service: &Value) -> bool {
    let wants =
        super::value::at(service, "spec.allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true);
    str_at(service, "spec.type") == "NodePort" || (str_at(service, "spec.type") == "LoadBalancer" && wants)
}

/// Types with node ports.
pub(crate) fn needs_node_ports(service: &Value) -> bool {
    matches!(str_at(service, "spec.type"), "NodePort" | "LoadBalancer")
}

/// Load balancers with node-local traffic have a port for health checks.
pub(crate) fn needs_health_check_port(service: &Value) -> bool {
    str_at(service, "spec.type") == "LoadBalancer" && str_at(service, "spec.externalTrafficPolicy") == "Local"
}

/// Reachable from outside: node ports, load balancers, external IPs.
pub(crate) fn externally_accessible(service: &Value) -> bool {
    needs_node_ports(service)
        || (str_at(service, "spec.type") == "ClusterIP" && !list_at(service, "spec.externalIPs").is_empty())
}

/// Without a virtual address.
pub(crate) fn is_headless(service: &Value) -> bool {
    matches!(list_at(service, "spec.clusterIPs"), [only] if only == "None")
}

fn defaults(obj: &mut Value) {
    if let Some(spec) = member(obj, "spec") {
        set_if_zero(spec, "sessionAffinity", "None");
        match str_at(spec, "sessionAffinity") {
            "None" => {
                remove(spec, "sessionAffinityConfig");
            }
            "ClientIP" if int_at(spec, "sessionAffinityConfig.clientIP.timeoutSeconds").is_none() => {
                set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
            }
            _ => {}
        }
        set_if_zero(spec, "type", "ClusterIP");
        for port in each(spec, "ports") {
            set_if_zero(port, "protocol", "TCP");
            if let Some(number) = int_at(port, "port") {
                set_if_zero(port, "targetPort", number);
            }
        }
    }
    let outside = externally_accessible(obj);
    let Some(spec) = member(obj, "spec") else { return };
    if outside {
        set_if_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    let kind = str_at(spec, "type").to_string();
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(balancer) = existing(obj, "status").and_then(|status| existing(status, "loadBalancer")) {
            for ingress in each(balancer, "ingress") {
                if is_set(ingress, "ip") {
                    set_default(ingress, "ipMode", "VIP");
                }
            }
        }
    }
}

/// `clusterIP` and `clusterIPs` say the same thing twice; old clients know the first only.
pub(crate) fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let ip = str_at(service, "spec.clusterIP").to_string();
    let none = list_at(service, "spec.clusterIPs").is_empty();
    let Some(old) = old else {
        if !ip.is_empty() && none {
            set_spec(service, "clusterIPs", json!([ip]));
        }
        return;
    };
    let same_list = same_at(service, old, "spec.clusterIPs");
    let old_ip = str_at(old, "spec.clusterIP");
    if none && ip == old_ip && !list_at(old, "spec.clusterIPs").is_empty() {
        set_spec(service, "clusterIPs", json!(list_at(old, "spec.clusterIPs")));
    }
    if ip != old_ip && same_list {
        if ip.is_empty() {
            clear(service, "clusterIPs");
        } else {
            set_spec(service, "clusterIPs", json!([ip]));
        }
    }
}

fn set_spec(service: &mut Value, field: &str, value: Value) {
    if let Some(spec) = member(service, "spec") {
        set(spec, field, value);
    }
}

fn clear(service: &mut Value, field: &str) {
    if let Some(spec) = existing(service, "spec") {
        remove(spec, field);
    }
}

/// An update that leaves allocated values out keeps them.
pub(crate) fn patch_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        for field in ["clusterIP", "clusterIPs"] {
            let path = format!("spec.{field}");
            if !is_set(new, &path)
                && let Some(value) = super::value::at(old, &path)
            {
                set_spec(new, field, value.clone());
            }
        }
    }
    if keeps_node_ports(old) && keeps_node_ports(new) {
        let node_port = |port: &Value| int_at(port, "nodePort").unwrap_or_default();
        let ports_of = |service: &Value| -> Vec<i64> { list_at(service, "spec.ports").iter().map(node_port).collect() };
        let kept = ports_of(new);
        if let Some(spec) = existing(new, "spec") {
            for port in each(spec, "ports").filter(|port| node_port(port) == 0) {
                let before =
                    list_at(old, "spec.ports").iter().rev().find(|p| str_at(p, "name") == str_at(port, "name"));
                let before = before.map(node_port).unwrap_or_default();
                if before != 0 && !kept.contains(&before) {
                    set(port, "nodePort", before);
                }
            }
        }
    }
    if needs_health_check_port(old) && needs_health_check_port(new) && !is_set(new, "spec.healthCheckNodePort") {
        set_spec(new, "healthCheckNodePort", super::checks::shown(old, "spec.healthCheckNodePort"));
    }
}

/// A change of type drops what the new type has no use for, unless the client changed it too.
fn drop_type_dependent(new: &mut Value, old: &Value) {
    let drop_same = |new: &mut Value, field: &str| {
        if same_at(new, old, &format!("spec.{field}")) {
            clear(new, field);
        }
    };
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        if same_at(new, old, "spec.clusterIPs") {
            clear(new, "clusterIP");
            clear(new, "clusterIPs");
        }
        drop_same(new, "ipFamilies");
        drop_same(new, "ipFamilyPolicy");
    }
    let node_ports = |service: &Value| -> Vec<Option<i64>> {
        list_at(service, "spec.ports").iter().map(|port| int_at(port, "nodePort").filter(|n| *n != 0)).collect()
    };
    if needs_node_ports(old) && !needs_node_ports(new) {
        let before = node_ports(old);
        if node_ports(new).iter().all(|port| port.is_none() || before.contains(port))
            && let Some(spec) = existing(new, "spec")
        {
            each(spec, "ports").for_each(|port| {
                remove(port, "nodePort");
            });
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(new) {
        drop_same(new, "healthCheckNodePort");
    }
    let balancer = |service: &Value| str_at(service, "spec.type") == "LoadBalancer";
    if balancer(old) && !balancer(new) {
        drop_same(new, "allocateLoadBalancerNodePorts");
        drop_same(new, "loadBalancerClass");
    }
    if externally_accessible(old) && !externally_accessible(new) {
        drop_same(new, "externalTrafficPolicy");
    }
    if !balancer(new)
        && let Some(status) = member(new, "status")
    {
        set(status, "loadBalancer", json!({}));
    }
    keep_conditions(new, old);
}

fn keep_conditions(new: &mut Value, old: &Value) {
    if let (Some(status), Some(old_status)) = (existing(new, "status"), old.get("status")) {
        keep_old(status, old_status, "conditions");
    }
}

fn external_ip(service: &Value) -> String {
    let external: Vec<&str> = list_at(service, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match str_at(service, "spec.type") {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_string(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let mut all = balancer_addresses(service, "status.loadBalancer.ingress");
            all.extend(external.iter().map(ToString::to_string));
            if all.is_empty() { "<pending>".to_string() } else { all.join(",") }
        }
        "ExternalName" => str_at(service, "spec.externalName").to_string(),
        _ => "<unknown>".to_string(),
    }
}

/// Addresses of a load balancer status, sorted.
pub(crate) fn balancer_addresses(obj: &Value, path: &str) -> Vec<String> {
    let mut addresses: Vec<String> = list_at(obj, path)
        .iter()
        .map(|ingress| match str_at(ingress, "ip") {
            "" => str_at(ingress, "hostname").to_string(),
            ip => ip.to_string(),
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn row(service: &Value, now: Timestamp) -> Row {
    let ports: Vec<String> = list_at(service, "spec.ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (int_at(port, "port").unwrap_or_default(), str_at(port, "protocol"));
            match int_at(port, "nodePort").unwrap_or_default() {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    let ip = list_at(service, "spec.clusterIPs").first().and_then(Value::as_str).unwrap_or_default();
    vec![
        name(service),
        str_at(service, "spec.type").into(),
        super::table::or_none(ip),
        external_ip(service).into(),
        super::table::or_none(&ports.join(",")),
        age(service, now),
        labels(service, "spec.selector"),
    ]
}

/// Fields that this sort of service ignores, and old names.
fn service_warnings(service: &Value) -> Vec<String> {
    let has = |field: &str| crate::resources::value::is_set(service, &format!("spec.{field}"));
    let (headless, external) = (is_headless(service), str_at(service, "spec.type") == "ExternalName");
    let mut out: Vec<String> = Vec::new();
    let mut warn = |when: bool, text: &str| {
        if when {
            out.push(text.to_owned());
        }
    };
    warn(
        service["metadata"]["annotations"].get("service.kubernetes.io/topology-aware-hints").is_some(),
        "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
    );
    let list = |field: &str| list_at(service, &format!("spec.{field}"));
    let mut addresses = Vec::new();
    for (i, ip) in list("clusterIPs").iter().filter(|_| !headless && !external).enumerate() {
        addresses.extend(ip_warning(SPEC.child("clusterIPs").index(i), ip.as_str().unwrap_or_default()));
    }
    addresses.iter().for_each(|text| warn(true, text));
    warn(headless && has("loadBalancerIP"), "spec.loadBalancerIP is ignored for headless services");
    warn(headless && has("externalIPs"), "spec.externalIPs is ignored for headless services");
    warn(
        headless && str_at(service, "spec.sessionAffinity") != "None",
        "spec.SessionAffinity is ignored for headless services",
    );
    for (i, ip) in list("externalIPs").iter().enumerate() {
        let text = ip_warning(SPEC.child("externalIPs").index(i), ip.as_str().unwrap_or_default());
        warn(text.is_some(), text.as_deref().unwrap_or_default());
    }
    warn(
        has("externalIPs") && !headless && !external,
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
    );
    let text = ip_warning(SPEC.child("loadBalancerIP"), str_at(service, "spec.loadBalancerIP"));
    warn(text.is_some(), text.as_deref().unwrap_or_default());
    for (i, range) in list("loadBalancerSourceRanges").iter().enumerate() {
        let path = SPEC.child("loadBalancerSourceRanges");
        let texts = cidr_warnings(path.index(i), range.as_str().unwrap_or_default());
        texts.iter().for_each(|text| warn(true, text));
    }
    warn(external && has("externalIPs"), "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    warn(!external && has("externalName"), "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    warn(
        str_at(service, "spec.trafficDistribution") == "PreferClose",
        "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
    );
    out
}

/// Of addresses in a load balancer's status that new objects should not have.
pub(crate) fn balancer_warnings(obj: &Value) -> Vec<String> {
    let path = Path::root("status.loadBalancer.ingress");
    let entries = list_at(obj, "status.loadBalancer.ingress").iter().enumerate();
    entries.filter_map(|(i, entry)| ip_warning(path.index(i), str_at(entry, "ip"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_a_small_service() {
        let mut svc = json!({"spec": {"ports": [{"port": 80}]}});
        defaults(&mut svc);
        assert_eq!(
            svc,
            json!({"spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None",
                "type": "ClusterIP", "internalTrafficPolicy": "Cluster"}})
        );
    }

    #[test]
    fn type_change_drops_ports_that_nobody_asked_for() {
        let old = json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "ClusterIP", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30080}]}, "status": {}});
        drop_type_dependent(&mut new, &old);
        assert_eq!(new["spec"], json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
    }
}
