//! `persistentvolume-protection-controller`: a volume that is bound to a claim outlives its deletion until it is released.

use common::informer::WorkQueue;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::shared::protection::{self, Guard};

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    Ok(protection::start(ctx, WorkQueue::new(Volumes::QUEUE), Volumes))
}

struct Volumes;

impl Guard for Volumes {
    type Kind = PersistentVolume;
    const FINALIZER: &'static str = "kubernetes.io/pv-protection";
    const IDENTITY: &'static str = "pv-protection-controller";
    const QUEUE: &'static str = "pvprotection";

    fn api(client: Client, _namespace: &str) -> Api<PersistentVolume> {
        Api::all(client)
    }

    fn in_use(&self, volume: &PersistentVolume) -> bool {
        volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_bound_volume_is_in_use() {
        let table = [("Pending", false), ("Available", false), ("Bound", true), ("Released", false), ("Failed", false)];
        for (phase, used) in table {
            let volume = serde_json::from_value(json!({"metadata": {}, "status": {"phase": phase}})).unwrap();
            assert_eq!(Volumes.in_use(&volume), used, "{phase}");
        }
        assert!(!Volumes.in_use(&PersistentVolume::default()));
    }
}
