//! Plugins of certificates: who may approve, sign and attest for a signer, and what nobody may ask for.

use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{
    authz,
    request::ApiResult,
    resources::{
        certificates::organizations,
        field::go_quote,
        value::{same_at, str_at},
    },
};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

/// Whether the requester has `verb` on the signer, or on all signers of its domain.
fn may(request: &Attributes<'_>, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    [signer, &domain].into_iter().any(|name| {
        let question = authz::Attributes::resource(&request.call.user, verb, (GROUP, "signers"), "", name);
        request.call.authorizer.allows(&question)
    })
}

/// Only those who may approve for the signer write `approval`.
pub(super) struct CertificateApproval;

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, request: &Attributes<'_>, _object: Option<&Value>) -> ApiResult<()> {
        if (request.group, request.resource, request.subresource) != (GROUP, REQUESTS, "approval") {
            return Ok(());
        }
        let signer = request.old.map(|old| str_at(old, "spec.signerName")).unwrap_or_default();
        if request.operation != Operation::Update || may(request, "approve", signer) {
            return Ok(());
        }
        let signer = go_quote(signer);
        Err(request.forbidden(format!("user not permitted to approve requests with signerName {signer}")))
    }
}

/// Only those who may sign for the signer write certificate and conditions.
pub(super) struct CertificateSigning;

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        if (request.group, request.resource, request.subresource) != (GROUP, REQUESTS, "status") {
            return Ok(());
        }
        let (Some(new), Some(old)) = (object, request.old) else { return Ok(()) };
        let unchanged = ["status.certificate", "status.conditions"].iter().all(|path| same_at(new, old, path));
        let signer = str_at(old, "spec.signerName");
        if unchanged || may(request, "sign", signer) {
            return Ok(());
        }
        let signer = go_quote(signer);
        Err(request.forbidden(format!("user not permitted to sign requests with signerName {signer}")))
    }
}

/// Only those who may attest for the signer publish its trust bundles.
pub(super) struct ClusterTrustBundleAttest;

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(bundle) = object.filter(|_| request.is(GROUP, "clustertrustbundles")) else { return Ok(()) };
        let signer = str_at(bundle, "spec.signerName");
        let unchanged = request.old.is_some_and(|old| same_at(bundle, old, "spec"));
        if signer.is_empty() || unchanged || may(request, "attest", signer) {
            return Ok(());
        }
        let signer = go_quote(signer);
        Err(request.forbidden(format!("user not permitted to attest for signerName {signer}")))
    }
}

/// Nobody becomes a member of system:masters by a certificate of the client signer.
pub(super) struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(csr) = object.filter(|_| request.is(GROUP, REQUESTS)) else { return Ok(()) };
        if request.operation != Operation::Create || str_at(csr, "spec.signerName") != CLIENT_SIGNER {
            return Ok(());
        }
        let groups = organizations(str_at(csr, "spec.request"))
            .map_err(|why| request.forbidden(format!("failed to parse CSR: {why}")))?;
        if groups.iter().any(|group| group == MASTERS) {
            return Err(request.forbidden(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")));
        }
        Ok(())
    }
}
