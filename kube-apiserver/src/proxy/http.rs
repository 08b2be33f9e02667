//! Plain requests passed on: logs, and HTTP to nodes, pods and services.

use http::{HeaderMap, HeaderName, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::{
    location::{self, Location},
    websocket,
};
use crate::{
    request::{ApiError, ApiResult, status::StatusDetails},
    server::{
        Call,
        response::{self, Body},
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
    let host = if location.host.contains(':') {
        format!("[{}]:{}", location.host, location.port)
    } else {
        format!("{}:{}", location.host, location.port)
    };
    let mut request = Request::builder().method(method).uri(uri).body(body).map_err(ApiError::internal)?;
    *request.headers_mut() = headers;
    let host = host.parse().map_err(|error| ApiError::bad_request(format!("proxied host: {error}")))?;
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

/// Passes a request on and its answer back.
pub(super) async fn forward(call: &Call, location: Location, incoming: Request<Incoming>) -> ApiResult<Response<Body>> {
    let (parts, body) = incoming.into_parts();
    let mut headers = passed(&parts.headers);
    headers.remove(header::ACCEPT_ENCODING);
    let body = body.map_err(Into::into).boxed_unsync();
    let answer = call.server.backends.send(&location, request(&location, parts.method, headers, body)?).await?;
    Ok(back(answer))
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
