//! The paths that operators look at: health, /metrics, /configz, /version, /statusz, /flagz.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Body, Handler, Health, Peer, ZPages, body::respond, full, json, text};
use crate::{config::version, telemetry};

/// Answers the operators' paths; as a [`Handler`] it answers 404 to the rest.
#[derive(Clone, Default)]
pub struct Ops {
    /// The health checks.
    pub health: Health,
    /// What /configz answers, for example `{"componentconfig": {...}}`.
    pub configz: Option<serde_json::Value>,
    /// /statusz and /flagz.
    pub zpages: Option<ZPages>,
}

impl Ops {
    /// Health checks and metrics; set `configz` and `zpages` if there is a config.
    pub fn new(health: Health) -> Self {
        Self { health, configz: None, zpages: None }
    }

    /// The response, or None when the path is somebody else's.
    pub fn respond<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let path = request.uri().path();
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        if let Some(response) = self.health.respond(path, request.uri().query()) {
            return Some(response);
        }
        match path {
            "/metrics" => Some(respond(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                full(telemetry::gather_text()),
            )),
            "/metrics/slis" => {
                Some(respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", full(self.health.slis())))
            }
            "/version" => Some(json(StatusCode::OK, &version::info())),
            "/configz" => self.configz.as_ref().map(|configz| json(StatusCode::OK, configz)),
            path => self.zpages.as_ref()?.respond(path, request.headers()),
        }
    }
}

#[async_trait]
impl Handler for Ops {
    async fn handle(&self, request: Request<Incoming>, _peer: Arc<Peer>) -> Response<Body> {
        self.respond(&request).unwrap_or_else(|| text(StatusCode::NOT_FOUND, "404 page not found\n"))
    }
}
