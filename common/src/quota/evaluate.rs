//! What each kind costs: the resources of a quota that it counts for, and how much of them one object takes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    amounts::{self, Amounts, Quantity},
    pods,
};
use crate::meta::value::{at, bool_at, list_at, str_at};

/// Kinds that are never counted: they come and go by themselves or are not stored.
const IGNORED: [(&str, &str); 9] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// Whether no quota ever counts a resource.
pub fn is_ignored(group: &str, resource: &str) -> bool {
    IGNORED.contains(&(group, resource))
}

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// The most devices that one claim can be given.
const MAX_DEVICES: i64 = 32;
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Measures objects of one kind.
pub enum Evaluator {
    /// Compute, extended resources and number of pods.
    Pods,
    /// Number of services, node ports and load balancers.
    Services,
    /// Number and storage of claims, by storage class too.
    Claims,
    /// Number of claims, devices by class.
    ResourceClaims,
    /// Everything else is only counted, under these names.
    Count(Vec<String>),
}

impl Evaluator {
    /// The evaluator of a resource.
    pub fn of(group: &str, resource: &str) -> Self {
        match (group, resource) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("resource.k8s.io", "resourceclaims") => Self::ResourceClaims,
            ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
                Self::Count(vec![format!("count/{resource}"), resource.to_owned()])
            }
            ("", _) => Self::Count(vec![format!("count/{resource}")]),
            _ => Self::Count(vec![format!("count/{resource}.{group}")]),
        }
    }

    /// Whether objects of this kind count for a resource of a quota.
    pub fn counts(&self, resource: &str) -> bool {
        match self {
            Self::Pods => pods::counts(resource),
            Self::Services => {
                matches!(resource, "count/services" | "services" | "services.nodeports" | "services.loadbalancers")
            }
            Self::Claims => {
                let of_class = resource.split_once(STORAGE_CLASS).map_or(resource, |(_, rest)| rest);
                resource == "count/persistentvolumeclaims"
                    || matches!(of_class, "persistentvolumeclaims" | "requests.storage")
            }
            Self::ResourceClaims => {
                resource == "count/resourceclaims.resource.k8s.io" || resource.ends_with(DEVICE_CLASS)
            }
            Self::Count(names) => names.iter().any(|name| name == resource),
        }
    }

    /// Whether an object has what a quota on these resources demands of it.
    ///
    /// # Errors
    /// What is missing, as the message of a refusal says it.
    pub fn constraints(&self, restricted: &BTreeSet<&str>, object: &Value) -> Result<(), String> {
        match self {
            Self::Pods => pods::constraints(restricted, object),
            _ => Ok(()),
        }
    }

    /// Whether an object is in all scopes of a quota.
    pub fn in_scopes(&self, quota: &Value, object: &Value) -> bool {
        let mut scopes = list_at(quota, "spec.scopes").iter().filter_map(Value::as_str);
        scopes.all(|scope| self.in_scope(scope, "Exists", &[], object))
            && list_at(quota, "spec.scopeSelector.matchExpressions").iter().all(|selector| {
                let values = list_at(selector, "values");
                self.in_scope(str_at(selector, "scopeName"), str_at(selector, "operator"), values, object)
            })
    }

    /// Whether an object is in a scope of a quota.
    fn in_scope(&self, scope: &str, operator: &str, values: &[Value], object: &Value) -> bool {
        match self {
            Self::Pods => pods::in_scope(scope, operator, values, object),
            Self::Claims if scope == "VolumeAttributesClass" => {
                let names = [
                    "spec.volumeAttributesClassName",
                    "status.currentVolumeAttributesClassName",
                    "status.modifyVolumeStatus.targetVolumeAttributesClassName",
                ];
                let names: Vec<&str> =
                    names.iter().map(|path| str_at(object, path)).filter(|n| !n.is_empty()).collect();
                if names.is_empty() {
                    return selects(operator, values, "");
                }
                names.into_iter().any(|name| selects(operator, values, name))
            }
            _ => false,
        }
    }

    /// What an object takes.
    pub fn usage(&self, object: &Value) -> Amounts {
        match self {
            Self::Pods => pods::usage(object, jiff::Timestamp::now()),
            Self::Services => service(object),
            Self::Claims => claim(object),
            Self::ResourceClaims => resource_claim(object),
            Self::Count(names) => names.iter().map(|name| (name.clone(), whole(1))).collect(),
        }
    }
}

/// A number without unit.
pub(super) fn whole(number: i64) -> Quantity {
    Quantity::new(number, crate::meta::quantity::Format::DecimalSI)
}

/// A scope selector on one value; empty means that there is none.
pub(super) fn selects(operator: &str, values: &[Value], value: &str) -> bool {
    let listed = values.iter().any(|v| v == value);
    match operator {
        "In" => !value.is_empty() && listed,
        "NotIn" => value.is_empty() || !listed,
        "Exists" => !value.is_empty(),
        "DoesNotExist" => value.is_empty(),
        _ => false,
    }
}

fn service(object: &Value) -> Amounts {
    let ports = list_at(object, "spec.ports");
    let all = ports.len();
    let (node_ports, balancers) = match str_at(object, "spec.type") {
        "NodePort" => (all, 0),
        "LoadBalancer" => {
            let suppressed = at(object, "spec.allocateLoadBalancerNodePorts").is_some()
                && !bool_at(object, "spec.allocateLoadBalancerNodePorts");
            let given = ports.iter().filter(|p| p["nodePort"].as_i64().is_some_and(|n| n != 0)).count();
            (if suppressed { given } else { all }, 1)
        }
        _ => (0, 0),
    };
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    [("count/services", 1), ("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)]
        .into_iter()
        .map(|(name, number)| (name.to_owned(), whole(number)))
        .collect()
}

fn claim(object: &Value) -> Amounts {
    let mut usage = Amounts::new();
    let annotated = object["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
    let class = annotated.unwrap_or_else(|| str_at(object, "spec.storageClassName"));
    let mut charge = |name: &str, amount: Quantity| {
        usage.insert(name.to_owned(), amount);
        if !class.is_empty() {
            usage.insert(format!("{class}{STORAGE_CLASS}{name}"), amount);
        }
    };
    charge("persistentvolumeclaims", whole(1));
    let requested = at(object, "spec.resources.requests.storage").and_then(amounts::quantity);
    if let Some(mut amount) = requested {
        let allocated = at(object, "status.allocatedResources.storage").and_then(amounts::quantity);
        amount = allocated.filter(|a| *a > amount).unwrap_or(amount);
        amount.round_up(0);
        charge("requests.storage", amount);
    }
    usage.insert("count/persistentvolumeclaims".to_owned(), whole(1));
    usage
}

fn resource_claim(object: &Value) -> Amounts {
    let devices = |request: &Value| match str_at(request, "allocationMode") {
        "ExactCount" => request["count"].as_i64().unwrap_or(0),
        "All" => MAX_DEVICES,
        _ => 0,
    };
    let named = |request: &Value| format!("{}{DEVICE_CLASS}", str_at(request, "deviceClassName"));
    let mut usage = Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), whole(1))]);
    for request in list_at(object, "spec.devices.requests") {
        let mut worst = Amounts::new();
        for choice in list_at(request, "firstAvailable") {
            amounts::max(&mut worst, &Amounts::from([(named(choice), whole(devices(choice)))]));
        }
        if let Some(exactly) = at(request, "exactly").filter(|_| worst.is_empty()) {
            worst.insert(named(exactly), whole(devices(exactly)));
        }
        amounts::add(&mut usage, &worst);
    }
    usage
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_cost_what_upstream_charges() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            amounts::text(&Evaluator::of("", "services").usage(&service)),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            amounts::text(&Evaluator::of("", "persistentvolumeclaims").usage(&claim)),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
        );
        let devices = json!({"spec": {"devices": {"requests": [{"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
            {"firstAvailable": [{"deviceClassName": "gpu", "allocationMode": "All"}, {"deviceClassName": "x", "allocationMode": "ExactCount", "count": 1}]}]}}});
        assert_eq!(
            amounts::text(&Evaluator::of("resource.k8s.io", "resourceclaims").usage(&devices)),
            "count/resourceclaims.resource.k8s.io=1,gpu.deviceclass.resource.k8s.io/devices=34,x.deviceclass.resource.k8s.io/devices=1"
        );
        assert!(Evaluator::of("apps", "deployments").counts("count/deployments.apps"));
        assert!(Evaluator::of("", "secrets").counts("secrets"));
        assert!(Evaluator::of("", "persistentvolumeclaims").counts("a.storageclass.storage.k8s.io/requests.storage"));
    }
}
