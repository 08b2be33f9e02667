//! What authorization decides on.

use crate::{
    authn::User,
    request::{ApiError, RequestInfo},
    resources::field::go_quote,
};

/// One question: may this user do this.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// Verb.
    pub verb: &'a str,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// API group.
    pub group: &'a str,
    /// Resource; empty for non-resource paths.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Object name.
    pub name: &'a str,
    /// Path of a non-resource request.
    pub path: &'a str,
    /// Field selector of a list or watch, unparsed.
    pub field_selector: &'a str,
    /// False for non-resource paths.
    pub is_resource: bool,
}

impl<'a> Attributes<'a> {
    /// The attributes of a request.
    #[must_use]
    pub fn of(user: &'a User, info: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: &info.verb,
            namespace: &info.namespace,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            name: &info.name,
            path: &info.path,
            field_selector: &info.field_selector,
            is_resource: info.is_resource,
        }
    }

    /// A question about a resource.
    #[must_use]
    pub fn resource(
        user: &'a User,
        verb: &'a str,
        (group, resource): (&'a str, &'a str),
        namespace: &'a str,
        name: &'a str,
    ) -> Self {
        Self {
            user,
            verb,
            namespace,
            group,
            resource,
            subresource: "",
            name,
            path: "",
            field_selector: "",
            is_resource: true,
        }
    }

    /// `resource` or `resource/subresource`.
    #[must_use]
    pub fn combined(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Upstream's 403 for these attributes.
    #[must_use]
    pub fn forbidden(&self, reason: &str) -> ApiError {
        let user = go_quote(&self.user.name);
        let message = if self.is_resource {
            let scope = if self.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {}", go_quote(self.namespace))
            };
            let resource = go_quote(&self.combined());
            format!(
                "User {user} cannot {} resource {resource} in API group {} {scope}",
                self.verb,
                go_quote(self.group)
            )
        } else {
            format!("User {user} cannot {} path {}", self.verb, go_quote(self.path))
        };
        let message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let why = if reason.is_empty() { message } else { format!("{message}: {reason}") };
        ApiError::forbidden(self.group, self.resource, self.name, why)
    }
}
