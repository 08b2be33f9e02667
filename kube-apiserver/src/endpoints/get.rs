//! GET of one object: from the watch cache to the wire without a tree in between.

use http::Response;

use super::{Target, output};
use crate::{
    request::{ApiResult, negotiate, options::parse_version},
    server::{Call, response::Body},
    storage::cache::ResourceVersion,
};

/// Serves GET.
///
/// # Errors
/// 404 and whatever reading fails with.
pub async fn serve(call: &Call, target: Target<'_>) -> ApiResult<Response<Body>> {
    let wanted = negotiate::output(&call.headers, false)?;
    let version = match call.query.get("resourceVersion").unwrap_or_default() {
        "" => ResourceVersion::MostRecent,
        "0" => ResourceVersion::Any,
        version => ResourceVersion::NotOlderThan(parse_version(version)?),
    };
    let found = target.store.cache.get(&call.info.namespace, &call.info.name, version).await;
    let cached = found.map_err(|e| target.store.cache_error(e))?;
    let cached = cached.ok_or_else(|| target.not_found(&call.info.name))?;
    output::cached(call, target, &cached, wanted)
}
