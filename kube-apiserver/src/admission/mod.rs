//! Admission: plugins that may change or refuse a write, one file each, in upstream's order.

mod certificates;
pub mod configuration;
mod default_tolerations;
mod event_rate_limit;
mod image_policy;
mod ingress_class;
mod limit_ranger;
mod namespace_lifecycle;
mod namespace_provision;
mod node_features;
mod node_restriction;
mod owner_references;
mod pod_node_selector;
mod pod_security;
mod pod_tolerations;
mod priority;
mod quota;
mod runtime_class;
mod service_account;
mod simple;
mod storage;
mod taint_nodes;
mod tolerations;
mod topology_labels;

use async_trait::async_trait;
use serde_json::Value;

use self::configuration::Configurations;
use crate::{
    request::{ApiError, ApiResult, options::DeleteOptions},
    server::Call,
    storage::cache::{ListQuery, ResourceVersion, Selection},
};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object (or a subresource's creation, as bindings and evictions).
    Create,
    /// A changed object.
    Update,
    /// A deletion.
    Delete,
}

/// One write as the plugins see it.
pub struct Attributes<'a> {
    /// The request.
    pub call: &'a Call,
    /// What is being done.
    pub operation: Operation,
    /// API group.
    pub group: &'a str,
    /// Resource.
    pub resource: &'a str,
    /// Subresource, empty for the object itself.
    pub subresource: &'a str,
    /// Kind of the object.
    pub kind: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name; empty when it is still to be generated.
    pub name: &'a str,
    /// The current object on updates and deletes.
    pub old: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Options of a delete.
    pub delete: Option<&'a DeleteOptions>,
}

impl Attributes<'_> {
    /// Whether this is about `group/resource` itself, not a subresource.
    #[must_use]
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource.is_empty()
    }

    /// The objects of another kind, of one namespace or of all, as the cache has them.
    ///
    /// # Errors
    /// The cache is unavailable.
    pub async fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> ApiResult<Vec<Value>> {
        let store = self.call.registry.of(group, plural)?;
        let selection = Selection::namespace(namespace);
        let query = ListQuery { selection, version: ResourceVersion::Any, ..ListQuery::default() };
        let page = store.cache.list(query).await.map_err(|e| store.cache_error(e))?;
        page.items.iter().map(|item| serde_json::from_slice(item.bytes()).map_err(ApiError::internal)).collect()
    }

    /// 403 about the object.
    #[must_use]
    pub fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(self.group, self.resource, self.name, why)
    }
}

/// An admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// May change the object, may refuse.
    async fn admit(&self, _request: &Attributes<'_>, _object: &mut Value) -> ApiResult<()> {
        Ok(())
    }

    /// May refuse. `object` is absent on deletes.
    async fn validate(&self, _request: &Attributes<'_>, _object: Option<&Value>) -> ApiResult<()> {
        Ok(())
    }
}

type Made = Result<Box<dyn Plugin>, String>;

/// How a plugin comes to be.
#[derive(Clone, Copy)]
enum Make {
    /// Corten has it not yet.
    Later,
    /// It needs no configuration.
    Plain(fn() -> Box<dyn Plugin>),
    /// It reads its configuration, if there is one.
    Configured(fn(Option<&str>) -> Made),
    /// Upstream's reads a configuration, this one can't yet.
    Unconfigured(fn() -> Box<dyn Plugin>),
}

struct Known {
    name: &'static str,
    default_on: bool,
    make: Make,
}

const fn later(name: &'static str, default_on: bool) -> Known {
    Known { name, default_on, make: Make::Later }
}

const fn here(name: &'static str, default_on: bool, make: fn() -> Box<dyn Plugin>) -> Known {
    Known { name, default_on, make: Make::Plain(make) }
}

const fn configured(name: &'static str, default_on: bool, make: fn(Option<&str>) -> Made) -> Known {
    Known { name, default_on, make: Make::Configured(make) }
}

/// All of upstream's plugins in upstream's order.
const KNOWN: &[Known] = &[
    here("AlwaysAdmit", false, || Box::new(simple::AlwaysAdmit)),
    here("NamespaceAutoProvision", false, || Box::new(namespace_provision::NamespaceAutoProvision)),
    here("NamespaceLifecycle", true, || Box::new(namespace_lifecycle::NamespaceLifecycle)),
    here("NamespaceExists", false, || Box::new(simple::NamespaceExists)),
    here("LimitPodHardAntiAffinityTopology", false, || Box::new(simple::LimitPodHardAntiAffinityTopology)),
    here("LimitRanger", true, || Box::new(limit_ranger::LimitRanger)),
    here("ServiceAccount", true, || Box::new(service_account::ServiceAccount)),
    here("NodeRestriction", false, || Box::new(node_restriction::NodeRestriction)),
    here("TaintNodesByCondition", true, || Box::new(taint_nodes::TaintNodesByCondition)),
    here("AlwaysPullImages", false, || Box::new(simple::AlwaysPullImages)),
    configured("ImagePolicyWebhook", false, |text| Ok(Box::new(image_policy::ImagePolicyWebhook::new(text)?))),
    configured("PodSecurity", true, |text| Ok(Box::new(pod_security::PodSecurity::new(text)?))),
    configured("PodNodeSelector", false, |text| Ok(Box::new(pod_node_selector::PodNodeSelector::new(text)))),
    here("PodTopologyLabels", true, || Box::new(topology_labels::PodTopologyLabels)),
    here("Priority", true, || Box::new(priority::Priority)),
    here("DefaultTolerationSeconds", true, || Box::new(default_tolerations::DefaultTolerationSeconds)),
    configured("PodTolerationRestriction", false, |text| {
        Ok(Box::new(pod_tolerations::PodTolerationRestriction::new(text)?))
    }),
    configured("EventRateLimit", false, |text| Ok(Box::new(event_rate_limit::EventRateLimit::new(text)?))),
    here("ExtendedResourceToleration", false, || Box::new(simple::ExtendedResourceToleration)),
    here("DefaultStorageClass", true, || Box::new(storage::DefaultStorageClass)),
    here("StorageObjectInUseProtection", true, || Box::new(storage::StorageObjectInUseProtection)),
    here("OwnerReferencesPermissionEnforcement", false, || {
        Box::new(owner_references::OwnerReferencesPermissionEnforcement)
    }),
    here("PersistentVolumeClaimResize", true, || Box::new(storage::PersistentVolumeClaimResize)),
    here("RuntimeClass", true, || Box::new(runtime_class::RuntimeClass)),
    here("CertificateApproval", true, || Box::new(certificates::CertificateApproval)),
    here("CertificateSigning", true, || Box::new(certificates::CertificateSigning)),
    here("ClusterTrustBundleAttest", true, || Box::new(certificates::ClusterTrustBundleAttest)),
    here("CertificateSubjectRestriction", true, || Box::new(certificates::CertificateSubjectRestriction)),
    here("DefaultIngressClass", true, || Box::new(ingress_class::DefaultIngressClass)),
    here("DenyServiceExternalIPs", false, || Box::new(simple::DenyServiceExternalIPs)),
    here("NodeDeclaredFeatureValidator", true, || Box::new(node_features::NodeDeclaredFeatureValidator)),
    later("PodGroupWorkloadExists", false),
    later("MutatingAdmissionPolicy", true),
    later("MutatingAdmissionWebhook", true),
    later("ValidatingAdmissionPolicy", true),
    later("ValidatingAdmissionWebhook", true),
    Known { name: "ResourceQuota", default_on: true, make: Make::Unconfigured(|| Box::new(quota::ResourceQuota)) },
    here("AlwaysDeny", false, || Box::new(simple::AlwaysDeny)),
];

/// The enabled plugins in order.
#[derive(Default)]
pub struct Chain(Vec<Box<dyn Plugin>>);

impl Chain {
    /// The default plugins, plus `enabled`, minus `disabled`.
    ///
    /// # Errors
    /// Names an unknown plugin, one that is asked for and not there yet, or one whose configuration is wrong.
    pub fn new(enabled: &[String], disabled: &[String], configurations: &Configurations) -> Result<Self, String> {
        for (flag, names) in [("enable-admission-plugins", enabled), ("disable-admission-plugins", disabled)] {
            if let Some(name) = names.iter().find(|n| !KNOWN.iter().any(|k| k.name == n.as_str())) {
                return Err(format!("{flag} plugin {name:?} is unknown"));
            }
        }
        let mut plugins = Vec::new();
        for known in KNOWN {
            let asked = enabled.iter().any(|n| n == known.name);
            let refused = disabled.iter().any(|n| n == known.name);
            if asked && refused {
                return Err(format!(
                    "{} in enable-admission-plugins and disable-admission-plugins overlapped",
                    known.name
                ));
            }
            if refused || !(asked || known.default_on) {
                continue;
            }
            let (name, text) = (known.name, configurations.of(known.name));
            match known.make {
                Make::Plain(make) => plugins.push(make()),
                Make::Configured(make) => {
                    let made = make(text).map_err(|why| format!("couldn't init admission plugin {name:?}: {why}"))?;
                    plugins.push(made);
                }
                Make::Unconfigured(_) | Make::Later if text.is_some() => {
                    return Err(format!("a configuration of admission plugin {name:?} is not supported yet"));
                }
                Make::Unconfigured(make) => plugins.push(make()),
                Make::Later if asked && !known.default_on => {
                    return Err(format!("admission plugin {name:?} is not supported yet"));
                }
                Make::Later => tracing::debug!(plugin = name, "admission plugin is not there yet"),
            }
        }
        Ok(Self(plugins))
    }

    /// Runs the mutating half.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(&self, request: &Attributes<'_>, object: &mut Value) -> ApiResult<()> {
        for plugin in &self.0 {
            plugin.admit(request, object).await?;
        }
        Ok(())
    }

    /// Runs the validating half.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        for plugin in &self.0 {
            plugin.validate(request, object).await?;
        }
        Ok(())
    }

    /// Names of the plugins that run.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|p| p.name())
    }
}

/// The newest of the objects that one of these annotations marks as default; by name among equals.
fn newest_default<'a>(objects: &'a [Value], annotations: &[&str]) -> Option<&'a str> {
    let text = |object: &'a Value, field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let marked = |object: &&Value| annotations.iter().any(|name| object["metadata"]["annotations"][*name] == "true");
    let order = |a: &&'a Value, b: &&'a Value| {
        text(a, "creationTimestamp").cmp(text(b, "creationTimestamp")).then(text(b, "name").cmp(text(a, "name")))
    };
    objects.iter().filter(marked).max_by(order).map(|object| text(object, "name"))
}

/// Several complaints in one text, as upstream's aggregates read: one as it is, more in brackets, repeats dropped.
fn joined(mut texts: Vec<String>) -> String {
    let mut seen = std::collections::BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) }
}

/// The namespace of the request, from the store when the cache has it not yet.
async fn namespace(request: &Attributes<'_>) -> ApiResult<Value> {
    let store = request.call.registry.core("namespaces")?;
    match store.glance("", request.namespace).await? {
        Some(found) => Ok(found.object),
        None => Ok(store.get("", request.namespace).await?.object),
    }
}

/// A static pod's shadow in the API.
fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some()
}

/// The first kind of API object that a pod refers to: what mirror pods must not do.
fn referenced_kind(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let list = |v: &'_ Value| v.as_array().cloned().unwrap_or_default();
    if !spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        return Some("serviceaccounts");
    }
    if !list(&spec["imagePullSecrets"]).is_empty() {
        return Some("secrets");
    }
    for containers in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(&spec[containers]) {
            let sources = list(&container["env"]).into_iter().map(|e| e["valueFrom"].clone());
            for source in sources.chain(list(&container["envFrom"])) {
                for (field, kind) in [
                    ("secretKeyRef", "secrets"),
                    ("secretRef", "secrets"),
                    ("configMapKeyRef", "configmaps"),
                    ("configMapRef", "configmaps"),
                ] {
                    if source.get(field).is_some_and(|v| !v.is_null()) {
                        return Some(kind);
                    }
                }
            }
        }
    }
    for volume in list(&spec["volumes"]) {
        for (field, kind) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims"),
        ] {
            if volume.get(field).is_some_and(|v| !v.is_null()) {
                return Some(kind);
            }
        }
        for source in list(&volume["projected"]["sources"]) {
            for (field, kind) in [
                ("secret", "secrets"),
                ("configMap", "configmaps"),
                ("serviceAccountToken", "serviceaccounts"),
                ("clusterTrustBundle", "clustertrustbundles"),
            ] {
                if source.get(field).is_some_and(|v| !v.is_null()) {
                    return Some(kind);
                }
            }
        }
    }
    spec["resourceClaims"].as_array().filter(|c| !c.is_empty()).map(|_| "resourceclaims")
}
