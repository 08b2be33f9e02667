//! What a new cluster needs before anyone can use it: namespaces, roles, the `kubernetes` Service.

mod cluster;
pub(crate) mod ensure;
mod identity;
mod kubernetes_service;
mod namespaces;
mod policy;
mod rbac;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    authz::{Mode, rules::Rule},
    flowcontrol::keep,
    request::ApiResult,
    server::ApiServer,
};

/// What every node may do, for the Node authorizer.
#[must_use]
pub fn node_rules() -> Vec<Rule> {
    serde_json::from_value(policy::cluster_role_rules("system:node")).unwrap_or_default()
}

/// Runs all steps in the background; each is a check of /readyz.
pub fn spawn(server: &Arc<ApiServer>, synced: Vec<watch::Receiver<bool>>) {
    server.health.register_ready("informer-sync", move || {
        if synced.iter().all(|s| *s.borrow()) { Ok(()) } else { Err("authorization caches are not synced".to_owned()) }
    });
    step(server, "start-system-namespaces-controller", namespaces::ensure);
    step(server, "bootstrap-controller", kubernetes_service::ensure_service);
    step(server, "priority-and-fairness-config-producer", keep::produce);
    if server.flow_control.is_some() {
        step(server, "priority-and-fairness-config-consumer", keep::consume);
    }
    step(server, "scheduling/bootstrap-system-priority-classes", cluster::priority_classes);
    step(server, "start-cluster-authentication-info-controller", cluster::authentication_info);
    if common::config::is_beta_on(&server.config.options.gates.feature_gates.join(","), "APIServerIdentity") {
        step(server, "start-kube-apiserver-identity-lease-controller", identity::identity);
        step(server, "start-kube-apiserver-identity-lease-garbage-collector", identity::collect);
    }
    step(server, "start-legacy-token-tracking-controller", cluster::token_tracking);
    if server.authorizer.has(Mode::Rbac) {
        step(server, "rbac/bootstrap-roles", rbac::reconcile);
    }
}

/// What a server does before it stops: others must not send clients to it any more.
pub async fn leave(server: &ApiServer) {
    let left = tokio::time::timeout(Duration::from_secs(5), kubernetes_service::leave(server)).await;
    if let Ok(Err(error)) = left {
        tracing::warn!(%error, "cannot leave the endpoints of the kubernetes service");
    }
}

/// Runs one step until it succeeds.
fn step<F, Fut>(server: &Arc<ApiServer>, name: &'static str, run: F)
where
    F: Fn(Arc<ApiServer>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ApiResult<()>> + Send,
{
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&done);
    server.health.register(&format!("poststarthook/{name}"), move || {
        if seen.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".to_owned()) }
    });
    let server = Arc::clone(server);
    tokio::spawn(async move {
        while !server.shutdown.is_cancelled() {
            match run(Arc::clone(&server)).await {
                Ok(()) => return done.store(true, Ordering::Release),
                Err(error) => tracing::warn!(step = name, %error, "start-up step failed, trying again"),
            }
            tokio::select! {
                () = server.shutdown.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    });
}
