//! Table columns of workloads.

use jiff::Timestamp;
use serde_json::Value;

use crate::resources::{
    table::{AGE, Column, NAME, Row, age, containers, count, labels, name, number, selector, text, wide},
    value::{bool_at, int_at, list_at, str_at},
};

const TEMPLATE: &str = "spec.template.spec.containers";

pub(crate) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready"),
    text("Up-to-date"),
    text("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn ready(obj: &Value) -> Value {
    let number = |path: &str| int_at(obj, path).unwrap_or_default();
    format!("{}/{}", number("status.readyReplicas"), number("spec.replicas")).into()
}

pub(crate) fn deployment(obj: &Value, now: Timestamp) -> Row {
    let [names, images] = containers(obj, TEMPLATE);
    vec![
        name(obj),
        ready(obj),
        count(obj, "status.updatedReplicas"),
        count(obj, "status.availableReplicas"),
        age(obj, now),
        names,
        images,
        selector(obj, "spec.selector"),
    ]
}

pub(crate) const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(crate) const REPLICATION_CONTROLLER: &[Column] = REPLICA_SET;

pub(crate) fn replica_set(obj: &Value, now: Timestamp) -> Row {
    let [names, images] = containers(obj, TEMPLATE);
    let plain = str_at(obj, "kind") == "ReplicationController";
    vec![
        name(obj),
        count(obj, "spec.replicas"),
        count(obj, "status.replicas"),
        count(obj, "status.readyReplicas"),
        age(obj, now),
        names,
        images,
        if plain { labels(obj, "spec.selector") } else { selector(obj, "spec.selector") },
    ]
}

pub(crate) const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    number("Up-to-date"),
    number("Available"),
    text("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(crate) fn daemon_set(obj: &Value, now: Timestamp) -> Row {
    let [names, images] = containers(obj, TEMPLATE);
    vec![
        name(obj),
        count(obj, "status.desiredNumberScheduled"),
        count(obj, "status.currentNumberScheduled"),
        count(obj, "status.numberReady"),
        count(obj, "status.updatedNumberScheduled"),
        count(obj, "status.numberAvailable"),
        labels(obj, "spec.template.spec.nodeSelector"),
        age(obj, now),
        names,
        images,
        selector(obj, "spec.selector"),
    ]
}

pub(crate) const STATEFUL_SET: &[Column] = &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")];

pub(crate) fn stateful_set(obj: &Value, now: Timestamp) -> Row {
    let [names, images] = containers(obj, TEMPLATE);
    vec![name(obj), ready(obj), age(obj, now), names, images]
}

pub(crate) const CONTROLLER_REVISION: &[Column] = &[NAME, text("Controller"), number("Revision"), AGE];

pub(crate) fn controller_revision(obj: &Value, now: Timestamp) -> Row {
    let owner = list_at(obj, "metadata.ownerReferences").iter().find(|owner| bool_at(owner, "controller"));
    let controller = owner.map_or_else(
        || "<none>".to_string(),
        |owner| {
            let kind = str_at(owner, "kind");
            let kind = match str_at(owner, "apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}"),
                None => kind.to_string(),
            };
            format!("{}/{}", kind.to_lowercase(), str_at(owner, "name"))
        },
    );
    vec![name(obj), controller.into(), count(obj, "revision"), age(obj, now)]
}
