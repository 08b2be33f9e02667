//! Levels, versions and the labels that choose them.

use std::fmt;

use serde_json::Value;

use super::checks::{CHECKS, Pod, Violations};
use crate::resources::{
    field::{ErrorList, Path},
    value::strings_at,
};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level as of a release; no minor version means the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub level: Level,
    pub version: Option<u32>,
}

impl LevelVersion {
    const PRIVILEGED: Self = Self { level: Level::Privileged, version: None };

    pub(super) fn is_privileged(self) -> bool {
        self.level == Level::Privileged
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    /// Reads a namespace's labels. What can't be read is enforced as restricted and not warned about.
    pub(super) fn of(namespace: &Value) -> (Self, ErrorList) {
        let none = LevelVersion::PRIVILEGED;
        let mut policy = Self { enforce: none, audit: none, warn: none };
        let mut errs = ErrorList::new();
        let label = |name: &str| {
            let key = format!("{PREFIX}{name}");
            strings_at(namespace, "metadata.labels").find(|(k, _)| *k == key).map(|(_, value)| value)
        };
        let enforced = label("enforce").map(|text| level("enforce", text, &mut errs));
        policy.enforce.level = enforced.map_or(Level::Privileged, |level| level.unwrap_or(Level::Restricted));
        policy.enforce.version = label("enforce-version").and_then(|text| version("enforce-version", text, &mut errs));
        let audited = label("audit").map(|text| level("audit", text, &mut errs));
        policy.audit.level = audited.flatten().unwrap_or(Level::Privileged);
        policy.audit.version = label("audit-version").and_then(|text| version("audit-version", text, &mut errs));
        let warned = label("warn").map(|text| level("warn", text, &mut errs));
        let warn_version = label("warn-version").map(|text| version("warn-version", text, &mut errs));
        policy.warn.level = warned.map_or(Level::Privileged, |level| level.unwrap_or(Level::Privileged));
        policy.warn.version = warn_version.unwrap_or_default();
        if let (None, Some(Some(level))) = (warned, enforced)
            && level > policy.warn.level
        {
            policy.warn.level = level;
            policy.warn.version = warn_version.unwrap_or(policy.enforce.version);
        }
        (policy, errs)
    }
}

fn level(name: &str, text: &str, errs: &mut ErrorList) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => {
            complain(name, text, "must be one of privileged, baseline, restricted", errs);
            None
        }
    }
}

fn version(name: &str, text: &str, errs: &mut ErrorList) -> Option<u32> {
    if text == "latest" {
        return None;
    }
    let minor =
        text.strip_prefix("v1.").filter(|m| *m == "0" || !m.starts_with('0') && m.bytes().all(|b| b.is_ascii_digit()));
    let minor = minor.and_then(|m| m.parse().ok());
    if minor.is_none() {
        complain(name, text, "must be \"latest\" or \"v1.x\"", errs);
    }
    minor
}

fn complain(name: &str, value: &str, why: &str, errs: &mut ErrorList) {
    errs.invalid(&Path::root("metadata.labels").key(&format!("{PREFIX}{name}")), value, why);
}

/// What a pod, or a pod template, does that the level does not allow.
pub(super) fn evaluate(wanted: LevelVersion, pod: &Value) -> Violations {
    if wanted.is_privileged() {
        return Violations::default();
    }
    let minor = wanted.version.unwrap_or(u32::MAX);
    let applies = |check: &&super::checks::Check| check.level <= wanted.level && check.at(minor).is_some();
    let active: Vec<_> = CHECKS.iter().filter(applies).collect();
    let overridden: Vec<&str> = active.iter().flat_map(|check| check.overrides).copied().collect();
    let pod = Pod::of(pod);
    active
        .into_iter()
        .filter(|check| !overridden.contains(&check.id))
        .filter_map(|check| check.at(minor).and_then(|run| run(&pod)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_choose_levels_and_wrong_ones_are_told() {
        let namespace = |labels: Value| json!({"metadata": {"labels": labels}});
        let (policy, errs) = Policy::of(&namespace(json!({"pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/enforce-version": "v1.25"})));
        assert!(errs.is_empty());
        assert_eq!(
            (policy.enforce.to_string(), policy.warn.to_string()),
            ("restricted:v1.25".into(), "restricted:v1.25".into())
        );
        let (policy, errs) = Policy::of(&namespace(json!({"pod-security.kubernetes.io/enforce": "strict",
            "pod-security.kubernetes.io/warn-version": "1.2"})));
        assert_eq!(policy.enforce.level, Level::Restricted);
        assert_eq!(
            errs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }
}
