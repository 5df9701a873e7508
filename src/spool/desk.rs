//! What an operator asks of the spool, and what he is told, as JSON: for the admin port and the command line alike.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::{Entry, Error, Kept, Millis, Replayed, Spool, Standing, State};

/// How much of a body is shown.
const SHOWN: usize = 16 * 1024;

/// A question, or a wish.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// How full it is, and the oldest entries, of one state or of all.
    List(Option<Standing>, usize),
    /// All that is kept of an entry.
    Show(Arc<str>),
    /// To try an entry now, with all its tries before it.
    Replay(Arc<str>),
    /// To forget an entry.
    Forget(Arc<str>),
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    /// What was asked for, or that it is done.
    This(Value),
    /// There is no such entry.
    Nothing,
    /// Not in that state.
    Not(Standing),
}

impl Spool {
    /// Answers an operator.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub(crate) async fn tell(&self, ask: Ask, now: Millis) -> Result<Told, Error> {
        match ask {
            Ask::List(standing, most) => {
                let (depth, entries) = (self.depth().await?, self.list(standing, most).await?);
                let counts = Standing::ALL.iter().zip(depth.entries);
                let counts: Map<_, _> = counts.map(|(state, count)| (state.name().to_owned(), count.into())).collect();
                Ok(Told::This(json!({
                    "store": self.place(),
                    "max_entries": self.terms().max_entries,
                    "max_bytes": self.terms().max_bytes,
                    "bytes": depth.bytes,
                    "depth": counts,
                    "oldest_waiting": depth.oldest_waiting.map(time),
                    "entries": entries.iter().map(entry).collect::<Vec<_>>(),
                })))
            }
            Ask::Show(id) => Ok(self.get(&id, now).await?.map_or(Told::Nothing, |kept| Told::This(whole(&kept)))),
            Ask::Replay(id) => Ok(match self.replay(&id, now).await? {
                Replayed::Due => Told::This(json!({ "id": &*id, "state": Standing::Waiting.name() })),
                Replayed::Not(standing) => Told::Not(standing),
                Replayed::Gone => Told::Nothing,
            }),
            Ask::Forget(id) => {
                let forgotten = self.forget(&id).await?;
                Ok(if forgotten { Told::This(json!({ "id": &*id, "dropped": true })) } else { Told::Nothing })
            }
        }
    }
}

fn entry(entry: &Entry) -> Value {
    let mut told = json!({
        "id": &*entry.id,
        "state": entry.state.standing().name(),
        "why": entry.why.name(),
        "model": &*entry.model,
        "attempts": entry.attempts,
        "received": time(entry.received),
        "expires": time(entry.expires),
    });
    if entry.key != entry.id {
        told["idempotency_key"] = (*entry.key).into();
    }
    if entry.once {
        told["idempotent"] = false.into();
    }
    match &entry.state {
        State::Waiting { due } => told["due"] = time(*due),
        State::Running { by, until } => {
            told["by"] = (**by).into();
            told["until"] = time(*until);
        }
        State::Done { at } => told["since"] = time(*at),
        State::Parked { at, reason } => {
            told["since"] = time(*at);
            told["reason"] = (**reason).into();
        }
    }
    told
}

fn whole(kept: &Kept) -> Value {
    let mut told = entry(&kept.entry);
    let request = &kept.request;
    told["request"] = json!({
        "protocol": request.protocol.name(),
        "method": request.verb.as_str(),
        "path": request.path.as_str(),
        "tier": request.tier,
        "headers": headers(&request.headers),
        "body": body(&request.body),
    });
    if let Some(reply) = &kept.reply {
        told["result"] = json!({
            "status": reply.status.as_u16(),
            "headers": headers(&reply.headers),
            "trailers": reply.trailers.as_ref().map(headers),
            "body": body(&reply.body),
        });
    }
    told
}

fn headers(headers: &HeaderMap) -> Value {
    let pair = |name: &http::HeaderName| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        (name.as_str().to_owned(), Value::from(values.collect::<Vec<_>>().join(", ")))
    };
    headers.keys().map(pair).collect::<Map<_, _>>().into()
}

/// Text as it is, anything else by its length.
fn body(body: &[u8]) -> Value {
    match std::str::from_utf8(body) {
        Ok(text) if text.len() <= SHOWN => text.into(),
        _ => json!({ "bytes": body.len() }),
    }
}

fn time(at: Millis) -> Value {
    let at = i64::try_from(at).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)).into()
}
