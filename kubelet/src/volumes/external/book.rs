//! How far each volume is. Pure; who acts on it writes "perhaps" before and the outcome after.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::{External, Failure};

/// Whether something is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    #[default]
    No,
    /// It was begun, or found on the disk.
    Perhaps,
    Done,
}

/// A step that is in the book.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) progress: Progress,
    /// Found after a restart: containers may be using it, whatever an attempt to repeat it says.
    pub(super) found: bool,
}

impl Step {
    /// Something may be there now.
    fn begin(&mut self) {
        if self.progress == Progress::No {
            self.progress = Progress::Perhaps;
        }
    }

    fn end(&mut self, before: Progress, outcome: Result<(), &Failure>) {
        match outcome {
            Ok(()) => *self = Self { progress: Progress::Done, found: false },
            Err(Failure::NotBegun(_)) => self.progress = before,
            Err(Failure::Final(_)) if !self.found && before != Progress::Done => self.progress = Progress::No,
            Err(Failure::Final(_) | Failure::Uncertain(_)) => {}
        }
    }
}

/// A volume for one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) step: Step,
    /// When it was mounted last, by this kubelet.
    pub(super) at: Option<Instant>,
}

/// A volume on the node.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) volume: Arc<External>,
    /// The controller attaches it, and must know that it is in use.
    pub(super) attachable: bool,
    /// Seen attached by this kubelet.
    pub(super) attached: bool,
    pub(super) staged: Step,
    pub(super) wanted: BTreeSet<String>,
    pub(super) mounts: BTreeMap<String, Mount>,
}

impl Record {
    fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.mounts.is_empty()
    }
}

/// All volumes of the node, by unique name.
#[derive(Default)]
pub(super) struct Book {
    records: BTreeMap<String, Record>,
    /// Pods whose volumes were looked at; before all were, nothing that was found is idle.
    pub(super) seen: HashSet<String>,
}

impl Book {
    pub(super) fn get(&self, unique: &str) -> Option<&Record> {
        self.records.get(unique)
    }

    /// A pod wants it. Answers whether the list of volumes in use changed.
    pub(super) fn want(&mut self, volume: &Arc<External>, attachable: bool, uid: &str) -> bool {
        let record = self.records.entry(volume.unique.clone()).or_insert_with(|| Record {
            volume: volume.clone(),
            attachable: false,
            attached: false,
            staged: Step::default(),
            wanted: BTreeSet::new(),
            mounts: BTreeMap::new(),
        });
        record.volume = volume.clone();
        record.wanted.insert(uid.to_owned());
        std::mem::replace(&mut record.attachable, attachable) != attachable
    }

    /// Found on the disk: staged, and mounted for a pod when one is given.
    pub(super) fn found(&mut self, volume: External, attachable: bool, uid: Option<&str>) {
        let found = Step { progress: Progress::Perhaps, found: true };
        let staged = if volume.is_staged() { found } else { Step::default() };
        let record = self.records.entry(volume.unique.clone()).or_insert_with(|| Record {
            volume: Arc::new(volume),
            attachable,
            attached: false,
            staged,
            wanted: BTreeSet::new(),
            mounts: BTreeMap::new(),
        });
        if let Some(uid) = uid {
            record.mounts.insert(uid.to_owned(), Mount { step: found, at: None });
        }
    }

    pub(super) fn attached(&mut self, unique: &str) {
        if let Some(record) = self.records.get_mut(unique) {
            record.attached = true;
        }
    }

    /// Answers the progress before.
    pub(super) fn begin_stage(&mut self, unique: &str) -> Progress {
        let Some(record) = self.records.get_mut(unique) else { return Progress::No };
        let before = record.staged.progress;
        record.staged.begin();
        before
    }

    pub(super) fn end_stage(&mut self, unique: &str, before: Progress, outcome: Result<(), &Failure>) {
        if let Some(record) = self.records.get_mut(unique) {
            record.staged.end(before, outcome);
        }
    }

    pub(super) fn begin_mount(&mut self, unique: &str, uid: &str) -> Mount {
        let Some(record) = self.records.get_mut(unique) else { return Mount::default() };
        let mount = record.mounts.entry(uid.to_owned()).or_default();
        let before = *mount;
        mount.step.begin();
        before
    }

    pub(super) fn end_mount(
        &mut self,
        unique: &str,
        uid: &str,
        before: Mount,
        outcome: Result<(), &Failure>,
        now: Instant,
    ) {
        let Some(record) = self.records.get_mut(unique) else { return };
        let Some(mount) = record.mounts.get_mut(uid) else { return };
        mount.step.end(before.step.progress, outcome);
        if outcome.is_ok() {
            mount.at = Some(now);
        }
        if mount.step.progress == Progress::No {
            record.mounts.remove(uid);
        }
    }

    /// Volumes that a pod has, or may have, or wants.
    pub(super) fn of_pod(&self, uid: &str) -> Vec<Arc<External>> {
        let of = self.records.values().filter(|record| record.mounts.contains_key(uid) || record.wanted.contains(uid));
        of.map(|record| record.volume.clone()).collect()
    }

    /// Volumes that are mounted for a pod, for sure.
    pub(super) fn mounted(&self, uid: &str) -> Vec<Arc<External>> {
        let done = |record: &&Record| record.mounts.get(uid).is_some_and(|mount| mount.step.progress == Progress::Done);
        self.records.values().filter(done).map(|record| record.volume.clone()).collect()
    }

    /// Another pod has it.
    pub(super) fn is_used_by_other(&self, unique: &str, uid: &str) -> bool {
        self.records.get(unique).is_some_and(|record| record.mounts.keys().any(|other| other != uid))
    }

    /// The pod does not have it any more, nor want it.
    pub(super) fn unmounted(&mut self, unique: &str, uid: &str) {
        if let Some(record) = self.records.get_mut(unique) {
            record.mounts.remove(uid);
            record.wanted.remove(uid);
        }
    }

    /// Volumes that nobody has or wants: staged ones are to be unstaged, others can be forgotten.
    pub(super) fn idle(&self) -> Vec<Arc<External>> {
        self.records.values().filter(|record| record.is_idle()).map(|record| record.volume.clone()).collect()
    }

    pub(super) fn is_idle(&self, unique: &str) -> bool {
        self.records.get(unique).is_some_and(Record::is_idle)
    }

    /// An idle volume is unstaged. Answers whether the list of volumes in use changed.
    pub(super) fn unstaged(&mut self, unique: &str) -> bool {
        match self.records.get_mut(unique) {
            Some(record) if record.is_idle() => {
                let attachable = record.attachable;
                self.records.remove(unique);
                attachable
            }
            Some(record) => {
                record.staged = Step::default();
                false
            }
            None => false,
        }
    }

    /// What the node's status says is in use: the controller must not detach it.
    pub(super) fn in_use(&self) -> Vec<String> {
        let attachable = self.records.values().filter(|record| record.attachable);
        attachable.map(|record| record.volume.unique.clone()).collect()
    }

    /// (all wanted, all mounted) by plugin, for metrics.
    pub(super) fn totals(&self) -> BTreeMap<&'static str, (usize, usize)> {
        let mut totals: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
        for record in self.records.values() {
            let total = totals.entry(record.volume.plugin()).or_default();
            total.0 += record.wanted.len();
            total.1 += record.mounts.len();
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn volume() -> Arc<External> {
        Arc::new(External {
            unique: "v".into(),
            name: "pv".into(),
            kind: Kind::Local { path: "/x".into(), fs_type: String::new() },
            block: false,
            read_only: false,
            mount_options: Vec::new(),
            access_modes: Vec::new(),
            claim: None,
        })
    }

    fn mount(book: &mut Book, uid: &str, outcome: Result<(), Failure>) {
        let before = book.begin_mount("v", uid);
        assert_ne!(book.get("v").unwrap().mounts[uid].step.progress, Progress::No, "on the books before the call");
        book.end_mount("v", uid, before, outcome.as_ref().copied(), Instant::now());
    }

    fn progress(book: &Book, uid: &str) -> Progress {
        book.get("v").and_then(|record| record.mounts.get(uid)).map(|mount| mount.step.progress).unwrap_or_default()
    }

    #[test]
    fn failures_leave_what_they_must() {
        let (early, last, unknown) = (
            || Err(Failure::NotBegun(String::new())),
            || Err(Failure::Final(String::new())),
            || Err(Failure::Uncertain(String::new())),
        );
        let mut book = Book::default();
        assert!(!book.want(&volume(), false, "a"));
        mount(&mut book, "a", early());
        assert_eq!(progress(&book, "a"), Progress::No);
        mount(&mut book, "a", unknown());
        assert_eq!(progress(&book, "a"), Progress::Perhaps);
        mount(&mut book, "a", early());
        assert_eq!(progress(&book, "a"), Progress::Perhaps, "an old doubt stays");
        mount(&mut book, "a", last());
        assert_eq!(progress(&book, "a"), Progress::No);
        mount(&mut book, "a", Ok(()));
        mount(&mut book, "a", last());
        assert_eq!(progress(&book, "a"), Progress::Done, "a failed repetition takes nothing away");
    }

    #[test]
    fn what_was_found_stays_whatever_a_repetition_says() {
        let mut book = Book::default();
        book.found((*volume()).clone(), true, Some("a"));
        assert_eq!(book.in_use(), ["v"]);
        mount(&mut book, "a", Err(Failure::Final(String::new())));
        assert_eq!(progress(&book, "a"), Progress::Perhaps);
        mount(&mut book, "a", Ok(()));
        assert_eq!(progress(&book, "a"), Progress::Done);
        book.unmounted("v", "a");
        assert_eq!(book.idle().len(), 1);
    }

    #[test]
    fn a_volume_is_in_use_until_it_is_unstaged() {
        let mut book = Book::default();
        assert!(book.want(&volume(), true, "a"));
        assert!(!book.want(&volume(), true, "b"));
        let before = book.begin_stage("v");
        book.end_stage("v", before, Ok(()));
        mount(&mut book, "a", Ok(()));
        assert!(book.is_used_by_other("v", "b") && !book.is_used_by_other("v", "a"));
        book.unmounted("v", "a");
        assert!(book.idle().is_empty(), "b wants it");
        book.unmounted("v", "b");
        assert_eq!((book.idle().len(), book.in_use().len()), (1, 1));
        assert!(book.unstaged("v"));
        assert!(book.in_use().is_empty() && book.get("v").is_none());
    }

    #[test]
    fn a_volume_that_is_wanted_again_while_it_was_unstaged_is_staged_anew() {
        let mut book = Book::default();
        book.found((*volume()).clone(), true, None);
        book.want(&volume(), true, "a");
        assert!(!book.unstaged("v"));
        assert_eq!(book.get("v").unwrap().staged, Step::default());
        assert_eq!(book.in_use(), ["v"]);
    }
}
