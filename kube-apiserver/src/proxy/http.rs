//! Plain requests passed on: logs, and HTTP to nodes, pods and services.

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::{
    links::Links,
    location::{self, Location},
    websocket,
};
use crate::{
    request::{ApiError, ApiResult, status::StatusDetails},
    server::{
        Call,
        response::{self, Body, BoxError},
    },
};

/// An error text of a kubelet longer than this is cut off.
const MAX_ERROR: usize = 16 << 10;

/// Headers that concern one connection only (RFC 9110, 7.6.1), and credentials that are ours alone.
const NOT_PASSED_ON: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::AUTHORIZATION,
];

/// Headers that may be passed on.
pub(super) fn passed(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let keep = |name: &HeaderName| !NOT_PASSED_ON.contains(name) && !named.iter().any(|other| other == name.as_str());
    headers.iter().filter(|(name, _)| keep(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A request to a location, with these headers.
pub(super) fn request(location: &Location, method: Method, headers: HeaderMap, body: Body) -> ApiResult<Request<Body>> {
    let uri: Uri = location.path.parse().map_err(|error| ApiError::bad_request(format!("proxied path: {error}")))?;
    let mut request = Request::builder().method(method).uri(uri).body(body).map_err(ApiError::internal)?;
    *request.headers_mut() = headers;
    let host = location.authority().parse().map_err(|error| ApiError::bad_request(format!("proxied host: {error}")))?;
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

/// A page longer than this keeps its links as they are.
const MAX_PAGE: usize = 8 << 20;

/// Passes a request on; pages that come back have their links led through the proxy, too.
pub(super) async fn forward(call: &Call, location: Location, incoming: Request<Incoming>) -> ApiResult<Response<Body>> {
    if let Some(answer) = to_directory(call, incoming.uri())? {
        return Ok(answer);
    }
    let (parts, body) = incoming.into_parts();
    let mut headers = passed(&parts.headers);
    headers.remove(header::ACCEPT_ENCODING);
    let uri = HeaderValue::from_str(parts.uri.path()).map_err(ApiError::internal)?;
    headers.insert(HeaderName::from_static("x-forwarded-uri"), uri);
    let server = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let links = Links {
        prefix: prefix(parts.uri.path(), &location.path).to_owned(),
        backend: location.authority(),
        server: server.or_else(|| parts.uri.authority().map(Authority::as_str)).unwrap_or_default().to_owned(),
    };
    let body = body.map_err(Into::into).boxed_unsync();
    let answer = call.server.backends.send(&location, request(&location, parts.method, headers, body)?).await?;
    through(&links, back(answer)).await
}

/// A reader of `.../proxy` is sent to `.../proxy/`, or relative links would lead astray.
fn to_directory(call: &Call, uri: &Uri) -> ApiResult<Option<Response<Body>>> {
    if call.info.parts.len() > 3 || uri.path().ends_with('/') || !matches!(call.method, Method::GET | Method::HEAD) {
        return Ok(None);
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut answer = Response::new(response::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path())).map_err(ApiError::internal)?;
    answer.headers_mut().insert(header::LOCATION, location);
    Ok(Some(answer))
}

/// What precedes the backend's path in the request's path.
fn prefix<'a>(path: &'a str, location: &str) -> &'a str {
    let location = location.split('?').next().unwrap_or_default();
    path.strip_suffix(location).unwrap_or(path).trim_end_matches('/')
}

/// Boxed, as the compiler does not see through the error's lifetime.
fn read_page(body: Body) -> BoxFuture<'static, Result<Bytes, BoxError>> {
    Limited::new(body, MAX_PAGE).collect().map(|page| Ok(page?.to_bytes())).boxed()
}

/// Leads a redirect and a page's links through the proxy.
async fn through(links: &Links, answer: Response<Body>) -> ApiResult<Response<Body>> {
    let (mut parts, body) = answer.into_parts();
    let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(to) = text(header::LOCATION) {
        if let Some(to) = links.rewrite(to) {
            parts.headers.insert(header::LOCATION, HeaderValue::from_str(&to).map_err(ApiError::internal)?);
        }
        return Ok(Response::from_parts(parts, body));
    }
    let media_type = text(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    let is_short = length.is_none_or(|length| length <= MAX_PAGE);
    if media_type != "text/html" || parts.headers.contains_key(header::CONTENT_ENCODING) || !is_short {
        return Ok(Response::from_parts(parts, body));
    }
    let page = read_page(body)
        .await
        .map_err(|error| ApiError::unavailable(format!("error trying to reach service: {error}")))?;
    let page = match std::str::from_utf8(&page) {
        Ok(text) => links.rewrite_page(text).into_owned().into(),
        Err(_) => page,
    };
    parts.headers.insert(header::CONTENT_LENGTH, page.len().into());
    Ok(Response::from_parts(parts, response::full(page)))
}

fn back(answer: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    parts.headers = passed(&parts.headers);
    parts.version = http::Version::HTTP_11;
    Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
}

fn check_log_options(call: &Call) -> ApiResult<()> {
    let invalid = |field: &str, value: &str, why: &str| {
        let message =
            format!("PodLogOptions \"{}\" is invalid: {field}: Invalid value: {value}: {why}", call.info.name);
        Err(ApiError::new(
            422,
            "Invalid",
            message,
            Some(StatusDetails { kind: "PodLogOptions".into(), name: call.info.name.clone(), ..Default::default() }),
        ))
    };
    for (name, least, why) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
        ("limitBytes", 1, "must be greater than 0"),
    ] {
        let Some(text) = call.query.get(name).filter(|text| !text.is_empty()) else { continue };
        match text.parse::<i64>() {
            Ok(number) if number < least => return invalid(name, text, why),
            Ok(_) => {}
            Err(_) => {
                return Err(ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")));
            }
        }
    }
    Ok(())
}

/// `pods/log`: the kubelet's answer as a stream of text, or of WebSocket messages; its errors become a Status.
pub(super) async fn log(call: &Call, incoming: &mut Request<Incoming>) -> ApiResult<Response<Body>> {
    check_log_options(call)?;
    let Some(location) = location::log(call).await? else {
        let mut nothing = response::text(204, "");
        nothing.headers_mut().remove(header::CONTENT_TYPE);
        return Ok(nothing);
    };
    let request = request(&location, Method::GET, HeaderMap::new(), response::empty())?;
    let answer = call.server.backends.send(&location, request).await?;
    if answer.status().is_success() {
        if let Some(offers) = websocket::requested(incoming.headers()) {
            return websocket::read(call, incoming, &offers, answer.into_body());
        }
        let body = answer.into_body().map_err(Into::into).boxed_unsync();
        return Ok(response::with_type(200, "text/plain", body));
    }
    Err(refusal(call, answer).await)
}

/// What a kubelet said with an error code.
pub(super) async fn refusal(call: &Call, answer: Response<Incoming>) -> ApiError {
    let code = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_ERROR).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    let name = &call.info.name;
    let details = Some(StatusDetails { name: name.clone(), kind: "pods".into(), ..Default::default() });
    match code {
        400 => ApiError::new(400, "BadRequest", text, details),
        401 => {
            ApiError::new(401, "Unauthorized", "the server has asked for the client to provide credentials", details)
        }
        403 => ApiError::new(403, "Forbidden", text, details),
        404 => ApiError::new(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( pods/log {name}): {text}"),
            details,
        ),
        _ => ApiError::new(
            code,
            "InternalError",
            format!("an error on the server ({text:?}) has prevented the request from succeeding"),
            details,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_what_stands_for_the_backends_root() {
        assert_eq!(
            prefix("/api/v1/namespaces/a/pods/b:80/proxy/x/y", "/x/y?z=1"),
            "/api/v1/namespaces/a/pods/b:80/proxy"
        );
        assert_eq!(prefix("/api/v1/nodes/n/proxy/", "/"), "/api/v1/nodes/n/proxy");
    }

    #[tokio::test]
    async fn redirects_and_pages_lead_through_the_proxy() {
        let links = Links { prefix: "/p".into(), backend: "10.0.0.1:80".into(), server: "k8s".into() };
        let answer = |name, value: &str, body: &'static str| {
            let body = response::full(bytes::Bytes::from_static(body.as_bytes()));
            Response::builder().header(name, value).body(body).unwrap()
        };
        let moved = through(&links, answer(header::LOCATION, "/x", "")).await.unwrap();
        assert_eq!(moved.headers()[header::LOCATION], "/p/x");
        let page =
            through(&links, answer(header::CONTENT_TYPE, "text/html; charset=utf-8", "<a href=/x>")).await.unwrap();
        assert_eq!(page.headers()[header::CONTENT_LENGTH], "13");
        assert_eq!(page.into_body().collect().await.unwrap().to_bytes(), "<a href=/p/x>");
        let text = through(&links, answer(header::CONTENT_TYPE, "text/plain", "<a href=/x>")).await.unwrap();
        assert_eq!(text.into_body().collect().await.unwrap().to_bytes(), "<a href=/x>");
    }
}
