//! DefaultTolerationSeconds: pods stay five minutes on nodes that are not ready or unreachable.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Plugin};
use crate::request::ApiResult;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(&self, request: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
        if request.is("", "pods") {
            let flags = &request.call.config.options.admission;
            let seconds = [
                (NOT_READY, flags.default_not_ready_toleration_seconds),
                (UNREACHABLE, flags.default_unreachable_toleration_seconds),
            ];
            add(pod, seconds);
        }
        Ok(())
    }
}

fn add(pod: &mut Value, seconds: [(&str, i64); 2]) {
    for (key, seconds) in seconds {
        let tolerations = &mut pod["spec"]["tolerations"];
        let empty_or = |v: &Value, wanted: &str| v.as_str().unwrap_or_default().is_empty() || v == wanted;
        let tolerates = |t: &Value| empty_or(&t["key"], key) && empty_or(&t["effect"], "NoExecute");
        if tolerations.as_array().is_some_and(|list| list.iter().any(tolerates)) {
            continue;
        }
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        match tolerations.as_array_mut() {
            Some(list) => list.push(toleration),
            None => *tolerations = json!([toleration]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tolerations_are_respected() {
        let mut pod = json!({"spec": {"tolerations": [{"key": NOT_READY, "operator": "Exists"}]}});
        add(&mut pod, [(NOT_READY, 300), (UNREACHABLE, 300)]);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[1]["key"], UNREACHABLE);
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        add(&mut pod, [(NOT_READY, 300), (UNREACHABLE, 300)]);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
