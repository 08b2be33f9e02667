//! `serviceaccounts/token`: issues tokens bound to pods, secrets or nodes.

use http::Response;
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::{Target, write};
use crate::{
    admission::Operation,
    authn::service_account::{Claims, KubernetesClaims, Ref},
    request::{ApiError, ApiResult, body::Expected, negotiate, options::WriteOptions, status::StatusCause},
    resources::{
        field::{ErrorList, Path},
        metadata::time,
    },
    server::{
        Call,
        response::{self, Body},
    },
};

const REQUEST: Expected<'static> = Expected { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" };
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// What kubelets ask for on behalf of clients that may not re-read their token; such tokens really live a year.
const WARN_ONLY_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Serves POST.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>, body: Incoming) -> ApiResult<Response<Body>> {
    let encoding = negotiate::plain(&call.headers)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut request = write::read_object(call, body, REQUEST, &options).await?;
    write::settle_namespace(&mut request, true, &call.info.namespace)?;
    let name = call.info.name.as_str();
    let own = write::name_of(&request);
    if !own.is_empty() && own != name {
        let mut errors = ErrorList::new();
        errors.invalid(&Path::root("metadata.name"), own, "must match the service account name if specified");
        return Err(ApiError::invalid_fields(REQUEST.group, REQUEST.kind, name, errors));
    }
    let account = target.store.get(&call.info.namespace, name).await?.object;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    validate(name, seconds)?;
    let mut audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .map(|l| l.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    if audiences.is_empty() {
        audiences.clone_from(&call.config.api_audiences);
    }
    let attributes = write::attributes(call, target, Operation::Create, name, None, options.dry_run);
    call.admission.admit(&attributes, &mut request).await?;
    call.admission.validate(&attributes, Some(&request)).await?;
    let mut kubernetes = KubernetesClaims {
        namespace: call.info.namespace.clone(),
        serviceaccount: Ref { name: name.to_owned(), uid: uid_of(&account).to_owned() },
        ..Default::default()
    };
    bind(call, &request["spec"]["boundObjectRef"], name, &mut kubernetes).await?;
    let now = Timestamp::now();
    let token = issue(call, kubernetes, audiences.clone(), seconds, now)?;
    let expiry = now + SignedDuration::from_secs(seconds);
    let mut reply = request;
    reply["metadata"] = json!({"name": name, "namespace": call.info.namespace, "creationTimestamp": time(now)});
    reply["spec"]["audiences"] = audiences.into();
    reply["spec"]["expirationSeconds"] = seconds.into();
    reply["status"] = json!({"token": token, "expirationTimestamp": time(expiry)});
    Ok(response::object(201, &reply, call.style(encoding)))
}

fn validate(name: &str, seconds: i64) -> ApiResult<()> {
    let why = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let cause = StatusCause {
        cause_type: "FieldValueInvalid".to_owned(),
        message: format!("Invalid value: {seconds}: {why}"),
        field: "spec.expirationSeconds".to_owned(),
    };
    Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", name, vec![cause]))
}

fn issue(
    call: &Call,
    mut kubernetes: KubernetesClaims,
    audiences: Vec<String>,
    seconds: i64,
    now: Timestamp,
) -> ApiResult<String> {
    let issuer = call.issuer.as_ref().ok_or_else(|| {
        ApiError::internal(
            "no token issuer: start the server with --service-account-signing-key-file and --service-account-issuer",
        )
    })?;
    let now = now.as_second();
    let mut lifetime = seconds;
    let for_us = audiences.iter().all(|a| call.config.api_audiences.contains(a));
    if for_us && seconds == WARN_ONLY_SECONDS && kubernetes.pod.is_some() {
        kubernetes.warnafter = Some(now + seconds);
        lifetime = EXTENDED_SECONDS;
    }
    let claims = Claims {
        aud: audiences,
        exp: Some(now + lifetime),
        iat: Some(now),
        iss: issuer.issuer.clone(),
        jti: uuid::Uuid::new_v4().to_string(),
        nbf: Some(now),
        sub: format!("system:serviceaccount:{}:{}", kubernetes.namespace, kubernetes.serviceaccount.name),
        kubernetes,
    };
    issuer.sign(&claims).map_err(ApiError::internal)
}

/// Looks up what the token is bound to.
async fn bind(call: &Call, reference: &Value, account: &str, claims: &mut KubernetesClaims) -> ApiResult<()> {
    if reference.is_null() {
        return Ok(());
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (kind, api_version, name, uid) = (text("kind"), text("apiVersion"), text("name"), text("uid"));
    let namespace = call.info.namespace.as_str();
    let (resource, scope) = match (api_version, kind) {
        ("v1", "Pod") => ("pods", namespace),
        ("v1", "Secret") => ("secrets", namespace),
        ("v1", "Node") => ("nodes", ""),
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {api_version}, Kind={kind}"
            )));
        }
    };
    let object = call.registry.core(resource)?.get(scope, name).await?.object;
    if !uid.is_empty() && uid != uid_of(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", resource, name, why));
    }
    let bound = Some(Ref { name: name.to_owned(), uid: uid_of(&object).to_owned() });
    match kind {
        "Pod" => {
            if object["spec"]["serviceAccountName"].as_str().unwrap_or_default() != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            claims.pod = bound;
            if let Some(node) = object["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                let found = call.registry.core("nodes")?.find("", node).await?;
                let uid = found.map(|n| uid_of(&n.object).to_owned()).unwrap_or_default();
                claims.node = Some(Ref { name: node.to_owned(), uid });
            }
        }
        "Secret" => claims.secret = bound,
        _ => claims.node = bound,
    }
    Ok(())
}

fn uid_of(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}
