//! The tables of the file and their records.
//!
//! `versions` holds every version of every key by (key, revision), `live` the newest version's header of each existing
//! key, `log` which key each revision touched, `leases` when keys expire, `meta` the counters. A deletion is a version
//! too (a tombstone), until compaction drops it.

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    super::{KeyValue, Revision, StoreError},
    failed,
};

pub(super) const VERSIONS: TableDefinition<'static, (&'static str, u64), &'static [u8]> =
    TableDefinition::new("versions");
/// (last change, creation, version, expiry in unix milliseconds or 0).
pub(super) const LIVE: TableDefinition<'static, &'static str, (u64, u64, u64, u64)> = TableDefinition::new("live");
pub(super) const LOG: TableDefinition<'static, u64, &'static str> = TableDefinition::new("log");
pub(super) const LEASES: TableDefinition<'static, (u64, &'static str), ()> = TableDefinition::new("leases");
pub(super) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

pub(super) const REVISION: &str = "revision";
pub(super) const COMPACTED: &str = "compacted";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;

/// Where an opened store stands.
pub(super) struct Start {
    pub revision: Revision,
    pub compacted: Revision,
    pub next_expiry: u64,
}

/// Makes the tables of a new file, checks those of an old one.
pub(super) fn prepare(database: &Database) -> Result<Start, StoreError> {
    if let Some(start) = existing(database)? {
        return Ok(start);
    }
    let transaction = database.begin_write().map_err(failed)?;
    {
        transaction.open_table(VERSIONS).map_err(failed)?;
        transaction.open_table(LIVE).map_err(failed)?;
        transaction.open_table(LOG).map_err(failed)?;
        transaction.open_table(LEASES).map_err(failed)?;
        let mut meta = transaction.open_table(META).map_err(failed)?;
        meta.insert(FORMAT, FORMAT_VERSION).map_err(failed)?;
        meta.insert(REVISION, 1).map_err(failed)?;
        meta.insert(COMPACTED, 0).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(Start { revision: 1, compacted: 0, next_expiry: 0 })
}

fn existing(database: &Database) -> Result<Option<Start>, StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let read = |name| Ok::<_, StoreError>(meta.get(name).map_err(failed)?.map_or(0, |value| value.value()));
    let format = read(FORMAT)?;
    if format != FORMAT_VERSION {
        let reason = format!("format {format} is not the supported {FORMAT_VERSION}");
        return Err(StoreError::Corrupt { path: "store.redb".into(), reason });
    }
    let leases = transaction.open_table(LEASES).map_err(failed)?;
    let next_expiry = leases.first().map_err(failed)?.map_or(0, |(key, _)| key.value().0);
    Ok(Some(Start { revision: read(REVISION)?, compacted: read(COMPACTED)?, next_expiry }))
}

const TOMBSTONE: u8 = 1;
const HEADER: usize = 17;

/// One record of `versions`.
pub(super) struct Version<'a> {
    pub create_revision: Revision,
    /// 0 for a tombstone.
    pub version: u64,
    pub value: &'a [u8],
}

impl<'a> Version<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(HEADER + self.value.len());
        record.push(if self.version == 0 { TOMBSTONE } else { 0 });
        record.extend_from_slice(&self.create_revision.to_le_bytes());
        record.extend_from_slice(&self.version.to_le_bytes());
        record.extend_from_slice(self.value);
        record
    }

    pub fn decode(key: &str, record: &'a [u8]) -> Result<Self, StoreError> {
        let number = |at: usize| {
            let bytes: Option<[u8; 8]> = record.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_le_bytes)
        };
        let decoded = || {
            let (create_revision, version) = (number(1)?, number(9)?);
            Some(Self { create_revision, version, value: record.get(HEADER..)? })
        };
        decoded().ok_or_else(|| StoreError::Corrupt { path: key.to_owned(), reason: "its record is cut short".into() })
    }

    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    pub fn key_value(&self, key: &str, mod_revision: Revision) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: Bytes::copy_from_slice(self.value),
            create_revision: self.create_revision,
            mod_revision,
            version: self.version,
        }
    }
}
