//! Impersonation: `Impersonate-*` headers, each of which the real user must be allowed to use.

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use crate::{
    authn::{self, AUTHENTICATED, User, service_account},
    authz::{Attributes, Authorizer},
    request::{ApiError, ApiResult},
};

/// Takes the headers out of the request.
pub fn clear(headers: &mut HeaderMap) {
    let found: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// The user that the request acts as; `None` without impersonation headers.
///
/// # Errors
/// 403 when the real user may not, 400 when headers contradict each other.
pub fn impersonate(headers: &HeaderMap, real: &User, authorizer: &Authorizer) -> ApiResult<Option<User>> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let name = text("impersonate-user");
    let uid = text("impersonate-uid");
    let groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(header, value)| {
            let key = header.as_str().strip_prefix("impersonate-extra-")?;
            Some((percent_decode_str(key).decode_utf8_lossy().to_lowercase(), value.to_str().ok()?.to_owned()))
        })
        .collect();
    if name.is_empty() {
        if groups.is_empty() && extra.is_empty() && uid.is_empty() {
            return Ok(None);
        }
        let quoted = |texts: &[String]| texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
        let groups = if groups.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", quoted(&groups)) };
        let extra = extra.iter().map(|(key, value)| format!("{key:?}:[]string{{{value:?}}}")).collect::<Vec<_>>();
        let extra = if extra.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", extra.join(", ")) };
        // Go's picture of the user.
        return Err(ApiError::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:[]string{groups}, Extra:map[string][]string{extra}}} without impersonating a user name"
        )));
    }
    let may = |group: &str, resource: &str, sub: &str, namespace: &str, name: &str| {
        let attributes = Attributes {
            subresource: sub,
            ..Attributes::resource(real, "impersonate", (group, resource), namespace, name)
        };
        authorizer.check(&attributes)
    };
    let mut user = User { name: name.clone(), uid: uid.clone(), groups: groups.clone(), ..User::default() };
    match service_account::split_user_name(&name) {
        Some((namespace, account)) => {
            may("", "serviceaccounts", "", namespace, account)?;
            if groups.is_empty() {
                user.groups = service_account::user(namespace, account, "").groups;
            }
        }
        None => may("", "users", "", "", &name)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    for (key, value) in &extra {
        may("authentication.k8s.io", "userextras", key, "", value)?;
        user.extra.entry(key.clone()).or_default().push(value.clone());
    }
    if !uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &uid)?;
    }
    if name == authn::ANONYMOUS {
        if !user.groups.iter().any(|g| g == authn::UNAUTHENTICATED) {
            user.groups.push(authn::UNAUTHENTICATED.to_owned());
        }
    } else if !user.groups.iter().any(|g| g == AUTHENTICATED || g == authn::UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Some(user))
}
