//! Who has which CPUs, in upstream's checkpoint `cpu_manager_state`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::super::checkpoint::{self, checksum, go_map};
use super::CpuSet;

/// CPUs by pod and container.
pub(super) type Entries = BTreeMap<String, BTreeMap<String, CpuSet>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    policy: String,
    /// CPUs that are nobody's own.
    pub(super) default: CpuSet,
    pub(super) entries: Entries,
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(rename = "policyName")]
    policy: String,
    #[serde(rename = "defaultCpuSet", alias = "defaultCPUSet")]
    default: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    checksum: u64,
}

impl File {
    fn checksum(&self) -> u64 {
        let entries =
            go_map(self.entries.iter().map(|(pod, of)| (pod, go_map(of.iter().map(|(c, set)| (c, set.clone()))))));
        checksum(&format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} Entries:(map[string]map[string]string){entries} Checksum:(checksum.Checksum)0}}",
            self.policy, self.default
        ))
    }
}

impl State {
    pub(super) fn new(policy: &str) -> Self {
        Self { policy: policy.to_owned(), default: CpuSet::default(), entries: Entries::new() }
    }

    /// What the last kubelet left; an error when it is not for this policy, or not what was written.
    pub(super) fn load(path: &Path, policy: &str) -> anyhow::Result<Option<Self>> {
        let Some(file) = checkpoint::load::<File>(path)? else { return Ok(None) };
        let remedy = format!(
            "please drain this node and delete the CPU manager checkpoint file {:?} before restarting Kubelet",
            path.display().to_string()
        );
        if file.checksum != 0 && file.checksum != file.checksum() {
            bail!("could not restore state from checkpoint: checkpoint is corrupted, {remedy}");
        }
        if file.policy != policy {
            bail!(
                "could not restore state from checkpoint: configured policy {policy:?} differs from state checkpoint policy {:?}, {remedy}",
                file.policy
            );
        }
        let set = |text: &str| {
            text.parse::<CpuSet>().map_err(|error| {
                anyhow::anyhow!(
                    "could not restore state from checkpoint: could not parse cpuset {text:?}: {error}, {remedy}"
                )
            })
        };
        let mut entries = Entries::new();
        for (pod, of) in &file.entries {
            for (container, cpus) in of {
                entries.entry(pod.clone()).or_default().insert(container.clone(), set(cpus)?);
            }
        }
        Ok(Some(Self { policy: file.policy, default: set(&file.default)?, entries }))
    }

    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let of =
            |pod: &BTreeMap<String, CpuSet>| pod.iter().map(|(name, set)| (name.clone(), set.to_string())).collect();
        let entries = self.entries.iter().map(|(pod, containers)| (pod.clone(), of(containers))).collect();
        let mut file = File { policy: self.policy.clone(), default: self.default.to_string(), entries, checksum: 0 };
        file.checksum = file.checksum();
        checkpoint::save(path, &file)
    }

    /// Whether it fits the machine; an empty one is filled.
    pub(super) fn validate(&mut self, all: &CpuSet, reserved: &CpuSet, strict: bool) -> anyhow::Result<()> {
        if self.default.is_empty() {
            if !self.entries.is_empty() {
                bail!("default cpuset cannot be empty");
            }
            self.default = if strict { all.difference(reserved) } else { all.clone() };
            return Ok(());
        }
        let there = reserved.intersection(&self.default);
        if strict && !there.is_empty() {
            bail!("some of strictly reserved cpus: \"{there}\" are present in defaultCpuSet: \"{}\"", self.default);
        }
        if !strict && there != *reserved {
            bail!("not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{}\"", self.default);
        }
        let mut known = self.default.clone();
        for (pod, containers) in &self.entries {
            for (container, cpus) in containers {
                if !self.default.intersection(cpus).is_empty() {
                    bail!(
                        "pod: {pod}, container: {container} cpuset: \"{cpus}\" overlaps with default cpuset \"{}\"",
                        self.default
                    );
                }
                known = known.union(cpus);
            }
        }
        let expected = if strict { all.difference(reserved) } else { all.clone() };
        if known != expected {
            bail!("current set of available CPUs \"{expected}\" doesn't match with CPUs in state \"{known}\"");
        }
        Ok(())
    }

    pub(super) fn of(&self, pod: &str, container: &str) -> Option<&CpuSet> {
        self.entries.get(pod)?.get(container)
    }

    pub(super) fn assign(&mut self, pod: &str, container: &str, cpus: CpuSet) {
        self.default = self.default.difference(&cpus);
        self.entries.entry(pod.to_owned()).or_default().insert(container.to_owned(), cpus);
    }

    /// Gives back what other pods had; answers whether there was anything.
    pub(super) fn release(&mut self, alive: &(dyn Fn(&str) -> bool + Sync)) -> bool {
        let gone: Vec<String> = self.entries.keys().filter(|uid| !alive(uid)).cloned().collect();
        for uid in &gone {
            for cpus in self.entries.remove(uid).into_iter().flat_map(BTreeMap::into_values) {
                self.default = self.default.union(&cpus);
            }
        }
        !gone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_upstreams() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cpu_manager_state");
        // Texts and sums of upstream's kubelet.
        for (text, policy, ok) in [
            (r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#, "none", true),
            (r#"{"policyName":"none","defaultCPUSet":"4-6","entries":{},"checksum":354655845}"#, "none", true),
            (
                r#"{"policyName":"none","defaultCPUSet":"1-3","entries":{"pod":{"container1":"4-6","container2":"1-3"}},"checksum":3610638499}"#,
                "none",
                true,
            ),
            (r#"{"policyName":"none","defaultCpuSet":"4-6","entries":{},"checksum":1337}"#, "none", false),
            (r#"{"policyName":"none","defaultCpuSet":"4-6","checksum":354655845}"#, "static", false),
            ("{", "none", false),
        ] {
            std::fs::write(&path, text).unwrap();
            let read = State::load(&path, policy);
            assert_eq!(read.is_ok(), ok, "{text} {read:?}");
            if let Ok(Some(state)) = read {
                state.save(&path).unwrap();
                assert_eq!(State::load(&path, policy).unwrap(), Some(state));
            }
        }
        State::new("none").save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#);
    }

    #[test]
    fn a_state_of_another_machine_is_refused() {
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        let state = |default: &str, own: &str| {
            let mut state = State::new("static");
            state.default = set(default);
            if !own.is_empty() {
                state.entries.entry("p".into()).or_default().insert("c".into(), set(own));
            }
            state
        };
        for (default, own, strict, want) in [
            ("", "", false, Ok(())),
            ("0-7", "", false, Ok(())),
            ("0-3", "4-7", false, Ok(())),
            ("1-7", "", true, Ok(())),
            ("", "1", false, Err("default cpuset cannot be empty")),
            ("1-7", "", false, Err("not all reserved cpus")),
            ("0-7", "", true, Err("some of strictly reserved cpus")),
            ("0-3", "3-7", false, Err("overlaps with default cpuset")),
            ("0-3", "4-6", false, Err("doesn't match with CPUs in state")),
        ] {
            let outcome = state(default, own).validate(&set("0-7"), &set("0"), strict);
            match want {
                Ok(()) => assert!(outcome.is_ok(), "{default} {own}: {outcome:?}"),
                Err(part) => assert!(outcome.unwrap_err().to_string().contains(part), "{default} {own}"),
            }
        }
    }
}
