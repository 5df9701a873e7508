//! One attempt: one request to one endpoint, and its answer as far as it is held.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::{
    FREE_RESENDS, HOLD_UP_TO, Prediction, Run,
    body::{AnswerStream, Held, Limit, Source},
    classify::{Advice, Class, Failure},
    endpoint::{Endpoint, InFlight},
    http1, http2, message,
    outgoing::Outgoing,
    pool::Choice,
};
use crate::{
    admission::Permit,
    infer::{AnswerBody, Deadline, Method, Protocol},
};

/// Where an attempt goes.
pub(super) struct Call<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) protocol: Protocol,
    pub(super) holding: Holding,
    /// Whether what cannot be an answer is none.
    pub(super) judged: bool,
    pub(super) began: Instant,
    /// Whether there is a connection for it: until then, nothing was sent.
    pub(super) connected: AtomicBool,
}

/// An attempt about to be made: where, in whose name, and for how long.
pub(super) struct Attempt {
    pub(super) choice: Choice,
    pub(super) in_flight: InFlight,
    pub(super) began: Instant,
    /// Then it is cut off.
    pub(super) limit: Duration,
    /// Then the next one is made, beside it or in its place.
    pub(super) part: Duration,
    /// Whether another one may be made beside it.
    pub(super) accompanied: bool,
}

/// An attempt that ended.
pub(super) struct Settled {
    pub(super) outcome: Result<Reply, Failure>,
    pub(super) class: Class,
    pub(super) index: usize,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

impl Settled {
    /// Its own time, without that of others and the waits between them.
    pub(super) fn took(&self) -> Duration {
        self.ended - self.began
    }

    /// Whether there was no connection, so that nothing can have been carried out.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self.outcome, Err(Failure::Unsent(_) | Failure::Connect(_) | Failure::Unconnected(_)))
    }

    /// What the endpoint said of asking it again.
    pub(super) fn advice(&self) -> Advice {
        self.outcome.as_ref().map_or(Advice::None, |reply| reply.advice)
    }
}

/// Which answers are held until whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// Those up to 64 KiB, but for event streams.
    Short,
    /// None: each frame may be waited for.
    Never,
}

impl Holding {
    pub(super) fn of(method: Method) -> Self {
        if method == Method::Stream { Self::Never } else { Self::Short }
    }
}

/// An endpoint's answer.
pub(super) struct Reply {
    pub(super) class: Class,
    /// Heeded where another attempt may be made.
    pub(super) advice: Advice,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Held,
}

impl Call<'_> {
    /// Connects if need be, sends, and reads the answer's head and up to 64 KiB of its body. What was never sent goes out again
    /// for free.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it cancels the request upstream: the HTTP/1 connection closes, the HTTP/2 stream is reset.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice: room in every request")]
    pub(super) fn send<'a>(
        &'a self,
        outgoing: &'a Outgoing,
        in_flight: InFlight,
    ) -> impl Future<Output = Result<Reply, Failure>> + Send + 'a {
        async move {
            let mut resends = 0;
            let (status, headers, source) = loop {
                match self.ask(outgoing).await {
                    Err(Failure::Unsent(body)) if resends < FREE_RESENDS => {
                        resends += 1;
                        self.connected.store(false, Relaxed);
                        outgoing.restore(*body);
                    }
                    asked => break asked?,
                }
            };
            self.read(status, headers, source, in_flight).await
        }
    }

    /// Sends and waits for the answer's head. The request is made when there is a connection to put it on: it crosses no wait,
    /// and a connection that cannot be had costs no body.
    async fn ask(&self, outgoing: &Outgoing) -> Result<(StatusCode, HeaderMap, Source), Failure> {
        let upstream = self.endpoint.upstream(self.protocol).expect("picked: an endpoint with the port");
        let timeout = self.run.pool.config.connect_timeout;
        let worker = self.run.worker;
        if self.protocol == Protocol::Grpc {
            let shared = self.endpoint.shared(worker);
            let mut line = shared.line(upstream, timeout, &self.run.predict.tasks).await.map_err(Failure::Connect)?;
            self.connected.store(true, Relaxed);
            let left = self.left(Instant::now());
            let request = outgoing.http2(self.endpoint, left).ok_or(Failure::Spent)?;
            let sent = http2::send(&mut line, request).await;
            let sent = if line.is_proven() { sent } else { sent.map_err(|failure| failure.on_new(outgoing)) };
            let (head, incoming) = sent?.into_parts();
            return Ok((head.status, head.headers, Source::Http2(incoming)));
        }
        let mut lease = http1::lease(self.endpoint.idle(worker), upstream, timeout).await.map_err(Failure::Connect)?;
        self.connected.store(true, Relaxed);
        let is_new = lease.is_new();
        let left = self.left(if is_new { Instant::now() } else { self.began });
        let body = outgoing.body().ok_or(Failure::Spent)?;
        let numbers = outgoing.deadline(left);
        let sent = lease.send(&outgoing.http1(self.endpoint, &numbers), body).await;
        let (status, headers) = if is_new { sent.map_err(|failure| failure.on_new(outgoing)) } else { sent }?;
        Ok((status, headers, Source::Http1(Some(lease))))
    }

    fn left(&self, now: Instant) -> Duration {
        self.run.plan.model_by.remaining(now)
    }

    /// The answer as far as it is held.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice: room in every request")]
    fn read(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        source: Source,
        in_flight: InFlight,
    ) -> impl Future<Output = Result<Reply, Failure>> + Send {
        async move {
            let guards = (Some(in_flight), None);
            let mut stream = AnswerStream { head: VecDeque::new(), source, guards, limit: None };
            let long = http_body::Body::size_hint(&stream).exact().is_some_and(|length| length > HOLD_UP_TO as u64);
            let body = if is_event_stream(&headers) {
                stream.limit = Some(Limit::each(self.run.plan.deadline.instant() - self.run.started));
                Held::Longer(stream)
            } else if long || self.holding == Holding::Never {
                Held::Longer(stream)
            } else {
                stream.hold(HOLD_UP_TO).await?
            };
            if let (Held::Whole(bytes, trailers), StatusCode::OK) = (&body, status) {
                let trailers = trailers.as_ref();
                if self.protocol == Protocol::Grpc {
                    message::ended(&headers, bytes, trailers)?;
                }
                if self.judged {
                    message::makes_sense(self.protocol, &headers, bytes, trailers)?;
                }
            }
            let trailers = match &body {
                Held::Whole(_, trailers) => trailers.as_ref(),
                Held::Longer(_) => None,
            };
            let class = Class::of_answer(self.protocol, status, &headers, trailers);
            let advice = if class.retryable() { Advice::of(&headers, trailers, SystemTime::now) } else { Advice::None };
            Ok(Reply { class, advice, status, headers, body })
        }
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

impl Reply {
    /// Whether what it took says how fast the endpoint is: how long a stream takes says nothing of load, and nor does a refusal,
    /// be it told in trailers.
    pub(super) fn is_lesson(&self) -> bool {
        self.class == Class::Answered && self.status.is_success() && matches!(self.body, Held::Whole(..))
    }

    /// Hands the answer on; a long body takes the permit with it.
    pub(super) fn into_prediction(self, permit: Option<Permit>, deadline: Deadline) -> Prediction {
        let (body, trailers) = match self.body {
            Held::Whole(bytes, trailers) => (AnswerBody::Whole(bytes), trailers),
            Held::Longer(mut stream) => {
                stream.guards.1 = permit;
                stream.limit.get_or_insert_with(|| Limit::by(deadline));
                (AnswerBody::Stream(stream.boxed_unsync()), None)
            }
        };
        let (took, answered_in) = (Duration::ZERO, None);
        Prediction {
            status: self.status,
            headers: self.headers,
            body,
            trailers,
            verdict: self.class.for_caller(),
            took,
            answered_in,
        }
    }
}
