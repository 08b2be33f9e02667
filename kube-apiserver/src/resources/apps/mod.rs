//! Deployments, replica sets, daemon sets, stateful sets, controller revisions and replication controllers.

use serde_json::{Value, json};

use super::gated;
use super::{
    pod::defaults,
    rules::Rules,
    value::{
        at, each, existing, int_at, is_set, is_zero, keep_old, member, same_at, set, set_default, set_if_zero, str_at,
    },
    warnings,
};

pub(crate) mod table;
mod validate;

const REPLICA_FIELDS: &[super::rules::Selectable] =
    &[("status.replicas", |obj| int_at(obj, "status.replicas").unwrap_or_default().to_string())];
const REPLICA_LABELS: &[&str] = &["metadata.name", "metadata.namespace", "status.replicas"];

const WORKLOAD: Rules = Rules {
    group: "apps",
    generation: true,
    status: true,
    gated: gated::TEMPLATE,
    warnings: |obj, old, _| warnings::named_after(obj, old, "spec.template"),
    ..Rules::GENERIC
};

pub(crate) const RULES: &[Rules] = &[
    Rules {
        resource: "deployments",
        kind: "Deployment",
        defaults: deployment,
        prepare_update: |new, old, sub, _| {
            if sub == Some("status") {
                keep_labels(new, old);
            } else if !same_at(new, old, "metadata.annotations") {
                super::metadata::bump_generation(new, old);
            }
        },
        validate: validate::deployment,
        validate_update: validate::deployment_update,
        columns: table::DEPLOYMENT,
        row: table::deployment,
        ..WORKLOAD
    },
    Rules {
        resource: "replicasets",
        kind: "ReplicaSet",
        defaults: |obj| {
            if let Some(spec) = member(obj, "spec") {
                set_default(spec, "replicas", 1);
                defaults::template(spec, "template");
            }
        },
        prepare_create: |obj, _| set_status(obj, json!({"replicas": 0})),
        validate: validate::replica_set,
        validate_update: validate::replica_set_update,
        fields: REPLICA_FIELDS,
        field_labels: REPLICA_LABELS,
        columns: table::REPLICA_SET,
        row: table::replica_set,
        ..WORKLOAD
    },
    Rules {
        resource: "daemonsets",
        kind: "DaemonSet",
        warnings: |obj, old, _| super::pod::warnings::template(obj, old, "spec.template"),
        defaults: daemon_set,
        prepare_create: |obj, _| {
            set_template_generation(obj, 1);
            set_status(
                obj,
                json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
            );
        },
        prepare_update: |new, old, sub, _| {
            if sub.is_none() {
                let generation = template_generation(old) + i64::from(!same_at(new, old, "spec.template"));
                set_template_generation(new, generation);
            }
        },
        validate: validate::daemon_set,
        validate_update: validate::daemon_set_update,
        columns: table::DAEMON_SET,
        row: table::daemon_set,
        ..WORKLOAD
    },
    Rules {
        resource: "statefulsets",
        kind: "StatefulSet",
        warnings: warnings::stateful_set,
        gated: &[("spec.template.spec", gated::POD_SPEC), ("spec", &["updateStrategy.rollingUpdate.maxUnavailable"])],
        name: super::metadata::NameRule::Label,
        defaults: stateful_set,
        prepare_create: |obj, _| set_status(obj, json!({"replicas": 0, "availableReplicas": 0})),
        validate: validate::stateful_set,
        validate_update: validate::stateful_set_update,
        columns: table::STATEFUL_SET,
        row: table::stateful_set,
        ..WORKLOAD
    },
    Rules {
        group: "apps",
        resource: "controllerrevisions",
        kind: "ControllerRevision",
        validate: validate::controller_revision,
        validate_update: validate::controller_revision_update,
        columns: table::CONTROLLER_REVISION,
        row: table::controller_revision,
        ..Rules::GENERIC
    },
    Rules {
        group: "",
        resource: "replicationcontrollers",
        kind: "ReplicationController",
        defaults: replication_controller,
        prepare_create: |obj, _| set_status(obj, json!({"replicas": 0})),
        validate: validate::replication_controller,
        validate_update: validate::replication_controller_update,
        fields: REPLICA_FIELDS,
        field_labels: REPLICA_LABELS,
        columns: table::REPLICATION_CONTROLLER,
        row: table::replica_set,
        ..WORKLOAD
    },
];

fn set_status(obj: &mut Value, status: Value) {
    set(obj, "status", status);
}

/// A status update does not change labels: selectors of other controllers depend on them.
fn keep_labels(new: &mut Value, old: &Value) {
    if let (Some(meta), Some(old_meta)) = (existing(new, "metadata"), old.get("metadata")) {
        keep_old(meta, old_meta, "labels");
    }
}

fn deployment(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    set_default(spec, "replicas", 1);
    if let Some(strategy) = member(spec, "strategy") {
        set_if_zero(strategy, "type", "RollingUpdate");
        if str_at(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = member(strategy, "rollingUpdate")
        {
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
    }
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    defaults::template(spec, "template");
    set_default(obj, "status", json!({}));
}

fn daemon_set(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    if let Some(strategy) = member(spec, "updateStrategy") {
        set_if_zero(strategy, "type", "RollingUpdate");
        if str_at(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = member(strategy, "rollingUpdate")
        {
            set_default(rolling, "maxUnavailable", 1);
            set_default(rolling, "maxSurge", 0);
        }
    }
    set_default(spec, "revisionHistoryLimit", 10);
    defaults::template(spec, "template");
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(obj: &Value) -> i64 {
    at(obj, "metadata.annotations")
        .and_then(|a| a.get(TEMPLATE_GENERATION))
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

fn set_template_generation(obj: &mut Value, generation: i64) {
    if let Some(annotations) = member(obj, "metadata").and_then(|meta| member(meta, "annotations")) {
        set(annotations, TEMPLATE_GENERATION, generation.to_string());
    }
}

fn stateful_set(obj: &mut Value) {
    let Some(spec) = member(obj, "spec") else { return };
    set_if_zero(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = member(spec, "updateStrategy") {
        if str_at(strategy, "type").is_empty() {
            set(strategy, "type", "RollingUpdate");
            set_default(strategy, "rollingUpdate", json!({}));
        }
        if str_at(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = existing(strategy, "rollingUpdate")
        {
            set_default(rolling, "partition", 0);
        }
    }
    if let Some(policy) = member(spec, "persistentVolumeClaimRetentionPolicy") {
        set_if_zero(policy, "whenDeleted", "Retain");
        set_if_zero(policy, "whenScaled", "Retain");
    }
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    for claim in each(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        super::core::claim_defaults(claim);
    }
    defaults::template(spec, "template");
}

fn replication_controller(obj: &mut Value) {
    let labels = at(obj, "spec.template.metadata.labels").filter(|labels| !is_zero(labels)).cloned();
    let has_labels = is_set(obj, "metadata.labels");
    if let (Some(labels), false) = (&labels, has_labels)
        && let Some(meta) = member(obj, "metadata")
    {
        set(meta, "labels", labels.clone());
    }
    let Some(spec) = member(obj, "spec") else { return };
    set_default(spec, "replicas", 1);
    if let Some(labels) = labels {
        set_if_zero(spec, "selector", labels);
    }
    // The one owner that may have no template.
    if is_set(spec, "template") {
        defaults::template(spec, "template");
    }
}
