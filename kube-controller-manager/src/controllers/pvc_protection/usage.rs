//! Which claims a pod names, and which of them it holds. Pure.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};

use crate::shared::meta::MetaExt;
use crate::shared::owner::controller_of;
use crate::shared::pods;

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// The claim that is made for an ephemeral volume of the pod.
fn ephemeral_name(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", pod.name_str(), volume.name)
}

/// The names of the claims that the pod's volumes stand for.
pub(crate) fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    volumes(pod).filter_map(|volume| match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => volume.ephemeral.is_some().then(|| ephemeral_name(pod, volume)),
    })
}

/// The kubelet is done with the pod, or it was deleted by force; only its finalizers keep the object.
pub(super) fn is_shut_down(pod: &Pod) -> bool {
    pod.is_deleting() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Does the pod, of the claim's namespace, keep the claim? One without a node does not: no kubelet starts a pod
/// whose claim is being deleted. An ephemeral claim is let go when the pod is shut down, else each would wait for the other.
pub(super) fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = claim.name_str();
    let made_for = || controller_of(&claim.metadata).is_some_and(|owner| owner.uid == pod.uid_str());
    !pods::node_name(pod).is_empty()
        && volumes(pod).any(|volume| match &volume.persistent_volume_claim {
            Some(source) => source.claim_name == name,
            None => {
                volume.ephemeral.is_some() && !is_shut_down(pod) && ephemeral_name(pod, volume) == name && made_for()
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(node: &str, metadata: Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": metadata, "status": {"phase": "Succeeded"},
            "spec": {"nodeName": node, "containers": [], "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "named"}}, {"name": "scratch", "ephemeral": {}},
            {"name": "plain", "emptyDir": {}}]}}))
        .unwrap();
        (pod.metadata.name, pod.metadata.uid) = (Some("p".into()), Some("u".into()));
        pod
    }

    fn claim(name: &str, owner: &str) -> PersistentVolumeClaim {
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
        serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owner}})).unwrap()
    }

    #[test]
    fn who_holds_what() {
        let running = pod("n", json!({}));
        let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30});
        let over = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        let (ending, over) = (pod("n", ending), pod("n", over));
        assert_eq!(claim_names(&running).collect::<Vec<_>>(), ["named", "p-scratch"]);
        let table = [
            ("by name, also when finished", &running, claim("named", ""), true),
            ("by name, until the object is gone", &over, claim("named", ""), true),
            ("another claim", &running, claim("other", ""), false),
            ("a volume without claim", &running, claim("p-plain", "u"), false),
            ("ephemeral", &running, claim("p-scratch", "u"), true),
            ("ephemeral, of another pod", &running, claim("p-scratch", "x"), false),
            ("ephemeral, being deleted", &ending, claim("p-scratch", "u"), true),
            ("ephemeral, shut down", &over, claim("p-scratch", "u"), false),
            ("not scheduled", &pod("", json!({})), claim("named", ""), false),
        ];
        for (name, pod, claim, used) in table {
            assert_eq!(uses(pod, &claim), used, "{name}");
        }
    }
}
