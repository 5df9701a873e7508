//! The table of leases in Redis, and the scripts that change it: one step each, which no other gateway gets between.
//!
//! ```text
//! {weir:PROJECT}:leases    a hash    g:GATEWAY  until when, by Redis's clock in ms, and 1 where it is revoked
//!                                    era        of which server the table is known to have every lease
//!                                    words      how many changes were told that are no pushed rows: who was away sees whether it missed one
//! {weir:PROJECT}:holds     a hash    GATEWAY:ROUND  until when, and the message that said so
//! {weir:PROJECT}:all       a channel: holds, releases, drops         {weir:PROJECT}:GATEWAY    a channel: what that one's rounds wait for
//! ```
//!
//! All have one slot. **Era:** the server's `run_id` and its replication id, which changes with every promotion. A table that was lost (a
//! restart, a flush) or that a replica had in part has another era or none: then somebody may hold a lease that it lacks, until a lease's
//! length has passed.

use std::time::Duration;

use ::redis::{FromRedisValue, RedisError, Script, ScriptInvocation, Value, aio::MultiplexedConnection};
use tokio::time::Instant;

/// How long the table outlives the last gateway.
const KEPT: Duration = Duration::from_secs(3600);

/// What scripts begin with. A server that does not say who it is has no era.
const PRELUDE: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function parts(value)
  local until_ms, rest = string.match(value, '^(%d+) (.*)$')
  return tonumber(until_ms) or 0, rest or ''
end
local function era(run)
  local info = redis.pcall('INFO', 'replication')
  if type(info) ~= 'string' then return '' end
  return run .. ':' .. (string.match(info, 'master_replid:(%w+)') or '')
end
local function whole(run)
  local known = era(run)
  local is_whole = known ~= '' and redis.call('HGET', KEYS[1], 'era') == known
  return {is_whole and 1 or 0, known}
end
";

/// Arguments: gateway, length, how long the table is kept, run id. Answers whether the table is whole, the
/// server's era, then each hold.
const ENTER: &str = r"
redis.call('HSET', KEYS[1], 'g:' .. ARGV[1], string.format('%.0f 0', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local answer = whole(ARGV[4])
local holds = redis.call('HGETALL', KEYS[2])
for at = 1, #holds, 2 do
  local until_ms, message = parts(holds[at + 1])
  if until_ms <= now then redis.call('HDEL', KEYS[2], holds[at]) else answer[#answer + 1] = message end
end
return answer
";

/// Arguments: run id, how long the table is kept. Answers whether the table is whole, the server's era, and how many words were said.
const LOOK: &str = r"
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local answer = whole(ARGV[1])
answer[3] = redis.call('HGET', KEYS[1], 'words')
return answer
";

/// Arguments: how long the table is kept, how to publish, channel, messages. Counts each as a word.
const SAY: &str = r"
redis.call('HINCRBY', KEYS[1], 'words', #ARGV - 3)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
for at = 4, #ARGV do redis.call(ARGV[2], ARGV[3], ARGV[at]) end
return #ARGV - 3
";

/// Arguments: gateway, length, how long the table is kept: for gateways, too, that have no lease to renew. Answers 1 if it was renewed,
/// and how many words were said.
const RENEW: &str = r"
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local words = redis.call('HGET', KEYS[1], 'words')
local value = redis.call('HGET', KEYS[1], 'g:' .. ARGV[1])
if not value then return {0, words} end
local until_ms, revoked = parts(value)
if revoked ~= '0' or until_ms <= now then return {0, words} end
redis.call('HSET', KEYS[1], 'g:' .. ARGV[1], string.format('%.0f 0', now + ARGV[2]))
return {1, words}
";

/// Arguments: gateway, round, how long it holds, run id, how to publish, channel, message. Answers whether the table is whole, the
/// server's era, then gateway, what is left of its lease, whether it is revoked, of each.
const HOLD: &str = r"
redis.call('HSET', KEYS[2], ARGV[1] .. ':' .. ARGV[2], string.format('%.0f ', now + ARGV[3]) .. ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call(ARGV[5], ARGV[6], ARGV[7])
local answer = whole(ARGV[4])
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local gateway = string.match(all[at], '^g:(.*)$')
  if gateway then
    local until_ms, revoked = parts(all[at + 1])
    if until_ms <= now then
      redis.call('HDEL', KEYS[1], all[at])
    else
      answer[#answer + 1] = gateway
      answer[#answer + 1] = until_ms - now
      answer[#answer + 1] = revoked == '0' and 0 or 1
    end
  end
end
return answer
";

/// Arguments: gateway, round, how to publish, channel, message. Answers 1 if it was still held.
const RELEASE: &str = r"
redis.call(ARGV[3], ARGV[4], ARGV[5])
return redis.call('HDEL', KEYS[2], ARGV[1] .. ':' .. ARGV[2])
";

/// Arguments: gateways. Answers what is left of each one's lease, which is not renewed any more.
const REVOKE: &str = r"
local answer = {}
for at = 1, #ARGV do
  local value = redis.call('HGET', KEYS[1], 'g:' .. ARGV[at])
  local until_ms = value and parts(value) or 0
  if until_ms > now then
    redis.call('HSET', KEYS[1], 'g:' .. ARGV[at], string.format('%.0f 1', until_ms))
    answer[at] = until_ms - now
  else
    redis.call('HDEL', KEYS[1], 'g:' .. ARGV[at])
    answer[at] = 0
  end
end
return answer
";

/// Arguments: run id, how long the table is kept, the era that the table is whole of. Answers 1 if that is the server's still.
const SETTLE: &str = r"
local known = era(ARGV[1])
if known == '' or known ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'era', known)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
";

/// Arguments: gateway.
const LEAVE: &str = "return redis.call('HDEL', KEYS[1], 'g:' .. ARGV[1])";

/// What a gateway has to know of a project's table.
#[derive(Debug)]
pub(super) struct Table {
    /// Of this gateway.
    pub(super) gateway: u64,
    leases: String,
    holds: String,
    /// The channel that all gateways hear.
    pub(super) all: String,
    prefix: String,
    /// Whether the server is part of a cluster, where messages are to stay on the node of their slot.
    sharded: bool,
    scripts: Scripts,
}

#[derive(Debug)]
struct Scripts {
    enter: Script,
    look: Script,
    renew: Script,
    say: Script,
    hold: Script,
    release: Script,
    revoke: Script,
    settle: Script,
    leave: Script,
}

/// A server, as one connection to it found it.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) connection: MultiplexedConnection,
    pub(super) run_id: String,
}

/// Of which server's life the table is, and whether it has every lease that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Era {
    pub(super) whole: bool,
    known: String,
}

/// How many changes were told that are no pushed rows; `None`: none, or the table was lost since.
pub(super) type Words = Option<u64>;

/// What a look at the table found.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) era: Era,
    pub(super) words: Words,
}

/// What an entry came to.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) era: Era,
    /// The messages of what is held.
    pub(super) holds: Vec<Vec<u8>>,
}

/// What a hold came to.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) era: Era,
    /// Who holds a lease, how much is left of it, and whether it is revoked.
    pub(super) holders: Vec<(u64, Duration, bool)>,
    /// When the list was there.
    pub(super) at: Instant,
}

impl Era {
    /// As the first two parts of an answer say.
    fn of(answer: &[Value]) -> Self {
        let known = answer.get(1).and_then(|known| String::from_redis_value_ref(known).ok());
        Self { whole: answer.first() == Some(&Value::Int(1)), known: known.unwrap_or_default() }
    }
}

impl Table {
    pub(super) fn new(project: &str, gateway: u64, sharded: bool) -> Self {
        let prefix = format!("{{weir:{project}}}");
        let of = |code: &str| Script::new(&format!("{PRELUDE}{code}"));
        Self {
            gateway,
            leases: format!("{prefix}:leases"),
            holds: format!("{prefix}:holds"),
            all: format!("{prefix}:all"),
            prefix,
            sharded,
            scripts: Scripts {
                enter: of(ENTER),
                look: of(LOOK),
                renew: of(RENEW),
                say: Script::new(SAY),
                hold: of(HOLD),
                release: of(RELEASE),
                revoke: of(REVOKE),
                settle: of(SETTLE),
                leave: Script::new(LEAVE),
            },
        }
    }

    /// A key of the table's slot.
    pub(super) fn key(&self) -> &str {
        &self.leases
    }

    /// The channel of a gateway's own.
    pub(super) fn channel_of(&self, gateway: u64) -> String {
        format!("{}:{}", self.prefix, name(gateway))
    }

    pub(super) const fn publish(&self) -> &'static str {
        if self.sharded { "SPUBLISH" } else { "PUBLISH" }
    }

    pub(super) const fn subscribe(&self) -> &'static str {
        if self.sharded { "SSUBSCRIBE" } else { "SUBSCRIBE" }
    }

    fn call<'a>(&'a self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.key(&self.leases);
        call.key(&self.holds);
        call
    }

    /// Takes a lease.
    pub(super) async fn enter(&self, server: &mut Server, length: Duration) -> Result<Entered, RedisError> {
        let mut call = self.call(&self.scripts.enter);
        call.arg(name(self.gateway)).arg(millis(length)).arg(millis(KEPT)).arg(&server.run_id);
        let answer: Vec<Value> = call.invoke_async(&mut server.connection).await?;
        let era = Era::of(&answer);
        let holds = answer.into_iter().skip(2).map(Vec::<u8>::from_redis_value).collect::<Result<_, _>>()?;
        Ok(Entered { era, holds })
    }

    /// Whether the table is whole, and what was said.
    pub(super) async fn look(&self, server: &mut Server) -> Result<Looked, RedisError> {
        let mut call = self.call(&self.scripts.look);
        call.arg(&server.run_id).arg(millis(KEPT));
        let answer: Vec<Value> = call.invoke_async(&mut server.connection).await?;
        Ok(Looked { era: Era::of(&answer), words: words(answer.get(2)) })
    }

    /// Renews it; whether it was still there, and what was said.
    pub(super) async fn renew(&self, mut server: Server, length: Duration) -> Result<(bool, Words), RedisError> {
        let mut call = self.call(&self.scripts.renew);
        call.arg(name(self.gateway)).arg(millis(length)).arg(millis(KEPT));
        let answer: Vec<Value> = call.invoke_async(&mut server.connection).await?;
        Ok((answer.first() == Some(&Value::Int(1)), words(answer.get(1))))
    }

    /// Tells all of changes that are no pushed rows, and counts them in the same step: who hears it counted has heard it.
    pub(super) async fn say(&self, mut server: Server, messages: Vec<Vec<u8>>) -> Result<(), RedisError> {
        let mut call = self.call(&self.scripts.say);
        call.arg(millis(KEPT)).arg(self.publish()).arg(&self.all);
        messages.iter().for_each(|message| {
            call.arg(message);
        });
        call.invoke_async::<Value>(&mut server.connection).await.map(drop)
    }

    /// Notes a round as holding its rows and tells all of it, in one step with the list of who holds a lease.
    pub(super) async fn hold(
        &self,
        server: &mut Server,
        (round, message): (u64, &[u8]),
        longest: Duration,
    ) -> Result<Listed, RedisError> {
        let mut call = self.call(&self.scripts.hold);
        call.arg(name(self.gateway)).arg(round).arg(millis(longest)).arg(&server.run_id);
        call.arg(self.publish()).arg(&self.all).arg(message);
        let answer: Vec<Value> = call.invoke_async(&mut server.connection).await?;
        let at = Instant::now();
        let mut holders = Vec::with_capacity(answer.len() / 3);
        for holder in answer.get(2..).unwrap_or_default().chunks_exact(3) {
            let [gateway, left, revoked] = holder else { continue };
            // One that gives itself no such name holds nothing of ours.
            let Some(gateway) = String::from_redis_value_ref(gateway).ok().and_then(|gateway| number(&gateway)) else {
                continue;
            };
            let left = Duration::from_millis(u64::from_redis_value_ref(left)?);
            holders.push((gateway, left, *revoked == Value::Int(1)));
        }
        Ok(Listed { era: Era::of(&answer), holders, at })
    }

    /// Ends a round and tells all; whether it was still noted.
    pub(super) async fn release(&self, server: &mut Server, round: u64, message: &[u8]) -> Result<bool, RedisError> {
        let mut call = self.call(&self.scripts.release);
        call.arg(name(self.gateway)).arg(round).arg(self.publish()).arg(&self.all).arg(message);
        call.invoke_async(&mut server.connection).await
    }

    /// Keeps gateways from renewing; how much is left of each one's lease.
    pub(super) async fn revoke(&self, server: &mut Server, gateways: &[u64]) -> Result<Vec<Duration>, RedisError> {
        let mut call = self.call(&self.scripts.revoke);
        gateways.iter().for_each(|gateway| {
            call.arg(name(*gateway));
        });
        let left: Vec<u64> = call.invoke_async(&mut server.connection).await?;
        Ok(left.into_iter().map(Duration::from_millis).collect())
    }

    /// Says that the table has every lease; to be called once a lease's length has passed since it was found not to.
    pub(super) async fn settle(&self, mut server: Server, era: &Era) -> Result<bool, RedisError> {
        let mut call = self.call(&self.scripts.settle);
        call.arg(&server.run_id).arg(millis(KEPT)).arg(&era.known);
        call.invoke_async(&mut server.connection).await
    }

    /// Gives the lease back.
    pub(super) async fn leave(&self, server: &mut Server) -> Result<(), RedisError> {
        let mut call = self.call(&self.scripts.leave);
        call.arg(name(self.gateway));
        call.invoke_async(&mut server.connection).await
    }
}

/// What a gateway is called in Redis.
pub(super) fn name(gateway: u64) -> String {
    format!("{gateway:016x}")
}

fn words(answer: Option<&Value>) -> Words {
    answer.and_then(|words| u64::from_redis_value_ref(words).ok())
}

fn number(name: &str) -> Option<u64> {
    u64::from_str_radix(name, 16).ok()
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
