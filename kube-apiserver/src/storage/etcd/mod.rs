//! The etcd store: upstream's key layout in an etcd cluster, 3.4 or newer.
//!
//! One watch over the whole prefix feeds the ordered log (`hub`) that the caches follow, so sixty resources cost etcd
//! one stream and every revision is known to all of them at once. See `follow` for how progress is learnt.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, GetOptions, KvClient, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{KeyRange, KeyValue, RangeOptions, RangeResult, Revision, Store, StoreError, StoreWatch, hub::Hub};

mod compact;
mod connect;
mod follow;
mod lease;
mod replay;

pub use connect::connect;

/// Answers may be large lists.
const MAX_MESSAGE: usize = i32::MAX as usize;
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a health check may take, as upstream's `--etcd-healthcheck-timeout`.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a read is tried when the endpoint goes away.
const READ_TRIES: u32 = 4;

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `--etcd-servers`.
    pub endpoints: Vec<String>,
    /// `--etcd-prefix`, `/registry` by default: what the keys that the store is asked for start with.
    pub prefix: String,
    /// `--etcd-cafile`.
    pub ca_file: Option<PathBuf>,
    /// `--etcd-certfile`.
    pub cert_file: Option<PathBuf>,
    /// `--etcd-keyfile`.
    pub key_file: Option<PathBuf>,
    /// `--etcd-compaction-interval`; zero never.
    pub compaction_interval: Duration,
    /// How long to wait for an endpoint that answers.
    pub connect_timeout: Duration,
}

impl EtcdOptions {
    /// Upstream's defaults for these endpoints.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: "/registry".into(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            compaction_interval: super::DEFAULT_COMPACTION_INTERVAL,
            connect_timeout: Duration::from_secs(20),
        }
    }
}

struct EtcdStore {
    inner: Arc<Inner>,
    leases: lease::Leases,
    stop: CancellationToken,
}

/// What calls and background tasks share.
struct Inner {
    client: etcd_client::Client,
    /// The prefix with its final slash: what the shared watch covers.
    prefix: String,
    hub: Arc<Hub>,
    /// The newest revision that some watch wants to hear about.
    wanted: watch::Sender<Revision>,
    /// Whether the cluster's progress reports can be trusted.
    progress: bool,
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Inner {
    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    /// A read, tried again while endpoints come and go.
    async fn read(&self, key: &[u8], options: GetOptions) -> Result<etcd_client::GetResponse, StoreError> {
        let mut tries = 0;
        loop {
            let mut kv = self.kv();
            tries += 1;
            match call(kv.get(key, Some(options.clone()))).await {
                Err(StoreError::Unavailable(_)) if tries < READ_TRIES => {
                    tokio::time::sleep(Duration::from_millis(50) * tries).await;
                }
                other => return other,
            }
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let answer = self.read(self.prefix.as_bytes(), GetOptions::new().with_count_only()).await?;
        Ok(header(answer.header()))
    }

    async fn txn(&self, txn: Txn) -> Result<etcd_client::TxnResponse, StoreError> {
        let mut kv = self.kv();
        call(kv.txn(txn)).await
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let options = at.map_or_else(GetOptions::new, |at| GetOptions::new().with_revision(at as i64));
        let mut answer = self.inner.read(key.as_bytes(), options).await?;
        let revision = header(answer.header());
        let found = answer.take_kvs().into_iter().next().map(key_value).transpose()?;
        Ok((found, revision))
    }

    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        let mut get = GetOptions::new().with_sort(SortTarget::Key, SortOrder::None);
        get = match range.end {
            Some(end) => get.with_range(end),
            None => get.with_from_key(),
        };
        if let Some(at) = options.revision {
            get = get.with_revision(at as i64);
        }
        if options.limit > 0 {
            get = get.with_limit(options.limit as i64);
        }
        if options.count_only {
            get = get.with_count_only();
        }
        let mut answer = self.inner.read(range.start.as_bytes(), get).await?;
        Ok(RangeResult {
            more: answer.more(),
            count: answer.count() as u64,
            revision: header(answer.header()),
            kvs: answer.take_kvs().into_iter().map(key_value).collect::<Result<_, _>>()?,
        })
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision, StoreError> {
        let put = self.put(key, value, ttl).await?;
        let txn = Txn::new().when([Compare::mod_revision(key, CompareOp::Equal, 0)]).and_then([put]);
        let answer = self.inner.txn(txn).await;
        self.leases.forget_after(&answer);
        let answer = answer?;
        if answer.succeeded() { Ok(header(answer.header())) } else { Err(StoreError::Exists { key: key.to_owned() }) }
    }

    async fn update(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let put = self.put(key, value, ttl).await?;
        let answer = self.swap(key, expected, put).await;
        self.leases.forget_after(&answer);
        answer
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, StoreError> {
        self.swap(key, expected, TxnOp::delete(key, None)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<StoreWatch, StoreError> {
        Ok(replay::watch(self.inner.clone(), prefix, after))
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn compact(&self, at: Revision) -> Result<(), StoreError> {
        let mut kv = self.inner.kv();
        call(kv.compact(at as i64, None)).await?;
        self.inner.hub.forget(at);
        Ok(())
    }

    async fn health(&self) -> Result<(), StoreError> {
        let check = self.inner.read(b"health", GetOptions::new());
        match tokio::time::timeout(HEALTH_TIMEOUT, check).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Err(StoreError::Unavailable("etcd did not answer the health check in time".into())),
        }
    }

    async fn size(&self) -> Result<u64, StoreError> {
        let mut maintenance = self.inner.client.maintenance_client();
        Ok(call(maintenance.status()).await?.db_size() as u64)
    }

    async fn close(&self) {
        self.stop.cancel();
        self.inner.hub.close(StoreError::Closed);
    }
}

impl EtcdStore {
    async fn put(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<TxnOp, StoreError> {
        let options = match ttl {
            Some(ttl) => Some(PutOptions::new().with_lease(self.leases.get(ttl).await?)),
            None => None,
        };
        Ok(TxnOp::put(key, value.as_ref(), options))
    }

    /// Does `operation` if the key's last change is `expected`, else answers what is there.
    async fn swap(&self, key: &str, expected: Revision, operation: TxnOp) -> Result<Revision, StoreError> {
        if expected == 0 {
            // etcd would take "last change 0" for "does not exist".
            let (current, _) = self.get(key, None).await?;
            return Err(StoreError::Conflict { key: key.to_owned(), current: current.map(Box::new) });
        }
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected as i64)])
            .and_then([operation])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.inner.txn(txn).await?;
        if answer.succeeded() {
            return Ok(header(answer.header()));
        }
        let current = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut got) => got.take_kvs().into_iter().next(),
            _ => None,
        });
        let current = current.map(key_value).transpose()?.map(Box::new);
        Err(StoreError::Conflict { key: key.to_owned(), current })
    }
}

/// One call, bounded in time.
async fn call<T>(future: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_TIMEOUT, future).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(StoreError::Unavailable("etcd did not answer in time".into())),
    }
}

fn failed(error: etcd_client::Error) -> StoreError {
    let etcd_client::Error::GRpcStatus(status) = &error else { return StoreError::Unavailable(error.to_string()) };
    let message = status.message();
    if message.contains("has been compacted") {
        StoreError::Compacted { compacted: 0 }
    } else if message.contains("is a future revision") {
        StoreError::FutureRevision { requested: 0, current: 0 }
    } else if message.contains("request is too large") || message.contains("larger than max") {
        StoreError::TooLarge { size: 0, limit: 0 }
    } else {
        StoreError::Unavailable(format!("etcd: {message}"))
    }
}

fn header(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision() as Revision)
}

fn key_value(kv: etcd_client::KeyValue) -> Result<KeyValue, StoreError> {
    let create_revision = kv.create_revision() as Revision;
    let mod_revision = kv.mod_revision() as Revision;
    let version = kv.version() as u64;
    let (key, value) = kv.into_key_value();
    let key = String::from_utf8(key).map_err(|error| StoreError::Corrupt {
        path: String::from_utf8_lossy(error.as_bytes()).into_owned(),
        reason: "the key is not UTF-8".into(),
    })?;
    Ok(KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, version })
}
