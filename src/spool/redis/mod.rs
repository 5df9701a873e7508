//! The spool of all gateways of a project, in the Redis of its features: a stream with a consumer group a model.
//!
//! Every step is one script (`spool.lua`), so that a gateway or a connection may break off anywhere between two of them. All keys
//! carry one hash tag, hence on a cluster one master has all of the spool. Steps may be done twice: an answer that was lost is asked
//! for again over a new connection. Times are the gateways'.

mod read;

use std::{sync::Arc, time::Duration};

use ::redis::{FromRedisValue, RedisError, Script, ScriptInvocation, Value};
use bytes::Bytes;

use self::read::Fields;
use super::{
    Claimed, Depth, Entry, Error, Failed, Finished, Held, Kept, Millis, New, Put, Replayed, Reply, Request, Standing,
    Terms, entry::ABANDONED, millis,
};
use crate::{config, redis_link::Link};

/// What this needs: streams with `XINFO`, and scripts that may write what they read.
const SCRIPT: &str = include_str!("spool.lua");

/// A consumer that has nothing and was not seen for this long is forgotten: its gateway is gone.
const AWAY: Duration = Duration::from_secs(60 * 60);

/// How long an answer may take. What is on the path of a request (a look for its key, and keeping it) is waited for as long as its
/// deadline lets it, not for this.
const ANSWER: Duration = Duration::from_secs(5);

/// The spool in Redis.
#[derive(Debug)]
pub(crate) struct Shared {
    link: Link,
    script: Script,
    /// Of all keys.
    prefix: String,
    terms: Terms,
}

impl Shared {
    /// Connects to nothing yet.
    pub(crate) fn open(config: &config::Redis, project: &str, terms: Terms) -> Result<Self, Error> {
        let link = Link::new(config, ANSWER).map_err(|error| unreachable(&error))?;
        Ok(Self { link, script: Script::new(SCRIPT), prefix: format!("weir:spool:{{{project}}}"), terms })
    }

    /// A step at that time, without what it wants.
    fn step(&self, name: &str, now: Millis) -> ScriptInvocation<'_> {
        let mut step = self.script.key(&*self.prefix);
        step.arg(name).arg(now);
        step
    }

    async fn call<T: FromRedisValue>(&self, step: &ScriptInvocation<'_>) -> Result<T, Error> {
        self.link.call(step).await.map_err(|error| unreachable(&error))
    }

    pub(super) async fn put(&self, new: &New, now: Millis) -> Result<Put, Error> {
        let mut step = self.step("put", now);
        step.arg(&*new.id).arg(&*new.key).arg(&*new.request.model).arg(new.why.name());
        step.arg(format!("{:032x}", new.request.digest())).arg(now.saturating_add(millis(self.terms.keep_for)));
        let request = new.request.encode();
        step.arg(self.terms.max_entries).arg(self.terms.max_bytes).arg(&request).arg(u8::from(new.once));
        let said: Vec<String> = self.call(&step).await?;
        match said.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["known", id] if *id == *new.id => Ok(Put::Kept),
            ["known", id] => Ok(Put::Known(id.into())),
            ["other"] => Err(Error::OtherRequest(Arc::clone(&new.key))),
            ["full"] => Err(Error::Full(self.terms.max_entries)),
            ["no room", kept] => {
                let (more, most) = (request.len() as u64, self.terms.max_bytes);
                Err(Error::NoRoom { kept: kept.parse().unwrap_or(most), more, most })
            }
            _ => Err(Error::Damaged(format!("put: {said:?}").into())),
        }
    }

    pub(super) async fn claim(
        &self,
        (models, most): (&[Arc<str>], usize),
        by: &Arc<str>,
        (now, until): (Millis, Millis),
    ) -> Result<Vec<Claimed>, Error> {
        let mut step = self.step("claim", now);
        step.arg(&**by).arg(until).arg(self.terms.retry.max_retries).arg(ABANDONED).arg(most);
        models.iter().for_each(|model| {
            step.arg(&**model);
        });
        let claimed: Vec<(String, u64, u32, Vec<u8>, u8)> = self.call(&step).await?;
        let claimed = claimed.into_iter().map(|(id, claim, attempts, request, once)| Claimed {
            id: id.into(),
            claim,
            attempts,
            once: once != 0,
            request: Request::decode(request.into()),
        });
        Ok(claimed.collect())
    }

    pub(super) async fn finish(&self, id: &Arc<str>, reply: &Reply, now: Millis) -> Result<Finished, Error> {
        let mut step = self.step("finish", now);
        step.arg(&**id).arg(now.saturating_add(millis(self.terms.keep_for))).arg(reply.encode());
        match self.call::<String>(&step).await?.as_str() {
            "stored" => Ok(Finished::Stored),
            "already" => Ok(Finished::Already),
            "gone" => Ok(Finished::Gone),
            said => Err(Error::Damaged(format!("finish: {said}").into())),
        }
    }

    pub(super) async fn fail(&self, id: &Arc<str>, claim: u64, failed: Failed, now: Millis) -> Result<Held, Error> {
        let mut step = self.step("release", now);
        step.arg(&**id).arg(claim);
        match &failed {
            Failed::Again(due) => step.arg("again").arg(*due),
            Failed::Park(reason) => step.arg("park").arg(&**reason),
        };
        self.held(&step).await
    }

    pub(super) async fn give_back(
        &self,
        id: &Arc<str>,
        claim: u64,
        (due, now): (Millis, Millis),
    ) -> Result<Held, Error> {
        let mut step = self.step("release", now);
        step.arg(&**id).arg(claim).arg("back").arg(due);
        self.held(&step).await
    }

    async fn held(&self, step: &ScriptInvocation<'_>) -> Result<Held, Error> {
        Ok(if self.call::<bool>(step).await? { Held::Yes } else { Held::No })
    }

    pub(super) async fn get(&self, id: &str) -> Result<Option<Kept>, Error> {
        let mut step = self.step("get", 0);
        step.arg(id);
        let fields: Vec<(String, Vec<u8>)> = self.call(&step).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let mut fields = Fields::from_iter(fields);
        let request = Request::decode(Bytes::from(fields.take("request")?))?;
        let reply = fields.take("reply").ok().map(|reply| Reply::decode(Bytes::from(reply))).transpose()?;
        Ok(Some(Kept { entry: fields.entry(id)?, request, reply }))
    }

    pub(super) async fn id_of(&self, model: &str, key: &str) -> Result<Option<Arc<str>>, Error> {
        let mut step = self.step("id", 0);
        step.arg(model).arg(key);
        Ok(self.call::<Option<String>>(&step).await?.map(Into::into))
    }

    pub(super) async fn list(&self, standing: Option<Standing>, most: usize) -> Result<Vec<Entry>, Error> {
        let mut step = self.step("list", 0);
        step.arg(standing.map_or("kept", Standing::name)).arg(most);
        let found: Vec<(String, Vec<Value>)> = self.call(&step).await?;
        // One that expired in the meantime has no fields.
        let entries = found.into_iter().filter(|(_, fields)| !matches!(fields.first(), Some(Value::Nil) | None));
        entries.map(|(id, values)| Fields::of_meta(values)?.entry(&id)).collect()
    }

    pub(super) async fn replay(&self, id: &Arc<str>, now: Millis) -> Result<Replayed, Error> {
        let mut step = self.step("replay", now);
        step.arg(&**id);
        match self.call::<String>(&step).await?.as_str() {
            "due" => Ok(Replayed::Due),
            "gone" => Ok(Replayed::Gone),
            said => match Standing::named(said) {
                Some(standing) => Ok(Replayed::Not(standing)),
                None => Err(Error::Damaged(format!("replay: {said}").into())),
            },
        }
    }

    pub(super) async fn forget(&self, id: &Arc<str>) -> Result<bool, Error> {
        let mut step = self.step("forget", 0);
        step.arg(&**id);
        self.call(&step).await
    }

    pub(super) async fn depth(&self) -> Result<Depth, Error> {
        let (waiting, running, done, parked, bytes, oldest): (u64, u64, u64, u64, u64, String) =
            self.call(&self.step("depth", 0)).await?;
        let oldest_waiting = oldest.parse::<f64>().ok().map(|at| at as Millis);
        Ok(Depth { entries: [waiting, running, done, parked], bytes, oldest_waiting })
    }

    /// Forgets gateways that went away.
    pub(super) async fn tidy(&self, models: &[Arc<str>]) -> Result<(), Error> {
        let mut step = self.step("tidy", 0);
        step.arg(millis(AWAY));
        models.iter().for_each(|model| {
            step.arg(&**model);
        });
        self.call(&step).await
    }
}

fn unreachable(error: &RedisError) -> Error {
    Error::Unreachable(error.to_string().into())
}
