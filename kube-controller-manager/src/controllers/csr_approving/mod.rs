//! `certificatesigningrequest-approving-controller`: approves client certificates of kubelets whose requester may have them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::shared::csr;
use crate::shared::meta::MetaExt;

const WORKERS: usize = 5;
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1000));

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("certificate-controller");
    let requests: Arc<Informer<CertificateSigningRequest>> = ctx.factory.informer();
    let queue = WorkQueue::with_backoff("certificate", RETRY.0, RETRY.1);
    let q = queue.clone();
    requests.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) && is_open(event.object()) {
            q.add(object_key(&**event.object()));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        run_workers("csrapproving", queue, WORKERS, shutdown, move |name: String| {
            let (client, requests) = (client.clone(), requests.clone());
            async move { sync(&client, &requests, &name).await }
        })
        .await;
    }))
}

/// A request of a kind that is approved here, and undecided.
fn is_open(csr: &CertificateSigningRequest) -> bool {
    let decided = csr::is_issued(csr) || csr::has(csr, "Approved") || csr::has(csr, "Denied");
    csr.spec.signer_name == csr::KUBELET_CLIENT && !decided
}

/// What the requester must be allowed to create for an approval, and the approval's message.
type Way = (&'static str, &'static str);

const SELF: Way = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const NODE: Way = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

/// The ways in which the request may be approved, the first preferred.
fn ways(csr: &CertificateSigningRequest) -> Result<&'static [Way], String> {
    let request = csr::parse(&csr.spec.request.0)?;
    if csr::check_kubelet_client(&request, csr.spec.usages.as_deref().unwrap_or_default()).is_err() {
        return Ok(&[]);
    }
    let itself = csr.spec.username.as_deref() == Some(&request.common_name);
    Ok(if itself { &[SELF, NODE] } else { &[NODE] })
}

async fn sync(client: &Client, requests: &Informer<CertificateSigningRequest>, name: &str) -> anyhow::Result<()> {
    let Some(csr) = requests.get("", name).filter(|csr| is_open(csr)) else { return Ok(()) };
    let ways = ways(&csr).map_err(|error| anyhow::anyhow!("unable to parse csr {name:?}: {error}"))?;
    for (subresource, message) in ways {
        if is_allowed(client, &csr, subresource).await? {
            return approve(client, &csr, message).await;
        }
    }
    if !ways.is_empty() {
        // The permission may come later: the back-off asks again.
        let tried: Vec<&str> = ways.iter().map(|way| way.0).collect();
        anyhow::bail!("recognized csr {name:?} as {tried:?} but subject access review was not approved");
    }
    Ok(())
}

async fn is_allowed(client: &Client, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, kube::Error> {
    let spec = &csr.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec
                .extra
                .as_ref()
                .map(|extra| extra.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(subresource.to_owned()),
                version: Some("*".into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

async fn approve(client: &Client, csr: &CertificateSigningRequest, message: &str) -> anyhow::Result<()> {
    let mut approved = csr.clone();
    let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        reason: Some("AutoApproved".into()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    });
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    api.replace_subresource("approval", csr.name_str(), &PostParams::default(), &approved)
        .await
        .context("error updating approval for csr")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn request(user: &str, name: &str, organization: &str, usages: &[&str]) -> CertificateSigningRequest {
        let spec = json!({"signerName": csr::KUBELET_CLIENT, "usages": usages, "request": "", "username": user});
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        csr.spec.request = ByteString(csr::tests::pem(name, organization, &[], None).into_bytes());
        csr
    }

    #[test]
    fn who_may_be_approved_how() {
        let client = ["client auth", "digital signature"];
        let table = [
            (request("system:node:a", "system:node:a", "system:nodes", &client), &[SELF, NODE][..]),
            (request("bootstrap", "system:node:a", "system:nodes", &client), &[NODE]),
            (request("system:node:a", "system:node:a", "others", &client), &[]),
            (request("system:node:a", "system:node:a", "system:nodes", &["server auth"]), &[]),
        ];
        for (csr, want) in table {
            assert_eq!(ways(&csr).unwrap(), want, "{csr:?}");
        }
    }

    #[test]
    fn decided_requests_are_left_alone() {
        let mut csr = request("u", "system:node:a", "system:nodes", &[]);
        assert!(is_open(&csr));
        csr.status = serde_json::from_value(json!({"conditions": [{"type": "Denied", "status": "True"}]})).unwrap();
        assert!(!is_open(&csr));
        let other = CertificateSigningRequest::default();
        assert!(!is_open(&other));
    }
}
