//! Small plugins that are off by default and need nothing but the object.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin, joined};
use crate::{
    request::{ApiError, ApiResult},
    resources::{
        field::{ErrorList, Path},
        names,
        value::{each, existing, list_at, member, str_at, strings_at},
    },
};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Does nothing.
pub(super) struct AlwaysAdmit;

impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
}

/// Refuses everything.
pub(super) struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    async fn validate(&self, request: &Attributes<'_>, _object: Option<&Value>) -> ApiResult<()> {
        Err(request.forbidden("admission control is denying all modifications"))
    }
}

/// Images are pulled for every start, so that only who may pull them runs them.
pub(super) struct AlwaysPullImages;

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    async fn admit(&self, request: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
        let Some(spec) = existing(pod, "spec").filter(|_| request.is("", "pods")) else { return Ok(()) };
        for list in CONTAINERS {
            each(spec, list).for_each(|container| container["imagePullPolicy"] = "Always".into());
        }
        for image in each(spec, "volumes").filter_map(|volume| existing(volume, "image")) {
            image["pullPolicy"] = "Always".into();
        }
        Ok(())
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| request.is("", "pods")) else { return Ok(()) };
        let mut errors = ErrorList::new();
        for list in CONTAINERS {
            for (i, container) in list_at(pod, &format!("spec.{list}")).iter().enumerate() {
                let (spec, policy) = (Path::root("spec"), str_at(container, "imagePullPolicy"));
                if policy != "Always" {
                    errors.not_supported(&spec.child(list).index(i).child("imagePullPolicy"), policy, &["Always"]);
                }
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let texts = errors.iter().map(|e| request.forbidden(e).to_string()).collect();
        Err(ApiError::new(403, "Forbidden", joined(texts), None))
    }
}

/// Pods that ask for an extended resource tolerate the taint of its name.
pub(super) struct ExtendedResourceToleration;

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    async fn admit(&self, request: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
        if request.is("", "pods") {
            tolerate(pod);
        }
        Ok(())
    }
}

fn tolerate(pod: &mut Value) {
    let containers = list_at(pod, "spec.containers").iter().chain(list_at(pod, "spec.initContainers"));
    let wanted: BTreeSet<String> = containers
        .flat_map(|container| strings_at(container, "resources.requests"))
        .map(|(name, _)| name.to_owned())
        .filter(|name| names::is_extended_resource(name))
        .collect();
    for key in wanted {
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
        if list_at(pod, "spec.tolerations").contains(&toleration) {
            continue;
        }
        let Some(spec) = member(pod, "spec") else { return };
        match spec["tolerations"].as_array_mut() {
            Some(list) => list.push(toleration),
            None => spec["tolerations"] = vec![toleration].into(),
        }
    }
}

/// No service gets new external addresses.
pub(super) struct DenyServiceExternalIPs;

#[async_trait]
impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(service) = object.filter(|_| request.is("", "services")) else { return Ok(()) };
        let known = request.old.map(|old| list_at(old, "spec.externalIPs")).unwrap_or_default();
        if list_at(service, "spec.externalIPs").iter().all(|ip| known.contains(ip)) {
            return Ok(());
        }
        Err(request.forbidden("Use of external IPs is denied by admission control"))
    }
}

/// Required anti-affinity works by node only.
pub(super) struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| request.is("", "pods")) else { return Ok(()) };
        let terms = list_at(pod, "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution");
        match terms.iter().map(|t| str_at(t, "topologyKey")).find(|key| *key != "kubernetes.io/hostname") {
            None => Ok(()),
            Some(key) => Err(request.forbidden(format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key kubernetes.io/hostname is allowed"
            ))),
        }
    }
}

/// Nothing is written into namespaces that are not there.
pub(super) struct NamespaceExists;

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    async fn validate(&self, request: &Attributes<'_>, _object: Option<&Value>) -> ApiResult<()> {
        let is_namespace = request.group.is_empty() && request.resource == "namespaces";
        if request.namespace.is_empty()
            || is_namespace
            || request.operation == Operation::Delete && request.old.is_none()
        {
            return Ok(());
        }
        request.call.registry.core("namespaces")?.get("", request.namespace).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_resources_are_tolerated_once() {
        let mut pod =
            json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1", "example.com/gpu": "1"}}}]}});
        tolerate(&mut pod);
        tolerate(&mut pod);
        assert_eq!(
            pod["spec"]["tolerations"],
            json!([{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
        );
    }
}
