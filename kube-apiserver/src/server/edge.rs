//! What happens to a request before anybody asks what it is: CORS, strict transport security, connections that are to
//! be spread over other servers.

use common::serving::Peer;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use rand::RngExt;
use regex::Regex;

use super::response::{self, Body};
use crate::options::Options;

const CORS: [(HeaderName, &str); 4] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE, PATCH"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since",
    ),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
    (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
];

/// The rules of the edge.
pub struct Edge {
    origins: Vec<Regex>,
    transport_security: Option<HeaderValue>,
    goaway_chance: f64,
}

impl Edge {
    /// The rules that the flags ask for.
    ///
    /// # Errors
    /// Names the flag.
    pub fn new(options: &Options) -> Result<Self, String> {
        let origins = options.serving.cors_allowed_origins.iter().filter(|o| !o.is_empty()).map(|origin| {
            Regex::new(origin).map_err(|e| {
                format!("Invalid CORS allowed origin, --cors-allowed-origins flag was set to {origin} - {e}")
            })
        });
        let directives = options.limits.strict_transport_security_directives.join("; ");
        let transport_security = (!directives.is_empty()).then(|| HeaderValue::from_str(&directives)).transpose();
        let goaway_chance = options.serving.goaway_chance;
        if !(0.0..=0.02).contains(&goaway_chance) {
            return Err("--goaway-chance can not be less than 0 or greater than 0.02".to_owned());
        }
        Ok(Self {
            origins: origins.collect::<Result<_, _>>()?,
            transport_security: transport_security
                .map_err(|e| format!("--strict-transport-security-directives: {e}"))?,
            goaway_chance,
        })
    }

    /// The headers that the answer shall have, and the answer itself when the request ends here.
    pub fn meet<B>(&self, request: &Request<B>, peer: &Peer) -> (HeaderMap, Option<Response<Body>>) {
        let mut headers = HeaderMap::new();
        if let Some(directives) = &self.transport_security {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, directives.clone());
        }
        if self.goaway_chance > 0.0
            && request.version() == Version::HTTP_2
            && rand::rng().random_range(0.0..1.0) < self.goaway_chance
        {
            peer.finish_connection();
        }
        let Some(origin) = self.allowed_origin(request.headers()) else { return (headers, None) };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in CORS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let preflight = (request.method() == Method::OPTIONS).then(|| {
            let mut response = Response::new(response::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        });
        (headers, preflight)
    }

    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok().filter(|text| !text.is_empty())?;
        self.origins.iter().any(|allowed| allowed.is_match(text)).then(|| origin.clone())
    }
}

/// While the server leaves: clients are to try another one. Its own requests and the operators' paths still pass.
pub fn leaving<B>(request: &Request<B>, peer: &Peer) -> Option<Response<Body>> {
    let own = request.headers().get(header::USER_AGENT).is_some_and(|v| v.as_bytes().starts_with(b"kube-apiserver/"));
    let exempt = ["/readyz", "/livez", "/healthz", "/metrics"];
    if own || exempt.iter().any(|path| request.uri().path().starts_with(path)) {
        return None;
    }
    peer.finish_connection();
    let mut response = response::text(429, "The apiserver is shutting down, please try again later.\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(flags: &[&str]) -> Result<Edge, String> {
        let all = std::iter::once("kube-apiserver").chain(flags.iter().copied());
        Edge::new(&common::config::try_parse_from::<Options>(all).unwrap())
    }

    fn request(method: &str, origin: &'static str) -> Request<()> {
        Request::builder().method(method).uri("/api").header("origin", origin).body(()).unwrap()
    }

    #[test]
    fn origins_are_matched_and_preflights_answered() {
        let edge = edge(&["--cors-allowed-origins=//example\\.com(:|$)"]).unwrap();
        let peer = Peer::new(([127, 0, 0, 1], 1).into());
        let (headers, answer) = edge.meet(&request("GET", "https://example.com"), &peer);
        assert_eq!(headers["access-control-allow-origin"], "https://example.com");
        assert!(answer.is_none());
        let (_, answer) = edge.meet(&request("OPTIONS", "https://example.com"), &peer);
        assert_eq!(answer.unwrap().status(), 204);
        let (headers, answer) = edge.meet(&request("OPTIONS", "https://evil.com"), &peer);
        assert!(headers.is_empty() && answer.is_none());
    }

    #[test]
    fn flags_are_checked() {
        assert!(edge(&["--goaway-chance=0.5"]).is_err());
        assert!(edge(&["--cors-allowed-origins=("]).is_err());
        let edge = edge(&["--strict-transport-security-directives=max-age=1,preload"]).unwrap();
        let (headers, _) = edge.meet(&request("GET", ""), &Peer::new(([127, 0, 0, 1], 1).into()));
        assert_eq!(headers["strict-transport-security"], "max-age=1; preload");
    }

    #[test]
    fn who_leaves_says_so() {
        let peer = Peer::new(([127, 0, 0, 1], 1).into());
        assert_eq!(leaving(&request("GET", ""), &peer).unwrap().headers()["retry-after"], "5");
        assert!(peer.finish.is_cancelled());
        let health = Request::builder().uri("/readyz/etcd").body(()).unwrap();
        assert!(leaving(&health, &peer).is_none());
    }
}
