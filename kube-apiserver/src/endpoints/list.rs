//! LIST: cached bytes are strung together; trees are built only for Tables and other versions.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;
use serde_json::{Value, json};

use super::{Target, convert, output};
use crate::{
    request::{
        ApiError, ApiResult,
        negotiate::{self, Form, Output},
        options::ListOptions,
        selector,
    },
    server::{
        Call,
        response::{self, Body, Style},
    },
    storage::cache::{CacheError, CachedObject, ListPage, ListQuery},
};

/// Large lists are sent in pieces of about this size instead of being copied into one buffer.
const CHUNK: usize = 256 * 1024;

/// Serves LIST.
///
/// # Errors
/// What the client is to hear.
pub async fn serve(call: &Call, target: Target<'_>) -> ApiResult<Response<Body>> {
    let wanted = negotiate::output(&call.headers, true)?;
    let options = ListOptions::parse(&call.query, false)?;
    let page = read(call, target, &options).await?;
    let style = call.style(wanted.encoding);
    if wanted.is_plain_json() && style.is_raw() {
        return raw(target, page, style);
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
    let items = page.items.iter().map(|c| output::tree(target, c)).collect::<ApiResult<Vec<_>>>()?;
    let meta = list_meta(page);
    Ok(match wanted.form {
        Form::Object => json!({
            "kind": target.resource.list_kind(),
            "apiVersion": target.resource.api_version(),
            "metadata": meta,
            "items": items,
        }),
        Form::Table(version) => output::table_of(target, &items, &meta, output::include_object(call)?, version),
        Form::Metadata(version) => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": meta,
            "items": items.iter().map(|o| output::partial(o, version)).collect::<Vec<_>>(),
        }),
    })
}

fn raw(target: Target<'_>, page: ListPage, style: Style) -> ApiResult<Response<Body>> {
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        target.resource.list_kind(),
        target.resource.api_version(),
        list_meta(&page)
    );
    let size: usize = page.items.iter().map(|c| c.bytes().len() + 1).sum();
    let items: Vec<Bytes> = if target.is_stored_form() {
        page.items.iter().map(|c| c.bytes().clone()).collect()
    } else {
        page.items.iter().map(|c: &Arc<CachedObject>| output::bytes(target, c)).collect::<ApiResult<_>>()?
    };
    if style.gzip || size < CHUNK {
        let mut out = BytesMut::with_capacity(head.len() + size + 4);
        out.extend_from_slice(head.as_bytes());
        append(&mut out, items.iter(), true);
        out.extend_from_slice(b"]}");
        return Ok(response::json(200, out.freeze(), style.gzip));
    }
    Ok(response::with_type(200, "application/json", response::stream(chunks(head, items))))
}

fn append<'a>(out: &mut BytesMut, items: impl Iterator<Item = &'a Bytes>, mut first: bool) {
    for item in items {
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(item);
    }
}

/// The list in chunks; only one chunk is copied at a time.
fn chunks(
    head: String,
    items: Vec<Bytes>,
) -> impl futures::Stream<Item = Result<Bytes, response::BoxError>> + Send + 'static {
    let mut head = Some(head);
    let mut at = 0;
    let mut done = false;
    futures::stream::iter(std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK + 16 * 1024);
        out.extend_from_slice(head.take().unwrap_or_default().as_bytes());
        while at < items.len() && out.len() < CHUNK {
            append(&mut out, items[at..=at].iter(), at == 0);
            at += 1;
        }
        if at == items.len() {
            out.extend_from_slice(b"]}");
            done = true;
        }
        Some(Ok(out.freeze()))
    }))
}
