//! Reads from a snapshot of the file: a key, a range, a stretch of history.

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::{
    super::{KeyRange, KeyValue, RangeOptions, RangeResult, Revision, StoreError, StoreEvent, WatchBatch},
    failed,
    tables::{COMPACTED, LIVE, LOG, META, REVISION, VERSIONS, Version},
};

const HISTORY_EVENTS: usize = 1000;
const HISTORY_BYTES: usize = 8 << 20;

type Versions = ReadOnlyTable<(&'static str, u64), &'static [u8]>;

/// A snapshot and where it stands.
struct Snapshot {
    transaction: ReadTransaction,
    revision: Revision,
    compacted: Revision,
}

impl Snapshot {
    fn new(database: &Database) -> Result<Self, StoreError> {
        let transaction = database.begin_read().map_err(failed)?;
        let meta = transaction.open_table(META).map_err(failed)?;
        let read = |name| Ok::<_, StoreError>(meta.get(name).map_err(failed)?.map_or(0, |value| value.value()));
        let (revision, compacted) = (read(REVISION)?, read(COMPACTED)?);
        Ok(Self { transaction, revision, compacted })
    }

    /// The revision to read at; `None` means the newest, for which the live table knows a short cut.
    fn resolve(&self, at: Option<Revision>) -> Result<Option<Revision>, StoreError> {
        match at {
            None => Ok(None),
            Some(at) if at == self.revision => Ok(None),
            Some(at) if at < self.compacted => Err(StoreError::Compacted { compacted: self.compacted }),
            Some(at) if at > self.revision => Err(StoreError::FutureRevision { requested: at, current: self.revision }),
            Some(at) => Ok(Some(at)),
        }
    }

    fn versions(&self) -> Result<Versions, StoreError> {
        self.transaction.open_table(VERSIONS).map_err(failed)
    }
}

pub(super) fn get(
    database: &Database,
    key: &str,
    at: Option<Revision>,
) -> Result<(Option<KeyValue>, Revision), StoreError> {
    let snapshot = Snapshot::new(database)?;
    let newest = snapshot.resolve(at)?.unwrap_or(snapshot.revision);
    let versions = snapshot.versions()?;
    let found = match versions.range((key, 0)..=(key, newest)).map_err(failed)?.next_back() {
        None => None,
        Some(entry) => {
            let (at, record) = entry.map_err(failed)?;
            let version = Version::decode(key, record.value())?;
            (!version.is_tombstone()).then(|| version.key_value(key, at.value().1))
        }
    };
    Ok((found, snapshot.revision))
}

pub(super) fn range(database: &Database, range: &KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
    let snapshot = Snapshot::new(database)?;
    let mut result = RangeResult { revision: snapshot.revision, ..RangeResult::default() };
    match snapshot.resolve(options.revision)? {
        None => newest(&snapshot, range, options, &mut result)?,
        Some(at) => as_of(&snapshot, range, at, options, &mut result)?,
    }
    result.more = !options.count_only && result.count > result.kvs.len() as u64;
    Ok(result)
}

/// Whether a key that is in the range also goes into the answer.
fn wanted(options: &RangeOptions, taken: usize) -> bool {
    !options.count_only && (options.limit == 0 || taken < options.limit)
}

fn newest(
    snapshot: &Snapshot,
    range: &KeyRange,
    options: RangeOptions,
    result: &mut RangeResult,
) -> Result<(), StoreError> {
    let live = snapshot.transaction.open_table(LIVE).map_err(failed)?;
    let versions = snapshot.versions()?;
    let entries = match range.end.as_deref() {
        Some(end) => live.range(range.start.as_str()..end),
        None => live.range(range.start.as_str()..),
    };
    for entry in entries.map_err(failed)? {
        let (key, header) = entry.map_err(failed)?;
        result.count += 1;
        if !wanted(&options, result.kvs.len()) {
            continue;
        }
        let (key, revision) = (key.value(), header.value().0);
        let record = versions.get((key, revision)).map_err(failed)?.ok_or_else(|| missing(key, revision))?;
        result.kvs.push(Version::decode(key, record.value())?.key_value(key, revision));
    }
    Ok(())
}

fn as_of(
    snapshot: &Snapshot,
    range: &KeyRange,
    at: Revision,
    options: RangeOptions,
    result: &mut RangeResult,
) -> Result<(), StoreError> {
    let versions = snapshot.versions()?;
    let start = (range.start.as_str(), 0);
    let entries = match range.end.as_deref() {
        Some(end) => versions.range(start..(end, 0)),
        None => versions.range(start..),
    };
    // The newest version of the current key that is not after `at`.
    let mut candidate: Option<KeyValue> = None;
    let mut settle = |candidate: Option<KeyValue>| {
        let Some(kv) = candidate.filter(|kv| kv.version != 0) else { return };
        result.count += 1;
        if wanted(&options, result.kvs.len()) {
            result.kvs.push(kv);
        }
    };
    for entry in entries.map_err(failed)? {
        let (key, record) = entry.map_err(failed)?;
        let (key, revision) = key.value();
        if candidate.as_ref().is_some_and(|kv| &*kv.key != key) {
            settle(candidate.take());
        }
        if revision <= at {
            candidate = Some(Version::decode(key, record.value())?.key_value(key, revision));
        }
    }
    settle(candidate);
    Ok(())
}

/// Events of `prefix` after a revision, as many as make a good batch.
pub(super) fn history(database: &Database, prefix: &str, after: Revision) -> Result<WatchBatch, StoreError> {
    let snapshot = Snapshot::new(database)?;
    if after < snapshot.compacted {
        return Err(StoreError::Compacted { compacted: snapshot.compacted });
    }
    let log = snapshot.transaction.open_table(LOG).map_err(failed)?;
    let versions = snapshot.versions()?;
    let mut batch = WatchBatch { revision: after.max(snapshot.revision), events: Vec::new() };
    let mut bytes = 0;
    for entry in log.range(after + 1..).map_err(failed)? {
        let (revision, key) = entry.map_err(failed)?;
        let (revision, key) = (revision.value(), key.value());
        if !key.starts_with(prefix) {
            continue;
        }
        let record = versions.get((key, revision)).map_err(failed)?.ok_or_else(|| missing(key, revision))?;
        let version = Version::decode(key, record.value())?;
        bytes += version.value.len();
        batch.events.push(if version.is_tombstone() {
            StoreEvent::Delete { key: key.into(), revision }
        } else {
            StoreEvent::Put(version.key_value(key, revision))
        });
        if batch.events.len() >= HISTORY_EVENTS || bytes >= HISTORY_BYTES {
            batch.revision = revision;
            break;
        }
    }
    Ok(batch)
}

fn missing(key: &str, revision: Revision) -> StoreError {
    StoreError::Corrupt { path: key.to_owned(), reason: format!("its version at revision {revision} is missing") }
}
