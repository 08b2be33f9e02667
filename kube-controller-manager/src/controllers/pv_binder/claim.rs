//! What to do about a claim. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching;
use crate::shared::meta::MetaExt;
use crate::shared::volumes::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, claim_ref, class_of_claim, default_class, is_for, migrated,
    says_class, volume_name,
};

/// What the decision looks at.
pub(super) trait View {
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// Volumes that are free, and those that name the claim.
    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>>;
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
    fn classes(&self) -> Vec<Arc<StorageClass>>;
    /// Names of the claim's pods that have no node yet.
    fn unscheduled_pods(&self, claim: &PersistentVolumeClaim) -> Vec<String>;
}

/// An event about the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn normal(reason: &'static str, message: impl Into<String>) -> Told {
    Told { warning: false, reason, message: message.into() }
}

fn warning(reason: &'static str, message: impl Into<String>) -> Told {
    Told { warning: true, reason, message: message.into() }
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Bind(Arc<PersistentVolume>),
    /// It goes on waiting.
    Pend(Option<Told>),
    /// Its volume is gone or somebody else's; told once.
    Lose(Told),
    /// It has the default class from now on.
    SetClass(String),
    /// Somebody outside makes a volume for it.
    Provision(String),
    /// Nobody can make a volume for it.
    Tell(Told),
    /// Something that we bound turns out to be another's: tell, and try again.
    Retry(Told),
}

/// Decides.
///
/// # Errors
/// When the claim or its class is not understood.
pub(super) fn step(claim: &PersistentVolumeClaim, view: &dyn View, provisioning: bool) -> Result<Step, String> {
    let complete = claim.annotation(BIND_COMPLETED).is_some();
    match (complete, volume_name(claim)) {
        (true, name) => Ok(bound(claim, name, view)),
        (false, "") => unbound(claim, view, provisioning),
        (false, name) => Ok(named(claim, name, view)),
    }
}

fn bound(claim: &PersistentVolumeClaim, name: &str, view: &dyn View) -> Step {
    if name.is_empty() {
        let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return Step::Lose(warning("ClaimLost", message));
    }
    let Some(volume) = view.volume(name) else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return Step::Lose(warning("ClaimLost", message));
    };
    match claim_ref(&volume) {
        Some((_, uid)) if uid != claim.uid_str() => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            Step::Lose(warning("ClaimMisbound", message))
        }
        _ => Step::Bind(volume),
    }
}

/// Somebody asked for this very volume.
fn named(claim: &PersistentVolumeClaim, name: &str, view: &dyn View) -> Step {
    let Some(volume) = view.volume(name) else { return Step::Pend(None) };
    if claim_ref(&volume).is_none() {
        return match matching::mismatch(&volume, claim) {
            None => Step::Bind(volume),
            Some(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                Step::Pend(Some(warning("VolumeMismatch", message)))
            }
        };
    }
    if is_for(&volume, claim) {
        return Step::Bind(volume);
    }
    let told = warning("FailedBinding", format!("volume {name:?} already bound to a different claim."));
    match claim.annotation(BOUND_BY_CONTROLLER) {
        None => Step::Pend(Some(told)),
        Some(_) => Step::Retry(told),
    }
}

fn unbound(claim: &PersistentVolumeClaim, view: &dyn View, provisioning: bool) -> Result<Step, String> {
    let name = class_of_claim(claim);
    let class = Some(name).filter(|name| !name.is_empty()).and_then(|name| view.class(name));
    let delayed = match class.as_deref().map(|class| class.volume_binding_mode.as_deref()) {
        None => false,
        Some(None) => return Err(format!("VolumeBindingMode not set for StorageClass {name:?}")),
        Some(Some(mode)) => mode == "WaitForFirstConsumer",
    };
    if let Some(volume) = matching::best(claim, &view.candidates(claim), delayed)? {
        return Ok(Step::Bind(volume));
    }
    if !says_class(claim)
        && let Some(default) = default_class(&view.classes())
    {
        return Ok(Step::SetClass(default.name_str().to_owned()));
    }
    if delayed && claim.annotation(SELECTED_NODE).is_none() {
        return Ok(Step::Pend(Some(wait_for_consumer(&view.unscheduled_pods(claim)))));
    }
    if name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return Ok(Step::Pend(Some(normal("FailedBinding", message))));
    }
    if !provisioning {
        return Ok(Step::Pend(None));
    }
    Ok(match class {
        None => {
            let message = format!("storageclass.storage.k8s.io {name:?} not found");
            Step::Tell(warning("ProvisioningFailed", message))
        }
        Some(class) => provision(&class.provisioner),
    })
}

fn provision(provisioner: &str) -> Step {
    if let Some(driver) = migrated(provisioner) {
        return Step::Provision(driver.to_owned());
    }
    match provisioner.starts_with("kubernetes.io/") {
        // No plugin of that name is built in any longer.
        true => Step::Tell(warning("ProvisioningFailed", format!("no volume plugin matched name: {provisioner}"))),
        false => Step::Provision(provisioner.to_owned()),
    }
}

fn wait_for_consumer(pods: &[String]) -> Told {
    match pods {
        [] => normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [one] => normal("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        many => normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(","))),
    }
}

/// The event for a claim whose volume somebody outside makes.
pub(super) fn external(provisioner: &str) -> Told {
    normal(
        "ExternalProvisioning",
        format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[derive(Default)]
    struct World {
        volumes: Vec<Arc<PersistentVolume>>,
        classes: Vec<Arc<StorageClass>>,
        pods: Vec<String>,
    }

    impl View for World {
        fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
            self.volumes.iter().find(|volume| volume.name_str() == name).cloned()
        }
        fn candidates(&self, _: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
            self.volumes.clone()
        }
        fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
            self.classes.iter().find(|class| class.name_str() == name).cloned()
        }
        fn classes(&self) -> Vec<Arc<StorageClass>> {
            self.classes.clone()
        }
        fn unscheduled_pods(&self, _: &PersistentVolumeClaim) -> Vec<String> {
            self.pods.clone()
        }
    }

    fn claim(annotations: Value, volume: Option<&str>, class: Option<&str>) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"namespace": "n", "name": "a", "uid": "u", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": volume, "storageClassName": class}}),
        )
        .unwrap()
    }

    fn volume(claim_ref: Option<Value>) -> World {
        let volume = json!({"metadata": {"name": "v"}, "status": {"phase": "Available"}, "spec": {"claimRef": claim_ref,
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "c"}});
        World { volumes: vec![Arc::new(serde_json::from_value(volume).unwrap())], ..World::default() }
    }

    fn class(provisioner: &str, mode: &str, default: bool) -> World {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": default.to_string()});
        let class = json!({"metadata": {"name": "c", "annotations": annotations}, "provisioner": provisioner, "volumeBindingMode": mode});
        World { classes: vec![Arc::new(serde_json::from_value(class).unwrap())], ..World::default() }
    }

    fn kind(step: Result<Step, String>) -> String {
        match step.unwrap() {
            Step::Bind(volume) => format!("bind {}", volume.name_str()),
            Step::Pend(None) => "pend".into(),
            Step::Pend(Some(told)) => format!("pend {}", told.reason),
            Step::Lose(told) => format!("lose {}", told.reason),
            Step::SetClass(name) => format!("class {name}"),
            Step::Provision(name) => format!("provision {name}"),
            Step::Tell(told) => format!("tell {}", told.message),
            Step::Retry(told) => format!("retry {}", told.reason),
        }
    }

    #[test]
    fn unfinished_claims() {
        let ours = json!({"namespace": "n", "name": "a", "uid": "u"});
        let pre_bound = json!({"namespace": "n", "name": "a"});
        let others = json!({"namespace": "n", "name": "b", "uid": "x"});
        let no_pod = class("d.example.com", "WaitForFirstConsumer", false);
        let pod = World { pods: vec!["p".into()], ..class("d.example.com", "WaitForFirstConsumer", false) };
        let controller = json!({BOUND_BY_CONTROLLER: "yes"});
        let selected = json!({SELECTED_NODE: "n1"});
        let none = json!({});
        type Row<'a> = (&'a Value, Option<&'a str>, Option<&'a str>, World, &'a str);
        let table: Vec<Row<'_>> = vec![
            (&none, None, Some("c"), volume(None), "bind v"),
            (&none, None, Some("c"), volume(Some(others.clone())), "tell storageclass.storage.k8s.io \"c\" not found"),
            (&none, None, Some("c"), volume(Some(pre_bound.clone())), "bind v"),
            (&none, None, Some(""), volume(None), "pend FailedBinding"),
            (&none, None, None, World::default(), "pend FailedBinding"),
            (&none, None, None, class("d.example.com", "Immediate", true), "class c"),
            (&none, None, None, class("d.example.com", "Immediate", false), "pend FailedBinding"),
            (&none, None, Some("c"), class("d.example.com", "Immediate", false), "provision d.example.com"),
            (
                &none,
                None,
                Some("c"),
                class("kubernetes.io/gce-pd", "Immediate", false),
                "provision pd.csi.storage.gke.io",
            ),
            (
                &none,
                None,
                Some("c"),
                class("kubernetes.io/no-provisioner", "Immediate", false),
                "tell no volume plugin matched name: kubernetes.io/no-provisioner",
            ),
            (&none, None, Some("c"), no_pod, "pend WaitForFirstConsumer"),
            (&none, None, Some("c"), pod, "pend WaitForPodScheduled"),
            (
                &selected,
                None,
                Some("c"),
                class("d.example.com", "WaitForFirstConsumer", false),
                "provision d.example.com",
            ),
            (&none, Some("v"), Some("c"), World::default(), "pend"),
            (&none, Some("v"), Some("c"), volume(None), "bind v"),
            (&none, Some("v"), Some("d"), volume(None), "pend VolumeMismatch"),
            (&none, Some("v"), Some("c"), volume(Some(ours)), "bind v"),
            (&none, Some("v"), Some("d"), volume(Some(pre_bound)), "bind v"),
            (&none, Some("v"), Some("c"), volume(Some(others.clone())), "pend FailedBinding"),
            (&controller, Some("v"), Some("c"), volume(Some(others)), "retry FailedBinding"),
        ];
        for (annotations, name, class, world, want) in table {
            let claim = claim(annotations.clone(), name, class);
            assert_eq!(kind(step(&claim, &world, true)), want, "{annotations} {name:?} {class:?}");
        }
        let off = step(&claim(none, None, Some("c")), &class("d.example.com", "Immediate", false), false);
        assert_eq!(kind(off), "pend");
    }

    #[test]
    fn finished_claims() {
        let done = json!({BIND_COMPLETED: "yes"});
        let table = [
            (None, World::default(), "lose ClaimLost"),
            (Some("v"), World::default(), "lose ClaimLost"),
            (Some("v"), volume(None), "bind v"),
            (Some("v"), volume(Some(json!({"namespace": "n", "name": "a", "uid": "u"}))), "bind v"),
            (Some("v"), volume(Some(json!({"namespace": "n", "name": "a", "uid": "x"}))), "lose ClaimMisbound"),
        ];
        for (name, world, want) in table {
            assert_eq!(kind(step(&claim(done.clone(), name, Some("c")), &world, true)), want, "{name:?}");
        }
    }
}
