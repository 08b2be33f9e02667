//! Turns stored objects into what the client asked for: the object, a Table, or its metadata only.

use bytes::Bytes;
use common::wire;
use http::Response;
use serde_json::{Value, json};

use super::{Target, convert};
use crate::{
    request::{
        ApiError, ApiResult,
        negotiate::{self, Encoding, Form, Output},
    },
    resources::table::{self, IncludeObject},
    server::{
        Call,
        response::{self, Body},
    },
    storage::cache::{CachedObject, Protobuf},
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
        other => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
        ))),
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
    if output.encoding == Encoding::Protobuf
        && output.form == Form::Object
        && let Some(protobuf) = protobuf(target, cached)?
    {
        return Ok(response::bytes_of(200, Encoding::Protobuf, protobuf.sealed(), style.gzip));
    }
    one(call, target, 200, tree(target, cached)?, output)
}

/// The shared protobuf forms of a cached object, where the client sees objects as they are stored.
///
/// # Errors
/// 500 when the object doesn't fit its kind.
pub fn protobuf<'c>(target: Target<'_>, cached: &'c CachedObject) -> ApiResult<Option<&'c Protobuf>> {
    match &target.store.cache.spec().codec {
        Some(codec) if target.is_stored_form() => cached.protobuf(codec).map(Some).map_err(ApiError::internal),
        _ => Ok(None),
    }
}

/// The protobuf message, without envelope, of a cached object in the version asked for.
///
/// # Errors
/// 500 when the object doesn't fit its kind.
pub fn message(target: Target<'_>, cached: &CachedObject) -> ApiResult<Bytes> {
    if let Some(protobuf) = protobuf(target, cached)? {
        return Ok(protobuf.raw());
    }
    let resource = target.resource;
    let ty = common::schema::lookup(resource.group, resource.version, resource.kind);
    let ty = ty.ok_or_else(|| ApiError::not_acceptable(&negotiate::SERIALIZED))?;
    let mut raw = Vec::new();
    wire::tree_to_protobuf(ty, &tree(target, cached)?, &mut raw).map_err(ApiError::internal)?;
    Ok(raw.into())
}

/// Refuses metadata of a list that was asked for as one of an object, and the other way round.
///
/// # Errors
/// 406.
pub fn check_form(target: Target<'_>, list: bool, output: Output) -> ApiResult<()> {
    let Form::Metadata(_) = output.form else { return Ok(()) };
    // Upstream shows its internal type; events of both groups are one there.
    let resource = target.store.resource;
    let (package, kind) = match resource.group.split('.').next().unwrap_or_default() {
        "" | "events" => ("core", resource.kind),
        group => (group, resource.kind),
    };
    let message = match (output.of_list, list) {
        (true, false) => {
            format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{kind})"
            )
        }
        (false, true) => {
            format!("you requested PartialObjectMetadata, but the requested object is a list (*{package}.{kind}List)")
        }
        _ => return Ok(()),
    };
    Err(ApiError::not_acceptable_form(&message))
}

/// Answers with one tree, already in the version asked for.
///
/// # Errors
/// What the client is to hear.
pub fn one(call: &Call, target: Target<'_>, code: u16, object: Value, output: Output) -> ApiResult<Response<Body>> {
    let style = call.style(output.encoding);
    check_form(target, false, output)?;
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

/// The JSON of a `PartialObjectMetadata` of a cached object.
///
/// # Errors
/// 500 when the stored bytes are damaged.
pub fn partial_json(target: Target<'_>, cached: &CachedObject, version: &str) -> ApiResult<Bytes> {
    #[derive(serde::Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        metadata: &'a serde_json::value::RawValue,
    }
    let bytes = bytes(target, cached)?;
    let outer: Outer<'_> = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
    let metadata = outer.metadata.get();
    Ok(format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/{version}","metadata":{metadata}}}"#)
        .into())
}

/// The message of a `PartialObjectMetadata` of a cached object: every object's message begins with it.
///
/// # Errors
/// 500 when the object doesn't fit its kind.
pub fn metadata_message(target: Target<'_>, cached: &CachedObject) -> ApiResult<Bytes> {
    if let Some(protobuf) = protobuf(target, cached)? {
        return Ok(protobuf.metadata());
    }
    let message = message(target, cached)?;
    Ok(message.slice(..wire::first_field_len(&message, 1).unwrap_or(0)))
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
