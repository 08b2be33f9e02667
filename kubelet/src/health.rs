//! The plain health port (`--healthz-port`, loopback): answers as long as the kubelet's loops turn.

use std::sync::Arc;

use anyhow::Context;
use common::serving::{Handler, Health, Ops};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::runtime::pleg;
use crate::shared::Kubelet;

/// The kubelet's own checks; the HTTPS server answers with the same.
pub(crate) fn checks(kubelet: &Arc<Kubelet>) -> Health {
    let health = Health::new();
    let weak = Arc::downgrade(kubelet);
    health.register("syncloop", move || {
        let age = weak.upgrade().and_then(|kubelet| kubelet.pleg.age());
        match age {
            Some(age) if age > pleg::UNHEALTHY_AFTER => {
                Err(format!("the container runtime was last heard of {}s ago", age.as_secs()))
            }
            _ => Ok(()),
        }
    });
    health
}

/// Binds the port; `None` when it is switched off.
pub(crate) async fn bind(kubelet: &Kubelet) -> anyhow::Result<Option<TcpListener>> {
    let file = &kubelet.config.file;
    if file.healthz_port == 0 {
        return Ok(None);
    }
    let address = format!("{}:{}", file.healthz_bind_address, file.healthz_port);
    let listener = TcpListener::bind(&address).await.with_context(|| format!("listening on {address} (healthz)"))?;
    Ok(Some(listener))
}

/// Serves until shutdown.
pub(crate) async fn serve(kubelet: Arc<Kubelet>, listener: TcpListener, shutdown: CancellationToken) {
    let handler: Arc<dyn Handler> = Arc::new(Ops::new(checks(&kubelet)));
    if let Err(error) = common::serving::serve(listener, None, handler, shutdown).await {
        tracing::error!(%error, "the health port failed");
    }
}
