//! What a new cluster needs before anyone can use it: namespaces, roles, the `kubernetes` Service.

mod cluster;
pub(crate) mod ensure;
mod identity;
mod kubernetes_service;
mod namespaces;
mod policy;
mod rbac;

use std::{future::Future, sync::Arc, time::Duration};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::{
    authz::{Mode, rules::Rule},
    flowcontrol::keep,
    request::ApiResult,
    server::{ApiServer, follow::Followed},
};

/// What every node may do, for the Node authorizer.
#[must_use]
pub fn node_rules() -> Vec<Rule> {
    serde_json::from_value(policy::cluster_role_rules("system:node")).unwrap_or_default()
}

/// Runs all steps in the background; each is a check of /readyz. The future ends when all have succeeded and the
/// authorizers know what they wrote.
pub fn spawn(server: &Arc<ApiServer>, followed: Followed) -> impl Future<Output = ()> + Send + use<> {
    let caches = followed.clone();
    server.health.register_ready("informer-sync", move || {
        if caches.synced() { Ok(()) } else { Err("authorization caches are not synced".to_owned()) }
    });
    let steps = steps(server);
    let server = Arc::clone(server);
    async move {
        join_all(steps.iter().map(CancellationToken::cancelled)).await;
        followed.caught_up(&server).await;
    }
}

/// Starts the steps; each token is cancelled when its step has succeeded.
fn steps(server: &Arc<ApiServer>) -> Vec<CancellationToken> {
    let mut steps = vec![
        step(server, "start-system-namespaces-controller", namespaces::ensure),
        step(server, "bootstrap-controller", kubernetes_service::ensure_service),
        step(server, "priority-and-fairness-config-producer", keep::produce),
        step(server, "scheduling/bootstrap-system-priority-classes", cluster::priority_classes),
        step(server, "start-cluster-authentication-info-controller", cluster::authentication_info),
        step(server, "start-legacy-token-tracking-controller", cluster::token_tracking),
    ];
    if server.flow_control.is_some() {
        steps.push(step(server, "priority-and-fairness-config-consumer", keep::consume));
    }
    if common::config::is_beta_on(&server.config.options.gates.feature_gates.join(","), "APIServerIdentity") {
        steps.push(step(server, "start-kube-apiserver-identity-lease-controller", identity::identity));
        steps.push(step(server, "start-kube-apiserver-identity-lease-garbage-collector", identity::collect));
    }
    if server.authorizer.has(Mode::Rbac) {
        steps.push(step(server, "rbac/bootstrap-roles", rbac::reconcile));
    }
    steps
}

/// What a server does before it stops: others must not send clients to it any more.
pub async fn leave(server: &ApiServer) {
    let left = tokio::time::timeout(Duration::from_secs(5), kubernetes_service::leave(server)).await;
    if let Ok(Err(error)) = left {
        tracing::warn!(%error, "cannot leave the endpoints of the kubernetes service");
    }
}

/// Runs one step until it succeeds.
fn step<F, Fut>(server: &Arc<ApiServer>, name: &'static str, run: F) -> CancellationToken
where
    F: Fn(Arc<ApiServer>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ApiResult<()>> + Send,
{
    let done = CancellationToken::new();
    let (seen, succeeded) = (done.clone(), done.clone());
    server.health.register(&format!("poststarthook/{name}"), move || {
        if seen.is_cancelled() { Ok(()) } else { Err("not finished".to_owned()) }
    });
    let server = Arc::clone(server);
    tokio::spawn(async move {
        while !server.shutdown.is_cancelled() {
            match run(Arc::clone(&server)).await {
                Ok(()) => return succeeded.cancel(),
                Err(error) => tracing::warn!(step = name, %error, "start-up step failed, trying again"),
            }
            tokio::select! {
                () = server.shutdown.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    });
    done
}
