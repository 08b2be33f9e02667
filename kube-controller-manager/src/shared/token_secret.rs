//! Secrets that hold a token of a service account.

use std::sync::Arc;

use common::informer::{Factory, Informer};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use super::meta::MetaExt;

/// Names the account.
pub(crate) const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// Tells which account of that name.
pub(crate) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The informer over these Secrets; others are neither watched nor kept.
pub(crate) fn informer(factory: &Factory) -> Arc<Informer<Secret>> {
    factory.informer_with_field_selector("type=kubernetes.io/service-account-token")
}

/// The name of the account, and its UID if it is known already.
pub(crate) fn account_of(secret: &Secret) -> Option<(&str, Option<&str>)> {
    let name = secret.annotation(ACCOUNT_NAME).filter(|name| !name.is_empty())?;
    Some((name, secret.annotation(ACCOUNT_UID).filter(|uid| !uid.is_empty())))
}

/// Whether the Secret is meant for this very account.
pub(crate) fn is_of(secret: &Secret, account: &ServiceAccount) -> bool {
    let same = |(name, uid): (&str, Option<&str>)| {
        name == account.name_str() && uid.is_none_or(|uid| uid == account.uid_str())
    };
    secret.ns_str() == account.ns_str() && account_of(secret).is_some_and(same)
}

/// Whether the account lists the Secret, as it did when tokens were made for every account.
pub(crate) fn is_listed(secret: &str, account: &ServiceAccount) -> bool {
    account.secrets.iter().flatten().any(|reference| reference.name.as_deref() == Some(secret))
}
