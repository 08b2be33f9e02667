//! A list as the encoded items it is made of: nothing is encoded again, and large ones are never copied into one buffer.

use bytes::{Bytes, BytesMut};
use common::{schema, wire};
use http::Response;
use serde_json::Value;

use crate::{
    request::{ApiError, ApiResult, negotiate::Encoding},
    server::response::{self, Body, BoxError},
};

/// Large lists are sent in pieces of about this size: what is copied is still in the processor's cache when it is sent.
const CHUNK: usize = 64 * 1024;
/// Where items and metadata are in the messages of lists.
const METADATA: u32 = 1;
const ITEMS: u32 = 2;
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// What goes between two items.
enum Joint {
    /// A comma.
    Comma,
    /// Tag and length of each item.
    Head,
}

/// A list in pieces.
pub(super) struct Pieces {
    head: Vec<u8>,
    joint: Joint,
    items: Vec<Bytes>,
    tail: &'static [u8],
}

impl Pieces {
    /// A list of JSON objects, each without its opening brace.
    pub fn json(api_version: &str, kind: &str, meta: &Value, items: Vec<Bytes>) -> Self {
        let head = format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{meta},"items":["#);
        Self { head: head.into_bytes(), joint: Joint::Comma, items, tail: b"]}\n" }
    }

    /// A Table of rows, each without its opening brace, behind what it says before them.
    pub fn table((head, rows): (Vec<u8>, Vec<Bytes>)) -> Self {
        Self { head, joint: Joint::Comma, items: rows, tail: b"]}\n" }
    }

    /// A list of protobuf messages, in its envelope.
    ///
    /// # Errors
    /// The metadata cannot be encoded.
    pub fn protobuf(api_version: &str, kind: &str, meta: &Value, items: Vec<Bytes>) -> ApiResult<Self> {
        let mut metadata = Vec::new();
        let ty = schema::definition(LIST_META).ok_or_else(|| ApiError::internal("ListMeta has no type"))?;
        wire::tree_to_protobuf(ty, meta, &mut metadata).map_err(ApiError::internal)?;
        let first = wire::element_head(METADATA, metadata.len());
        let rest: usize = items.iter().map(|item| wire::element_head(ITEMS, item.len()).len() + item.len()).sum();
        let (mut head, tail) = wire::envelope(api_version, kind, first.len() + metadata.len() + rest);
        head.extend_from_slice(&first);
        head.extend_from_slice(&metadata);
        Ok(Self { head, joint: Joint::Head, items, tail })
    }

    /// The answer: in one buffer when it is small or to be compressed, else in chunks.
    pub fn respond(self, encoding: Encoding, gzip: bool) -> Response<Body> {
        let size: usize = self.items.iter().map(Bytes::len).sum();
        if gzip || size < CHUNK {
            let mut out = BytesMut::with_capacity(self.head.len() + size + self.items.len() * 6 + self.tail.len());
            out.extend_from_slice(&self.head);
            (0..self.items.len()).for_each(|at| self.append(at, &mut out));
            out.extend_from_slice(self.tail);
            return response::bytes_of(200, encoding, out.freeze(), gzip);
        }
        response::with_type(200, encoding.media_type(), response::stream(self.chunks()))
    }

    fn append(&self, at: usize, out: &mut BytesMut) {
        let Some(item) = self.items.get(at) else { return };
        match self.joint {
            Joint::Comma => out.extend_from_slice(if at == 0 { b"{" } else { b",{" }),
            Joint::Head => out.extend_from_slice(&wire::element_head(ITEMS, item.len())),
        }
        out.extend_from_slice(item);
    }

    /// Only one chunk is copied at a time.
    fn chunks(self) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
        let mut at = 0;
        let mut done = false;
        futures::stream::iter(std::iter::from_fn(move || {
            if done {
                return None;
            }
            let mut out = BytesMut::with_capacity(CHUNK + CHUNK / 4);
            if at == 0 {
                out.extend_from_slice(&self.head);
            }
            while at < self.items.len() && out.len() < CHUNK {
                self.append(at, &mut out);
                at += 1;
            }
            if at == self.items.len() {
                out.extend_from_slice(self.tail);
                done = true;
            }
            Some(Ok(out.freeze()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use common::api::catalog;
    use futures::StreamExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_list_has_its_metadata_and_items_where_they_are_written() {
        for resource in catalog().resources().filter(|resource| resource.allows("list")) {
            let ty = schema::lookup(resource.group, resource.version, &resource.list_kind());
            let ty = ty.unwrap_or_else(|| panic!("{} has no list", resource.kind));
            let number = |name| ty.field(name).unwrap().numbers().collect::<Vec<_>>();
            assert_eq!((number("metadata"), number("items")), (vec![METADATA], vec![ITEMS]), "{}", resource.kind);
        }
    }

    #[tokio::test]
    async fn chunks_make_the_same_list() {
        let items: Vec<Bytes> = (0..1000).map(|at| Bytes::from(format!("\"n\":{at:0600}}}"))).collect();
        let whole = format!(
            "{{\"kind\":\"L\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"items\":[{}]}}\n",
            items.iter().map(|i| format!("{{{}", std::str::from_utf8(i).unwrap())).collect::<Vec<_>>().join(",")
        );
        let chunks: Vec<_> = Pieces::json("v1", "L", &json!({}), items).chunks().map(Result::unwrap).collect().await;
        assert!(chunks.len() > 1);
        assert_eq!(chunks.concat(), whole.as_bytes());
    }
}
