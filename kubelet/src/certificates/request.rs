//! One CertificateSigningRequest: made, and watched until it is answered.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};

use super::template::Kind;

/// How long a request waits for its certificate.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("failed while requesting a signed certificate from the control plane: cannot create certificate signing request: {}", common::client::brief(.0))]
    Create(#[source] Box<kube::Error>),
    #[error("certificate signing request {name} is {verdict}, reason: {reason}, message: {message}")]
    Refused { name: String, verdict: &'static str, reason: String, message: String },
    #[error("certificate request {0} was not signed: timed out waiting for the condition")]
    Unanswered(String),
    #[error("certificate signing request {0} was deleted")]
    Gone(String),
}

/// Asks for a certificate and waits for it; answers PEM.
pub(super) async fn request(client: &kube::Client, pem: String, kind: Kind) -> Result<Vec<u8>, RequestError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut request = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: kind.signer().to_owned(),
            usages: Some(kind.usages().map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    request.metadata.generate_name = Some("csr-".into());
    let made = api.create(&PostParams::default(), &request).await;
    let made = made.map_err(|error| RequestError::Create(Box::new(error)))?;
    let name = made.metadata.name.unwrap_or_default();
    tracing::info!(csr = name, signer = kind.signer(), "waiting for the certificate to be issued");
    match tokio::time::timeout(PATIENCE, answer(&api, &name)).await {
        Ok(answer) => answer,
        Err(_) => Err(RequestError::Unanswered(name)),
    }
}

async fn answer(api: &Api<CertificateSigningRequest>, name: &str) -> Result<Vec<u8>, RequestError> {
    let mut seen = Box::pin(watcher::watch_object(api.clone(), name).default_backoff());
    while let Some(event) = seen.next().await {
        match event {
            Ok(Some(request)) => {
                if let Some(verdict) = verdict(&request) {
                    return verdict;
                }
            }
            Ok(None) => return Err(RequestError::Gone(name.to_owned())),
            Err(error) => tracing::debug!(%error, csr = name, "cannot watch the certificate signing request"),
        }
    }
    Err(RequestError::Unanswered(name.to_owned()))
}

/// What has been decided; `None` while nothing is.
fn verdict(request: &CertificateSigningRequest) -> Option<Result<Vec<u8>, RequestError>> {
    let status = request.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    for (type_, verdict) in [("Denied", "denied"), ("Failed", "failed")] {
        if let Some(condition) = conditions.iter().find(|condition| condition.type_ == type_) {
            return Some(Err(RequestError::Refused {
                name: request.metadata.name.clone().unwrap_or_default(),
                verdict,
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
            }));
        }
    }
    let approved = conditions.iter().any(|condition| condition.type_ == "Approved");
    let certificate = status.certificate.as_ref().filter(|certificate| approved && !certificate.0.is_empty())?;
    Some(Ok(certificate.0.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers() {
        let of = |status: serde_json::Value| {
            let request =
                json!({"metadata": {"name": "csr-1"}, "spec": {"request": "", "signerName": "s"}, "status": status});
            verdict(&serde_json::from_value(request).unwrap()).map(|answer| answer.map_err(|error| error.to_string()))
        };
        let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "R", "message": "M"});
        assert_eq!(of(json!({})), None);
        assert_eq!(of(json!({"certificate": "eA=="})), None, "not approved");
        assert_eq!(of(json!({"conditions": [condition("Approved")]})), None);
        assert_eq!(of(json!({"conditions": [condition("Approved")], "certificate": "eA=="})), Some(Ok(b"x".to_vec())));
        let denied = of(json!({"conditions": [condition("Denied")]})).unwrap().unwrap_err();
        assert_eq!(denied, "certificate signing request csr-1 is denied, reason: R, message: M");
    }
}
