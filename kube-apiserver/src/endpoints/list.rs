//! LIST: cached bytes are strung together; trees are built only for Tables and other versions.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::{Target, convert, output, pieces::Pieces, rows};
use crate::{
    request::{
        ApiError, ApiResult,
        negotiate::{self, Encoding, Form, Output},
        options::ListOptions,
        selector,
    },
    server::{
        Call,
        response::{self, Body, Style},
    },
    storage::cache::{CacheError, ListPage, ListQuery},
};

/// Serves LIST.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>) -> ApiResult<Response<Body>> {
    let wanted = negotiate::output(&call.headers, true)?;
    let options = ListOptions::parse(&call.query, false)?;
    let page = read(call, target, &options).await?;
    answer(call, target, page, wanted)
}

/// Answers with a page in the form that was negotiated.
///
/// # Errors
/// What the client is to hear.
pub fn answer(call: &Call, target: Target<'_>, page: ListPage, wanted: Output) -> ApiResult<Response<Body>> {
    let style = call.style(wanted.encoding);
    output::check_form(target, true, wanted)?;
    if let Some(pieces) = pieces(call, target, &page, wanted, style)? {
        return Ok(pieces.respond(wanted.encoding, style.gzip));
    }
    Ok(response::object(200, &tree(call, target, &page, wanted)?, style))
}

/// Reads the page that the options ask for.
///
/// # Errors
/// What the client is to hear.
pub async fn read(call: &Call, target: Target<'_>, options: &ListOptions) -> ApiResult<ListPage> {
    let strategy = target.store.strategy;
    let namespace = if target.resource.namespaced { call.info.namespace.as_str() } else { "" };
    let stored = |label: &str| convert::field_label(target, label);
    let selection = selector::selection(namespace, &options.label_selector, &options.field_selector, strategy, stored)?;
    let query = ListQuery {
        selection,
        limit: options.limit,
        continue_token: options.continue_token.clone(),
        version: options.version()?,
    };
    target.store.cache.list(query).await.map_err(|error| match error {
        CacheError::Expired { message, continue_token: Some(token) } => expired_with_token(message, &token),
        error => target.store.cache_error(error),
    })
}

/// 410 whose body carries a token for an inconsistent continuation.
fn expired_with_token(message: String, token: &str) -> ApiError {
    ApiError::expired(message).with_continue(token)
}

/// The list's metadata.
fn list_meta(page: &ListPage) -> Value {
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if let Some(token) = &page.continue_token {
        meta["continue"] = token.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    meta
}

fn tree(call: &Call, target: Target<'_>, page: &ListPage, wanted: Output) -> ApiResult<Value> {
    let mut items = page.items.iter().map(|c| output::tree(target, c)).collect::<ApiResult<Vec<_>>>()?;
    let meta = list_meta(page);
    Ok(match wanted.form {
        Form::Object => {
            for object in items.iter_mut().filter_map(Value::as_object_mut) {
                object.remove("kind");
                object.remove("apiVersion");
            }
            json!({
                "kind": target.resource.list_kind(),
                "apiVersion": target.resource.api_version(),
                "metadata": meta,
                "items": items,
            })
        }
        Form::Table(version) => output::table_of(target, &items, &meta, output::include_object(call)?, version),
        Form::Metadata(version) => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": meta,
            "items": items.iter().map(|o| output::partial(o, version)).collect::<Vec<_>>(),
        }),
    })
}

/// The list as bytes to string together, for what needs no trees (objects and their metadata, in JSON and protobuf) or one
/// at a time (rows).
fn pieces(call: &Call, target: Target<'_>, page: &ListPage, wanted: Output, style: Style) -> ApiResult<Option<Pieces>> {
    if let Form::Table(version) = wanted.form {
        if !target.is_stored_form() || !style.is_raw() {
            return Ok(None);
        }
        let objects = page.items.iter().map(|cached| &**cached);
        let rows = rows::rows(target, objects, &list_meta(page), output::include_object(call)?, version)?;
        return Ok(Some(Pieces::table(rows)));
    }
    let (api_version, kind) = match wanted.form {
        Form::Object => (target.resource.api_version(), target.resource.list_kind()),
        // The older version has other field numbers and few users left.
        Form::Metadata("v1") => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
        _ => return Ok(None),
    };
    let objects = page.items.iter();
    Ok(Some(match (wanted.encoding, wanted.form) {
        (Encoding::Json, Form::Object) if style.is_raw() => {
            let said = target.type_meta();
            let items = objects.map(|cached| Ok(untyped(output::bytes(target, cached)?, &said)));
            let items = items.collect::<ApiResult<_>>()?;
            Pieces::json(&api_version, &kind, &list_meta(page), items)
        }
        (Encoding::Json, Form::Metadata(version)) if style.is_raw() => {
            let items = objects.map(|cached| Ok(untyped(output::partial_json(target, cached, version)?, "")));
            let items = items.collect::<ApiResult<_>>()?;
            Pieces::json(&api_version, &kind, &list_meta(page), items)
        }
        (Encoding::Protobuf, Form::Object) => {
            let items = objects.map(|cached| output::message(target, cached)).collect::<ApiResult<_>>()?;
            Pieces::protobuf(&api_version, &kind, &list_meta(page), items)?
        }
        (Encoding::Protobuf, Form::Metadata(_)) => {
            let items = objects.map(|cached| output::metadata_message(target, cached)).collect::<ApiResult<_>>()?;
            Pieces::protobuf(&api_version, &kind, &list_meta(page), items)?
        }
        _ => return Ok(None),
    }))
}

/// An object without its opening brace and, where it begins with that, `said`: items don't repeat their kind.
fn untyped(object: Bytes, said: &str) -> Bytes {
    let rest =
        object.strip_prefix(b"{").map_or(0, |rest| 1 + rest.strip_prefix(said.as_bytes()).map_or(0, |_| said.len()));
    object.slice(rest..)
}
