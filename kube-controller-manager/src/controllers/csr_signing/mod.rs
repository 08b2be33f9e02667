//! `certificatesigningrequest-signing-controller`: the four signers of the cluster. Each signs approved requests that name it, if
//! they are what it signs, with the authority of its files; the files may be replaced at any time.

mod authority;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use self::authority::Authority;
use crate::cluster_flags::Signing;
use crate::context::{Context, Task};
use crate::shared::csr::{self, Request};
use crate::shared::meta::{MetaExt, now_time};

const WORKERS: usize = 5;
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1000));
/// Nobody gets less.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

/// Why the controller has nothing to do under these flags.
pub(crate) fn idle(flags: &Signing) -> Option<&'static str> {
    let none = flags.default_files().is_none() && !flags.any_specific();
    none.then_some("no csr cert/key was specified")
}

/// Sets up the controller.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    let flags = &ctx.options.signing;
    if flags.default_files().is_some() && flags.any_specific() {
        anyhow::bail!("cannot specify default and per controller certs at the same time");
    }
    let mut signers = Vec::new();
    for (name, (cert, key)) in flags.files() {
        if cert.is_none() && key.is_none() {
            tracing::info!(signer = name, "not signing: files were specified for other signers and not for this one");
            continue;
        }
        let files = (cert.unwrap_or_default(), key.unwrap_or_default());
        let signer =
            Signer::load(name, files).with_context(|| format!("failed to init {name} certificate controller"))?;
        signers.push(signer);
    }
    let requests: Arc<Informer<CertificateSigningRequest>> = ctx.factory.informer();
    let controller = Arc::new(Controller {
        client: ctx.client("certificate-controller"),
        requests: requests.clone(),
        signers,
        ttl: SignedDuration::try_from(flags.cluster_signing_duration).unwrap_or(SignedDuration::MAX),
    });
    let queue = WorkQueue::with_backoff("certificate", RETRY.0, RETRY.1);
    let (q, c) = (queue.clone(), controller.clone());
    requests.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) && c.signer(event.object()).is_some() {
            q.add(object_key(&**event.object()));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        run_workers("csrsigning", queue, WORKERS, shutdown, move |name: String| {
            let controller = controller.clone();
            async move { controller.sync(&name).await }
        })
        .await;
    }))
}

struct Controller {
    client: Client,
    requests: Arc<Informer<CertificateSigningRequest>>,
    signers: Vec<Signer>,
    ttl: SignedDuration,
}

/// One signer: its name and its authority as the files were when last read.
struct Signer {
    name: &'static str,
    files: (PathBuf, PathBuf),
    current: Mutex<Loaded>,
}

struct Loaded {
    contents: (Vec<u8>, Vec<u8>),
    authority: Arc<Authority>,
}

impl Signer {
    fn load(name: &'static str, files: (PathBuf, PathBuf)) -> anyhow::Result<Self> {
        let contents = read(&files)?;
        let authority = make(&files, &contents)?;
        Ok(Self { name, files, current: Mutex::new(Loaded { contents, authority }) })
    }

    /// The authority of the files as they are now.
    fn authority(&self) -> anyhow::Result<Arc<Authority>> {
        let contents = read(&self.files)?;
        let mut current = self.current.lock();
        if current.contents != contents {
            let authority = make(&self.files, &contents)?;
            *current = Loaded { contents, authority };
        }
        Ok(current.authority.clone())
    }
}

fn read((cert, key): &(PathBuf, PathBuf)) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("error reading CA file {:?}", path.display()));
    Ok((read(cert)?, read(key)?))
}

fn make(files: &(PathBuf, PathBuf), contents: &(Vec<u8>, Vec<u8>)) -> anyhow::Result<Arc<Authority>> {
    let authority = Authority::new(&contents.0, &contents.1);
    let wrong = |reason| anyhow::anyhow!("error reading CA cert file {:?}: {reason}", files.0.display());
    Ok(Arc::new(authority.map_err(wrong)?))
}

/// What to do with a request that a signer of ours is named in.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Not (or no longer) for signing.
    Leave,
    /// Not what this signer signs: say so for ever.
    Fail(String),
    Sign(Box<Request>),
}

fn judge(csr: &CertificateSigningRequest) -> Result<Verdict, String> {
    let settled = csr::is_issued(csr) || csr::has(csr, "Denied") || csr::is_true(csr, "Failed");
    if settled || !csr::has(csr, "Approved") {
        return Ok(Verdict::Leave);
    }
    let request = csr::parse(&csr.spec.request.0).map_err(|error| format!("unable to parse csr: {error}"))?;
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let accepted = match csr.spec.signer_name.as_str() {
        csr::KUBELET_SERVING => csr::check_kubelet_serving(&request, usages),
        csr::KUBELET_CLIENT => csr::check_kubelet_client(&request, usages),
        csr::APISERVER_CLIENT => check_client_usages(usages),
        _ => Ok(()),
    };
    Ok(match accepted {
        Ok(()) => Verdict::Sign(Box::new(request)),
        Err(reason) => Verdict::Fail(reason),
    })
}

fn check_client_usages(usages: &[String]) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".into()),
    }
}

/// How long the certificate lives: what was asked for, within bounds.
fn lifetime(spec: &CertificateSigningRequestSpec, longest: SignedDuration) -> SignedDuration {
    match spec.expiration_seconds.map(|seconds| SignedDuration::from_secs(seconds.into())) {
        None => longest,
        Some(asked) if asked > longest => longest,
        Some(asked) => asked.max(SHORTEST),
    }
}

impl Controller {
    fn signer(&self, csr: &CertificateSigningRequest) -> Option<&Signer> {
        self.signers.iter().find(|signer| signer.name == csr.spec.signer_name)
    }

    async fn sync(&self, name: &str) -> anyhow::Result<()> {
        let Some(cached) = self.requests.get("", name) else { return Ok(()) };
        let Some(signer) = self.signer(&cached) else { return Ok(()) };
        let mut csr = (*cached).clone();
        let status = csr.status.get_or_insert_default();
        match judge(&cached).map_err(anyhow::Error::msg)? {
            Verdict::Leave => return Ok(()),
            Verdict::Fail(message) => {
                status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                    type_: "Failed".into(),
                    status: "True".into(),
                    reason: Some("SignerValidationFailure".into()),
                    message: Some(message),
                    last_update_time: Some(now_time()),
                    ..CertificateSigningRequestCondition::default()
                });
            }
            Verdict::Sign(request) => {
                let usages = cached.spec.usages.as_deref().unwrap_or_default();
                let ttl = lifetime(&cached.spec, self.ttl);
                let pem = signer.authority()?.sign(&request, usages, ttl, Timestamp::now());
                let pem = pem.map_err(|error| anyhow::anyhow!("error auto signing csr: {error}"))?;
                status.certificate = Some(ByteString(pem.into_bytes()));
            }
        }
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        api.replace_status(csr.name_str(), &PostParams::default(), &csr).await.context("error updating csr")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(signer: &str, usages: &[&str], condition: &str) -> CertificateSigningRequest {
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {"signerName": signer, "usages": usages, "request": ""},
            "status": {"conditions": [{"type": condition, "status": "True"}]},
        }))
        .unwrap();
        let text = csr::tests::pem("system:node:a", "system:nodes", &[], None);
        csr.spec.request = ByteString(text.into_bytes());
        csr
    }

    #[test]
    fn verdicts() {
        let client = ["client auth", "digital signature"];
        for (name, csr, want) in [
            ("denied", request(csr::KUBELET_CLIENT, &client, "Denied"), Some(Verdict::Leave)),
            ("failed", request(csr::KUBELET_CLIENT, &client, "Failed"), Some(Verdict::Leave)),
            ("approved", request(csr::KUBELET_CLIENT, &client, "Approved"), None),
            ("any client", request(csr::APISERVER_CLIENT, &client, "Approved"), None),
            (
                "no names",
                request(csr::KUBELET_SERVING, &["server auth", "digital signature"], "Approved"),
                Some(Verdict::Fail("DNS or IP subjectAltName is required".into())),
            ),
            (
                "a server",
                request(csr::APISERVER_CLIENT, &["client auth", "server auth"], "Approved"),
                Some(Verdict::Fail("invalid usage for client certificate: server auth".into())),
            ),
            (
                "no client",
                request(csr::APISERVER_CLIENT, &["digital signature"], "Approved"),
                Some(Verdict::Fail("missing required usage for client certificate: client auth".into())),
            ),
        ] {
            let verdict = judge(&csr).unwrap();
            match want {
                Some(want) => assert_eq!(verdict, want, "{name}"),
                None => assert!(matches!(verdict, Verdict::Sign(_)), "{name}"),
            }
        }
        let mut issued = request(csr::KUBELET_CLIENT, &client, "Approved");
        issued.status.as_mut().unwrap().certificate = Some(ByteString(b"x".to_vec()));
        assert_eq!(judge(&issued).unwrap(), Verdict::Leave);
    }

    #[test]
    fn asked_for_lifetimes() {
        let longest = SignedDuration::from_hours(24);
        let with = |seconds| {
            let spec = CertificateSigningRequestSpec { expiration_seconds: seconds, ..Default::default() };
            lifetime(&spec, longest)
        };
        assert_eq!(with(None), longest);
        assert_eq!(with(Some(3600)), SignedDuration::from_hours(1));
        assert_eq!(with(Some(60)), SHORTEST);
        assert_eq!(with(Some(1 << 30)), longest);
    }
}
