//! What the scheduler keeps of a pod: an identity of its own and a shared, parsed template.
//!
//! Pods made by one controller differ only in their names; everything that decisions read is parsed once into an
//! interned [`Template`]. Thirty thousand replicas share one.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaimStatus};

use super::template::{Interner, Template};

/// A pod as the scheduler sees it. Immutable; an update makes a new one.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The shared part.
    pub template: Arc<Template>,
    /// metadata.name
    pub name: Arc<str>,
    /// metadata.uid
    pub uid: Arc<str>,
    /// spec.nodeName
    pub node_name: Option<Arc<str>>,
    /// status.nominatedNodeName
    pub nominated: Option<Arc<str>>,
    /// Whether metadata.deletionTimestamp is set.
    pub deleting: bool,
    /// status.startTime, for the choice of preemption victims.
    pub start_time: Option<Timestamp>,
    /// metadata.resourceVersion
    pub resource_version: Box<str>,
    /// Whether the pod carries a DisruptionTarget condition by the scheduler (a victim already told to go).
    pub preempted: bool,
    /// status.resourceClaimStatuses
    pub claims: Option<Arc<[ClaimStatus]>>,
}

/// Which claim was made for an entry of spec.resourceClaims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimStatus {
    /// The entry.
    pub name: Box<str>,
    /// The claim; `None` when none is needed.
    pub claim: Option<Box<str>>,
}

fn claim_statuses(pod: &Pod) -> Option<Arc<[ClaimStatus]>> {
    let statuses = pod.status.as_ref()?.resource_claim_statuses.as_ref()?;
    let status = |status: &PodResourceClaimStatus| ClaimStatus {
        name: status.name.as_str().into(),
        claim: status.resource_claim_name.as_deref().map(Box::from),
    };
    Some(statuses.iter().map(status).collect())
}

impl PodInfo {
    /// Reads a pod, sharing its template through the interner.
    pub fn new(pod: &Pod, interner: &Interner) -> Self {
        let text = |value: &Option<String>| -> Arc<str> { Arc::from(value.as_deref().unwrap_or_default()) };
        let named = |value: Option<&String>| value.filter(|name| !name.is_empty()).map(|name| Arc::from(name.as_str()));
        let status = pod.status.as_ref();
        Self {
            template: interner.template(pod),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            node_name: named(pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref())),
            nominated: named(status.and_then(|status| status.nominated_node_name.as_ref())),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            start_time: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            resource_version: pod.metadata.resource_version.as_deref().unwrap_or_default().into(),
            preempted: status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().any(|condition| {
                condition.type_ == "DisruptionTarget"
                    && condition.status == "True"
                    && condition.reason.as_deref() == Some("PreemptionByScheduler")
            }),
            claims: claim_statuses(pod),
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.template.namespace
    }

    /// `namespace/name`
    pub fn key(&self) -> String {
        format!("{}/{}", self.template.namespace, self.name)
    }

    /// The same pod placed on a node.
    pub fn on_node(&self, node: Arc<str>) -> Self {
        Self { node_name: Some(node), ..self.clone() }
    }
}
