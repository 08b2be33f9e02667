//! Predicates on API errors, so that controllers name the case and not the code.

use kube::Error;
use kube::core::Status;

fn status(error: &Error) -> Option<&Status> {
    match error {
        Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The object does not exist.
pub(crate) fn is_not_found(error: &Error) -> bool {
    status(error).is_some_and(|s| s.code == 404 || s.reason == "NotFound")
}

/// The resourceVersion or UID that was sent is not the current one.
pub(crate) fn is_conflict(error: &Error) -> bool {
    status(error).is_some_and(|s| s.reason == "Conflict" || (s.code == 409 && s.reason != "AlreadyExists"))
}

/// The text a user reads in events and logs: the server's message alone.
pub(crate) fn message(error: &Error) -> String {
    match status(error) {
        Some(s) if !s.message.is_empty() => s.message.clone(),
        _ => error.to_string(),
    }
}
