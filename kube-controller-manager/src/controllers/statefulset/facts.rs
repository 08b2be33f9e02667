//! Reading StatefulSets and their pods: ordinals, names, revisions, volumes. All pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use crate::shared::history::REVISION_LABEL;
use crate::shared::meta::MetaExt;
use crate::shared::owned::Owner;
use crate::shared::pod_control::pod_from_template;

/// The label with the pod's own name.
pub(super) const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// The label with the pod's ordinal.
pub(super) const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The owner's name and the ordinal that a pod's name is made of.
pub(super) fn parse_name(name: &str) -> Option<(&str, i32)> {
    let (parent, ordinal) = name.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
    if digits { Some((parent, ordinal.parse().ok()?)) } else { None }
}

/// The pod's ordinal.
pub(super) fn ordinal(pod: &Pod) -> Option<i32> {
    parse_name(pod.name_str()).map(|(_, ordinal)| ordinal)
}

/// The revision that a pod is of.
pub(super) fn pod_revision(pod: &Pod) -> &str {
    pod.label(REVISION_LABEL).unwrap_or("")
}

/// Shorter access to the spec, absent as default.
pub(super) trait StatefulSetExt {
    fn sspec(&self) -> Option<&StatefulSetSpec>;

    fn replicas(&self) -> i32 {
        self.sspec().and_then(|s| s.replicas).unwrap_or(1).max(0)
    }
    /// The first ordinal.
    fn first(&self) -> i32 {
        self.sspec().and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0)
    }
    /// Is the ordinal one that the set wants?
    fn wants(&self, ordinal: i32) -> bool {
        ordinal >= self.first() && ordinal - self.first() < self.replicas()
    }
    /// Pods come and go one after the other.
    fn is_ordered(&self) -> bool {
        self.sspec().and_then(|s| s.pod_management_policy.as_deref()) != Some("Parallel")
    }
    fn is_rolling(&self) -> bool {
        let strategy = self.sspec().and_then(|s| s.update_strategy.as_ref());
        strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
    }
    fn rolling(&self) -> Option<&RollingUpdateStatefulSetStrategy> {
        self.sspec()?.update_strategy.as_ref()?.rolling_update.as_ref()
    }
    fn partition(&self) -> i32 {
        self.rolling().and_then(|r| r.partition).unwrap_or(0)
    }
    fn claim_templates(&self) -> &[PersistentVolumeClaim] {
        self.sspec().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or(&[])
    }
    /// (whenDeleted, whenScaled): are claims to be deleted then?
    fn retention(&self) -> (bool, bool) {
        let policy = self.sspec().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
        let deletes = |text: Option<&String>| text.is_some_and(|t| t == "Delete");
        policy.map_or((false, false), |p| (deletes(p.when_deleted.as_ref()), deletes(p.when_scaled.as_ref())))
    }
}

impl StatefulSetExt for StatefulSet {
    fn sspec(&self) -> Option<&StatefulSetSpec> {
        self.spec.as_ref()
    }
}

/// The name of the claim that a template makes for an ordinal.
pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name_str(), set.name_str())
}

/// The claims of an ordinal, by the name of their volume.
pub(super) fn claims_of(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let selected = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let make = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        let labels: &mut BTreeMap<_, _> = claim.metadata.labels.get_or_insert_default();
        labels.extend(selected.clone());
        (template.name_str().to_owned(), claim)
    };
    set.claim_templates().iter().map(make).collect()
}

/// Makes the pod's volumes those of the set's claims, and what else the template has.
pub(super) fn set_volumes(set: &StatefulSet, pod: &mut Pod) {
    let Some(ordinal) = ordinal(pod) else { return };
    let claims = claims_of(set, ordinal);
    if claims.is_empty() {
        return;
    }
    let volume = |(name, claim): &(String, PersistentVolumeClaim)| Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.name_str().to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    };
    let mut volumes: Vec<Volume> = claims.iter().map(volume).collect();
    let spec = pod.spec.get_or_insert_default();
    let others = spec.volumes.take().unwrap_or_default().into_iter();
    volumes.extend(others.filter(|v| claims.iter().all(|(name, _)| *name != v.name)));
    spec.volumes = Some(volumes);
}

/// Gives the pod the labels that its name stands for.
pub(super) fn set_identity(pod: &mut Pod) {
    let name = pod.name_str().to_owned();
    let ordinal = ordinal(pod).unwrap_or(-1);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.to_owned(), name);
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
}

/// Does the pod bear its name in its label?
pub(super) fn identity_matches(set: &StatefulSet, pod: &Pod) -> bool {
    parse_name(pod.name_str())
        .is_some_and(|(parent, ordinal)| parent == set.name_str() && pod.name_str() == format!("{parent}-{ordinal}"))
        && pod.label(NAME_LABEL) == Some(pod.name_str())
}

/// Has the pod the volumes of the set's claims?
pub(super) fn storage_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal(pod) else { return false };
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or(&[]);
    set.claim_templates().iter().all(|template| {
        let volume = volumes.iter().find(|v| v.name == template.name_str());
        let claim = volume.and_then(|v| v.persistent_volume_claim.as_ref());
        claim.is_some_and(|c| c.claim_name == claim_name(set, template, ordinal))
    })
}

/// A revision: its name, and the template that it stands for.
#[derive(Debug, Clone)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: Arc<PodTemplateSpec>,
}

/// The pod of an ordinal as a revision describes it.
pub(super) fn new_pod(set: &StatefulSet, revision: &Revision, ordinal: i32) -> Pod {
    let mut pod = pod_from_template(&revision.template, set.ns_str(), set.name_str(), set.reference());
    let name = format!("{}-{ordinal}", set.name_str());
    pod.metadata.name = Some(name.clone());
    set_identity(&mut pod);
    pod.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), revision.name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    set_volumes(set, &mut pod);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names() {
        for (name, want) in [
            ("web-0", Some(("web", 0))),
            ("a-b-12", Some(("a-b", 12))),
            ("web-01", Some(("web", 1))),
            ("web-x", None),
            ("web-", None),
            ("web", None),
            ("web-99999999999", None),
        ] {
            assert_eq!(parse_name(name), want, "{name}");
        }
    }

    #[test]
    fn pods_have_identity_and_storage() {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {
            "serviceName": "svc", "selector": {"matchLabels": {"app": "x"}}, "template": {},
            "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"l": "m"}}, "spec": {}}]}}))
        .unwrap();
        let template = serde_json::from_value(json!({"metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}}))
        .unwrap();
        let revision = Revision { name: "web-1".into(), template: Arc::new(template) };
        let mut pod = new_pod(&set, &revision, 3);
        assert_eq!(pod.name_str(), "web-3");
        let spec = pod.spec.clone().unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-3"), Some("svc")));
        assert_eq!(
            json!(pod.metadata.labels),
            json!({"app": "x", "apps.kubernetes.io/pod-index": "3", "statefulset.kubernetes.io/pod-name": "web-3",
                "controller-revision-hash": "web-1"})
        );
        assert_eq!(
            json!(spec.volumes),
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-3"}}, {"name": "tmp", "emptyDir": {}}])
        );
        assert!(identity_matches(&set, &pod) && storage_matches(&set, &pod));
        let claims = claims_of(&set, 3);
        assert_eq!(json!(claims[0].1.metadata.labels), json!({"l": "m", "app": "x"}));
        pod.metadata.labels = None;
        pod.spec.as_mut().unwrap().volumes = None;
        assert!(!identity_matches(&set, &pod) && !storage_matches(&set, &pod));
    }
}
