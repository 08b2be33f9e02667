//! Kinds that upstream acts on and this server does not yet. Accepting them silently would promise what does not happen:
//! those that guard or extend the API are refused, those that only limit are stored with a warning.

use super::Target;
use crate::{
    request::{ApiError, ApiResult},
    server::Call,
};

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

/// Group and plural of kinds that are stored without effect.
const WITHOUT_EFFECT: [(&str, &str); 2] = [("", "resourcequotas"), ("", "limitranges")];

/// Refuses or warns about the creation of such a kind.
///
/// # Errors
/// 501 for the refused ones.
pub fn check(call: &Call, target: Target<'_>) -> ApiResult<()> {
    let resource = (target.resource.group, target.resource.plural);
    if REFUSED.contains(&resource) {
        let message = format!("{} are not implemented by this server yet", resource.1);
        return Err(ApiError::new(501, "NotImplemented", message, None));
    }
    if WITHOUT_EFFECT.contains(&resource) {
        call.warn(format!("{} are stored but not enforced by this server yet", resource.1));
    }
    Ok(())
}
