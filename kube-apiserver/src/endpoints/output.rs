//! Turns stored objects into what the client asked for: the object, a Table, or its metadata only.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::{Target, convert};
use crate::{
    request::{
        ApiError, ApiResult,
        negotiate::{Form, Output},
    },
    resources::table::{self, IncludeObject},
    server::{
        Call,
        response::{self, Body},
    },
    storage::cache::CachedObject,
};

/// `includeObject` of a Table request.
///
/// # Errors
/// 400 for other values than upstream's.
pub fn include_object(call: &Call) -> ApiResult<IncludeObject> {
    match call.query.get("includeObject").unwrap_or_default() {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}"))),
    }
}

/// The tree of a cached object in the version asked for.
///
/// # Errors
/// 500 when the stored bytes are damaged.
pub fn tree(target: Target<'_>, cached: &CachedObject) -> ApiResult<Value> {
    let object = serde_json::from_slice(cached.bytes()).map_err(ApiError::internal)?;
    Ok(convert::to_served(target, object))
}

/// The bytes of a cached object in the version asked for.
///
/// # Errors
/// 500 when the stored bytes are damaged.
pub fn bytes(target: Target<'_>, cached: &CachedObject) -> ApiResult<Bytes> {
    if target.is_stored_form() {
        return Ok(cached.bytes().clone());
    }
    let object = tree(target, cached)?;
    crate::server::registry::encode_ordered(&object).map(Bytes::from).map_err(ApiError::internal)
}

/// Answers with one cached object.
///
/// # Errors
/// What the client is to hear.
pub fn cached(call: &Call, target: Target<'_>, cached: &CachedObject, output: Output) -> ApiResult<Response<Body>> {
    let style = call.style(output.encoding);
    if output.is_plain_json() && style.is_raw() {
        return Ok(response::json(200, bytes(target, cached)?, style.gzip));
    }
    one(call, target, 200, tree(target, cached)?, output)
}

/// Answers with one tree, already in the version asked for.
///
/// # Errors
/// What the client is to hear.
pub fn one(call: &Call, target: Target<'_>, code: u16, object: Value, output: Output) -> ApiResult<Response<Body>> {
    let style = call.style(output.encoding);
    let value = match output.form {
        Form::Object => object,
        Form::Table(version) => {
            let include = include_object(call)?;
            let meta = object["metadata"].clone();
            table_of(target, std::slice::from_ref(&object), &meta, include, version)
        }
        Form::Metadata(version) => partial(&object, version),
    };
    Ok(response::object(code, &value, style))
}

/// A Table of objects in the version asked for.
#[must_use]
pub fn table_of(
    target: Target<'_>,
    objects: &[Value],
    list_meta: &Value,
    include: IncludeObject,
    version: &str,
) -> Value {
    let stored = target.store.resource;
    if target.is_stored_form() {
        let mut table = table::table(stored.group, stored.plural, objects, list_meta, include);
        table["apiVersion"] = format!("meta.k8s.io/{version}").into();
        return table;
    }
    // Cells are read from the stored form; whole objects in rows keep the form that was asked for.
    let in_store: Vec<Value> = objects.iter().map(|object| convert::to_stored(target, object.clone())).collect();
    let mut table = table::table(stored.group, stored.plural, &in_store, list_meta, include);
    if include == IncludeObject::Object
        && let Some(rows) = table["rows"].as_array_mut()
    {
        rows.iter_mut().zip(objects).for_each(|(row, object)| row["object"] = object.clone());
    }
    table["apiVersion"] = format!("meta.k8s.io/{version}").into();
    table
}

/// A `PartialObjectMetadata` of an object.
#[must_use]
pub fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}
