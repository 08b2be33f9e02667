//! Deployments, replica sets, daemon sets, stateful sets and replication controllers against upstream's rules.

use serde_json::{Value, json};

use super::{check_rows, create, strategy, update, with};

fn workload(strategy_field: &str) -> Value {
    json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, strategy_field: {},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

const MISMATCH: &str =
    "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`";

#[test]
fn deployments() {
    let base = workload("strategy");
    check_rows(
        "apps",
        "deployments",
        &base,
        &[
            ("/spec/selector", Value::Null, &["spec.selector: Required value", MISMATCH]),
            (
                "/spec/selector",
                json!({}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
            ("/spec/selector/matchLabels/a", json!("c"), &[MISMATCH]),
            (
                "/spec/selector",
                json!({"matchExpressions": [{"key": "a", "operator": "x"}]}),
                &[
                    "spec.selector.matchExpressions[0].operator: Invalid value: \"x\": not a valid selector operator",
                    "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"x\"}]}: invalid label selector",
                ],
            ),
            (
                "/spec/strategy/type",
                json!("x"),
                &[
                    "spec.strategy: Unsupported value: {\"Type\":\"x\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
                ],
            ),
            (
                "/spec/strategy/rollingUpdate",
                json!({"maxSurge": 0, "maxUnavailable": "0%"}),
                &[
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                "/spec/minReadySeconds",
                json!(600),
                &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
            ),
        ],
    );
    let status = json!({"replicas": 1, "updatedReplicas": 2, "readyReplicas": 0, "availableReplicas": 1, "observedGeneration": -1});
    let (errors, _) = update("apps", "deployments", Some("status"), &base, &with(&base, "/status", &status));
    assert_eq!(
        errors,
        [
            "status.observedGeneration: Invalid value: -1: must be greater than or equal to 0",
            "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
        ]
    );
    let odd = with(&base, "/metadata/name", &json!("a.b"));
    let told = strategy("apps", "deployments").warnings(&odd, None, None);
    assert_eq!(
        told,
        [
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
        ]
    );
}

#[test]
fn replica_sets_and_controllers() {
    let base = workload("x");
    let status = json!({"replicas": 0, "fullyLabeledReplicas": 1, "terminatingReplicas": -1});
    let (errors, _) = update("apps", "replicasets", Some("status"), &base, &with(&base, "/status", &status));
    assert_eq!(
        errors,
        [
            "status.terminatingReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.fullyLabeledReplicas: Invalid value: 1: cannot be greater than status.replicas",
        ]
    );
    let base = with(&base, "/spec/selector", &json!({"a": "b"}));
    check_rows(
        "",
        "replicationcontrollers",
        &base,
        &[
            ("/spec/selector", json!({"a": "c"}), &[MISMATCH]),
            ("/spec/replicas", json!(-1), &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
            ("/spec/template", Value::Null, &["spec.template: Required value"]),
        ],
    );
}

#[test]
fn daemon_sets() {
    let base = workload("updateStrategy");
    check_rows(
        "apps",
        "daemonsets",
        &base,
        &[
            ("/spec/selector", Value::Null, &[MISMATCH]),
            (
                "/spec/selector",
                json!({}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
            ),
            (
                "/spec/updateStrategy",
                json!({"type": "x"}),
                &[
                    "spec.updateStrategy: Unsupported value: {\"Type\":\"x\",\"RollingUpdate\":null}: supported values: \"RollingUpdate\", \"OnDelete\"",
                ],
            ),
            (
                "/spec/updateStrategy/rollingUpdate",
                json!({"maxSurge": 1, "maxUnavailable": 1}),
                &[
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
                ],
            ),
        ],
    );
    let bad =
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["-"]}]});
    let old = with(&base, "/spec/selector", &bad);
    assert_eq!(create("apps", "daemonsets", old.clone()).len(), 1);
    assert_eq!(update("apps", "daemonsets", None, &old, &old).0, Vec::<String>::new(), "what was stored stays valid");
}

#[test]
fn stateful_sets() {
    let base = workload("updateStrategy");
    check_rows(
        "apps",
        "statefulsets",
        &base,
        &[
            (
                "/spec/podManagementPolicy",
                json!("x"),
                &["spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'"],
            ),
            (
                "/spec/persistentVolumeClaimRetentionPolicy",
                json!({"whenDeleted": "x"}),
                &[
                    "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"x\": supported values: \"Retain\", \"Delete\"",
                ],
            ),
            (
                "/spec/ordinals",
                json!({"start": -1}),
                &["spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"],
            ),
            ("/spec/serviceName", json!("a.b"), &["spec.serviceName: Invalid value: \"a.b\": must not contain dots"]),
        ],
    );
    let old = with(&base, "/spec/template/spec/containers/0/name", &json!("Bad"));
    assert_eq!(create("apps", "statefulsets", old.clone()).len(), 1);
    let new = with(&old, "/spec/replicas", &json!(3));
    assert_eq!(
        update("apps", "statefulsets", None, &old, &new).0,
        Vec::<String>::new(),
        "a template once stored stays"
    );
    let (errors, _) = update("apps", "statefulsets", None, &base, &with(&base, "/spec/serviceName", &json!("x")));
    assert!(errors[0].starts_with("spec: Forbidden: updates to statefulset spec"), "{errors:?}");
    let told =
        strategy("apps", "statefulsets").warnings(&with(&base, "/spec/revisionHistoryLimit", &json!(-1)), None, None);
    assert_eq!(
        told,
        ["spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"]
    );
}

#[test]
fn pod_status() {
    let base = json!({"spec": {"nodeName": "n", "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
        "status": {"qosClass": "BestEffort", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1}}}]}});
    let tell = |pointer: &str, value: Value| update("", "pods", Some("status"), &base, &with(&base, pointer, &value)).0;
    let running = json!([{"name": "c", "state": {"running": {}}}]);
    assert_eq!(
        tell("/status/containerStatuses", running.clone()),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
    let own = with(&base, "/spec/containers/0/restartPolicy", &json!("OnFailure"));
    let again = with(&own, "/status/containerStatuses", &running);
    assert_eq!(update("", "pods", Some("status"), &own, &again).0, Vec::<String>::new(), "its own policy restarts it");
    assert_eq!(
        tell("/status/nominatedNodeName", json!("m")),
        ["status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"]
    );
    assert_eq!(
        tell("/status/hostIPs", json!([{"ip": "10.0.0.1"}])),
        ["status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`"]
    );
    assert_eq!(
        tell("/status/podIPs", json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}])),
        [
            "status.podIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family"
        ]
    );
    assert_eq!(
        tell("/status/resourceClaimStatuses", json!([{"name": "x"}])),
        [
            "status.resourceClaimStatuses[0].name: Invalid value: \"x\": must match the name of an entry in `spec.resourceClaims`"
        ]
    );
    let health = json!([{"name": "c", "state": {"terminated": {"exitCode": 1}},
        "allocatedResourcesStatus": [{"name": "claim:a", "resources": [{"resourceID": "r", "health": "x"}]}]}]);
    let told = tell("/status/containerStatuses", health);
    assert!(
        told[0].starts_with(
            "status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: \"claim:a\": must match one"
        ),
        "{told:?}"
    );
    assert!(told[1].ends_with("supported values: \"Healthy\", \"Unhealthy\", \"Unknown\""), "{told:?}");
}
