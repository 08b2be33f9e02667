//! Kinds that upstream acts on and this server does not yet. Accepting them silently would promise what does not happen.

use super::Target;
use crate::request::{ApiError, ApiResult};

/// Group and plural of kinds that can't be created.
const REFUSED: [(&str, &str); 8] = [
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
];

/// Refuses the creation of such a kind.
///
/// # Errors
/// 501 for the refused ones.
pub fn check(target: Target<'_>) -> ApiResult<()> {
    let resource = (target.resource.group, target.resource.plural);
    if REFUSED.contains(&resource) {
        let message = format!("{} are not implemented by this server yet", resource.1);
        return Err(ApiError::new(501, "NotImplemented", message, None));
    }
    Ok(())
}
