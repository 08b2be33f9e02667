//! PodTolerationRestriction: a namespace's tolerations for its pods, and which of their own they may have.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin, configuration::versioned, tolerations};
use crate::{
    request::{ApiError, ApiResult},
    resources::{
        field::{ErrorList, Path},
        pod::scheduling,
        value::{list_at, member, set},
    },
};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const VERSION: &str = "podtolerationrestriction.admission.k8s.io/v1alpha1";

/// Tolerations of the whole cluster, for namespaces that say nothing.
#[derive(Default, Deserialize)]
pub(super) struct PodTolerationRestriction {
    #[serde(default)]
    default: Vec<Value>,
    #[serde(default)]
    whitelist: Vec<Value>,
}

impl PodTolerationRestriction {
    pub(super) fn new(text: Option<&str>) -> Result<Self, String> {
        let Some(text) = text else { return Ok(Self::default()) };
        let plugin: Self = versioned(text, &[VERSION], "Configuration")?;
        let (mut errs, root) = (ErrorList::new(), Path::root("podtolerationrestriction"));
        scheduling::tolerations(&plugin.default, &root.child("default"), &mut errs);
        scheduling::tolerations(&plugin.whitelist, &root.child("whitelist"), &mut errs);
        if errs.is_empty() { Ok(plugin) } else { Err(format!("invalid config: {}", errs.message())) }
    }

    async fn check(&self, request: &Attributes<'_>, pod: &Value) -> ApiResult<()> {
        let asked = list_at(pod, "spec.tolerations");
        if asked.is_empty() {
            return Ok(());
        }
        let own = of_namespace(request, ALLOWED).await?;
        let (list, scope) = own.as_ref().map_or((&self.whitelist, "cluster"), |own| (own, "namespace"));
        if tolerations::allowed(asked, list) {
            return Ok(());
        }
        Err(plain(format!(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
        )))
    }
}

/// An error that upstream gives no reason.
pub(super) fn plain(text: String) -> ApiError {
    ApiError::new(500, "", text, None)
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    async fn admit(&self, request: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
        if !request.is("", "pods") || request.operation == Operation::Delete {
            return Ok(());
        }
        let mut extra = Vec::new();
        if request.operation == Operation::Create {
            extra = of_namespace(request, DEFAULTS).await?.unwrap_or_else(|| self.default.clone());
        }
        if common::quota::qos::class(pod) != "BestEffort" {
            let key = "node.kubernetes.io/memory-pressure";
            extra.push(json!({"key": key, "operator": "Exists", "effect": "NoSchedule"}));
        }
        if !extra.is_empty() {
            let merged = tolerations::merge(list_at(pod, "spec.tolerations"), &extra);
            if let Some(spec) = member(pod, "spec") {
                set(spec, "tolerations", merged);
            }
        }
        self.check(request, pod).await
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        match object.filter(|_| request.is("", "pods") && request.operation != Operation::Delete) {
            Some(pod) => self.check(request, pod).await,
            None => Ok(()),
        }
    }
}

/// Tolerations in an annotation of the namespace; none is something else than an empty list.
async fn of_namespace(request: &Attributes<'_>, annotation: &str) -> ApiResult<Option<Vec<Value>>> {
    let namespace = super::namespace(request).await?;
    match namespace["metadata"]["annotations"][annotation].as_str() {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| plain(error.to_string())),
    }
}
