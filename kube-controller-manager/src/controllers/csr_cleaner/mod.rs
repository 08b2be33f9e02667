//! `certificatesigningrequest-cleaner-controller`: removes requests that are settled for an hour, whose certificate has expired, or
//! that nobody has cared about for a day.

use std::sync::Arc;
use std::time::Duration;

use common::informer::Informer;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::DeleteParams;
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::shared::apierr;
use crate::shared::csr::is_issued;
use crate::shared::meta::MetaExt;

const PERIOD: Duration = Duration::from_secs(3600);
const SETTLED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("certificate-controller");
    let requests: Arc<Informer<CertificateSigningRequest>> = ctx.factory.informer();
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let mut every = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = every.tick() => clean(&client, &requests).await,
            }
        }
    }))
}

async fn clean(client: &Client, requests: &Informer<CertificateSigningRequest>) {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let now = Timestamp::now();
    for csr in requests.list() {
        let Some(why) = reason(&csr, now) else { continue };
        let name = csr.name_str();
        tracing::info!(csr = name, why, "cleaning a certificate signing request");
        if let Err(error) = apierr::ignore_not_found(api.delete(name, &DeleteParams::default()).await) {
            tracing::warn!(csr = name, error = common::client::brief(&error), "cannot delete the request");
        }
    }
}

/// Why a request can go.
fn reason(csr: &CertificateSigningRequest, now: Timestamp) -> Option<&'static str> {
    let older =
        |time: Option<Timestamp>, than: SignedDuration| time.is_some_and(|time| now.duration_since(time) > than);
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.is_empty() && older(csr.created(), PENDING) {
        return Some("nobody decided on it");
    }
    let issued = is_issued(csr);
    let by = |condition: &k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition| {
        let updated = condition.last_update_time.as_ref().map(|time| time.0);
        match condition.type_.as_str() {
            "Denied" if older(updated, SETTLED) => Some("it was denied"),
            "Failed" if older(updated, SETTLED) => Some("it failed"),
            "Approved" if issued && older(updated, SETTLED) => Some("the certificate was issued"),
            "Approved" if issued && has_expired(csr, now) => Some("the certificate has expired"),
            "Approved" if !issued && older(updated, PENDING) => Some("it was approved, but no certificate was issued"),
            _ => None,
        }
    };
    conditions.iter().find_map(by)
}

fn has_expired(csr: &CertificateSigningRequest, now: Timestamp) -> bool {
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    let pem = certificate.and_then(|bytes| x509_parser::pem::parse_x509_pem(&bytes.0).ok());
    let end = pem.and_then(|(_, pem)| pem.parse_x509().map(|cert| cert.validity().not_after.timestamp()).ok());
    end.is_some_and(|end| now.as_second() > end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    #[test]
    fn ages() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let csr = |condition: Option<&str>, hours: i64, issued: bool| {
            let time = (now - SignedDuration::from_hours(hours) - SignedDuration::from_secs(1)).to_string();
            let list: Vec<_> =
                condition.iter().map(|c| json!({"type": c, "status": "True", "lastUpdateTime": time})).collect();
            let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"creationTimestamp": time}, "status": {"conditions": list},
                "spec": {"request": "", "signerName": "s"}}))
            .unwrap();
            if issued {
                csr.status.as_mut().unwrap().certificate = Some(ByteString(b"no certificate".to_vec()));
            }
            csr
        };
        let table = [
            (None, 23, false, false),
            (None, 24, false, true),
            (Some("Denied"), 0, false, false),
            (Some("Denied"), 1, false, true),
            (Some("Failed"), 1, false, true),
            (Some("Approved"), 1, false, false),
            (Some("Approved"), 24, false, true),
            (Some("Approved"), 0, true, false),
            (Some("Approved"), 1, true, true),
        ];
        for (condition, hours, issued, goes) in table {
            let csr = csr(condition, hours, issued);
            assert_eq!(reason(&csr, now).is_some(), goes, "{condition:?} {hours} {issued}");
        }
    }

    #[test]
    fn expired_certificates_go() {
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2026, 1, 1);
        let cert = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({"metadata": {},
            "status": {"conditions": [{"type": "Approved", "status": "True"}]}, "spec": {"request": "", "signerName": "s"}}))
        .unwrap();
        csr.status.as_mut().unwrap().certificate = Some(ByteString(cert.pem().into_bytes()));
        assert_eq!(reason(&csr, "2025-12-31T00:00:00Z".parse().unwrap()), None);
        assert_eq!(reason(&csr, "2026-01-02T00:00:00Z".parse().unwrap()), Some("the certificate has expired"));
    }
}
