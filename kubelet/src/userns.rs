//! User namespaces of pods (`hostUsers: false`): each pod has a range of the machine's user and group ids for itself, kept in the pod's
//! directory in upstream's form, so that a restarted kubelet gives none twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use k8s_cri::v1 as cri;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::config::Config;

const FILE: &str = "userns";
/// Ids that a pod has when the configuration names no number; numbers are multiples of it.
const UNIT: u32 = 65536;
const SUBORDINATE_IDS: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

/// Who has which range.
pub(crate) struct UserNamespaces {
    pods: PathBuf,
    /// First range, and how many there are.
    first: u32,
    count: u32,
    length: u32,
    used: Mutex<BTreeMap<String, u32>>,
}

/// What `/etc/subuid` and `/etc/subgid` give to the user `kubelet`: first id and number of ids.
fn subordinate(text: &str) -> Option<(u32, u32)> {
    let line = text.lines().find_map(|line| line.strip_prefix("kubelet:"))?;
    let (first, count) = line.split_once(':')?;
    Some((first.trim().parse().ok()?, count.trim().parse().ok()?))
}

impl UserNamespaces {
    /// With the ranges of pods of before.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let asked = config.file.user_namespaces.as_ref().and_then(|users| users.ids_per_pod);
        let length = u32::try_from(asked.unwrap_or(i64::from(UNIT))).unwrap_or(0);
        if length == 0 || !length.is_multiple_of(UNIT) {
            bail!("kubelet user namespace length {} is not a multiple of {UNIT}", asked.unwrap_or_default());
        }
        let pods = u32::try_from(config.file.max_pods).unwrap_or(u32::MAX);
        let read = |path: &str| std::fs::read_to_string(path).ok().as_deref().and_then(subordinate);
        let [users, groups] = SUBORDINATE_IDS.map(read);
        let (from, ids) = match (users, groups) {
            (Some(users), Some(groups)) if users == groups => users,
            (None, None) => (UNIT.max(length), length.saturating_mul(pods)),
            _ => bail!("mappings of the user kubelet in /etc/subuid and /etc/subgid differ"),
        };
        Self::within(config.root_dir.join("pods"), (from, ids), length, pods)
    }

    fn within(directory: PathBuf, (from, ids): (u32, u32), length: u32, pods: u32) -> anyhow::Result<Self> {
        if !from.is_multiple_of(length) {
            bail!("kubelet user assigned ID {from} is not a multiple of {length}");
        }
        if from < length {
            bail!("kubelet user assigned ID {from} must be greater or equal to {length}");
        }
        if !ids.is_multiple_of(length) {
            bail!("kubelet user assigned IDs length {ids} is not a multiple of {length}");
        }
        let count = ids / length;
        if count < pods {
            bail!("kubelet user assigned IDs are not enough to support {pods} pods");
        }
        let known = Self { pods: directory, first: from / length, count, length, used: Mutex::new(BTreeMap::new()) };
        for entry in std::fs::read_dir(&known.pods).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            let range = known.read(&uid).with_context(|| format!("record pod mappings for existing pod {uid:?}"))?;
            if let Some(range) = range {
                known.record(&mut known.used.lock(), &uid, range)?;
            }
        }
        Ok(known)
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.pods.join(uid).join(FILE)
    }

    /// The range that the pod's file tells.
    fn read(&self, uid: &str) -> anyhow::Result<Option<u32>> {
        let Ok(bytes) = std::fs::read(self.file(uid)) else { return Ok(None) };
        let file: File = serde_json::from_slice(&bytes).context("invalid user namespace mappings file")?;
        let ([users], [groups]) = (file.uid_mappings.as_slice(), file.gid_mappings.as_slice()) else {
            bail!("invalid user namespace configuration: no more than one mapping allowed.");
        };
        if users != groups {
            bail!("invalid user namespace configuration: GID and UID mapping should be identical");
        }
        if users.container_id != 0 {
            bail!("invalid user namespace configuration: UID 0 must be mapped");
        }
        if users.length != self.length {
            bail!("wrong user namespace length {}", users.length);
        }
        let range = users.host_id / self.length;
        if !users.host_id.is_multiple_of(self.length) || range < self.first || range >= self.first + self.count {
            bail!("id {} is out of range", users.host_id);
        }
        Ok(Some(range))
    }

    fn record(&self, used: &mut BTreeMap<String, u32>, uid: &str, range: u32) -> anyhow::Result<()> {
        if used.iter().any(|(pod, taken)| *taken == range && pod != uid) {
            bail!("range picked for pod {uid:?} already taken");
        }
        used.insert(uid.to_owned(), range);
        Ok(())
    }

    fn write(&self, uid: &str, range: u32) -> anyhow::Result<()> {
        let mapping = Mapping { host_id: range * self.length, container_id: 0, length: self.length };
        let file = File { uid_mappings: vec![mapping], gid_mappings: vec![mapping] };
        let path = self.file(uid);
        let write = || -> std::io::Result<()> {
            let directory = path.parent().unwrap_or(Path::new("/"));
            std::fs::create_dir_all(directory)?;
            let temporary = path.with_extension("tmp");
            std::fs::write(&temporary, serde_json::to_vec(&file)?)?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(directory)?.sync_all()
        };
        write().with_context(|| format!("create user namespace: writing {}", path.display()))
    }

    /// The pod's user namespace: its range of before, or a free one.
    pub(crate) fn of(&self, uid: &str) -> anyhow::Result<cri::UserNamespace> {
        let mut used = self.used.lock();
        let range = match self.read(uid).context("user namespace")? {
            Some(range) => range,
            None => {
                let taken: BTreeSet<u32> = used.values().copied().collect();
                let free = (self.first..self.first + self.count).find(|range| !taken.contains(range));
                let range =
                    free.context("create user namespace: could not find an empty slot to allocate a user namespace")?;
                self.write(uid, range)?;
                range
            }
        };
        self.record(&mut used, uid, range).context("user namespace")?;
        let ids = vec![cri::IdMapping { host_id: range * self.length, container_id: 0, length: self.length }];
        Ok(cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: ids.clone(), gids: ids })
    }

    /// The pod is over.
    pub(crate) fn release(&self, uid: &str) {
        if self.used.lock().remove(uid).is_some() {
            let _ = std::fs::remove_file(self.file(uid));
        }
    }

    /// Takes back what pods had that are not among these.
    pub(crate) fn retain(&self, alive: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.used.lock().keys().filter(|uid| !alive(uid)).cloned().collect();
        gone.iter().for_each(|uid| self.release(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_a_range_and_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let open = || UserNamespaces::within(directory.path().to_owned(), (UNIT, 3 * UNIT), UNIT, 3).unwrap();
        let users = open();
        let host = |users: &UserNamespaces, uid: &str| users.of(uid).map(|of| of.uids[0].host_id);
        assert_eq!(host(&users, "a").unwrap(), UNIT);
        assert_eq!(host(&users, "b").unwrap(), 2 * UNIT);
        assert_eq!(host(&users, "a").unwrap(), UNIT);
        let text = std::fs::read_to_string(directory.path().join("b/userns")).unwrap();
        let mapping = r#"[{"hostId":131072,"containerId":0,"length":65536}]"#;
        assert_eq!(text, format!("{{\"uidMappings\":{mapping},\"gidMappings\":{mapping}}}"));
        let again = open();
        assert_eq!(host(&again, "b").unwrap(), 2 * UNIT);
        assert_eq!(host(&again, "c").unwrap(), 3 * UNIT);
        assert!(host(&again, "d").unwrap_err().to_string().contains("could not find an empty slot"));
        again.retain(|uid| uid != "b");
        assert_eq!(host(&again, "d").unwrap(), 2 * UNIT);
        std::fs::write(directory.path().join("d/userns"), "{}").unwrap();
        assert!(UserNamespaces::within(directory.path().to_owned(), (UNIT, 3 * UNIT), UNIT, 3).is_err());
    }

    #[test]
    fn ranges_must_fit() {
        for (range, pods, want) in [
            ((1, UNIT), 1, "is not a multiple of"),
            ((0, UNIT), 1, "must be greater or equal"),
            ((UNIT, 5), 0, "is not a multiple of"),
            ((UNIT, UNIT), 2, "not enough to support 2 pods"),
        ] {
            let error = UserNamespaces::within("/nowhere".into(), range, UNIT, pods).err().unwrap().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert_eq!(subordinate("root:0:1\nkubelet:65536:7208960\n"), Some((65536, 7_208_960)));
        assert_eq!(subordinate("root:0:1\n"), None);
    }
}
