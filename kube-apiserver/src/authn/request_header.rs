//! The front proxy: a trusted client certificate names the user in `X-Remote-*` headers.

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::User;

/// Which headers are read and from whom they are believed.
#[derive(Debug, Clone, Default)]
pub struct RequestHeader {
    /// Common names that may act as front proxy; empty allows every certificate of the front-proxy CA.
    pub allowed_names: Vec<String>,
    /// Headers that may carry the user name.
    pub username_headers: Vec<String>,
    /// Headers that may carry the uid.
    pub uid_headers: Vec<String>,
    /// Headers that carry groups.
    pub group_headers: Vec<String>,
    /// Prefixes of headers that carry extra attributes.
    pub extra_prefixes: Vec<String>,
}

impl RequestHeader {
    /// Whether a certificate with this common name may speak for others.
    #[must_use]
    pub fn allows(&self, common_name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|n| n == common_name)
    }

    /// Removes the headers.
    pub fn clear(&self, headers: &mut HeaderMap) {
        for name in self.username_headers.iter().chain(&self.uid_headers).chain(&self.group_headers) {
            headers.remove(name);
        }
        let extra = |name: &str| self.extra_prefixes.iter().any(|prefix| name.starts_with(&prefix.to_lowercase()));
        let found: Vec<_> = headers.keys().filter(|name| extra(name.as_str())).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }

    /// The user that the headers name.
    #[must_use]
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let first = |names: &[String]| {
            names.iter().filter_map(|n| headers.get(n)?.to_str().ok()).find(|v| !v.is_empty()).map(str::to_owned)
        };
        let name = first(&self.username_headers)?;
        let groups = self
            .group_headers
            .iter()
            .flat_map(|n| headers.get_all(n))
            .filter_map(|v| v.to_str().ok().map(str::to_owned))
            .collect();
        let mut user = User { name, uid: first(&self.uid_headers).unwrap_or_default(), groups, ..User::default() };
        for (header, value) in headers {
            for prefix in &self.extra_prefixes {
                let Some(key) = header.as_str().strip_prefix(prefix.to_lowercase().as_str()) else { continue };
                let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
                user.extra.entry(key).or_default().extend(value.to_str().ok().map(str::to_owned));
            }
        }
        Some(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_headers() {
        let config = RequestHeader {
            username_headers: vec!["X-Remote-User".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_prefixes: vec!["X-Remote-Extra-".into()],
            ..Default::default()
        };
        let mut headers = HeaderMap::new();
        assert!(config.user(&headers).is_none());
        headers.insert("x-remote-user", "jane".parse().unwrap());
        headers.append("x-remote-group", "a".parse().unwrap());
        headers.append("x-remote-group", "b".parse().unwrap());
        headers.insert("x-remote-extra-acme.com%2fproject", "p".parse().unwrap());
        let user = config.user(&headers).unwrap();
        assert_eq!(user.groups, ["a", "b"]);
        assert_eq!(user.extra["acme.com/project"], ["p"]);
    }
}
