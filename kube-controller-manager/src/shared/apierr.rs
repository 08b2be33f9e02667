//! Predicates on API errors, so that controllers name the case and not the code.

use kube::Error;
use kube::core::Status;

fn status(error: &Error) -> Option<&Status> {
    match error {
        Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The HTTP status that the server answered.
pub(crate) fn code(error: &Error) -> Option<u16> {
    status(error).map(|s| s.code).filter(|code| *code != 0)
}

/// The object does not exist.
pub(crate) fn is_not_found(error: &Error) -> bool {
    status(error).is_some_and(|s| s.code == 404 || s.reason == "NotFound")
}

/// An object of this name exists already.
pub(crate) fn is_already_exists(error: &Error) -> bool {
    status(error).is_some_and(|s| s.reason == "AlreadyExists")
}

/// The resourceVersion or UID that was sent is not the current one.
pub(crate) fn is_conflict(error: &Error) -> bool {
    status(error).is_some_and(|s| s.reason == "Conflict" || (s.code == 409 && s.reason != "AlreadyExists"))
}

/// The server understood the request and refuses its content.
pub(crate) fn is_invalid(error: &Error) -> bool {
    status(error).is_some_and(|s| s.reason == "Invalid" || s.code == 422)
}

/// The namespace is being deleted: creating there is pointless, not an error worth a retry.
pub(crate) fn is_namespace_terminating(error: &Error) -> bool {
    status(error)
        .and_then(|s| s.details.as_ref())
        .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
}

/// `Ok` also for "not found", for deletions.
pub(crate) fn ignore_not_found<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The text a user reads in events and conditions: the server's message alone.
pub(crate) fn message(error: &Error) -> String {
    match status(error) {
        Some(s) if !s.message.is_empty() => s.message.clone(),
        _ => error.to_string(),
    }
}
