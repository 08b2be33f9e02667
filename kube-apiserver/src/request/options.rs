//! Options of the verbs: from the query string, and for deletes from a body.

use serde::Deserialize;

use super::{ApiError, ApiResult, Query, status::StatusCause};
use crate::storage::cache::{ResourceVersion, WatchFrom};

/// Options of a list, watch or collection delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Unparsed label selector.
    pub label_selector: String,
    /// Unparsed field selector.
    pub field_selector: String,
    /// Resource version as sent.
    pub resource_version: String,
    /// `Exact`, `NotOlderThan` or empty.
    pub version_match: String,
    /// Page size, 0 for all.
    pub limit: usize,
    /// Continue token.
    pub continue_token: Option<String>,
    /// Bookmarks are welcome.
    pub bookmarks: bool,
    /// Seconds after which a watch ends.
    pub timeout_seconds: Option<u64>,
    /// Send the state first.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and validates the options of a list (`watch` false) or a watch.
    ///
    /// # Errors
    /// 400 for values that do not parse, 422 for combinations that are not allowed.
    pub fn parse(query: &Query, watch: bool) -> ApiResult<Self> {
        let text = |key: &str| query.get(key).unwrap_or_default().to_owned();
        let options = Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            resource_version: text("resourceVersion"),
            version_match: text("resourceVersionMatch"),
            limit: usize::try_from(number(query, "limit")?.unwrap_or(0)).unwrap_or(0),
            continue_token: query.non_empty("continue").map(str::to_owned),
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: number(query, "timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()),
            send_initial_events: query.optional_flag("sendInitialEvents"),
        };
        let causes = if watch { options.watch_errors() } else { options.list_errors() };
        if causes.is_empty() {
            return Ok(options);
        }
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", causes))
    }

    fn list_errors(&self) -> Vec<StatusCause> {
        let mut causes = Vec::new();
        if !self.version_match.is_empty() {
            if self.resource_version.is_empty() {
                causes.push(forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if self.continue_token.is_some() {
                causes.push(forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if !matches!(self.version_match.as_str(), "Exact" | "NotOlderThan") {
                causes.push(not_supported(&self.version_match, "\"Exact\", \"NotOlderThan\", \"\""));
            }
            if self.version_match == "Exact" && self.resource_version == "0" {
                causes.push(forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if self.send_initial_events.is_some() {
            causes.push(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        causes
    }

    fn watch_errors(&self) -> Vec<StatusCause> {
        let mut causes = Vec::new();
        if self.send_initial_events.is_some() {
            if self.version_match != "NotOlderThan" {
                causes.push(forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
        } else if !self.version_match.is_empty() {
            causes.push(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        // Watches that do not say where they start get the state first: upstream fills in what asks for that.
        let begins = self.send_initial_events.is_none() && matches!(self.resource_version.as_str(), "" | "0");
        if self.version_match.is_empty() && begins && self.continue_token.is_some() {
            causes
                .push(forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !self.version_match.is_empty() {
            if self.version_match != "NotOlderThan" {
                causes.push(not_supported(&self.version_match, "\"NotOlderThan\""));
            }
            if self.continue_token.is_some() {
                causes.push(forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
        }
        causes
    }

    /// Which state a list reads.
    ///
    /// # Errors
    /// 400 when the version is no number.
    pub fn version(&self) -> ApiResult<ResourceVersion> {
        if self.continue_token.is_some() {
            return match self.resource_version.as_str() {
                "" | "0" => Ok(ResourceVersion::MostRecent),
                _ => Err(ApiError::bad_request("specifying resource version is not allowed when using continue")),
            };
        }
        let parse_version = |text: &str| {
            parse_version(text).map_err(|error| ApiError::bad_request(format!("invalid resource version: {error}")))
        };
        Ok(match (self.resource_version.as_str(), self.version_match.as_str()) {
            ("", _) => ResourceVersion::MostRecent,
            ("0", _) => ResourceVersion::Any,
            (version, "Exact") => ResourceVersion::Exact(parse_version(version)?),
            // Upstream's legacy rule: a limit without a match asks for exactly this version.
            (version, "") if self.limit > 0 => ResourceVersion::Exact(parse_version(version)?),
            (version, _) => ResourceVersion::NotOlderThan(parse_version(version)?),
        })
    }

    /// Where a watch starts. Watches of old clients, which do not say where, get the state first, too.
    ///
    /// # Errors
    /// The version is no number.
    pub fn watch_from(&self) -> ApiResult<WatchFrom> {
        let version = match self.resource_version.as_str() {
            "" => None,
            version => Some(parse_version(version)?),
        };
        Ok(match (self.send_initial_events, version) {
            (Some(true), version) | (None, version @ (None | Some(0))) => WatchFrom::InitialEvents(version),
            (Some(false), None) => WatchFrom::Now,
            (Some(false), Some(0)) => WatchFrom::Latest,
            (_, Some(version)) => WatchFrom::After(version),
        })
    }
}

fn forbidden(field: &str, message: &str) -> StatusCause {
    StatusCause {
        cause_type: "FieldValueForbidden".to_owned(),
        message: format!("Forbidden: {message}"),
        field: field.to_owned(),
    }
}

fn number(query: &Query, key: &str) -> ApiResult<Option<i64>> {
    let Some(value) = query.get(key) else { return Ok(None) };
    let parsed = value.parse().map_err(|error: std::num::ParseIntError| {
        ApiError::bad_request(format!("strconv.ParseInt: parsing {value:?}: {}", go_parse_error(&error)))
    })?;
    Ok(Some(parsed))
}

/// A resource version as a number.
///
/// # Errors
/// 500: upstream answers that where it has no better idea (lists have).
pub fn parse_version(text: &str) -> ApiResult<u64> {
    parse_uint(text)
        .map_err(|error| ApiError::new(500, "", format!("resourceVersion: Invalid value: {text:?}: {error}"), None))
}

/// A number as Go reads it.
///
/// # Errors
/// Go's complaint.
pub fn parse_uint(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error: std::num::ParseIntError| {
        format!("strconv.ParseUint: parsing {text:?}: {}", go_parse_error(&error))
    })
}

fn go_parse_error(error: &std::num::ParseIntError) -> &'static str {
    match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

fn not_supported(value: &str, supported: &str) -> StatusCause {
    StatusCause {
        cause_type: "FieldValueNotSupported".to_owned(),
        message: format!("Unsupported value: {value:?}: supported values: {supported}"),
        field: "resourceVersionMatch".to_owned(),
    }
}

/// Preconditions of a delete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// The object must have this uid.
    pub uid: Option<String>,
    /// The object must have this version.
    pub resource_version: Option<String>,
}

/// Options of a delete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds to wait before the object is removed.
    pub grace_period_seconds: Option<i64>,
    /// What the object must be.
    pub preconditions: Option<Preconditions>,
    /// Deprecated form of `propagation_policy`.
    pub orphan_dependents: Option<bool>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation_policy: Option<String>,
    /// `All` or nothing.
    pub dry_run: Vec<String>,
}

impl DeleteOptions {
    /// Reads the options from a query string.
    ///
    /// # Errors
    /// 400 for values that do not parse.
    pub fn from_query(query: &Query) -> ApiResult<Self> {
        Ok(Self {
            grace_period_seconds: number(query, "gracePeriodSeconds")?,
            preconditions: None,
            orphan_dependents: query.optional_flag("orphanDependents"),
            propagation_policy: query.non_empty("propagationPolicy").map(str::to_owned),
            dry_run: query.all("dryRun").map(str::to_owned).collect(),
        })
    }

    /// Checks what upstream checks.
    ///
    /// # Errors
    /// 422.
    pub fn validate(&self) -> ApiResult<()> {
        let mut causes = Vec::new();
        let mut invalid = |field: &str, value: &str, detail: &str| {
            causes.push(StatusCause {
                cause_type: "FieldValueInvalid".to_owned(),
                message: format!("Invalid value: {value:?}: {detail}"),
                field: field.to_owned(),
            });
        };
        if let Some(policy) = &self.propagation_policy {
            if self.orphan_dependents.is_some() {
                invalid("propagationPolicy", policy, "orphanDependents and deletionPropagation cannot be both set");
            }
            if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
                causes.push(StatusCause {
                    cause_type: "FieldValueNotSupported".to_owned(),
                    message: format!(
                        "Unsupported value: {policy:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                    ),
                    field: "propagationPolicy".to_owned(),
                });
            }
        }
        causes.extend(dry_run_errors(&self.dry_run));
        if causes.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", causes)) }
    }

    /// Nothing is to be stored.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        !self.dry_run.is_empty()
    }
}

fn dry_run_errors(values: &[String]) -> Vec<StatusCause> {
    if values.iter().all(|value| value == "All") {
        return Vec::new();
    }
    vec![StatusCause {
        cause_type: "FieldValueNotSupported".to_owned(),
        message: format!("Unsupported value: {}: supported values: \"All\"", serde_json::json!(values)),
        field: "dryRun".to_owned(),
    }]
}

/// What to do about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop silently.
    Ignore,
    /// Drop and warn.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

/// Options of a create, update or patch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Nothing is to be stored.
    pub dry_run: bool,
    /// Unknown fields.
    pub field_validation: FieldValidation,
    /// Who writes.
    pub field_manager: String,
    /// Server-side apply: take over conflicting fields.
    pub force: Option<bool>,
}

impl WriteOptions {
    /// Reads and validates; `kind` is the options' kind (`CreateOptions`, ...).
    ///
    /// # Errors
    /// 422.
    pub fn parse(query: &Query, kind: &str) -> ApiResult<Self> {
        Self::parse_with(query, kind, Vec::new())
    }

    /// Reads and validates the options of a patch.
    ///
    /// # Errors
    /// 422.
    pub fn parse_patch(query: &Query, apply: bool) -> ApiResult<Self> {
        let mut causes = Vec::new();
        if apply && query.non_empty("fieldManager").is_none() {
            causes.push(StatusCause {
                cause_type: "FieldValueRequired".to_owned(),
                message: "Required value: is required for apply patch".to_owned(),
                field: "fieldManager".to_owned(),
            });
        }
        if !apply && query.non_empty("force").is_some() {
            causes.push(forbidden("force", "may not be specified for non-apply patch"));
        }
        Self::parse_with(query, "PatchOptions", causes)
    }

    fn parse_with(query: &Query, kind: &str, mut causes: Vec<StatusCause>) -> ApiResult<Self> {
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        causes.extend(manager_errors(&field_manager));
        let dry_run: Vec<String> = query.all("dryRun").map(str::to_owned).collect();
        causes.extend(dry_run_errors(&dry_run));
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                causes.push(StatusCause {
                    cause_type: "FieldValueNotSupported".to_owned(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
                    ),
                    field: "fieldValidation".to_owned(),
                });
                FieldValidation::Warn
            }
        };
        if !causes.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", kind, "", causes));
        }
        let force = query.non_empty("force").map(|v| !matches!(v, "false" | "0"));
        Ok(Self { dry_run: !dry_run.is_empty(), field_validation, field_manager, force })
    }
}

fn manager_errors(manager: &str) -> Vec<StatusCause> {
    let cause = |cause_type: &str, message: String| StatusCause {
        cause_type: cause_type.to_owned(),
        message,
        field: "fieldManager".to_owned(),
    };
    let mut causes = Vec::new();
    if manager.len() > 128 {
        causes.push(cause("FieldValueTooLong", "Too long: may not be more than 128 bytes".to_owned()));
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control() || c.is_whitespace() && *c != ' ') {
        let quoted = crate::resources::field::go_quote(manager);
        let code = u32::from(c);
        causes.push(cause(
            "FieldValueInvalid",
            format!("Invalid value: {quoted}: invalid character U+{code:04X} (at position {at})"),
        ));
    }
    causes
}
