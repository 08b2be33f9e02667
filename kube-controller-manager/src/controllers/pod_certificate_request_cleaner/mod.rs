//! `podcertificaterequest-cleaner-controller`: removes requests of pods for certificates a quarter of an hour after they were made;
//! whoever wanted an answer has it by then.

use std::sync::Arc;
use std::time::Duration;

use common::informer::Informer;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1beta1::PodCertificateRequest;
use kube::api::DeleteParams;
use kube::{Api, Client};

use crate::context::{Context, Task};
use crate::shared::apierr;
use crate::shared::meta::MetaExt;
use crate::shared::pod_control::uid_precondition;

const PERIOD: Duration = Duration::from_secs(5 * 60);
const AGE: SignedDuration = SignedDuration::from_mins(15);

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let client = ctx.client("podcertificaterequestcleaner");
    let requests: Arc<Informer<PodCertificateRequest>> = ctx.factory.informer();
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

async fn clean(client: &Client, requests: &Informer<PodCertificateRequest>) {
    let now = Timestamp::now();
    for request in requests.list().into_iter().filter(|request| is_old(request, now)) {
        let (namespace, name) = (request.ns_str(), request.name_str());
        let api: Api<PodCertificateRequest> = Api::namespaced(client.clone(), namespace);
        let params = uid_precondition(DeleteParams::default(), request.uid_str());
        if let Err(error) = apierr::ignore_not_found(api.delete(name, &params).await) {
            let error = common::client::brief(&error);
            tracing::warn!(namespace, name, error, "cannot delete the pod certificate request");
        }
    }
}

fn is_old(request: &PodCertificateRequest, now: Timestamp) -> bool {
    request.created().is_some_and(|created| now.duration_since(created) >= AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_after_a_quarter_of_an_hour() {
        let now: Timestamp = "2026-01-01T12:15:00Z".parse().unwrap();
        let made = |at: &str| {
            let mut request = PodCertificateRequest::default();
            request.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at.parse().unwrap()));
            is_old(&request, now)
        };
        assert!(made("2026-01-01T12:00:00Z"));
        assert!(!made("2026-01-01T12:00:01Z"));
        assert!(!is_old(&PodCertificateRequest::default(), now));
    }
}
