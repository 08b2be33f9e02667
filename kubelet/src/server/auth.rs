//! Who may talk to the kubelet: client certificates and tokens, then the authorizer's word on `nodes/<subresource>`.

use anyhow::bail;
use common::serving::{AuthError, Body, DelegatedAuth, DelegatedAuthOptions, Peer, User, text};
use http::{HeaderMap, Method, Response, StatusCode, header};

use super::attributes;
use crate::config::Config;

/// Authentication and authorization of the secure port.
pub(super) struct Auth {
    reviews: DelegatedAuth,
    tokens: bool,
    always_allow: bool,
    node: String,
}

impl Auth {
    /// From the configuration; webhook modes need a server to ask.
    pub(super) fn new(config: &Config, client: Option<kube::Client>) -> anyhow::Result<Self> {
        let (authentication, authorization) = (&config.file.authentication, &config.file.authorization);
        let always_allow = authorization.mode == "AlwaysAllow";
        if client.is_none() {
            if authentication.webhook.enabled {
                bail!(
                    "no client provided, cannot use webhook authentication (standalone: set authentication.webhook.enabled: false)"
                );
            }
            if !always_allow {
                bail!(
                    "no client provided, cannot use webhook authorization (standalone: set authorization.mode: AlwaysAllow)"
                );
            }
        }
        let options = DelegatedAuthOptions {
            anonymous: authentication.anonymous.enabled,
            token_ttl: authentication.webhook.cache_ttl.0,
            authorized_ttl: authorization.webhook.cache_authorized_ttl.0,
            unauthorized_ttl: authorization.webhook.cache_unauthorized_ttl.0,
            always_allow_paths: Vec::new(),
            always_allow_groups: Vec::new(),
        };
        Ok(Self {
            reviews: DelegatedAuth::new(client, options),
            tokens: authentication.webhook.enabled,
            always_allow,
            node: config.node_name.clone(),
        })
    }

    /// Lets a request pass or answers it.
    pub(super) async fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<(), Box<Response<Body>>> {
        let user = self.authenticate(headers, peer).await.map_err(|error| {
            if let AuthError::Unavailable(reason) = &error {
                tracing::error!(%reason, "Unable to authenticate the request due to an error");
            }
            Box::new(text(StatusCode::UNAUTHORIZED, "Unauthorized"))
        })?;
        if self.always_allow {
            return Ok(());
        }
        let verb = attributes::verb(method);
        let subresources = attributes::subresources(path);
        for subresource in &subresources {
            let asked = attributes::attributes(&self.node, verb, subresource);
            match self.reviews.authorize(&user, &asked).await {
                Ok(decision) if decision.allowed => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, user = user.name, verb, subresource, "Authorization error");
                    let message = format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                        user.name
                    );
                    return Err(Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, &message)));
                }
            }
        }
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            subresources.join(" ")
        );
        Err(Box::new(text(StatusCode::FORBIDDEN, &message)))
    }

    async fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<User, AuthError> {
        if self.tokens || !headers.contains_key(header::AUTHORIZATION) {
            return self.reviews.authenticate(headers, peer).await;
        }
        // Without token authentication a token is no credential at all.
        self.reviews.authenticate(&HeaderMap::new(), peer).await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn auth(flags: &[&str]) -> anyhow::Result<Auth> {
        let all = ["kubelet", "--hostname-override=n", "--fail-swap-on=false"].into_iter().chain(flags.iter().copied());
        let config = Config::complete(&crate::Options::try_parse_from(all).unwrap()).unwrap();
        Auth::new(&config, None)
    }

    async fn get_pods(auth: &Auth, token: Option<&str>) -> u16 {
        let peer = Peer::new(([127, 0, 0, 1], 1).into());
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        match auth.check(&Method::GET, "/pods", &headers, &peer).await {
            Ok(()) => 200,
            Err(refused) => refused.status().as_u16(),
        }
    }

    #[tokio::test]
    async fn webhooks_need_a_server() {
        for (flags, word) in
            [(&[][..], "webhook authentication"), (&["--authentication-token-webhook=false"], "webhook authorization")]
        {
            let error = auth(flags).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(word), "{error}");
        }
    }

    #[tokio::test]
    async fn strangers_need_leave() {
        let flags = ["--authentication-token-webhook=false", "--authorization-mode=AlwaysAllow"];
        let closed = auth(&flags).unwrap();
        assert_eq!(get_pods(&closed, None).await, 401);
        assert_eq!(get_pods(&closed, Some("x")).await, 401);
        let open = auth(&[flags[0], flags[1], "--anonymous-auth=true"]).unwrap();
        assert_eq!(get_pods(&open, None).await, 200);
        assert_eq!(get_pods(&open, Some("x")).await, 200, "without token authentication a token says nothing");
    }
}
