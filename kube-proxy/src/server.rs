//! The port for operators (127.0.0.1:10249): /metrics, /proxyMode, /configz, health, /statusz and /flagz.

use std::sync::Arc;

use async_trait::async_trait;
use common::serving::{Body, Handler, Health, Ops, Peer, ZPages, text};
use http::{HeaderValue, header};
use hyper::{Request, Response, StatusCode, body::Incoming};

use crate::config::{Configuration, Mode};

/// Paths that /statusz lists.
const PATHS: [&str; 4] = ["/configz", "/healthz", "/metrics", "/proxyMode"];

/// Answers operators.
pub(crate) struct OperatorServer {
    ops: Ops,
    mode: Mode,
}

impl OperatorServer {
    pub(crate) fn new(mode: Mode, config: &Configuration) -> Self {
        let mut shown = serde_json::to_value(config).unwrap_or_default();
        shown["apiVersion"] = "kubeproxy.config.k8s.io/v1alpha1".into();
        shown["kind"] = "KubeProxyConfiguration".into();
        let ops = Ops {
            health: Health::default(),
            configz: Some(serde_json::json!({"kubeproxy.config.k8s.io": shown})),
            zpages: Some(ZPages::new("kube-proxy", &PATHS)),
        };
        Self { ops, mode }
    }
}

#[async_trait]
impl Handler for OperatorServer {
    async fn handle(&self, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        if request.uri().path() != "/proxyMode" {
            return self.ops.handle(request, peer).await;
        }
        let mut response = text(StatusCode::OK, self.mode.as_str());
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}
