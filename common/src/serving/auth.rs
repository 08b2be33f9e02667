//! Authentication and authorization delegated to the apiserver: client certificates, TokenReview, SubjectAccessReview.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Duration,
};

use http::{HeaderMap, Response, StatusCode, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Body, ClientCertificate, Peer, status};

const CACHE_ENTRIES: usize = 4096;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// Unique id, if the authenticator knows one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More facts from the authenticator.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Attributes {
    /// A path that is no API resource.
    Path {
        /// Lower-case HTTP method.
        verb: String,
        /// The path.
        path: String,
    },
    /// An API resource (the kubelet asks for `nodes/log`, `nodes/proxy`, ...).
    Resource(Box<ResourceAttributes>),
}

/// The authorizer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Why, in the authorizer's words.
    pub reason: String,
}

/// Why a request has no user or no decision.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credentials, or wrong ones: 401.
    #[error("Unauthorized")]
    Unauthorized,
    /// The apiserver could not be asked: 401 for authentication, 500 for authorization (as upstream).
    #[error("{0}")]
    Unavailable(String),
}

/// What is delegated and for how long answers are remembered.
#[derive(Debug, Clone)]
pub struct DelegatedAuthOptions {
    /// Requests without credentials become `system:anonymous` instead of 401.
    pub anonymous: bool,
    /// How long a token's user is remembered.
    pub token_ttl: Duration,
    /// How long a yes is remembered.
    pub authorized_ttl: Duration,
    /// How long a no is remembered.
    pub unauthorized_ttl: Duration,
    /// Paths that need no authorization; a trailing `*` matches prefixes.
    pub always_allow_paths: Vec<String>,
    /// Groups that need no authorization.
    pub always_allow_groups: Vec<String>,
}

impl Default for DelegatedAuthOptions {
    fn default() -> Self {
        Self {
            anonymous: true,
            token_ttl: Duration::from_secs(10),
            authorized_ttl: Duration::from_secs(10),
            unauthorized_ttl: Duration::from_secs(10),
            always_allow_paths: ["/healthz", "/readyz", "/livez"].map(str::to_owned).into(),
            always_allow_groups: vec!["system:masters".into()],
        }
    }
}

/// Asks the apiserver who a token belongs to and what a user may do. Without a client, tokens are refused and nothing beyond
/// the always-allowed is allowed.
pub struct DelegatedAuth {
    client: Option<Client>,
    options: DelegatedAuthOptions,
    tokens: TtlCache<[u8; 32], Option<User>>,
    decisions: TtlCache<String, Decision>,
}

impl DelegatedAuth {
    /// Delegates to the server of `client`.
    pub fn new(client: Option<Client>, options: DelegatedAuthOptions) -> Self {
        Self { client, options, tokens: TtlCache::new(), decisions: TtlCache::new() }
    }

    /// The user behind a request: the verified client certificate, else the bearer token, else anonymous if that is on.
    pub async fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<User, AuthError> {
        if let Some(certificate) = peer.certificate.as_deref().filter(|certificate| !certificate.common_name.is_empty())
        {
            return Ok(certificate_user(certificate));
        }
        if let Some(token) = bearer_token(headers) {
            return self.review_token(token).await?.ok_or(AuthError::Unauthorized);
        }
        if !self.options.anonymous {
            return Err(AuthError::Unauthorized);
        }
        Ok(User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..User::default() })
    }

    async fn review_token(&self, token: &str) -> Result<Option<User>, AuthError> {
        let client = self.client.clone().ok_or(AuthError::Unauthorized)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let key: [u8; 32] = digest.as_ref().try_into().map_err(|_| AuthError::Unauthorized)?;
        if let Some(user) = self.tokens.get(&key) {
            return Ok(user);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = bounded(Api::<TokenReview>::all(client).create(&PostParams::default(), &review)).await?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated.unwrap_or(false)).map(review_user);
        self.tokens.put(key, user.clone(), self.options.token_ttl);
        Ok(user)
    }

    /// Whether the user may do this.
    pub async fn authorize(&self, user: &User, attributes: &Attributes) -> Result<Decision, AuthError> {
        if self.always_allowed(user, attributes) {
            return Ok(Decision { allowed: true, reason: String::new() });
        }
        let Some(client) = self.client.clone() else {
            return Ok(Decision { allowed: false, reason: "no apiserver to delegate authorization to".into() });
        };
        let spec = review_spec(user, attributes);
        let key = serde_json::to_string(&spec).map_err(|error| AuthError::Unavailable(error.to_string()))?;
        if let Some(decision) = self.decisions.get(&key) {
            return Ok(decision);
        }
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = bounded(Api::<SubjectAccessReview>::all(client).create(&PostParams::default(), &review)).await?;
        let status = answer.status.unwrap_or_default();
        let decision = Decision { allowed: status.allowed, reason: status.reason.unwrap_or_default() };
        let ttl = if decision.allowed { self.options.authorized_ttl } else { self.options.unauthorized_ttl };
        self.decisions.put(key, decision.clone(), ttl);
        Ok(decision)
    }

    fn always_allowed(&self, user: &User, attributes: &Attributes) -> bool {
        let path_allowed = match attributes {
            Attributes::Resource(_) => false,
            Attributes::Path { path, .. } => {
                self.options.always_allow_paths.iter().any(|allowed| match allowed.strip_suffix('*') {
                    Some(prefix) => path.starts_with(prefix),
                    None => allowed == path,
                })
            }
        };
        path_allowed || user.groups.iter().any(|group| self.options.always_allow_groups.contains(group))
    }

    /// Both steps for one request; the error is the response to send (401, 403 or 500 with upstream's Status).
    pub async fn check(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        attributes: &Attributes,
    ) -> Result<User, Box<Response<Body>>> {
        let user = self.authenticate(headers, peer).await.map_err(|error| {
            if let AuthError::Unavailable(reason) = &error {
                tracing::warn!(%reason, "cannot authenticate a request");
            }
            Box::new(status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"))
        })?;
        match self.authorize(&user, attributes).await {
            Ok(decision) if decision.allowed => Ok(user),
            Ok(decision) => Err(Box::new(status(
                StatusCode::FORBIDDEN,
                "Forbidden",
                &forbidden(&user, attributes, &decision.reason),
            ))),
            Err(error) => {
                let message = format!("Internal Server Error: {error}");
                Err(Box::new(status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &message)))
            }
        }
    }
}

async fn bounded<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, AuthError> {
    match tokio::time::timeout(REVIEW_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(AuthError::Unavailable(crate::client::causes(&error))),
        Err(_) => Err(AuthError::Unavailable("the apiserver did not answer in time".into())),
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

fn certificate_user(certificate: &ClientCertificate) -> User {
    let mut groups = certificate.organizations.clone();
    groups.push("system:authenticated".into());
    let credential = format!("X509SHA256={}", certificate.fingerprint);
    User {
        name: certificate.common_name.clone(),
        uid: certificate.uid.clone().unwrap_or_default(),
        groups,
        extra: [("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])].into(),
    }
}

fn review_user(info: UserInfo) -> User {
    User {
        name: info.username.unwrap_or_default(),
        uid: info.uid.unwrap_or_default(),
        groups: info.groups.unwrap_or_default(),
        extra: info.extra.unwrap_or_default(),
    }
}

fn review_spec(user: &User, attributes: &Attributes) -> SubjectAccessReviewSpec {
    let (resource, path) = match attributes {
        Attributes::Resource(resource) => (Some((**resource).clone()), None),
        Attributes::Path { verb, path } => {
            (None, Some(NonResourceAttributes { path: Some(path.clone()), verb: Some(verb.clone()) }))
        }
    };
    SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
        resource_attributes: resource,
        non_resource_attributes: path,
    }
}

/// Upstream's words for a refused request.
fn forbidden(user: &User, attributes: &Attributes, reason: &str) -> String {
    let what = match attributes {
        Attributes::Path { verb, path } => format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name),
        Attributes::Resource(resource) => {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let subresource = text(&resource.subresource);
            let name = text(&resource.resource);
            let full = if subresource.is_empty() { name.clone() } else { format!("{name}/{subresource}") };
            let scope = match text(&resource.namespace) {
                namespace if namespace.is_empty() => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!(
                "{name} {:?} is forbidden: User {:?} cannot {} resource {full:?} in API group {:?} {scope}",
                text(&resource.name),
                user.name,
                text(&resource.verb),
                text(&resource.group)
            )
        }
    };
    if reason.is_empty() { what } else { format!("{what}: {reason}") }
}

/// A bounded map whose entries expire; when full, expired entries go first, then everything.
struct TtlCache<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> TtlCache<K, V> {
    fn new() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }

    fn get(&self, key: &K) -> Option<V> {
        self.entries.lock().get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        if entries.len() >= CACHE_ENTRIES {
            entries.retain(|_, (until, _)| *until > now);
            if entries.len() >= CACHE_ENTRIES {
                entries.clear();
            }
        }
        entries.insert(key, (now + ttl, value));
    }
}
