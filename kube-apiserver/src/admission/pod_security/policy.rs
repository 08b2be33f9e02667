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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A level as of a release; no minor version means the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub level: Level,
    pub version: Option<u32>,
}

impl LevelVersion {
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    /// Reads a namespace's labels over the defaults. What can't be read is enforced as restricted and not warned about.
    pub(super) fn of(namespace: &Value, defaults: &Policy) -> (Self, ErrorList) {
        let mut policy = *defaults;
        let mut errs = ErrorList::new();
        let label = |name: &str| self::label(namespace, name);
        let enforced = label("enforce").map(|text| level("enforce", text, &mut errs));
        if let Some(level) = enforced {
            policy.enforce.level = level.unwrap_or(Level::Restricted);
        }
        if let Some(text) = label("enforce-version") {
            policy.enforce.version = version("enforce-version", text, &mut errs);
        }
        if let Some(text) = label("audit") {
            policy.audit.level = level("audit", text, &mut errs).unwrap_or_default();
        }
        if let Some(text) = label("audit-version") {
            policy.audit.version = version("audit-version", text, &mut errs);
        }
        let warned = label("warn").map(|text| level("warn", text, &mut errs));
        let warn_version = label("warn-version").map(|text| version("warn-version", text, &mut errs));
        if let Some(level) = warned {
            policy.warn.level = level.unwrap_or_default();
        }
        policy.warn.version = warn_version.unwrap_or(policy.warn.version);
        if let (None, Some(Some(level))) = (warned, enforced)
            && level > policy.warn.level
        {
            policy.warn.level = level;
            policy.warn.version = warn_version.unwrap_or(policy.enforce.version);
        }
        (policy, errs)
    }

    /// What an exempt namespace is told whose labels ask for something all the same.
    pub(super) fn ignored(&self, namespace: &Value, name: &str, defaults: &Policy) -> Option<String> {
        let modes = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        if self == defaults || modes.iter().all(|(_, wanted)| wanted.is_privileged()) {
            return None;
        }
        let set = |mode: &str| label(namespace, mode).or(label(namespace, &format!("{mode}-version"))).is_some();
        let told = modes.iter().filter(|(mode, wanted)| !wanted.is_privileged() && set(mode));
        let told: Vec<String> = told.map(|(mode, wanted)| format!("{mode}={wanted}")).collect();
        let told = told.join(", ");
        Some(format!("namespace {name:?} is exempt from Pod Security, and the policy ({told}) will be ignored"))
    }
}

fn label<'a>(namespace: &'a Value, name: &str) -> Option<&'a str> {
    let key = format!("{PREFIX}{name}");
    strings_at(namespace, "metadata.labels").find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// A level by name, or what is wrong with it.
pub(super) fn parse_level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

/// The minor version of `v1.x`, none for `latest`, or what is wrong with it.
pub(super) fn parse_version(text: &str) -> Result<Option<u32>, &'static str> {
    if text == "latest" {
        return Ok(None);
    }
    let digits = |m: &&str| *m == "0" || !m.starts_with('0') && m.bytes().all(|b| b.is_ascii_digit());
    let minor = text.strip_prefix("v1.").filter(digits).and_then(|m| m.parse().ok());
    minor.map(Some).ok_or("must be \"latest\" or \"v1.x\"")
}

fn level(name: &str, text: &str, errs: &mut ErrorList) -> Option<Level> {
    parse_level(text).inspect_err(|why| complain(name, text, why, errs)).ok()
}

fn version(name: &str, text: &str, errs: &mut ErrorList) -> Option<u32> {
    parse_version(text).inspect_err(|why| complain(name, text, why, errs)).unwrap_or_default()
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
        let (policy, errs) = Policy::of(
            &namespace(json!({"pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/enforce-version": "v1.25"})),
            &Policy::default(),
        );
        assert!(errs.is_empty());
        assert_eq!(
            (policy.enforce.to_string(), policy.warn.to_string()),
            ("restricted:v1.25".into(), "restricted:v1.25".into())
        );
        let (policy, errs) = Policy::of(
            &namespace(json!({"pod-security.kubernetes.io/enforce": "strict",
            "pod-security.kubernetes.io/warn-version": "1.2"})),
            &Policy::default(),
        );
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
