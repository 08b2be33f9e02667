//! The one writer: takes queued writes in batches, applies each batch in one transaction, and answers after its fsync.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use redb::{Database, ReadableTable, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    super::{KeyValue, Revision, StoreError, StoreEvent, hub::Hub},
    failed,
    tables::{COMPACTED, LEASES, LIVE, LOG, META, REVISION, VERSIONS, Version},
};

const BATCH_WRITES: usize = 512;
const BATCH_BYTES: usize = 8 << 20;
/// Log entries that one slice of a compaction looks at.
const COMPACT_SLICE: usize = 500;
/// Keys that one slice of an expiry deletes.
const EXPIRE_SLICE: usize = 500;

/// A write.
pub(super) enum Op {
    Create {
        key: Arc<str>,
        value: Bytes,
        ttl: Option<Duration>,
    },
    Update {
        key: Arc<str>,
        expected: Revision,
        value: Bytes,
        ttl: Option<Duration>,
    },
    Delete {
        key: Arc<str>,
        expected: Revision,
    },
    /// One slice; answers how many log entries are left to look at (0: done).
    Compact {
        at: Revision,
    },
    /// Deletes keys that are due at a time.
    Expire {
        now: u64,
    },
    /// Answers when the writer is alive and everything queued before is durable.
    Probe,
}

/// A write and who waits for it.
pub(super) struct Request {
    pub op: Op,
    pub reply: oneshot::Sender<Result<Revision, StoreError>>,
}

pub(super) struct Writer {
    database: Arc<Database>,
    hub: Arc<Hub>,
    revision: Revision,
    next_expiry: watch::Sender<u64>,
}

impl Writer {
    pub fn new(database: Arc<Database>, hub: Arc<Hub>, revision: Revision, next_expiry: watch::Sender<u64>) -> Self {
        Self { database, hub, revision, next_expiry }
    }

    /// Works until every sender is gone.
    pub fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            let mut bytes = size(&first.op);
            batch.push(first);
            while batch.len() < BATCH_WRITES && bytes < BATCH_BYTES {
                let Ok(request) = requests.try_recv() else { break };
                bytes += size(&request.op);
                batch.push(request);
            }
            self.commit(&mut batch);
        }
    }

    /// One transaction for the whole batch. Refusals are answered after the commit too: they may rest on writes of it.
    fn commit(&mut self, batch: &mut Vec<Request>) {
        let mut answers = Vec::with_capacity(batch.len());
        let outcome = self.apply(batch, &mut answers);
        match outcome {
            Ok(applied) => {
                self.revision = applied.revision;
                self.hub.publish(applied.events, applied.revision);
                if let Some(next) = applied.next_expiry {
                    self.next_expiry.send_replace(next);
                }
                for (request, answer) in batch.drain(..).zip(answers) {
                    let _ = request.reply.send(answer);
                }
            }
            Err(error) => {
                tracing::error!(%error, "store: a batch of writes failed");
                for request in batch.drain(..) {
                    let _ = request.reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn apply(&self, batch: &[Request], answers: &mut Vec<Result<Revision, StoreError>>) -> Result<Applied, StoreError> {
        let transaction = self.database.begin_write().map_err(failed)?;
        let mut applied = Applied { revision: self.revision, events: Vec::new(), next_expiry: None };
        let changed = {
            let mut tables = Tables::open(&transaction, self.revision)?;
            for request in batch {
                answers.push(tables.perform(&request.op)?);
            }
            applied.next_expiry = tables.next_expiry()?;
            applied.revision = tables.revision;
            applied.events = std::mem::take(&mut tables.events);
            tables.changed
        };
        if changed {
            let mut meta = transaction.open_table(META).map_err(failed)?;
            meta.insert(REVISION, applied.revision).map_err(failed)?;
            drop(meta);
            transaction.commit().map_err(failed)?;
        } else {
            transaction.abort().map_err(failed)?;
        }
        Ok(applied)
    }
}

/// What a committed batch did.
struct Applied {
    revision: Revision,
    events: Vec<StoreEvent>,
    next_expiry: Option<u64>,
}

/// The open tables of one transaction.
struct Tables<'txn> {
    versions: Table<'txn, (&'static str, u64), &'static [u8]>,
    live: Table<'txn, &'static str, (u64, u64, u64, u64)>,
    log: Table<'txn, u64, &'static str>,
    leases: Table<'txn, (u64, &'static str), ()>,
    transaction: &'txn WriteTransaction,
    revision: Revision,
    events: Vec<StoreEvent>,
    changed: bool,
    leases_changed: bool,
}

/// The newest state of a key: (last change, creation, version, expiry).
type Live = (u64, u64, u64, u64);

impl<'txn> Tables<'txn> {
    fn open(transaction: &'txn WriteTransaction, revision: Revision) -> Result<Self, StoreError> {
        Ok(Self {
            versions: transaction.open_table(VERSIONS).map_err(failed)?,
            live: transaction.open_table(LIVE).map_err(failed)?,
            log: transaction.open_table(LOG).map_err(failed)?,
            leases: transaction.open_table(LEASES).map_err(failed)?,
            transaction,
            revision,
            events: Vec::new(),
            changed: false,
            leases_changed: false,
        })
    }

    /// The inner result is the caller's answer, the outer one fails the whole batch.
    fn perform(&mut self, op: &Op) -> Result<Result<Revision, StoreError>, StoreError> {
        match op {
            Op::Create { key, value, ttl } => match self.find(key)? {
                Some(_) => Ok(Err(StoreError::Exists { key: key.to_string() })),
                None => self.put(key, value, None, *ttl).map(Ok),
            },
            Op::Update { key, expected, value, ttl } => match self.find(key)? {
                Some(live) if live.0 == *expected => self.put(key, value, Some(live), *ttl).map(Ok),
                other => self.conflict(key, other).map(Err),
            },
            Op::Delete { key, expected } => match self.find(key)? {
                Some(live) if live.0 == *expected => self.remove(key, live).map(Ok),
                other => self.conflict(key, other).map(Err),
            },
            Op::Compact { at } => self.compact(*at).map(Ok),
            Op::Expire { now } => self.expire(*now).map(Ok),
            Op::Probe => Ok(Ok(self.revision)),
        }
    }

    fn find(&self, key: &str) -> Result<Option<Live>, StoreError> {
        Ok(self.live.get(key).map_err(failed)?.map(|header| header.value()))
    }

    fn conflict(&self, key: &Arc<str>, live: Option<Live>) -> Result<StoreError, StoreError> {
        let current = match live {
            None => None,
            Some((revision, ..)) => match self.versions.get((&**key, revision)).map_err(failed)? {
                Some(record) => Some(Box::new(Version::decode(key, record.value())?.key_value(key, revision))),
                None => None,
            },
        };
        Ok(StoreError::Conflict { key: key.to_string(), current })
    }

    fn put(
        &mut self,
        key: &Arc<str>,
        value: &Bytes,
        old: Option<Live>,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let revision = self.next_revision(key)?;
        let (create_revision, version) = old.map_or((revision, 1), |(_, created, version, _)| (created, version + 1));
        let record = Version { create_revision, version, value }.encode();
        self.versions.insert((&**key, revision), record.as_slice()).map_err(failed)?;
        let expiry = ttl.map_or(0, |ttl| now_millis() + ttl.as_millis() as u64);
        self.move_lease(key, old.map_or(0, |live| live.3), expiry)?;
        self.live.insert(&**key, (revision, create_revision, version, expiry)).map_err(failed)?;
        let kv = KeyValue { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision, version };
        self.events.push(StoreEvent::Put(kv));
        Ok(revision)
    }

    fn remove(&mut self, key: &Arc<str>, old: Live) -> Result<Revision, StoreError> {
        let revision = self.next_revision(key)?;
        let tombstone = Version { create_revision: 0, version: 0, value: &[] }.encode();
        self.versions.insert((&**key, revision), tombstone.as_slice()).map_err(failed)?;
        self.live.remove(&**key).map_err(failed)?;
        self.move_lease(key, old.3, 0)?;
        self.events.push(StoreEvent::Delete { key: key.clone(), revision });
        Ok(revision)
    }

    fn next_revision(&mut self, key: &str) -> Result<Revision, StoreError> {
        self.changed = true;
        self.revision += 1;
        self.log.insert(self.revision, key).map_err(failed)?;
        Ok(self.revision)
    }

    fn move_lease(&mut self, key: &str, old: u64, new: u64) -> Result<(), StoreError> {
        if old != 0 {
            self.leases.remove((old, key)).map_err(failed)?;
        }
        if new != 0 {
            self.leases.insert((new, key), ()).map_err(failed)?;
        }
        self.leases_changed |= old != 0 || new != 0;
        Ok(())
    }

    /// When the next key expires, if that may have changed; 0 when none will.
    fn next_expiry(&self) -> Result<Option<u64>, StoreError> {
        if !self.leases_changed {
            return Ok(None);
        }
        Ok(Some(self.leases.first().map_err(failed)?.map_or(0, |(key, _)| key.value().0)))
    }

    fn expire(&mut self, now: u64) -> Result<Revision, StoreError> {
        let mut due: Vec<Arc<str>> = Vec::new();
        for entry in self.leases.range(..(now + 1, "")).map_err(failed)?.take(EXPIRE_SLICE) {
            due.push(entry.map_err(failed)?.0.value().1.into());
        }
        for key in due {
            if let Some(live) = self.find(&key)? {
                self.remove(&key, live)?;
            }
        }
        self.leases_changed = true;
        Ok(self.revision)
    }

    /// Each log entry up to `at` makes the versions before it superfluous, and itself when it is a deletion.
    fn compact(&mut self, at: Revision) -> Result<Revision, StoreError> {
        let mut slice: Vec<(Revision, String)> = Vec::new();
        for entry in self.log.range(..=at).map_err(failed)?.take(COMPACT_SLICE) {
            let (revision, key) = entry.map_err(failed)?;
            slice.push((revision.value(), key.value().to_owned()));
        }
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        let compacted = meta.get(COMPACTED).map_err(failed)?.map_or(0, |value| value.value());
        if at > compacted {
            meta.insert(COMPACTED, at).map_err(failed)?;
        }
        drop(meta);
        self.changed = true;
        for (revision, key) in &slice {
            self.forget(key, *revision)?;
            self.log.remove(*revision).map_err(failed)?;
        }
        Ok(if slice.len() == COMPACT_SLICE { slice.len() as Revision } else { 0 })
    }

    fn forget(&mut self, key: &str, newest: Revision) -> Result<(), StoreError> {
        let mut superfluous = Vec::new();
        for entry in self.versions.range((key, 0)..=(key, newest)).map_err(failed)? {
            let (at, record) = entry.map_err(failed)?;
            let revision = at.value().1;
            if revision < newest || Version::decode(key, record.value())?.is_tombstone() {
                superfluous.push(revision);
            }
        }
        for revision in superfluous {
            self.versions.remove((key, revision)).map_err(failed)?;
        }
        Ok(())
    }
}

fn size(op: &Op) -> usize {
    match op {
        Op::Create { value, .. } | Op::Update { value, .. } => value.len(),
        _ => 0,
    }
}

/// Unix time in milliseconds.
pub(super) fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}
