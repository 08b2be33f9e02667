//! Follows an answer until its last byte.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use super::Request;
use crate::server::response::{Body, BoxError};

/// Counts `request` when `response` is sent. A body whose length is known counts at once.
#[must_use]
pub fn observe(mut request: Request, response: Response<Body>) -> Response<Body> {
    request.code = response.status().as_u16();
    if let Some(bytes) = response.body().size_hint().exact() {
        request.bytes = bytes;
        return response;
    }
    response.map(|body| Observed { body, request }.boxed_unsync())
}

struct Observed {
    body: Body,
    request: Request,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.request.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
