//! Feature gates: a snapshot taken at start-up and passed on, never a global.

use std::collections::BTreeMap;

use super::ConfigError;

/// Every gate of upstream's v1.36: name, stage, default, `locked` if the default is final. One list of gates is often given to all
/// daemons of a cluster, so each accepts what only others look at.
const UPSTREAM: &str = include_str!("gates.txt");

/// How mature a feature is; decides what `AllAlpha` and `AllBeta` switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Off by default, may vanish.
    Alpha,
    /// Usually on by default.
    Beta,
    /// Always there; not every gate can still be switched.
    Stable,
}

/// A feature that a daemon knows.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// Upstream's name.
    pub name: &'static str,
    /// Maturity.
    pub stage: Stage,
    /// Whether it is on without a flag.
    pub default: bool,
    /// Whether the default is final.
    pub locked: bool,
}

/// The gates of one daemon after flags and config file have been applied.
#[derive(Debug, Clone, Default)]
pub struct FeatureGates {
    enabled: BTreeMap<String, bool>,
}

impl FeatureGates {
    /// Applies `A=true,B=false` lists (a flag may be given several times) to the gates that the daemon knows.
    pub fn from_flags(known: &[Gate], values: &[String]) -> Result<Self, ConfigError> {
        let mut wanted = BTreeMap::new();
        for pair in values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| ConfigError::Gate(format!("missing bool value for feature gate {pair}")))?;
            let value = super::parse_go_bool(value.trim()).map_err(|_| {
                ConfigError::Gate(format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                ))
            })?;
            wanted.insert(name.trim().to_owned(), value);
        }
        Self::from_map(known, &wanted)
    }

    /// As [`Self::from_flags`], from the `featureGates` map of a config file.
    pub fn from_map(known: &[Gate], wanted: &BTreeMap<String, bool>) -> Result<Self, ConfigError> {
        let mut enabled: BTreeMap<String, bool> =
            known.iter().map(|gate| (gate.name.to_owned(), gate.default)).collect();
        for (all, stage) in [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)] {
            let Some(value) = wanted.get(all) else { continue };
            for gate in known.iter().filter(|gate| gate.stage == stage && !gate.locked) {
                enabled.insert(gate.name.to_owned(), *value);
            }
        }
        for (name, value) in wanted.iter().filter(|(name, _)| *name != "AllAlpha" && *name != "AllBeta") {
            let ours = known.iter().find(|gate| gate.name == name);
            let gate = ours
                .copied()
                .or_else(|| upstreams(name))
                .ok_or_else(|| ConfigError::Gate(format!("unrecognized feature gate: {name}")))?;
            if gate.locked && gate.default != *value {
                return Err(ConfigError::Gate(format!(
                    "cannot set feature gate {name} to {value}, feature is locked to {}",
                    gate.default
                )));
            }
            if ours.is_some() {
                enabled.insert(name.clone(), *value);
            } else if gate.default != *value {
                tracing::warn!(gate = %name, value, "feature gate without effect here");
            }
        }
        Ok(Self { enabled })
    }

    /// Whether the feature is on; a name that the daemon does not know is off.
    pub fn enabled(&self, name: &str) -> bool {
        self.enabled.get(name).copied().unwrap_or(false)
    }

    /// Every gate with its value, by name (configz, the kubernetes_feature_enabled metric).
    pub fn iter(&self) -> impl Iterator<Item = (&str, bool)> {
        self.enabled.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

/// A gate of upstream's by its name.
fn upstreams(name: &str) -> Option<Gate> {
    UPSTREAM.lines().map(str::split_ascii_whitespace).find_map(|mut words| {
        let gate = Gate {
            name: words.next().filter(|known| *known == name)?,
            stage: match words.next()? {
                "alpha" => Stage::Alpha,
                "beta" => Stage::Beta,
                _ => Stage::Stable,
            },
            default: words.next()? == "on",
            locked: words.next() == Some("locked"),
        };
        Some(gate)
    })
}

/// Whether a beta feature that is on by default is on under `A=true,B=false`, for who has no list of gates.
#[must_use]
pub fn is_beta_on(values: &str, name: &str) -> bool {
    let said = |wanted: &str| {
        let mut pairs = values.split(',').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.rfind(|(key, _)| key.trim() == wanted)?;
        super::parse_go_bool(value.trim()).ok()
    };
    said(name).or_else(|| said("AllBeta")).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Gate] = &[
        Gate { name: "A", stage: Stage::Alpha, default: false, locked: false },
        Gate { name: "B", stage: Stage::Beta, default: true, locked: false },
        Gate { name: "G", stage: Stage::Stable, default: true, locked: true },
    ];

    #[test]
    fn flags_override_defaults_and_specific_overrides_all() {
        let gates =
            FeatureGates::from_flags(KNOWN, &["AllAlpha=true,AllBeta=false".into(), "A=false,G=true".into()]).unwrap();
        assert!(!gates.enabled("A") && !gates.enabled("B") && gates.enabled("G") && !gates.enabled("Nope"));
    }

    #[test]
    fn gates_of_other_daemons_are_accepted_as_upstream_would() {
        let gates = |value: &str| FeatureGates::from_flags(KNOWN, &[value.into()]);
        assert!(!gates("NFTablesProxyMode=true,InPlacePodVerticalScaling=true").unwrap().enabled("NFTablesProxyMode"));
        let locked = "cannot set feature gate InPlacePodVerticalScaling to false, feature is locked to true";
        assert_eq!(gates("InPlacePodVerticalScaling=false").unwrap_err().to_string(), locked);
        let whole = UPSTREAM.lines().filter_map(|line| upstreams(line.split(' ').next()?)).count();
        assert_eq!(whole, UPSTREAM.lines().count());
    }

    #[test]
    fn says_what_is_wrong() {
        for (value, want) in [
            ("X=true", "unrecognized feature gate: X"),
            ("A", "missing bool value for feature gate A"),
            ("G=false", "cannot set feature gate G to false, feature is locked to true"),
        ] {
            assert_eq!(FeatureGates::from_flags(KNOWN, &[value.into()]).unwrap_err().to_string(), want);
        }
    }
}
