//! The FlowSchemas and PriorityLevelConfigurations that every cluster has: mandatory ones, which stay as they are, and
//! suggested ones, which people may change.

use serde_json::{Value, json};

/// Says whether the server keeps an object's spec up to date.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const EVERYBODY: [&str; 2] = ["system:unauthenticated", "system:authenticated"];

/// Name, shares, percentage that may be lent, queues, hand.
const LEVELS: [(&str, u32, u32, u32, u32); 6] = [
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];
const QUEUE_LENGTH: u32 = 50;

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "kind": kind,
        "apiVersion": API_VERSION,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": spec,
    })
}

fn level(name: &str, spec: &Value) -> Value {
    object("PriorityLevelConfiguration", name, spec)
}

/// The levels that the server could not do without.
#[must_use]
pub fn mandatory_levels() -> Vec<Value> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let refuse = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
    vec![level("catch-all", &json!({"type": "Limited", "limited": refuse})), level("exempt", &exempt)]
}

/// The levels that upstream suggests.
#[must_use]
pub fn suggested_levels() -> Vec<Value> {
    let make = |(name, shares, lendable, queues, hand): (&str, u32, u32, u32, u32)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH});
        let limited = json!({
            "nominalConcurrencyShares": shares,
            "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing},
        });
        level(name, &json!({"type": "Limited", "limited": limited}))
    };
    LEVELS.into_iter().map(make).collect()
}

fn groups(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn kube_system() -> Value {
    json!([{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}}])
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// A rule about everything.
fn everything(subjects: Value) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rule: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [rule],
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, &spec)
}

/// The schemas that the server could not do without.
#[must_use]
pub fn mandatory_schemas() -> Vec<Value> {
    vec![
        schema("exempt", "exempt", 1, "", everything(groups(&["system:masters"]))),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything(groups(&EVERYBODY))),
    ]
}

/// The schemas that upstream suggests.
#[must_use]
pub fn suggested_schemas() -> Vec<Value> {
    const MANAGER: &str = "system:kube-controller-manager";
    const SCHEDULER: &str = "system:kube-scheduler";
    const LEASES: &str = "coordination.k8s.io";
    let nodes = || groups(&["system:nodes"]);
    let mut electors = users(&[MANAGER, SCHEDULER]);
    if let (Some(all), Value::Array(more)) = (electors.as_array_mut(), kube_system()) {
        all.extend(more);
    }
    let election = json!({"subjects": electors, "resourceRules": [resources(&["get", "create", "update"], LEASES, &["leases"], false)]});
    let health = json!({
        "subjects": nodes(),
        "resourceRules": [resources(&["*"], "", &["nodes", "nodes/status"], true), resources(&["*"], LEASES, &["leases"], false)],
    });
    let probes = json!({
        "subjects": groups(&EVERYBODY),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
    });
    vec![
        schema("system-nodes", "system", 500, "ByUser", everything(nodes())),
        schema("system-node-high", "node-high", 400, "ByUser", health),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", election),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", everything(users(&[MANAGER]))),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(users(&[SCHEDULER]))),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", everything(kube_system())),
        schema("service-accounts", "workload-low", 9000, "ByUser", everything(groups(&[SERVICE_ACCOUNTS]))),
        schema("global-default", "global-default", 9900, "ByUser", everything(groups(&EVERYBODY))),
    ]
}
