//! Clients under the daemon's identity, or one per controller under a service account of `kube-system`
//! (`--use-service-account-credentials`), so that RBAC and audit tell the controllers apart.
//!
//! A service-account client is a layer over one shared connection without credentials: it fetches a
//! token when the first request needs one, and a new one when the old is near its end or refused.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use common::client::from_config;
use common::config::flags::ClientConnection;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Mutex;

use crate::shared::apierr;

const NAMESPACE: &str = "kube-system";
const TOKEN_SECONDS: i64 = 3600;

/// Makes the clients.
#[derive(Clone)]
pub(crate) struct Clients {
    root: Client,
    anonymous: Option<Client>,
}

impl Clients {
    /// `root` is the daemon's own client.
    pub(crate) async fn new(root: Client, connection: &ClientConnection, per_controller: bool) -> anyhow::Result<Self> {
        let anonymous = match per_controller {
            true => Some(anonymous(connection).await?),
            false => None,
        };
        Ok(Self { root, anonymous })
    }

    /// The client of a controller.
    pub(crate) fn client(&self, service_account: &str) -> Client {
        let Some(anonymous) = self.anonymous.clone() else { return self.root.clone() };
        let account = Arc::new(Account {
            root: self.root.clone(),
            anonymous,
            name: service_account.to_owned(),
            token: Mutex::new(None),
        });
        let service = tower::service_fn(move |request: Request<Body>| {
            let account = account.clone();
            async move { account.send(request).await }
        });
        Client::new(service, "default")
    }
}

async fn load(connection: &ClientConnection) -> anyhow::Result<Config> {
    Ok(match &connection.kubeconfig {
        Some(path) => {
            Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?
        }
        None => match connection.master.as_deref().filter(|m| !m.is_empty()) {
            Some(master) => Config::new(master.parse()?),
            None => Config::incluster()?,
        },
    })
}

/// The CA bundle (PEM) of the kubeconfig's cluster.
pub(crate) async fn cluster_ca(connection: &ClientConnection) -> Option<String> {
    let certificates = load(connection).await.ok()?.root_cert?;
    let encode = |der: Vec<u8>| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|l| std::str::from_utf8(l).ok()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    Some(certificates.into_iter().map(encode).collect())
}

/// The connection flags for what all controllers send over one client: each of upstream's has the rate to itself, and
/// so have its shared informers and its requests for tokens. At the start, the latter alone are some hundred.
pub(crate) fn shared(connection: &ClientConnection) -> ClientConnection {
    ClientConnection {
        kube_api_qps: connection.kube_api_qps * 10.0,
        kube_api_burst: connection.kube_api_burst.saturating_mul(10),
        ..connection.clone()
    }
}

/// The server of the kubeconfig, without its user.
async fn anonymous(connection: &ClientConnection) -> anyhow::Result<Client> {
    let mut config = load(connection).await?;
    if let Some(master) = connection.master.as_deref().filter(|m| !m.is_empty()) {
        config.cluster_url = master.parse()?;
    }
    config.auth_info = AuthInfo::default();
    Ok(from_config(config, connection, "kube-controller-manager")?)
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    renew_at: Timestamp,
}

/// One service account and its current token.
struct Account {
    root: Client,
    anonymous: Client,
    name: String,
    token: Mutex<Option<Token>>,
}

impl Account {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        let token = self.token().await?;
        request.headers_mut().insert(AUTHORIZATION, token.header.clone());
        let response = self.anonymous.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // The caller retries; by then there is a new token.
            let mut current = self.token.lock().await;
            if current.as_ref().is_some_and(|t| t.header == token.header) {
                *current = None;
            }
        }
        Ok(response)
    }

    async fn token(&self) -> Result<Token, kube::Error> {
        let mut current = self.token.lock().await;
        if let Some(token) = current.as_ref().filter(|t| Timestamp::now() < t.renew_at) {
            return Ok(token.clone());
        }
        let token = self.request().await?;
        *current = Some(token.clone());
        Ok(token)
    }

    async fn request(&self) -> Result<Token, kube::Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.root.clone(), NAMESPACE);
        let wanted = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let mut tries = 0;
        let answer = loop {
            match accounts.create_token_request(&self.name, &PostParams::default(), &wanted).await {
                Ok(answer) => break answer,
                Err(error) if apierr::is_not_found(&error) && tries < 5 => {
                    tries += 1;
                    create_account(&accounts, &self.name).await?;
                }
                Err(error) => return Err(error),
            }
        };
        let status = answer.status.unwrap_or_default();
        let now = Timestamp::now();
        let lifetime = status.expiration_timestamp.map_or(SignedDuration::ZERO, |t| t.0.duration_since(now));
        let lifetime = lifetime.max(SignedDuration::from_secs(10));
        let header = format!("Bearer {}", status.token.unwrap_or_default());
        let mut header = HeaderValue::from_str(&header).map_err(|e| kube::Error::Service(Box::new(e)))?;
        header.set_sensitive(true);
        Ok(Token { header, renew_at: now + lifetime * 8 / 10 })
    }
}

async fn create_account(accounts: &Api<ServiceAccount>, name: &str) -> Result<(), kube::Error> {
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    match accounts.create(&PostParams::default(), &account).await {
        Ok(_) => Ok(()),
        Err(error) if apierr::is_already_exists(&error) => {
            // Made by somebody else this instant; the token request may have been served before.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(())
        }
        Err(error) => Err(error),
    }
}
