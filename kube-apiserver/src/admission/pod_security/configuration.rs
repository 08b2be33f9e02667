//! PodSecurity's configuration: what holds for namespaces without labels, and who is exempt.

use common::meta::names;
use serde::Deserialize;

use super::policy::{LevelVersion, Policy, parse_level, parse_version};
use crate::{
    admission::configuration::versioned,
    resources::field::{ErrorList, Path},
};

const VERSIONS: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

/// Whoever and whatever the standards do not apply to.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Exemptions {
    pub usernames: Vec<String>,
    pub namespaces: Vec<String>,
    pub runtime_classes: Vec<String>,
}

/// The plugin's configuration.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    pub defaults: Policy,
    pub exemptions: Exemptions,
}

impl Configuration {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let File { defaults, exemptions } = versioned(text, &VERSIONS, "PodSecurityConfiguration")?;
        let mut errs = ErrorList::new();
        let policy = Policy {
            enforce: level_version("enforce", &defaults.enforce, &defaults.enforce_version, &mut errs),
            warn: level_version("warn", &defaults.warn, &defaults.warn_version, &mut errs),
            audit: level_version("audit", &defaults.audit, &defaults.audit_version, &mut errs),
        };
        check("namespaces", &exemptions.namespaces, names::dns1123_label, &mut errs);
        check("runtimeClasses", &exemptions.runtime_classes, names::dns1123_subdomain, &mut errs);
        let not_empty =
            |name: &str| if name.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() };
        check("usernames", &exemptions.usernames, not_empty, &mut errs);
        if errs.is_empty() { Ok(Self { defaults: policy, exemptions }) } else { Err(errs.message()) }
    }
}

fn level_version(mode: &str, level: &str, version: &str, errs: &mut ErrorList) -> LevelVersion {
    let root = Path::root("defaults");
    let mut out = LevelVersion::default();
    if !level.is_empty() {
        match parse_level(level) {
            Ok(level) => out.level = level,
            Err(text) => errs.invalid(&root.child(mode), level, text),
        }
    }
    if !version.is_empty() {
        match parse_version(version) {
            Ok(version) => out.version = version,
            Err(text) => errs.invalid(&root.child(&format!("{mode}-version")), version, text),
        }
    }
    out
}

fn check(list: &str, names: &[String], rule: names::Rule, errs: &mut ErrorList) {
    let root = Path::root("exemptions");
    let root = root.child(list);
    for (i, name) in names.iter().enumerate() {
        let complaints = rule(name);
        if !complaints.is_empty() {
            errs.invalid(&root.index(i), name.as_str(), complaints.join(", "));
        } else if names[..i].contains(name) {
            errs.duplicate(&root.index(i), name.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_set_defaults_and_exemptions() {
        let head = format!("apiVersion: {}\nkind: PodSecurityConfiguration\n", VERSIONS[0]);
        let parse = |text: &str| Configuration::parse(&format!("{head}{text}"));
        let read = parse("defaults: {enforce: baseline, enforce-version: v1.30, warn: restricted}\nexemptions: {namespaces: [kube-system]}\n").unwrap();
        assert_eq!(
            [read.defaults.enforce, read.defaults.warn, read.defaults.audit].map(|level| level.to_string()),
            ["baseline:v1.30", "restricted:latest", "privileged:latest"]
        );
        assert_eq!(read.exemptions.namespaces, ["kube-system"]);
        assert_eq!(
            parse(
                "defaults: {enforce: strict, warn-version: x}\nexemptions: {usernames: [''], runtimeClasses: [a, a]}\n"
            )
            .unwrap_err(),
            "[defaults.enforce: Invalid value: \"strict\": must be one of privileged, baseline, restricted, \
             defaults.warn-version: Invalid value: \"x\": must be \"latest\" or \"v1.x\", \
             exemptions.runtimeClasses[1]: Duplicate value: \"a\", \
             exemptions.usernames[0]: Invalid value: \"\": username must not be empty]"
        );
        assert!(Configuration::parse("kind: X\n").is_err());
    }
}
