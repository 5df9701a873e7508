//! What an attempt's outcome means. Decided here once; breaker, retry, load balancing and metrics all read this class.

use std::{
    io,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Request, StatusCode};
use hyper::client::conn::TrySendError;

use super::{
    body::{BodyFault, RequestBody},
    http1,
    outgoing::Outgoing,
};
use crate::{
    infer::{Error, Kind, Protocol, Said, Verdict, headers::retry_after},
    resilience::{breaker::Outcome, ratio::Event},
    telemetry::handles::predict::AttemptOutcome,
};

/// Why an attempt brought no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection died before the request was written: it goes out again without counting as a retry.
    Unsent(Box<RequestBody>),
    /// No connection could be made; the body was not touched.
    Connect(io::Error),
    /// The attempt's time ran out before there was a connection; the body was not touched.
    Unconnected(Duration),
    /// The body went out with an attempt before and cannot go again.
    Spent,
    /// The caller's own body failed on its way.
    Caller(BodyFault),
    /// The connection broke with the request on it, or the answer could not be read.
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// The attempt's time ran out.
    TimedOut(Duration),
}

impl Failure {
    /// What hyper says of a request that brought no answer.
    pub(super) fn of_sending(mut error: TrySendError<Request<RequestBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Box::new(request.into_body())),
            None => Self::Broken(error.into_error().into()),
        }
    }

    /// The same on a connection made for the request: one that takes nothing is none, and asking for free again would meet the
    /// next like it.
    pub(super) fn on_new(self, outgoing: &Outgoing) -> Self {
        match self {
            Self::Unsent(body) => {
                outgoing.restore(*body);
                Self::Connect(io::Error::new(io::ErrorKind::ConnectionReset, "closed before it took the request"))
            }
            other => other,
        }
    }

    /// The caller's view of it.
    /// `attempt`: which of the request's it was, from 1.
    pub(super) fn into_error(self, model: &str, endpoint: &str, attempt: u32) -> Error {
        match self {
            Self::Unsent(_) => Error::new(
                Kind::BackendFailed,
                format!("model {model:?}: endpoint {endpoint} closed the connection before it took the request"),
            ),
            Self::Spent => Error::new(Kind::BackendFailed, "the request's body was sent and cannot be sent again"),
            Self::Connect(error) => Error::new(
                Kind::BackendFailed,
                format!("model {model:?}: no connection to endpoint {endpoint}: {error}"),
            )
            .with_source(error),
            Self::Unconnected(after) => Error::new(
                Kind::DeadlineExceeded,
                format!(
                    "model {model:?}: no connection to endpoint {endpoint} within the {} ms that attempt {attempt} had",
                    after.as_millis()
                ),
            ),
            Self::Caller(BodyFault::TooLong) => {
                Error::new(Kind::TooLarge, "the request's body is longer than listen.max_body allows")
            }
            Self::Caller(BodyFault::Malformed) => Error::invalid("the request's body is not valid chunked encoding"),
            Self::Caller(BodyFault::Late) => {
                Error::new(Kind::RequestTimeout, "the request's body did not arrive before the deadline")
            }
            Self::Caller(BodyFault::BrokeOff) => {
                Error::new(Kind::Cancelled, "the caller broke off while sending the request's body")
            }
            Self::Broken(error) => Error::new(
                Kind::BackendFailed,
                format!("model {model:?}: endpoint {endpoint} brought no whole answer: {error}"),
            )
            .with_source(error),
            Self::TimedOut(after) => Error::new(
                Kind::DeadlineExceeded,
                format!(
                    "model {model:?}: endpoint {endpoint} did not answer attempt {attempt} within the {} ms that it had",
                    after.as_millis()
                ),
            ),
        }
    }
}

impl From<http1::Error> for Failure {
    fn from(error: http1::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// The class of an attempt's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The endpoint did its work.
    Answered,
    /// A 4xx or its gRPC counterpart: the endpoint works, the blame is the caller's.
    Refused,
    /// No failure, but nothing is said of the request; another may answer it.
    Unjudged,
    /// 429 or its gRPC counterpart: busy, not broken.
    Overloaded,
    /// 5xx or its gRPC counterpart: asking elsewhere may help.
    ServerError,
    /// 500: the endpoint ran and failed. Asking again would run it again; the answer is the model's own.
    ModelError,
    /// No connection: nothing was sent.
    Connect,
    /// The connection broke.
    Broken,
    /// No answer in time.
    TimedOut,
    /// No answer when it was given up for others, before its caller would have, in a time in which nearly every answer comes.
    Outlasted,
    /// No answer in all the time that there was, in which most come, but not nearly all.
    Impatient,
    /// No answer in a time in which there could hardly be one: others used it, or its caller gave no more, and the endpoint is not
    /// to blame.
    Hurried,
    /// The caller's own body broke off or was too long: says nothing of the endpoint.
    Caller,
}

impl Class {
    /// What an answer of the class is worth to the caller.
    pub(super) const fn for_caller(self) -> Verdict {
        match self {
            Self::Answered | Self::Refused | Self::Unjudged | Self::Caller => Verdict::Good,
            Self::Overloaded
            | Self::ServerError
            | Self::ModelError
            | Self::Connect
            | Self::Broken
            | Self::TimedOut
            | Self::Outlasted
            | Self::Impatient
            | Self::Hurried => Verdict::Failed,
        }
    }

    /// How the attempt is counted.
    pub(super) const fn counted_as(self) -> AttemptOutcome {
        match self {
            Self::Answered => AttemptOutcome::Success,
            Self::Refused | Self::Unjudged => AttemptOutcome::CallerError,
            Self::Overloaded => AttemptOutcome::Overloaded,
            Self::ServerError | Self::ModelError | Self::Broken => AttemptOutcome::Failed,
            Self::Connect => AttemptOutcome::ConnectFailed,
            Self::TimedOut | Self::Outlasted | Self::Impatient | Self::Hurried => AttemptOutcome::Timeout,
            Self::Caller => AttemptOutcome::Cancelled,
        }
    }

    /// The class of a failed attempt.
    pub(super) const fn of_failure(failure: &Failure) -> Self {
        match failure {
            Failure::Unsent(_) | Failure::Connect(_) | Failure::Unconnected(_) => Self::Connect,
            Failure::Caller(_) | Failure::Spent => Self::Caller,
            Failure::Broken(_) => Self::Broken,
            Failure::TimedOut(_) => Self::TimedOut,
        }
    }

    /// The class of an answer, from its head and, for gRPC, its trailers.
    pub(super) fn of_answer(
        protocol: Protocol,
        status: StatusCode,
        head: &HeaderMap,
        trailers: Option<&HeaderMap>,
    ) -> Self {
        match Said::of(protocol, status, head, trailers) {
            // A missing status on a stream that goes on is not a failure.
            Said::Outputs | Said::Elsewhere | Said::Unsaid => Self::Answered,
            Said::Malformed | Said::Refused => Self::Refused,
            Said::Unjudged => Self::Unjudged,
            Said::Busy => Self::Overloaded,
            Said::Unavailable | Said::Late | Said::ServerError => Self::ServerError,
            Said::ModelError => Self::ModelError,
        }
    }

    /// Whether it ends a race between two attempts: the endpoint did its work, or said what is wrong with the request.
    pub(super) const fn wins(self) -> bool {
        matches!(self, Self::Answered | Self::Refused)
    }

    /// How much it tells of the request, of two that failed; more is better.
    pub(super) const fn worth(self) -> u8 {
        match self {
            Self::Answered | Self::Refused => 6,
            Self::ModelError => 5,
            Self::ServerError => 4,
            Self::Overloaded | Self::Unjudged => 3,
            Self::Broken => 2,
            Self::TimedOut | Self::Outlasted | Self::Impatient | Self::Hurried => 1,
            Self::Connect | Self::Caller => 0,
        }
    }

    /// Whether it was not answered in a time in which most are.
    pub(super) const fn is_late(self) -> bool {
        matches!(self, Self::TimedOut | Self::Outlasted | Self::Impatient)
    }

    /// Whether another attempt may bring a better answer.
    pub(super) const fn retryable(self) -> bool {
        match self {
            Self::Overloaded
            | Self::ServerError
            | Self::Connect
            | Self::Broken
            | Self::TimedOut
            | Self::Outlasted
            | Self::Impatient
            | Self::Hurried => true,
            Self::Answered | Self::Refused | Self::Unjudged | Self::ModelError | Self::Caller => false,
        }
    }

    /// What it tells of whether the model answers in time; `None`: nothing.
    pub(super) const fn timeliness(self) -> Option<Event> {
        match self {
            Self::TimedOut => Some(Event::Bad),
            Self::Outlasted | Self::Impatient | Self::Hurried | Self::Unjudged | Self::Caller => None,
            Self::Answered
            | Self::Refused
            | Self::Overloaded
            | Self::ServerError
            | Self::ModelError
            | Self::Connect
            | Self::Broken => Some(Event::Good),
        }
    }

    /// What it tells the endpoint's breaker. No 4xx is a failure; being busy or a caller gone says nothing.
    pub(super) const fn verdict(self) -> Outcome {
        match self {
            Self::Answered | Self::Refused | Self::Unjudged => Outcome::Success,
            Self::Overloaded | Self::Caller | Self::Hurried => Outcome::Neutral,
            Self::Outlasted => Outcome::Silence,
            Self::Impatient => Outcome::Impatience,
            Self::ServerError | Self::ModelError | Self::Connect | Self::Broken | Self::TimedOut => Outcome::Failure,
        }
    }
}

/// What an endpoint that failed or was busy said of asking it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Nothing.
    None,
    /// Not sooner than in this time (`retry-after`); others may be.
    After(Duration),
    /// In this time (gRPC's pushback).
    At(Duration),
    /// Not at all (gRPC's pushback).
    Never,
}

impl Advice {
    /// `wall`: the time of day.
    ///
    /// **Source:** RFC 9110 §10.2.3; gRFC A6, "Pushback": what is no number of milliseconds is a no.
    pub(super) fn of(headers: &HeaderMap, trailers: Option<&HeaderMap>, wall: impl FnOnce() -> SystemTime) -> Self {
        let pushback = headers.get(PUSHBACK).or_else(|| trailers?.get(PUSHBACK));
        if let Some(value) = pushback {
            let millis = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            return millis.map_or(Self::Never, |millis| Self::At(Duration::from_millis(millis)));
        }
        retry_after(headers, wall).map_or(Self::None, Self::After)
    }

    /// How long the endpoint wants to be left alone.
    pub(super) const fn asked(self) -> Option<Duration> {
        match self {
            Self::After(wait) | Self::At(wait) => Some(wait),
            Self::None | Self::Never => None,
        }
    }

    /// The wait before the next attempt where it would be `delay`; `None`: there is to be none. `elsewhere`: in what time after that
    /// another endpoint can be asked, which has nothing to do with how long this one is to be left alone.
    pub(super) fn wait(self, delay: Duration, elsewhere: impl FnOnce() -> Option<Duration>) -> Option<Duration> {
        match self {
            Self::None => Some(delay),
            Self::After(asked) => Some(match elsewhere() {
                Some(other) => delay.max(asked.min(delay + other)),
                None => delay.max(asked),
            }),
            Self::At(asked) => Some(asked),
            Self::Never => None,
        }
    }
}

const PUSHBACK: &str = "grpc-retry-pushback-ms";

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn advice(fields: &[(&'static str, &'static str)]) -> Advice {
        let fields =
            fields.iter().map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(784_900_800);
        Advice::of(&fields.collect(), None, || noon)
    }

    #[test]
    fn only_what_was_given_its_time_tells_of_the_time_it_takes() {
        assert_eq!(Class::TimedOut.timeliness(), Some(Event::Bad));
        for class in [Class::Outlasted, Class::Hurried, Class::Unjudged, Class::Caller] {
            assert_eq!(class.timeliness(), None, "{class:?}");
        }
        for class in [Class::Answered, Class::Refused, Class::ServerError, Class::Connect, Class::Broken] {
            assert_eq!(class.timeliness(), Some(Event::Good), "{class:?}");
        }
    }

    #[test]
    fn an_endpoint_says_when_it_may_be_asked_again() {
        let ms = Duration::from_millis;
        for (name, value, expected) in [
            ("x-other", "1", Some(ms(100))),
            ("retry-after", "2", Some(ms(2_000))),
            ("retry-after", "0", Some(ms(100))),
            ("retry-after", "soon", Some(ms(100))),
            (PUSHBACK, "0", Some(ms(0))),
            (PUSHBACK, "50", Some(ms(50))),
            (PUSHBACK, "500", Some(ms(500))),
            (PUSHBACK, "-1", None),
            (PUSHBACK, "never", None),
        ] {
            assert_eq!(advice(&[(name, value)]).wait(ms(100), || None), expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_date_is_as_far_off_as_the_endpoints_clock_says() {
        const NOON: &str = "Tue, 15 Nov 1994 12:00:00 GMT";
        let after = |seconds| Advice::After(Duration::from_secs(seconds));
        for (fields, expected) in [
            (&[("retry-after", "Tue, 15 Nov 1994 12:00:30 GMT")][..], after(30)),
            (&[("retry-after", "Tuesday, 15-Nov-94 12:02:00 GMT")], after(120)),
            (&[("retry-after", "Tue, 15 Nov 1994 11:00:00 GMT")], after(0)),
            (&[("retry-after", "Tue, 15 Nov 1994 15:00:07 GMT"), ("date", "Tue, 15 Nov 1994 15:00:00 GMT")], after(7)),
            (&[("retry-after", "Tue, 15 Nov 1994 12:00:07 GMT"), ("date", "noon")], after(7)),
            (&[("retry-after", "5"), ("date", NOON)], after(5)),
            (&[("retry-after", "99999999999999999999")], after(u64::MAX)),
            (&[("retry-after", "")], Advice::None),
            (&[("retry-after", "tomorrow"), ("date", NOON)], Advice::None),
        ] {
            assert_eq!(advice(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn what_one_endpoint_asks_for_does_not_hold_up_another() {
        let ms = Duration::from_millis;
        for (name, value, elsewhere, expected) in [
            ("retry-after", "30", Some(0), 100),
            // The other one is to be left alone for a shorter time, or for a longer one.
            ("retry-after", "30", Some(2_000), 2_100),
            ("retry-after", "3", Some(9_000), 3_000),
            ("retry-after", "3", None, 3_000),
            (PUSHBACK, "3000", Some(0), 3_000),
        ] {
            let wait = advice(&[(name, value)]).wait(ms(100), || elsewhere.map(ms));
            assert_eq!(wait, Some(ms(expected)), "{name}: {value}, another in {elsewhere:?}");
        }
    }

    #[test]
    fn a_pushback_is_found_in_trailers() {
        let trailers =
            HeaderMap::from_iter([(header::HeaderName::from_static(PUSHBACK), HeaderValue::from_static("7"))]);
        assert_eq!(
            Advice::of(&HeaderMap::new(), Some(&trailers), || unreachable!()),
            Advice::At(Duration::from_millis(7))
        );
    }
}
