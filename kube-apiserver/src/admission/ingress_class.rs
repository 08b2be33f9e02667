//! DefaultIngressClass: ingresses that name no class get the default one.

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin, newest_default};
use crate::{request::ApiResult, resources::value::at};

const GROUP: &str = "networking.k8s.io";

pub(super) struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn admit(&self, request: &Attributes<'_>, ingress: &mut Value) -> ApiResult<()> {
        let has_class = at(ingress, "spec.ingressClassName").is_some()
            || ingress["metadata"]["annotations"].get("kubernetes.io/ingress.class").is_some();
        if !request.is(GROUP, "ingresses") || request.operation != Operation::Create || has_class {
            return Ok(());
        }
        let classes = request.list(GROUP, "ingressclasses", None).await?;
        if let Some(name) = newest_default(&classes, &["ingressclass.kubernetes.io/is-default-class"]) {
            ingress["spec"]["ingressClassName"] = name.into();
        }
        Ok(())
    }
}
