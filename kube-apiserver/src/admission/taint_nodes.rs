//! TaintNodesByCondition: new nodes take no pods until they are known to be ready.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::request::ApiResult;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(&self, request: &Attributes<'_>, node: &mut Value) -> ApiResult<()> {
        if request.is("", "nodes") && request.operation == Operation::Create {
            add_taint(node);
        }
        Ok(())
    }
}

fn add_taint(node: &mut Value) {
    let taints = &mut node["spec"]["taints"];
    let has = |t: &Value| t["key"] == NOT_READY && t["effect"] == "NoSchedule";
    if taints.as_array().is_some_and(|list| list.iter().any(has)) {
        return;
    }
    let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
    match taints.as_array_mut() {
        Some(list) => list.push(taint),
        None => *taints = json!([taint]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_taint_is_added_once() {
        let mut node = json!({"spec": {}});
        add_taint(&mut node);
        add_taint(&mut node);
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
    }
}
