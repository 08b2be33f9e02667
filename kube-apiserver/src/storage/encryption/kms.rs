//! Envelope encryption with a key management service (KMS v2): the service only ever sees seeds; values are sealed here
//! under keys derived from a seed, and the sealed seed is stored beside each value.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use tokio::{net::UnixStream, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{
    CryptError,
    providers::{Cipher, ExtendedNonce, Gcm, random_key},
};

/// How often a healthy and an ailing service are asked for their state.
const HEALTHY: Duration = Duration::from_secs(60);
const AILING: Duration = Duration::from_secs(10);
/// A seed may seal values so long after the service last confirmed its key.
const SEED_TTL: Duration = Duration::from_secs(180);
/// Opened seeds that are kept.
const SEEDS: usize = 1000;
const MAX_KEY_ID: usize = 1024;
const MAX_SOURCE: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 * 1024;

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub healthz: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// What is stored.
#[derive(Clone, PartialEq, Message)]
struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
    /// 0: the source is an AES-GCM key; 1: it is a seed.
    #[prost(int32, tag = "5")]
    source_type: i32,
}

const SOURCE_IS_SEED: i32 = 1;

impl EncryptedObject {
    fn check(&self) -> Result<(), CryptError> {
        let annotations: usize = self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        let wrong = match () {
            () if self.encrypted_data.is_empty() => "encrypted data is empty",
            () if self.key_id.is_empty() => "keyID is empty",
            () if self.key_id.len() > MAX_KEY_ID => "keyID is larger than 1 kB",
            () if self.source.is_empty() => "encrypted DEK source is empty",
            () if self.source.len() > MAX_SOURCE => "encrypted DEK source is larger than 1 kB",
            () if annotations > MAX_ANNOTATIONS => "annotations are larger than 32 kB",
            () => return Ok(()),
        };
        Err(CryptError::new(format!("failed to validate encrypted object: {wrong}")))
    }

    /// What tells seeds apart: everything but the data.
    fn identity(&self) -> Vec<u8> {
        Self { encrypted_data: Vec::new(), ..self.clone() }.encode_to_vec()
    }
}

/// What values are sealed with at the moment.
struct Current {
    cipher: Arc<dyn Cipher>,
    /// Without data.
    envelope: EncryptedObject,
    expires: Instant,
}

/// An opened seed, by what tells it from others.
type Seed = (Vec<u8>, Arc<dyn Cipher>);

/// A key management service.
pub(super) struct Kms {
    name: String,
    channel: Channel,
    timeout: Duration,
    current: ArcSwapOption<Current>,
    /// Why the service is not healthy.
    ailment: Mutex<Option<String>>,
    seeds: Mutex<VecDeque<Seed>>,
    _watching: DropGuard,
}

impl Kms {
    /// Follows a service at `unix://...`. A service that does not answer yet is asked again; until then nothing is
    /// sealed or opened.
    pub async fn start(name: &str, endpoint: &str, timeout: Duration) -> Arc<Self> {
        let path = endpoint.trim_start_matches("unix://").to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            // `unix:///@name` is an abstract socket, whose name starts with a zero byte.
            let path = path.strip_prefix("/@").map_or_else(|| path.clone(), |name| format!("\0{name}"));
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://kms").connect_with_connector_lazy(connector);
        let stop = CancellationToken::new();
        let kms = Arc::new(Self {
            name: name.to_owned(),
            channel,
            timeout,
            current: ArcSwapOption::empty(),
            ailment: Mutex::new(Some("not asked yet".to_owned())),
            seeds: Mutex::default(),
            _watching: stop.clone().drop_guard(),
        });
        kms.refresh().await;
        let watched = Arc::downgrade(&kms);
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                let Some(healthy) = watched.upgrade().map(|kms| kms.health().is_ok()) else { return };
                tokio::time::sleep(if healthy { HEALTHY } else { AILING }).await;
                let Some(kms) = watched.upgrade() else { return };
                kms.refresh().await;
            }
        }));
        kms
    }

    /// Whether the service answered well last time.
    pub fn health(&self) -> Result<(), String> {
        match &*self.ailment.lock() {
            None => Ok(()),
            Some(why) => Err(format!("kms provider {}: {why}", self.name)),
        }
    }

    /// Asks the service for its state.
    pub async fn refresh(&self) {
        let outcome = self.follow_key().await;
        if let Err(error) = &outcome {
            tracing::warn!(kms = self.name, %error, "the key management service is not healthy");
        }
        *self.ailment.lock() = outcome.err().map(|error| error.0);
    }

    /// Asks for the key in use; takes a new seed when it is another one.
    async fn follow_key(&self) -> Result<(), CryptError> {
        let status: StatusResponse = self.call("Status", StatusRequest {}).await?;
        if status.healthz != "ok" {
            return Err(CryptError::new(format!("got unexpected healthz status: {}", status.healthz)));
        }
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            return Err(CryptError::new(format!("expected KMSv2 API version v2, got {}", status.version)));
        }
        if status.key_id.is_empty() || status.key_id.len() > MAX_KEY_ID {
            return Err(CryptError::new("got an invalid keyID in the status"));
        }
        let expires = Instant::now() + SEED_TTL;
        let current = self.current.load_full();
        let renewed = match current.filter(|current| current.envelope.key_id == status.key_id) {
            Some(current) => {
                Current { cipher: Arc::clone(&current.cipher), envelope: current.envelope.clone(), expires }
            }
            None => self.new_seed(expires).await?,
        };
        self.current.store(Some(Arc::new(renewed)));
        Ok(())
    }

    async fn new_seed(&self, expires: Instant) -> Result<Current, CryptError> {
        let seed = random_key()?;
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uuid::Uuid::new_v4().to_string() };
        let answer: EncryptResponse = self.call("Encrypt", request).await?;
        let mut envelope = EncryptedObject {
            encrypted_data: vec![0],
            key_id: answer.key_id,
            source: answer.ciphertext,
            annotations: answer.annotations,
            source_type: SOURCE_IS_SEED,
        };
        envelope.check()?;
        envelope.encrypted_data.clear();
        let cipher: Arc<dyn Cipher> = Arc::new(ExtendedNonce(seed));
        self.remember(envelope.identity(), Arc::clone(&cipher));
        tracing::info!(kms = self.name, "values are sealed under a new seed");
        Ok(Current { cipher, envelope, expires })
    }

    /// Seals a value under the current seed.
    pub async fn seal(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, CryptError> {
        let usable = || self.current.load_full().filter(|current| Instant::now() < current.expires);
        let current = match usable() {
            Some(current) => current,
            None => {
                self.refresh().await;
                usable().ok_or_else(|| CryptError(self.health().err().unwrap_or("the seed expired".to_owned())))?
            }
        };
        let encrypted_data = current.cipher.seal(plain, context)?;
        Ok(EncryptedObject { encrypted_data, ..current.envelope.clone() }.encode_to_vec())
    }

    /// Opens a value; says whether it was sealed under another key than the current one.
    pub async fn open(&self, sealed: &[u8], context: &[u8]) -> Result<(Vec<u8>, bool), CryptError> {
        let object = EncryptedObject::decode(sealed).map_err(|error| CryptError::new(error.to_string()))?;
        object.check()?;
        let cipher = self.cipher_of(&object).await?;
        let stale = self.current.load_full().is_some_and(|current| {
            (&current.envelope.key_id, current.envelope.source_type) != (&object.key_id, object.source_type)
        });
        Ok((cipher.open(&object.encrypted_data, context)?, stale))
    }

    async fn cipher_of(&self, object: &EncryptedObject) -> Result<Arc<dyn Cipher>, CryptError> {
        let identity = object.identity();
        let known = self.seeds.lock().iter().find(|(known, _)| *known == identity).map(|(_, c)| Arc::clone(c));
        if let Some(cipher) = known {
            return Ok(cipher);
        }
        let request = DecryptRequest {
            ciphertext: object.source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let answer: DecryptResponse = self.call("Decrypt", request).await?;
        let cipher: Arc<dyn Cipher> = if object.source_type == SOURCE_IS_SEED {
            let length = answer.plaintext.len();
            let wrong = |_| CryptError::new(format!("invalid seed length {length} used for key generation"));
            Arc::new(ExtendedNonce(answer.plaintext.try_into().map_err(wrong)?))
        } else {
            Arc::new(Gcm::new(&answer.plaintext)?)
        };
        self.remember(identity, Arc::clone(&cipher));
        Ok(cipher)
    }

    fn remember(&self, identity: Vec<u8>, cipher: Arc<dyn Cipher>) {
        let mut seeds = self.seeds.lock();
        seeds.push_front((identity, cipher));
        seeds.truncate(SEEDS);
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, CryptError>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let failed = |why: String| CryptError::new(format!("{method}: {why}"));
        let path = format!("/v2.KeyManagementService/{method}");
        let path = PathAndQuery::try_from(path).map_err(|error| failed(error.to_string()))?;
        let work = async {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.map_err(|error| failed(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let answer = client.unary(tonic::Request::new(request), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| failed(status.message().to_owned()))
        };
        match tokio::time::timeout(self.timeout, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed(format!("no answer within {:?}", self.timeout))),
        }
    }
}
