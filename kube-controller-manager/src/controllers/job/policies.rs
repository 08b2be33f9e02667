//! `podFailurePolicy` and `successPolicy`. Pure.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::indexes::Indexes;
use crate::shared::meta::MetaExt;

/// What the first matching rule says about a failed pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Counts towards the back-off limit, by a rule or because none matches.
    Count,
    Ignore,
    FailIndex,
    /// With the message of the condition.
    FailJob(String),
}

impl Verdict {
    pub(super) fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// Judges a failed pod.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let name = || format!("{}/{}", pod.ns_str(), pod.name_str());
    for (index, rule) in policy.iter().flat_map(|p| p.rules.iter()).enumerate() {
        let tail = format!("matching {} rule at index {index}", rule.action);
        let message = if let Some(requirement) = &rule.on_exit_codes {
            failed_container(pod, requirement).map(|(status, code)| {
                format!("Container {} for pod {} failed with exit code {code} {tail}", status.name, name())
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or(&[]);
            matching_condition(pod, patterns).map(|c| format!("Pod {} has condition {} {tail}", name(), c.type_))
        };
        let Some(message) = message else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => return Verdict::FailJob(message),
            _ => {}
        }
    }
    Verdict::Count
}

fn failed_container<'a>(
    pod: &'a Pod,
    requirement: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a ContainerStatus, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let matches = |code: i32| match requirement.operator.as_str() {
        "In" => requirement.values.contains(&code),
        "NotIn" => !requirement.values.contains(&code),
        _ => false,
    };
    all.filter(|s| requirement.container_name.as_ref().is_none_or(|n| *n == s.name))
        .filter_map(|s| Some((s, s.state.as_ref()?.terminated.as_ref()?.exit_code)))
        .find(|(_, code)| *code != 0 && matches(*code))
}

fn matching_condition<'a>(
    pod: &'a Pod,
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref().unwrap_or(&[]);
    conditions
        .iter()
        .find(|c| patterns.iter().any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status))
}

/// The message of the first rule of a success policy that the succeeded indexes meet.
pub(super) fn success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = |rule: &k8s_openapi::api::batch::v1::SuccessPolicyRule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let there = wanted.overlap(succeeded);
            !wanted.is_empty() && (there == wanted.total() || rule.succeeded_count.is_some_and(|n| there >= n))
        }
        None => rule.succeeded_count.is_some_and(|n| succeeded.total() >= n),
    };
    let index = policy?.rules.iter().position(met)?;
    Some(format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(code: i32, condition: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "status": {
            "conditions": [{"type": condition, "status": "True"}],
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}}]}}))
        .unwrap()
    }

    #[test]
    fn failures() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [3]}},
            {"action": "FailJob", "onExitCodes": {"containerName": "other", "operator": "NotIn", "values": [5]}},
            {"action": "FailJob", "onPodConditions": [{"type": "Bad", "status": "True"}]}]}))
        .unwrap();
        for (code, condition, want) in [
            (42, "DisruptionTarget", Verdict::Ignore),
            (
                42,
                "x",
                Verdict::FailJob(
                    "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1".into(),
                ),
            ),
            (3, "x", Verdict::FailIndex),
            (1, "x", Verdict::Count),
            (1, "Bad", Verdict::FailJob("Pod ns/p has condition Bad matching FailJob rule at index 4".into())),
        ] {
            assert_eq!(judge(Some(&policy), &pod(code, condition)), want, "{code} {condition}");
        }
        assert_eq!(judge(None, &pod(1, "x")), Verdict::Count);
    }

    #[test]
    fn successes() {
        let met = |rules: Value, succeeded: &str| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            success(Some(&policy), 10, &Indexes::parse(succeeded, 10))
        };
        let first = Some("Matched rules at index 0".to_owned());
        assert_eq!(met(json!([{"succeededIndexes": "0,2"}]), "0-2"), first);
        assert_eq!(met(json!([{"succeededIndexes": "0,2"}]), "0,1"), None);
        assert_eq!(met(json!([{"succeededIndexes": "0-5", "succeededCount": 2}]), "1,4"), first);
        assert_eq!(met(json!([{"succeededCount": 3}]), "1,4"), None);
        assert_eq!(
            met(json!([{"succeededCount": 3}, {"succeededCount": 2}]), "1,4"),
            Some("Matched rules at index 1".into())
        );
        assert_eq!(met(json!([{"succeededIndexes": "0"}]), ""), None);
        assert_eq!(success(None, 10, &Indexes::parse("1", 10)), None);
    }
}
