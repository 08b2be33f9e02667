//! The embedded store: durable, revisioned, in one local file (redb), for a machine without etcd.
//!
//! One writer thread takes queued writes in batches and makes each batch durable with a single fsync before anybody is
//! answered; reads use snapshots and never wait for it. Every write is its own revision. Tables: see `tables`.

use std::{
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redb::Database;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    KeyRange, KeyValue, RangeOptions, RangeResult, Revision, Store, StoreError, StoreWatch,
    hub::{Hub, Next, Subscription},
};
use writer::{Op, Request};

mod background;
mod read;
mod tables;
mod writer;

/// The largest value that is taken: a request body's limit.
const MAX_VALUE: usize = 3 << 20;
/// Writes that may wait for the writer; more callers wait to queue.
const QUEUE: usize = 1024;
/// redb's page cache. The watch cache answers reads, so this only has to help writes.
const PAGE_CACHE: usize = 16 << 20;
/// How long to wait for another process to let go of the file: a predecessor that is still exiting.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// How to open the embedded store.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The directory of the data file; made with mode 0700 when absent.
    pub directory: PathBuf,
    /// How often history is forgotten; zero never.
    pub compaction_interval: Duration,
}

struct EmbeddedStore {
    inner: Arc<Inner>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Ends the background tasks when the store is dropped.
    _background: tokio_util::sync::DropGuard,
}

/// What reads, watches and the writer share.
struct Inner {
    path: PathBuf,
    database: RwLock<Option<Arc<Database>>>,
    queue: RwLock<Option<mpsc::Sender<Request>>>,
    hub: Arc<Hub>,
    compacted: AtomicU64,
}

/// Opens (or makes) the store.
pub async fn open(options: EmbeddedOptions) -> Result<Arc<dyn Store>, StoreError> {
    let path = options.directory.join("store.redb");
    let opened = path.clone();
    let (database, start) = tokio::task::spawn_blocking(move || {
        let database = open_file(&opened)?;
        let start = tables::prepare(&database)?;
        Ok::<_, StoreError>((Arc::new(database), start))
    })
    .await
    .map_err(|_| StoreError::Corrupt { path: path.display().to_string(), reason: "its pages do not parse".into() })??;

    let hub = Hub::new(start.revision);
    let (queue, requests) = mpsc::channel(QUEUE);
    let (next_expiry, expiries) = watch::channel(start.next_expiry);
    let writer = writer::Writer::new(database.clone(), hub.clone(), start.revision, next_expiry);
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run(requests))
        .map_err(|error| StoreError::Internal(format!("cannot start the writer thread: {error}")))?;
    let inner = Arc::new(Inner {
        path,
        database: RwLock::new(Some(database)),
        queue: RwLock::new(Some(queue)),
        hub,
        compacted: AtomicU64::new(start.compacted),
    });
    let stop = tokio_util::sync::CancellationToken::new();
    background::spawn(&inner, expiries, options.compaction_interval, &stop);
    let store = EmbeddedStore { inner, writer: Mutex::new(Some(thread)), _background: stop.drop_guard() };
    Ok(super::metrics::observed(Arc::new(store)))
}

/// Opens the file with mode 0600 in a directory of mode 0700, waiting a little for a predecessor's lock.
fn open_file(path: &Path) -> Result<Database, StoreError> {
    let io = |what: &str, error: std::io::Error| StoreError::Internal(format!("{}: {what}: {error}", path.display()));
    if let Some(directory) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(|error| io("cannot make directory", error))?;
    }
    let deadline = std::time::Instant::now() + LOCK_PATIENCE;
    loop {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| io("cannot open", error))?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(|error| io("cannot restrict", error))?;
        match Database::builder().set_cache_size(PAGE_CACHE).create_file(file) {
            Ok(database) => return Ok(database),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(open_error(path, error)),
        }
    }
}

fn open_error(path: &Path, error: redb::DatabaseError) -> StoreError {
    let path = path.display().to_string();
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Locked { path },
        redb::DatabaseError::Storage(redb::StorageError::Corrupted(reason)) => StoreError::Corrupt { path, reason },
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Corrupt { path, reason: error.to_string() }
        }
        other => StoreError::Internal(format!("{path}: {other}")),
    }
}

impl Inner {
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        self.database.read().clone().ok_or(StoreError::Closed)
    }

    /// Queues a write and waits until it is durable.
    async fn write(&self, op: Op) -> Result<Revision, StoreError> {
        let queue = self.queue.read().clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        queue.send(Request { op, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Unavailable("the writer stopped; the outcome is unknown".into()))?
    }

    /// Runs a read that may take long off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = self.database()?;
        let path = self.path.display().to_string();
        tokio::task::spawn_blocking(move || read(&database))
            .await
            .map_err(|_| StoreError::Corrupt { path, reason: "its pages do not parse".into() })?
    }

    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        let compacted = self.compacted.load(Ordering::Acquire);
        if at <= compacted {
            return Err(StoreError::Compacted { compacted });
        }
        let current = self.hub.published();
        if at > current {
            return Err(StoreError::FutureRevision { requested: at, current });
        }
        self.compacted.fetch_max(at, Ordering::AcqRel);
        self.hub.forget(at);
        // In slices, so that writes never wait long behind it.
        while self.write(Op::Compact { at }).await? > 0 {}
        Ok(())
    }

    /// The next batch of a watch: from the log of the last commits, or from the file for who is further behind.
    async fn next_batch(&self, prefix: &str, position: &mut Subscription) -> Result<super::WatchBatch, StoreError> {
        loop {
            match position.next().await {
                Next::Batch(batch) => return Ok(batch),
                Next::Closed(error) => return Err(error),
                Next::Lagged => {}
            }
            let (prefix, after) = (prefix.to_owned(), position.position);
            let batch = self.read(move |database| read::history(database, &prefix, after)).await?;
            position.reached(batch.revision);
            if !batch.events.is_empty() {
                return Ok(batch);
            }
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        read::get(&*self.inner.database()?, key, at)
    }

    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        self.inner.read(move |database| read::range(database, &range, options)).await
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision, StoreError> {
        check_size(&value)?;
        self.inner.write(Op::Create { key: key.into(), value, ttl }).await
    }

    async fn update(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        check_size(&value)?;
        self.inner.write(Op::Update { key: key.into(), expected, value, ttl }).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StoreError> {
        self.inner.write(Op::Delete { key: key.into(), expected }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<StoreWatch, StoreError> {
        let compacted = self.inner.compacted.load(Ordering::Acquire);
        if after < compacted {
            return Err(StoreError::Compacted { compacted });
        }
        let position = self.inner.hub.subscribe(prefix, after);
        let progress = position.progress();
        let state = Some((self.inner.clone(), prefix.to_owned(), position));
        let batches = futures::stream::unfold(state, |state| async move {
            let (inner, prefix, mut position) = state?;
            match inner.next_batch(&prefix, &mut position).await {
                Ok(batch) => Some((Ok(batch), Some((inner, prefix, position)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(StoreWatch { batches: Box::pin(batches), progress })
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.database()?;
        Ok(self.inner.hub.published())
    }

    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        self.inner.compact(at).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.inner.write(Op::Probe).await.map(|_| ())
    }

    async fn size(&self) -> Result<u64, StoreError> {
        let path = self.inner.path.clone();
        let metadata = tokio::fs::metadata(&path).await;
        metadata.map(|file| file.len()).map_err(|error| StoreError::Internal(format!("{}: {error}", path.display())))
    }

    async fn close(&self) {
        self.inner.queue.write().take();
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.inner.hub.close(StoreError::Closed);
        self.inner.database.write().take();
    }
}

fn check_size(value: &Bytes) -> Result<(), StoreError> {
    let size = value.len();
    if size > MAX_VALUE { Err(StoreError::TooLarge { size, limit: MAX_VALUE }) } else { Ok(()) }
}

/// An error of redb while the store runs.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(reason) => StoreError::Corrupt { path: "store.redb".into(), reason },
        other => StoreError::Unavailable(other.to_string()),
    }
}
