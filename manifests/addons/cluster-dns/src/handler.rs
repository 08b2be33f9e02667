//! Questions in, answers out.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use common::telemetry::register;
use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::Record,
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use prometheus::{IntCounterVec, Opts};

use crate::{
    forward,
    zone::{Answer, View, Zone},
};

/// The payload that we can receive over UDP (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

/// Answers from the zone, or asks a resolver.
pub(crate) struct Handler {
    zone: Zone,
    view: Arc<dyn View>,
    resolvers: Vec<SocketAddr>,
    answers: IntCounterVec,
}

/// What is written back.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
}

impl Reply {
    fn error(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), authorities: Vec::new() }
    }

    fn forwarded(message: Message) -> Self {
        Self {
            code: message.metadata.response_code,
            authoritative: false,
            answers: message.answers,
            authorities: message.authorities,
        }
    }
}

impl Handler {
    pub(crate) fn new(zone: Zone, view: Arc<dyn View>, resolvers: Vec<SocketAddr>) -> prometheus::Result<Self> {
        let name = Opts::new("coredns_dns_responses_total", "Counter of response status codes.");
        Ok(Self { zone, view, resolvers, answers: register(IntCounterVec::new(name, &["rcode"])?) })
    }

    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query || request.metadata.message_type != MessageType::Query {
            return Reply::error(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return Reply::error(ResponseCode::FormErr) };
        let question = info.query.original();
        let negative = || self.zone.soa().into_iter().collect();
        match self.zone.answer(self.view.as_ref(), question.name(), question.query_type()) {
            Answer::Records(answers) => {
                let authorities = if answers.is_empty() { negative() } else { Vec::new() };
                Reply { code: ResponseCode::NoError, authoritative: true, answers, authorities }
            }
            Answer::NoSuchName => Reply {
                code: ResponseCode::NXDomain,
                authoritative: true,
                answers: Vec::new(),
                authorities: negative(),
            },
            Answer::Elsewhere if self.resolvers.is_empty() => Reply::error(ResponseCode::Refused),
            Answer::Elsewhere => forward::ask(&self.resolvers, request.as_slice())
                .await
                .map_or_else(|| Reply::error(ResponseCode::ServFail), Reply::forwarded),
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let reply = self.reply(request).await;
        self.answers.with_label_values(&[reply.code.to_str()]).inc();
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = !self.resolvers.is_empty();
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD.min(asked.max_payload().max(512)));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message = builder.build(metadata, &reply.answers, &reply.authorities, [], []);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot send an answer");
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}
