//! Authentication: who sends a request, one file per mechanism, tried in upstream's order.

pub mod bootstrap_token;
mod legacy_token;
pub mod request_header;
pub mod service_account;
pub mod token_file;
pub mod usage;

pub use common::keys;

use std::sync::LazyLock;

use http::{HeaderMap, header::AUTHORIZATION};

pub use crate::resources::User;
use request_header::RequestHeader;
use service_account::{Lookup, TokenVerifier};
use token_file::TokenFile;

/// A token's user and the audiences it is valid for, or why it is refused.
pub type TokenOutcome = Result<(User, Vec<String>), String>;

/// Every authenticated user's group.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Every anonymous user's group.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Members may do everything.
pub const MASTERS: &str = "system:masters";

/// The client certificate of a connection, as far as authentication cares.
#[derive(Debug, Clone, Default)]
pub struct Certificate {
    /// Subject common name.
    pub common_name: String,
    /// Subject organizations.
    pub organizations: Vec<String>,
    /// Subject uid, empty if none.
    pub uid: String,
    /// Hex SHA-256 of the certificate, empty when unknown.
    pub fingerprint: String,
    /// Verified against `--client-ca-file`.
    pub is_client: bool,
    /// Verified against `--requestheader-client-ca-file`.
    pub is_front_proxy: bool,
}

/// The configured mechanisms.
#[derive(Default)]
pub struct Authenticator {
    /// Front proxy.
    pub request_header: Option<RequestHeader>,
    /// `--token-auth-file`.
    pub token_file: Option<TokenFile>,
    /// Service-account tokens.
    pub service_accounts: Option<TokenVerifier>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// `--anonymous-auth`.
    pub anonymous: bool,
}

impl Authenticator {
    /// The user of a request.
    ///
    /// # Errors
    /// Why there is none; the client only hears 401.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Certificate>,
        lookup: &dyn Lookup,
    ) -> Result<User, String> {
        if let Some(user) = self.front_proxy_user(headers, certificate) {
            return Ok(authenticated(user));
        }
        if let Some(user) = certificate.filter(|c| c.is_client).and_then(certificate_user) {
            return Ok(authenticated(user));
        }
        if let Some(token) = bearer_token(headers) {
            return match self.authenticate_token(token, &[], lookup).await {
                Some(Ok((user, _))) => Ok(user),
                Some(Err(error)) => Err(error),
                None => Err("invalid bearer token".to_owned()),
            };
        }
        if !self.anonymous {
            return Err("no credentials".to_owned());
        }
        Ok(User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() })
    }

    /// Takes what proves or names a user out of the headers, for nobody behind this server is to see it.
    pub fn clear_credentials(&self, headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        static STANDARD: LazyLock<RequestHeader> = LazyLock::new(|| RequestHeader {
            username_headers: vec!["x-remote-user".to_owned()],
            uid_headers: vec!["x-remote-uid".to_owned()],
            group_headers: vec!["x-remote-group".to_owned()],
            extra_prefixes: vec!["x-remote-extra-".to_owned()],
            ..RequestHeader::default()
        });
        STANDARD.clear(headers);
        if let Some(custom) = &self.request_header {
            custom.clear(headers);
        }
    }

    /// The user of a bearer token; `None` when no mechanism knows it.
    pub async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
        lookup: &dyn Lookup,
    ) -> Option<TokenOutcome> {
        if let Some(user) = self.token_file.as_ref().and_then(|f| f.authenticate(token)) {
            return Some(Ok((authenticated(user), Vec::new())));
        }
        if let Some(verifier) = &self.service_accounts
            && let Some(outcome) = verifier.authenticate(token, audiences, lookup).await
        {
            return Some(outcome.map(|(user, audiences)| (authenticated(user), audiences)));
        }
        if self.bootstrap_tokens
            && let Some(user) = bootstrap_token::authenticate(token, lookup).await
        {
            return Some(Ok((authenticated(user), Vec::new())));
        }
        None
    }

    fn front_proxy_user(&self, headers: &HeaderMap, certificate: Option<&Certificate>) -> Option<User> {
        let config = self.request_header.as_ref()?;
        let trusted = certificate.is_some_and(|c| c.is_front_proxy && config.allows(&c.common_name));
        if trusted { config.user(headers) } else { None }
    }
}

/// The user that a verified client certificate names.
#[must_use]
pub fn certificate_user(certificate: &Certificate) -> Option<User> {
    if certificate.common_name.is_empty() {
        return None;
    }
    let mut user = User {
        name: certificate.common_name.clone(),
        uid: certificate.uid.clone(),
        groups: certificate.organizations.clone(),
        ..User::default()
    };
    if !certificate.fingerprint.is_empty() {
        let id = format!("X509SHA256={}", certificate.fingerprint);
        user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![id]);
    }
    Some(user)
}

/// The token of an `Authorization: Bearer` header.
#[must_use]
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then_some(token.trim())
}

/// Adds the group of all authenticated users, as upstream does unless the user is anonymous.
#[must_use]
pub fn authenticated(mut user: User) -> User {
    if user.name != ANONYMOUS && !user.groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}
