//! Errors as clients see them: `metav1.Status` with upstream's code, reason, message and details.
//!
//! Every failure of a request ends as an [`ApiError`]; nothing else is written as an error body.

use std::fmt;

use serde::Serialize;

use crate::resources::field::{ErrorList, go_quote as quote};

/// One cause inside the details of a status, for instance one invalid field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusCause {
    /// Machine-readable type of the cause (`FieldValueInvalid`, `UnexpectedServerResponse`, ...).
    #[serde(rename = "reason", skip_serializing_if = "String::is_empty")]
    pub cause_type: String,
    /// Human-readable text without the field path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field that caused the error.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// Structured details of a status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDetails {
    /// Name of the object, if one is concerned.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group of the resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource (or kind) concerned.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Single causes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds after which the client may try again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// The fields of a failure `Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// HTTP code.
    pub code: u16,
    /// Upstream's reason constant (`NotFound`, `Conflict`, ...); may be empty.
    pub reason: &'static str,
    /// Message for people.
    pub message: String,
    /// Details, absent for errors that concern no resource.
    pub details: Option<StatusDetails>,
    /// `metadata.continue`: where an expired list may go on inconsistently.
    pub continue_token: String,
}

/// A request's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError(Box<Status>);

/// Result of everything that serves a request.
pub type ApiResult<T> = Result<T, ApiError>;

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

/// `resource.group`, or the bare resource of the core group.
#[must_use]
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn details(group: &str, kind: &str, name: &str) -> Option<StatusDetails> {
    Some(StatusDetails { name: name.to_owned(), group: group.to_owned(), kind: kind.to_owned(), ..Default::default() })
}

impl ApiError {
    /// An error with explicit fields, for the few that have no constructor.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>, details: Option<StatusDetails>) -> Self {
        Self(Box::new(Status { code, reason, message: message.into(), details, continue_token: String::new() }))
    }

    /// 404 `NotFound` for one object.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), quote(name));
        Self::new(404, "NotFound", message, details(group, resource, name))
    }

    /// 404 for a path or resource that this server does not serve.
    #[must_use]
    pub fn unknown_resource() -> Self {
        let details = Some(StatusDetails::default());
        Self::new(404, "NotFound", "the server could not find the requested resource", details)
    }

    /// 409 `AlreadyExists`.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, resource), quote(name));
        Self::new(409, "AlreadyExists", message, details(group, resource, name))
    }

    /// 409 after all generated names were taken.
    #[must_use]
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str) -> Self {
        let mut error = Self::already_exists(group, resource, name);
        error.0.message.push_str(", the server was not able to generate a unique name for the object");
        error.retry_after(1)
    }

    /// 401.
    #[must_use]
    pub fn unauthorized(message: &str) -> Self {
        Self::new(401, "Unauthorized", if message.is_empty() { "not authorized" } else { message }, None)
    }

    /// 403 with the text of the authorizer or admission plugin.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = match (resource.is_empty() && group.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{} is forbidden: {why}", qualified(group, resource)),
            (false, false) => format!("{} {} is forbidden: {why}", qualified(group, resource), quote(name)),
        };
        Self::new(403, "Forbidden", message, details(group, resource, name))
    }

    /// 409 `Conflict`.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", qualified(group, resource), quote(name));
        Self::new(409, "Conflict", message, details(group, resource, name))
    }

    /// 409 because the resourceVersion sent is not the current one.
    #[must_use]
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(group, resource, name, MODIFIED)
    }

    /// 410 `Expired`: the resource version asked for is too old.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message, None)
    }

    /// 422 `Invalid`; the causes carry the field errors in order.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<StatusCause>) -> Self {
        let mut message = format!("{} {} is invalid", qualified(group, kind), quote(name));
        let mut texts: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for cause in &causes {
            let text = format!("{}: {}", cause.field, cause.message);
            if seen.insert(text.clone()) {
                texts.push(text);
            }
        }
        match texts.as_slice() {
            [] => {}
            [one] => message.push_str(&format!(": {one}")),
            many => message.push_str(&format!(": [{}]", many.join(", "))),
        }
        let mut details = details(group, kind, name);
        if let Some(details) = &mut details {
            details.causes = causes;
        }
        Self::new(422, "Invalid", message, details)
    }

    /// 422 from what validation found.
    #[must_use]
    pub fn invalid_fields(group: &str, kind: &str, name: &str, errors: ErrorList) -> Self {
        let cause = |e: crate::resources::field::FieldError| StatusCause {
            cause_type: e.kind.reason().to_owned(),
            message: e.body(),
            field: e.field,
        };
        Self::invalid(group, kind, name, errors.into_iter().map(cause).collect())
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message, None)
    }

    /// 405 for a verb that the resource has not.
    #[must_use]
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", quote(&qualified(group, resource)));
        Self::new(405, "MethodNotAllowed", message, details(group, resource, ""))
    }

    /// 405 for a path that knows the HTTP method not at all.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message, Some(StatusDetails::default()))
    }

    /// 406: none of the accepted media types can be produced.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message, None)
    }

    /// 406: the form asked for does not exist.
    #[must_use]
    pub fn not_acceptable_form(message: &str) -> Self {
        Self::new(406, "NotAcceptable", message, None)
    }

    /// 415: the body's media type is not understood.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message, None)
    }

    /// 415 of a route that takes certain media types only: upstream's router refuses before any handler.
    #[must_use]
    pub fn unroutable_media_type() -> Self {
        Self::new(415, "UnsupportedMediaType", "415: Unsupported Media Type", Some(StatusDetails::default()))
    }

    /// 406 of a route that produces certain media types only.
    #[must_use]
    pub fn unroutable_accept(produced: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", produced.join(", "));
        Self::new(406, "NotAcceptable", message, Some(StatusDetails::default()))
    }

    /// 413.
    #[must_use]
    pub fn too_large(message: &str) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"), None)
    }

    /// 429 with `Retry-After`.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self::new(429, "TooManyRequests", message, Some(StatusDetails::default())).retry_after(retry_after)
    }

    /// 500.
    #[must_use]
    pub fn internal(why: impl fmt::Display) -> Self {
        let text = why.to_string();
        let message = format!("Internal error occurred: {text}");
        let cause = StatusCause { cause_type: String::new(), message: text, field: String::new() };
        Self::new(500, "InternalError", message, Some(StatusDetails { causes: vec![cause], ..Default::default() }))
    }

    /// 500 `ServerTimeout`: try the operation again.
    #[must_use]
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after: u32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, resource)
        );
        Self::new(500, "ServerTimeout", message, details(group, resource, operation)).retry_after(retry_after)
    }

    /// 503.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message, None)
    }

    /// 504.
    #[must_use]
    pub fn timeout(message: &str, retry_after: u32) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {message}"), Some(StatusDetails::default()))
            .retry_after(retry_after)
    }

    /// 501 for what this version of Corten does not do yet.
    #[must_use]
    pub fn not_implemented(what: impl fmt::Display) -> Self {
        Self::new(501, "NotImplemented", format!("{what} is not implemented yet"), None)
    }

    /// Sets `details.retryAfterSeconds`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Sets `metadata.continue`.
    #[must_use]
    pub fn with_continue(mut self, token: &str) -> Self {
        token.clone_into(&mut self.0.continue_token);
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, cause_type: &str, field: &str, message: impl Into<String>) -> Self {
        self.0.details.get_or_insert_default().causes.push(StatusCause {
            cause_type: cause_type.to_owned(),
            message: message.into(),
            field: field.to_owned(),
        });
        self
    }

    /// The status that goes over the wire.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.0
    }

    /// HTTP code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.0.code
    }

    /// Upstream's reason constant.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// True for 409 `Conflict`.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.0.code == 409 && self.0.reason == "Conflict"
    }

    /// True for 409 `AlreadyExists`.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.0.reason == "AlreadyExists"
    }

    /// True for 404.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.0.code == 404
    }

    /// The JSON tree of the status.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.0.message, "code": self.0.code,
        });
        if !self.0.continue_token.is_empty() {
            value["metadata"]["continue"] = self.0.continue_token.as_str().into();
        }
        if !self.0.reason.is_empty() {
            value["reason"] = self.0.reason.into();
        }
        if let Some(details) = &self.0.details {
            value["details"] = serde_json::to_value(details).unwrap_or_default();
        }
        value
    }
}

/// Why an update with a stale resourceVersion is refused.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let error = ApiError::not_found("apps", "deployments", "web");
        assert_eq!(error.to_string(), "deployments.apps \"web\" not found");
        assert_eq!(error.to_value()["details"]["kind"], "deployments");
        let error = ApiError::modified("", "pods", "a");
        assert_eq!(
            error.to_string(),
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again"
        );
        assert_eq!(ApiError::forbidden("", "pods", "", "no").to_string(), "pods is forbidden: no");
        assert_eq!(
            ApiError::method_not_supported("", "bindings", "list").to_string(),
            "list is not supported on resources of kind \"bindings\""
        );
    }

    #[test]
    fn invalid_joins_distinct_causes() {
        let cause = |field: &str| StatusCause {
            cause_type: "FieldValueRequired".into(),
            message: "Required value".into(),
            field: field.into(),
        };
        let error = ApiError::invalid("", "Pod", "x", vec![cause("spec.a")]);
        assert_eq!(error.to_string(), "Pod \"x\" is invalid: spec.a: Required value");
        let error = ApiError::invalid("", "Pod", "x", vec![cause("a"), cause("b"), cause("a")]);
        assert_eq!(error.to_string(), "Pod \"x\" is invalid: [a: Required value, b: Required value]");
        assert_eq!(error.to_value()["details"]["causes"].as_array().unwrap().len(), 3);
    }
}
