//! The issuer's discovery documents: how others verify our service-account tokens.

use http::{Method, Response};
use serde_json::json;

use super::{
    Call,
    response::{self, Body},
};
use crate::request::{ApiError, ApiResult};

const CONFIGURATION: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

/// Answers `/.well-known/openid-configuration` and `/openid/v1/jwks`.
#[must_use]
pub fn handle(call: &Call) -> Option<ApiResult<Response<Body>>> {
    let verifier = call.authenticator.service_accounts.as_ref()?;
    let issuer = verifier.issuers.first()?;
    if call.method != Method::GET && matches!(call.info.path.as_str(), CONFIGURATION | KEYS) {
        return Some(Err(ApiError::method_not_allowed()));
    }
    match call.info.path.as_str() {
        CONFIGURATION => {
            let flag = &call.config.options.authentication.service_account_jwks_uri;
            let fallback = || {
                format!(
                    "https://{}:{}/openid/v1/jwks",
                    call.config.advertise_address, call.config.options.serving.secure_port
                )
            };
            let mut algorithms: Vec<&str> = verifier.keys.iter().map(|k| k.algorithm.name()).collect();
            algorithms.sort_unstable();
            algorithms.dedup();
            let document = json!({
                "issuer": issuer,
                "jwks_uri": flag.clone().unwrap_or_else(fallback),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": algorithms,
            });
            Some(Ok(response::with_type(200, "application/json", response::full(document.to_string()))))
        }
        KEYS => {
            let keys: Vec<_> = verifier.keys.iter().map(|k| k.jwk()).collect();
            let body = json!({"keys": keys}).to_string();
            Some(Ok(response::with_type(200, "application/jwk-set+json", response::full(body))))
        }
        _ => None,
    }
}
