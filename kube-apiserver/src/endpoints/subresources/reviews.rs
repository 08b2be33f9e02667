//! Reviews: who is this token, may this user do that. Created, answered, never stored.

use std::collections::BTreeMap;

use common::api::Resource;
use http::Response;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{super::write, review_rules};
use crate::{
    authn::User,
    authz::{Attributes, Mode},
    request::{ApiError, ApiResult, body::Expected, negotiate, options::WriteOptions},
    resources::metadata::time,
    server::{
        Call,
        response::{self, Body},
    },
};

/// Serves POST.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, resource: &'static Resource, body: Incoming) -> ApiResult<Response<Body>> {
    let encoding = negotiate::plain(&call.headers)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let expected = Expected { group: resource.group, version: resource.version, kind: resource.kind };
    let mut review = write::read_object(call, body, expected, &options).await?;
    if resource.namespaced {
        write::settle_namespace(&mut review, true, &call.info.namespace)?;
    }
    let meta = write::ensure_metadata(&mut review);
    if meta.get("creationTimestamp").is_none() {
        meta["creationTimestamp"] = Value::Null;
    }
    review["status"] = match resource.plural {
        "tokenreviews" => token_review(call, &review).await?,
        "selfsubjectreviews" => {
            review["metadata"]["creationTimestamp"] = time(jiff::Timestamp::now()).into();
            json!({"userInfo": user_info(&call.user)})
        }
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            access_review(call, resource, &review, &subject(&review))?
        }
        "selfsubjectaccessreviews" => access_review(call, resource, &review, &call.user)?,
        "selfsubjectrulesreviews" => rules_review(call, &review)?,
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(response::object(201, &review, call.style(encoding)))
}

async fn token_review(call: &Call, review: &Value) -> ApiResult<Value> {
    let strings = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
    };
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = strings(&review["spec"]["audiences"]);
    let lookup = crate::server::lookup::CacheLookup::new(&call.registry);
    let outcome = call.authenticator.authenticate_token(token, &audiences, &lookup).await;
    call.note(lookup.into_notes());
    Ok(match outcome {
        Some(Ok((user, granted))) => {
            let mut status = json!({"authenticated": true, "user": user_info(&user)});
            let granted =
                if granted.is_empty() && audiences.is_empty() { call.config.api_audiences.clone() } else { granted };
            if !granted.is_empty() {
                status["audiences"] = granted.into();
            }
            status
        }
        Some(Err(error)) => json!({"user": {}, "error": error}),
        None => json!({"user": {}}),
    })
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = user.groups.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn subject(review: &Value) -> User {
    let spec = &review["spec"];
    let extra: BTreeMap<String, Vec<String>> = serde_json::from_value(spec["extra"].clone()).unwrap_or_default();
    User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: serde_json::from_value(spec["groups"].clone()).unwrap_or_default(),
        extra,
    }
}

fn access_review(call: &Call, resource: &Resource, review: &Value, user: &User) -> ApiResult<Value> {
    let errors = review_rules::validate(resource.plural, review, &call.info.namespace);
    if !errors.is_empty() {
        // Upstream names no kind here.
        return Err(ApiError::invalid_fields(resource.group, "", "", errors));
    }
    let spec = &review["spec"];
    let asks_resource = spec["resourceAttributes"].is_object();
    let part = if asks_resource { &spec["resourceAttributes"] } else { &spec["nonResourceAttributes"] };
    let text = |field: &str| part[field].as_str().unwrap_or_default();
    let selector = field_selector(part);
    let attributes = Attributes {
        user,
        verb: text("verb"),
        namespace: text("namespace"),
        group: text("group"),
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        path: text("path"),
        field_selector: &selector,
        is_resource: asks_resource,
    };
    let decision = call.authorizer.decide(&attributes);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    Ok(status)
}

/// The field selector of resource attributes in its text form.
fn field_selector(part: &Value) -> String {
    let selector = &part["fieldSelector"];
    if let Some(raw) = selector["rawSelector"].as_str().filter(|r| !r.is_empty()) {
        return raw.to_owned();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let equal = requirements.filter(|r| r["operator"] == "In").filter_map(|r| {
        let values = r["values"].as_array()?;
        let [value] = values.as_slice() else { return None };
        Some(format!("{}={}", r["key"].as_str()?, value.as_str()?))
    });
    equal.collect::<Vec<_>>().join(",")
}

fn rules_review(call: &Call, review: &Value) -> ApiResult<Value> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if call.authorizer.has(Mode::AlwaysAllow) || call.user.groups.iter().any(|g| g == crate::authn::MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in call.authorizer.rbac.rules_for(&call.user, namespace) {
        if !rule.resources.is_empty() {
            let mut entry = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                entry["resourceNames"] = rule.resource_names.into();
            }
            resources.push(entry);
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let incomplete = crate::authz::node::node_of(&call.user).is_some();
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
    if incomplete {
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    Ok(status)
}
