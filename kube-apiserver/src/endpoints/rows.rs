//! Tables of cached objects: one row after the other, of which only the cells need the object's tree.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use super::{Target, output};
use crate::{
    request::{ApiError, ApiResult},
    resources::{self, table, table::IncludeObject},
    storage::cache::{CachedObject, without_managers},
};

/// The rows of a Table of objects that clients see as they are stored, each without its opening brace, and what a Table
/// says before them.
///
/// # Errors
/// 500 when stored bytes are damaged.
pub(super) fn rows<'a>(
    target: Target<'_>,
    objects: impl Iterator<Item = &'a CachedObject>,
    list_meta: &Value,
    include: IncludeObject,
    version: &str,
) -> ApiResult<(Vec<u8>, Vec<Bytes>)> {
    let stored = target.store.resource;
    let strategy = resources::strategy(stored.group, stored.plural);
    let columns = Value::Array(table::columns(strategy));
    let head = format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{list_meta},"columnDefinitions":{columns},"rows":["#
    );
    let now = Timestamp::now();
    let row = |cached: &CachedObject| {
        let cells = strategy.row(&without_managers(cached.bytes()).map_err(ApiError::internal)?, now);
        let mut row = br#""cells":"#.to_vec();
        serde_json::to_writer(&mut row, &cells).map_err(ApiError::internal)?;
        row.extend_from_slice(br#","object":"#);
        match include {
            IncludeObject::None => row.extend_from_slice(b"null"),
            IncludeObject::Object => row.extend_from_slice(cached.bytes()),
            IncludeObject::Metadata => row.extend_from_slice(&output::partial_json(target, cached, "v1")?),
        }
        row.push(b'}');
        Ok(Bytes::from(row))
    };
    Ok((head.into_bytes(), objects.map(row).collect::<ApiResult<_>>()?))
}
