//! Deleting pods on behalf of the cluster (taints, lost nodes), saying why in their status first.

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::meta::{MetaExt, now};
use super::{apierr, pod_control, pods};

/// What the pod's status says before it goes.
pub(crate) struct Farewell {
    /// Reason and message of condition DisruptionTarget.
    pub(crate) disruption: Option<(&'static str, &'static str)>,
    /// Also set phase Failed: nobody else will.
    pub(crate) fail: bool,
    /// Delete without grace period.
    pub(crate) force: bool,
}

/// The status patch, if the pod's status has to change.
fn patch(pod: &Pod, farewell: &Farewell) -> Option<Value> {
    let mut status = serde_json::Map::new();
    if let Some((reason, message)) = farewell.disruption {
        let known = pods::condition(pod, "DisruptionTarget");
        if !known.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(reason)) {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": now().to_string()});
            status.insert("conditions".into(), json!([condition]));
        }
    }
    if farewell.fail && !pods::is_terminal(pod) {
        status.insert("phase".into(), json!("Failed"));
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": pod.uid_str()}, "status": status}))
}

/// Patches and deletes; a pod that is gone is fine.
pub(crate) async fn evict(client: &Client, pod: &Pod, farewell: &Farewell) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.ns_str());
    if let Some(patch) = patch(pod, farewell) {
        let result = api.patch_status(pod.name_str(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        match result {
            // Another pod of that name by now.
            Err(error) if apierr::is_not_found(&error) || apierr::is_conflict(&error) => return Ok(()),
            other => other.map(|_| ())?,
        }
    }
    let mut params = pod_control::uid_precondition(DeleteParams::default(), pod.uid_str());
    params.grace_period_seconds = farewell.force.then_some(0);
    match api.delete(pod.name_str(), &params).await {
        Err(error) if apierr::is_conflict(&error) => Ok(()),
        other => apierr::ignore_not_found(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_why_once() {
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": {"phase": "Running"}})).unwrap();
        let farewell = Farewell { disruption: Some(("R", "m")), fail: true, force: true };
        let p = patch(&pod, &farewell).unwrap();
        assert_eq!((&p["status"]["phase"], &p["status"]["conditions"][0]["reason"]), (&json!("Failed"), &json!("R")));
        pod.status = serde_json::from_value(
            json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "R"}]}),
        )
        .unwrap();
        assert_eq!(patch(&pod, &farewell), None);
    }
}
