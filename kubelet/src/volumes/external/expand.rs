//! Growing a volume's file system after the volume grew, and telling so in the claim's status.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tonic::Code;

use super::{Claim, External, Kind};
use crate::pods::spec;
use crate::quantity;
use crate::rpc::RpcError;
use crate::shared::Kubelet;
use crate::volumes::csi;

const STORAGE: &str = "storage";
/// Conditions that are about growing.
const CONDITIONS: [&str; 4] = ["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];

/// What a claim's status asks of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// It is as large as it should be, or it's not the node's turn.
    Nothing,
    /// To this size; `tracked`: the controller keeps the progress in the claim's status.
    Grow { size: String, tracked: bool },
}

fn plan(claim: &PersistentVolumeClaim, volume_size: i64) -> Plan {
    let status = claim.status.clone().unwrap_or_default();
    let known = quantity::of(status.capacity.as_ref(), STORAGE);
    let progress = status.allocated_resource_statuses.as_ref().and_then(|all| all.get(STORAGE)).map(String::as_str);
    let allocated = status.allocated_resources.as_ref().and_then(|all| all.get(STORAGE));
    match (progress, allocated) {
        // A controller from before progress was tracked.
        (None, None) if volume_size > known => Plan::Grow { size: volume_size.to_string(), tracked: false },
        (Some("NodeResizePending" | "NodeResizeInProgress"), Some(size)) => {
            Plan::Grow { size: size.0.clone(), tracked: true }
        }
        _ => Plan::Nothing,
    }
}

/// What a refusal of the driver means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Not while it is in use: to be grown when it is mounted next.
    InUse,
    /// Never.
    Infeasible,
    Failed,
    /// The driver may be at it still.
    Unknown,
}

fn refusal(code: Code) -> Refusal {
    match code {
        Code::FailedPrecondition => Refusal::InUse,
        Code::InvalidArgument | Code::OutOfRange | Code::NotFound => Refusal::Infeasible,
        Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted => {
            Refusal::Unknown
        }
        _ => Refusal::Failed,
    }
}

fn key(volume: &External) -> (String, String) {
    (volume.unique.clone(), "expand".into())
}

/// The claim knows of less than the volume has.
pub(super) fn is_due(kubelet: &Kubelet, volume: &External, uid: &str) -> bool {
    let grown = volume.claim.as_ref().is_some_and(|claim| claim.volume_size > claim.known_size);
    let csi = matches!(&volume.kind, Kind::Csi(source) if !source.ephemeral);
    let waits = {
        let backoff = kubelet.volumes.backoff.lock();
        let now = Instant::now();
        backoff.left(&key(volume), now).or(backoff.left(&(volume.unique.clone(), uid.to_owned()), now)).is_some()
    };
    grown && csi && !waits
}

/// Grows the volume when its claim says so.
pub(super) async fn grow(kubelet: &Kubelet, pod: &Pod, volume: &External, path: &Path) -> Result<(), String> {
    let (Kind::Csi(source), Some(claim)) = (&volume.kind, &volume.claim) else { return Ok(()) };
    if source.ephemeral || claim.volume_size <= claim.known_size {
        return Ok(());
    }
    let client = kubelet.client.clone().ok_or("there is no apiserver to ask for the claim")?;
    let api: kube::Api<PersistentVolumeClaim> = kube::Api::namespaced(client, &claim.namespace);
    let current = api.get(&claim.name).await;
    let current = current.map_err(|error| {
        format!("mountVolume.NodeExpandVolume get PVC failed : {}", crate::volumes::api_error(&error))
    })?;
    let Plan::Grow { size, tracked } = plan(&current, claim.volume_size) else {
        // Not the node's turn yet: looked at again after a while.
        kubelet.volumes.backoff.lock().failed(key(volume), Duration::from_secs(10), Instant::now());
        return Ok(());
    };
    if volume.read_only {
        let message =
            format!("MountVolume.NodeExpandVolume failed for volume {:?} requested read-only file system", volume.name);
        tell(kubelet, pod, &current, true, "FileSystemResizeFailed", &message);
        kubelet.volumes.backoff.lock().failed(key(volume), Duration::MAX, Instant::now());
        return Ok(());
    }
    if tracked {
        mark(&api, claim, json!({"allocatedResourceStatuses": {STORAGE: "NodeResizeInProgress"}})).await?;
    }
    let bytes = quantity::value(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.clone()));
    match csi::expand::expand(kubelet, volume, source, path, bytes).await {
        Ok(csi::expand::Outcome::Unsupported) if !tracked => Ok(()),
        Ok(csi::expand::Outcome::Unsupported) => {
            let message = format!("NodeExpand is not supported by the CSI driver {}", source.driver);
            refuse(kubelet, &api, volume, &current, Refusal::Failed, tracked, message).await
        }
        Ok(csi::expand::Outcome::Grown) => {
            let node = &kubelet.config.node_name;
            let message = format!("MountVolume.NodeExpandVolume succeeded for volume {:?} {node}", volume.name);
            tell(kubelet, pod, &current, false, "FileSystemResizeSuccessful", &message);
            kubelet.volumes.backoff.lock().forget(|have| *have == key(volume));
            kubelet.volumes.resolved.lock().retain(|(uid, _), _| uid != spec::uid(pod));
            mark(&api, claim, finished(&current, &size)).await
        }
        Err(csi::expand::Error::Before(message)) => {
            refuse(kubelet, &api, volume, &current, Refusal::Unknown, tracked, message).await
        }
        Err(csi::expand::Error::Call(RpcError { code, message })) => {
            let error = RpcError { code, message };
            let message = format!("Expander.NodeExpand failed to expand the volume : {error}");
            refuse(kubelet, &api, volume, &current, refusal(code), tracked, message).await
        }
    }
}

/// The claim's status when all is done.
fn finished(claim: &PersistentVolumeClaim, size: &str) -> Value {
    json!({
        "capacity": {STORAGE: size},
        "allocatedResourceStatuses": {STORAGE: Value::Null},
        "conditions": conditions(claim, None),
    })
}

/// The claim's conditions, without those about growing, or with the error as well.
fn conditions(claim: &PersistentVolumeClaim, error: Option<&str>) -> Vec<Value> {
    let have = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let keep = have.filter(|condition| match error {
        Some(_) => condition.type_ != "NodeResizeError",
        None => !CONDITIONS.contains(&condition.type_.as_str()),
    });
    let mut conditions: Vec<Value> = keep.map(|condition| json!(condition)).collect();
    if let Some(error) = error {
        conditions.push(json!({
            "type": "NodeResizeError", "status": "True", "lastTransitionTime": crate::pods::status_manager::now(),
            "message": format!("failed to expand pvc with {error}"),
        }));
    }
    conditions
}

async fn refuse(
    kubelet: &Kubelet,
    api: &kube::Api<PersistentVolumeClaim>,
    volume: &External,
    claim: &PersistentVolumeClaim,
    refusal: Refusal,
    tracked: bool,
    message: String,
) -> Result<(), String> {
    kubelet.volumes.backoff.lock().failed(key(volume), Duration::MAX, Instant::now());
    if let (true, Some(of)) = (tracked && matches!(refusal, Refusal::Failed | Refusal::Infeasible), &volume.claim) {
        let mut status = json!({"conditions": conditions(claim, Some(&message))});
        if refusal == Refusal::Infeasible {
            status["allocatedResourceStatuses"] = json!({STORAGE: "NodeResizeInfeasible"});
        }
        if let Err(error) = mark(api, of, status).await {
            tracing::warn!(claim = of.name, error, "cannot tell the claim that it did not grow");
        }
    }
    if refusal == Refusal::InUse {
        tracing::warn!(volume = volume.unique, error = message, "a volume cannot be grown while it is in use");
        return Ok(());
    }
    Err(message)
}

async fn mark(api: &kube::Api<PersistentVolumeClaim>, claim: &Claim, status: Value) -> Result<(), String> {
    let patch = Patch::Merge(json!({"status": status}));
    let marked = api.patch_status(&claim.name, &PatchParams::default(), &patch).await;
    marked.map(|_| ()).map_err(|error| {
        format!("mountVolume.NodeExpandVolume update pvc status failed: {}", crate::volumes::api_error(&error))
    })
}

fn tell(kubelet: &Kubelet, pod: &Pod, claim: &PersistentVolumeClaim, warning: bool, reason: &str, message: &str) {
    kubelet.events.pod(pod, warning, reason, message);
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    };
    kubelet.events.object(&about, warning, reason, message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(status: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"status": status})).unwrap()
    }

    #[test]
    fn the_node_waits_for_its_turn() {
        let grow = |size: &str, tracked| Plan::Grow { size: size.into(), tracked };
        for (status, want) in [
            (json!({"capacity": {"storage": "1Ki"}}), grow("2048", false)),
            (json!({"capacity": {"storage": "2Ki"}}), Plan::Nothing),
            (
                json!({"capacity": {"storage": "1Ki"}, "allocatedResources": {"storage": "2Ki"},
                       "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}}),
                Plan::Nothing,
            ),
            (
                json!({"capacity": {"storage": "1Ki"}, "allocatedResources": {"storage": "2Ki"},
                       "allocatedResourceStatuses": {"storage": "NodeResizePending"}}),
                grow("2Ki", true),
            ),
            (
                json!({"capacity": {"storage": "1Ki"}, "allocatedResources": {"storage": "2Ki"},
                       "allocatedResourceStatuses": {"storage": "NodeResizeInfeasible"}}),
                Plan::Nothing,
            ),
            (json!({"capacity": {"storage": "1Ki"}, "allocatedResources": {"storage": "1Ki"}}), Plan::Nothing),
        ] {
            assert_eq!(plan(&claim(status.clone()), 2048), want, "{status}");
        }
    }

    #[test]
    fn conditions_about_growing_go_when_it_is_done() {
        let status = json!({"conditions": [
            {"type": "FileSystemResizePending", "status": "True"}, {"type": "Other", "status": "True"}
        ]});
        let done = finished(&claim(status.clone()), "2Gi");
        assert_eq!(done["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(done["capacity"]["storage"], "2Gi");
        let failed = conditions(&claim(status), Some("no"));
        assert_eq!(failed.len(), 3);
        assert_eq!(failed[2]["message"], "failed to expand pvc with no");
    }

    #[test]
    fn refusals_are_told_apart() {
        assert_eq!(refusal(Code::FailedPrecondition), Refusal::InUse);
        assert_eq!(refusal(Code::OutOfRange), Refusal::Infeasible);
        assert_eq!(refusal(Code::Internal), Refusal::Failed);
        assert_eq!(refusal(Code::Unavailable), Refusal::Unknown);
    }
}
