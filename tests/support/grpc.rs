//! A gRPC client that shows what is on the wire: raw messages in, raw messages and trailers out, over h2c.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::TcpStream, runtime::Runtime, sync::mpsc::UnboundedSender, time::timeout};
use weir::proto::inference as pb;

/// The service's path.
pub(crate) const SERVICE: &str = "/inference.GRPCInferenceService";

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    /// The first message's bytes, without the frame; `None` if none came.
    pub(crate) message: Option<Bytes>,
    /// The trailers, or the headers of an answer that has only those.
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    /// `grpc-status`.
    #[track_caller]
    pub(crate) fn status(&self) -> u32 {
        let status = self.trailers.get("grpc-status").unwrap_or_else(|| panic!("no grpc-status: {self:?}"));
        status.to_str().expect("ASCII").parse().expect("a number")
    }

    /// `grpc-message`, percent-decoded as far as it matters here.
    pub(crate) fn text(&self) -> String {
        let text = self.trailers.get("grpc-message").map_or("", |text| text.to_str().expect("ASCII"));
        text.replace("%20", " ").replace("%22", "\"").replace("%27", "'").replace("%0A", "\n").replace("%25", "%")
    }

    /// A header or trailer.
    pub(crate) fn metadata(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name).or_else(|| self.trailers.get(name))?;
        Some(value.to_str().expect("ASCII").to_owned())
    }

    /// The message, decoded; fails unless the status is 0.
    #[track_caller]
    pub(crate) fn decode<M: Message + Default>(&self) -> M {
        assert_eq!(self.status(), 0, "{}", self.text());
        M::decode(self.message.clone().expect("an OK answer has a message")).expect("the message decodes")
    }
}

/// A connection.
pub(crate) struct Grpc {
    runtime: Runtime,
    sender: SendRequest<UnsyncBoxBody<Bytes, Infallible>>,
    authority: String,
    /// Dropped, they would tell the server that nobody wants them.
    unread: Vec<hyper::body::Incoming>,
}

impl Grpc {
    /// Connects with prior knowledge of HTTP/2.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
            stream.set_nodelay(true).expect("it is a TCP socket");
            let (sender, connection) =
                handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("the server speaks HTTP/2");
            runtime.spawn(async move { drop(connection.await) });
            sender
        });
        Self { runtime, sender, authority: address.to_string(), unread: Vec::new() }
    }

    /// One call of a unary method with a message's bytes.
    #[track_caller]
    pub(crate) fn call_raw(&mut self, path: &str, message: &[u8], metadata: &[(&str, &str)]) -> Answer {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        self.send("POST", path, &[&headers, metadata].concat(), framed(message))
    }

    /// One call of a method of the inference service.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, message: &impl Message, metadata: &[(&str, &str)]) -> Answer {
        self.call_raw(&format!("{SERVICE}/{method}"), &message.encode_to_vec(), metadata)
    }

    /// `ModelInfer`.
    #[track_caller]
    pub(crate) fn infer(&mut self, request: &pb::ModelInferRequest) -> Answer {
        self.call("ModelInfer", request, &[])
    }

    /// A bidirectional call: each message goes out as a frame's head and then the rest, and once an answer came the next.
    /// Messages are framed. Returns the answers in their frames, and the trailers.
    #[track_caller]
    pub(crate) fn converse(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        messages: &[Vec<u8>],
    ) -> (Vec<Bytes>, HeaderMap) {
        let (chunks, body) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let body = futures_util::stream::unfold(body, |mut body| async move {
            let chunk = body.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(chunk)), body))
        });
        let mut request = Request::post(format!("http://{}{path}", self.authority));
        for (name, value) in [&[("content-type", "application/grpc"), ("te", "trailers")], metadata].concat() {
            request = request.header(name, value);
        }
        let request = request.body(StreamBody::new(body).boxed_unsync()).expect("a request");
        let say = |chunks: &UnboundedSender<Bytes>, framed: &[u8]| {
            for part in [&framed[..5], &framed[5..]] {
                chunks.send(Bytes::copy_from_slice(part)).expect("the call is open");
            }
        };
        let patience = Duration::from_secs(30);
        let (first, rest) = messages.split_first().expect("something to say");
        say(&chunks, first);
        let (mut rest, mut chunks) = (rest.iter(), Some(chunks));
        let Self { runtime, sender, .. } = self;
        runtime.block_on(async {
            sender.ready().await.expect("the connection is open");
            let answer = timeout(patience, sender.send_request(request)).await;
            let answer = answer.expect("an answer while the call is open").expect("an answer");
            let (mut answers, mut read, mut body) = (Vec::new(), Vec::new(), answer.into_body());
            while let Some(frame) = timeout(patience, body.frame()).await.expect("an answer in time") {
                match frame.expect("the body ends well").into_data() {
                    Ok(data) => read.extend_from_slice(&data),
                    Err(frame) => return (answers, frame.into_trailers().expect("data or trailers")),
                }
                while read.len() >= 5 && read.len() >= 5 + message_length(&read) {
                    let rest_read = read.split_off(5 + message_length(&read));
                    answers.push(Bytes::from(std::mem::replace(&mut read, rest_read)));
                    match (rest.next(), &chunks) {
                        (Some(next), Some(chunks)) => say(chunks, next),
                        _ => chunks = None,
                    }
                }
            }
            panic!("the call ended without trailers")
        })
    }

    /// The head of the answer to a call of which only the beginning is sent.
    #[track_caller]
    pub(crate) fn half_a_call(&mut self, path: &str, metadata: &[(&str, &str)], sent: &[u8]) -> HeaderMap {
        let sent = futures_util::stream::iter([Ok(Frame::data(Bytes::copy_from_slice(sent)))]);
        let open = sent.chain(futures_util::stream::pending());
        self.head(path, metadata, StreamBody::new(open).boxed_unsync())
    }

    /// The head of the answer to a POST, whose body nobody reads from then on.
    #[track_caller]
    pub(crate) fn unread(&mut self, path: &str, sent: &[u8]) -> HeaderMap {
        let sent = futures_util::stream::iter([Ok(Frame::data(Bytes::copy_from_slice(sent)))]);
        self.head(path, &[], StreamBody::new(sent).boxed_unsync())
    }

    #[track_caller]
    fn head(&mut self, path: &str, metadata: &[(&str, &str)], body: UnsyncBoxBody<Bytes, Infallible>) -> HeaderMap {
        let mut request = Request::post(format!("http://{}{path}", self.authority));
        for (name, value) in [&[("content-type", "application/grpc"), ("te", "trailers")], metadata].concat() {
            request = request.header(name, value);
        }
        let request = request.body(body).expect("a request");
        let Self { runtime, sender, unread, .. } = self;
        let answer = runtime.block_on(async {
            sender.ready().await.expect("the connection is open");
            let answer = timeout(Duration::from_secs(30), sender.send_request(request)).await;
            answer.expect("an answer in time").expect("an answer")
        });
        let (head, body) = answer.into_parts();
        unread.push(body);
        head.headers
    }

    /// Any HTTP/2 exchange; the body's frames are joined, and its first gRPC frame taken off for a gRPC answer.
    #[track_caller]
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let answer = self.send_as_far_as_it_comes(method, path, headers, body);
        answer.unwrap_or_else(|headers| panic!("the body ends well: {headers:?}"))
    }

    /// The same; `Err`: the headers of an answer that broke off.
    #[track_caller]
    pub(crate) fn send_as_far_as_it_comes(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, HeaderMap> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // Like gRPC's own clients, without a content-length.
        let body = futures_util::stream::iter([Ok(Frame::data(Bytes::from(body)))]);
        let request = request.body(StreamBody::new(body).boxed_unsync()).expect("a request");
        let Self { runtime, sender, .. } = self;
        runtime.block_on(async {
            sender.ready().await.expect("the connection is open");
            let response = sender.send_request(request).await.expect("an answer");
            let (head, mut body) = response.into_parts();
            let (mut bytes, mut trailers) = (Vec::new(), None);
            while let Some(frame) = body.frame().await {
                match frame.map_err(|_| head.headers.clone())?.into_data() {
                    Ok(data) => bytes.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            Ok(answer(&head, Bytes::from(bytes), trailers))
        })
    }
}

/// A message in its frame.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("under 4 GiB");
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}

fn message_length(framed: &[u8]) -> usize {
    u32::from_be_bytes(framed[1..5].try_into().expect("four bytes")) as usize
}

fn answer(head: &http::response::Parts, bytes: Bytes, trailers: Option<HeaderMap>) -> Answer {
    assert_eq!(head.status.as_u16(), 200, "gRPC tells its errors in trailers");
    let grpc = head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let message = match (grpc, bytes.len()) {
        (true, 0) => None,
        (true, _) => {
            assert_eq!((bytes[0], bytes.len()), (0, message_length(&bytes) + 5), "one message, not compressed");
            Some(bytes.slice(5..))
        }
        (false, _) => Some(bytes),
    };
    let trailers = trailers.unwrap_or_else(|| head.headers.clone());
    Answer { headers: head.headers.clone(), message, trailers }
}

/// An input with raw contents: its descriptor and its bytes.
pub(crate) fn raw_input(name: &str, datatype: &str, shape: &[i64]) -> pb::model_infer_request::InferInputTensor {
    pb::model_infer_request::InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}
