//! The table of leases in Redis, and the scripts that change it: one step each, which no other gateway gets between.
//!
//! ```text
//! {weir:PROJECT}:leases    a hash    g:GATEWAY  until when, by Redis's clock in ms, and 1 where it is revoked
//!                                    since      since when the table is there, and the era of that
//!                                    words      how many changes were told that are no pushed rows: who was away sees whether it missed one
//! {weir:PROJECT}:holds     a hash    GATEWAY:ROUND  until when, and the message that said so
//! {weir:PROJECT}:all       a channel: holds, releases, drops         {weir:PROJECT}:GATEWAY    a channel: what that one's rounds wait for
//! ```
//!
//! All have one slot. **Era:** the server's `run_id` and its replication id, which changes with every promotion. A table that was lost (a
//! restart, a flush) or that a replica had in part has another era or none, and begins anew with whoever comes first: somebody may hold a
//! lease that it lacks, until a lease's length after that. A Redis that never had one looks the same. Every renewal looks, so that this is
//! over before a push has to wait for it, most of the time. Where no view is `write_through`, nobody writes a table.

use std::time::Duration;

use ::redis::{FromRedisValue, RedisError, Script, ScriptInvocation, Value, aio::MultiplexedConnection};
use tokio::time::Instant;

use crate::resilience::since::millis;

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
local function lacking(known, length)
  local since, of = parts(redis.call('HGET', KEYS[1], 'since') or '')
  if known == '' or of ~= known or since > now then return tonumber(length), false end
  return math.max(0, since + length - now), true
end
local function lacks(run, length, kept)
  local known = era(run)
  local left, has_begun = lacking(known, length)
  if known == '' then return left end
  if not has_begun then redis.call('HSET', KEYS[1], 'since', string.format('%.0f ', now) .. known) end
  redis.call('PEXPIRE', KEYS[1], kept)
  return left
end
";

/// Arguments: gateway, length, how long the table is kept, run id. Answers each hold.
const ENTER: &str = r"
redis.call('HSET', KEYS[1], 'g:' .. ARGV[1], string.format('%.0f 0', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
lacks(ARGV[4], ARGV[2], ARGV[3])
local answer = {}
local holds = redis.call('HGETALL', KEYS[2])
for at = 1, #holds, 2 do
  local until_ms, message = parts(holds[at + 1])
  if until_ms <= now then redis.call('HDEL', KEYS[2], holds[at]) else answer[#answer + 1] = message end
end
return answer
";

/// Arguments: length, how long the table is kept, run id. Answers how many words were said.
const LOOK: &str = r"
lacks(ARGV[3], ARGV[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'words')
";

/// Arguments: how long the table is kept, how to publish, channel, messages. Counts each as a word.
const SAY: &str = r"
redis.call('HINCRBY', KEYS[1], 'words', #ARGV - 3)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
for at = 4, #ARGV do redis.call(ARGV[2], ARGV[3], ARGV[at]) end
return #ARGV - 3
";

/// Arguments: gateway, length, how long the table is kept: for gateways, too, that have no lease to renew; run id. Answers 1 if it was
/// renewed, and how many words were said.
const RENEW: &str = r"
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local words = redis.call('HGET', KEYS[1], 'words')
local value = redis.call('HGET', KEYS[1], 'g:' .. ARGV[1])
if not value then return {0, words} end
local until_ms, revoked = parts(value)
if revoked ~= '0' or until_ms <= now then return {0, words} end
redis.call('HSET', KEYS[1], 'g:' .. ARGV[1], string.format('%.0f 0', now + ARGV[2]))
lacks(ARGV[4], ARGV[2], ARGV[3])
return {1, words}
";

/// Arguments: gateway, round, how long it holds, run id, how to publish, channel, message, length, how long the table is kept. Answers
/// for how long leases may be out yet that the table lacks, then gateway, what is left of its lease, whether it is revoked, of each.
const HOLD: &str = r"
redis.call('HSET', KEYS[2], ARGV[1] .. ':' .. ARGV[2], string.format('%.0f ', now + ARGV[3]) .. ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call(ARGV[5], ARGV[6], ARGV[7])
local answer = {lacks(ARGV[4], ARGV[8], ARGV[9])}
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

/// Arguments: run id, length. Answers as a hold does, and changes nothing.
const LIST: &str = r"
local left = lacking(era(ARGV[1]), ARGV[2])
local answer = {left}
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local gateway = string.match(all[at], '^g:(.*)$')
  local until_ms, revoked = parts(all[at + 1])
  if gateway and until_ms > now then
    answer[#answer + 1] = gateway
    answer[#answer + 1] = until_ms - now
    answer[#answer + 1] = revoked == '0' and 0 or 1
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
    list: Script,
    release: Script,
    revoke: Script,
    leave: Script,
}

/// A server, as one connection to it found it.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) connection: MultiplexedConnection,
    pub(super) run_id: String,
}

/// How many changes were told that are no pushed rows; `None`: none, or the table was lost since.
pub(super) type Words = Option<u64>;

/// What the table says.
#[derive(Debug)]
pub(super) struct Listed {
    /// For how long somebody may hold a lease yet who is not listed; zero: nobody does.
    pub(super) lacks: Duration,
    /// Who holds a lease, how much is left of it, and whether it is revoked.
    pub(super) holders: Vec<(u64, Duration, bool)>,
    /// When the list was there.
    pub(super) at: Instant,
}

impl Listed {
    /// As an answer says that is there now. `length`: of a lease.
    fn of(answer: &[Value], length: Duration) -> Result<Self, RedisError> {
        let at = Instant::now();
        // One that does not say may lack anybody.
        let lacks = answer.first().and_then(|lacks| u64::from_redis_value_ref(lacks).ok());
        let mut holders = Vec::with_capacity(answer.len() / 3);
        for holder in answer.get(1..).unwrap_or_default().chunks_exact(3) {
            let [gateway, left, revoked] = holder else { continue };
            // One that gives itself no such name holds nothing of ours.
            let Some(gateway) = String::from_redis_value_ref(gateway).ok().and_then(|gateway| number(&gateway)) else {
                continue;
            };
            let left = Duration::from_millis(u64::from_redis_value_ref(left)?);
            holders.push((gateway, left, *revoked == Value::Int(1)));
        }
        Ok(Self { lacks: lacks.map_or(length, Duration::from_millis), holders, at })
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
                list: of(LIST),
                release: of(RELEASE),
                revoke: of(REVOKE),
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

    /// Takes a lease; the messages of what is held.
    pub(super) async fn enter(&self, server: &mut Server, length: Duration) -> Result<Vec<Vec<u8>>, RedisError> {
        let mut call = self.call(&self.scripts.enter);
        call.arg(name(self.gateway)).arg(millis(length)).arg(millis(KEPT)).arg(&server.run_id);
        call.invoke_async(&mut server.connection).await
    }

    /// Sees to it that the table says since when it is there; what was said.
    pub(super) async fn look(&self, mut server: Server, length: Duration) -> Result<Words, RedisError> {
        let mut call = self.call(&self.scripts.look);
        call.arg(millis(length)).arg(millis(KEPT)).arg(&server.run_id);
        call.invoke_async(&mut server.connection).await
    }

    /// What was said.
    pub(super) async fn words(&self, server: &mut Server) -> Result<Words, RedisError> {
        ::redis::cmd("HGET").arg(&self.leases).arg("words").query_async(&mut server.connection).await
    }

    /// Renews the lease, and sees to that too; whether it was still there, and what was said. Where it was not, nothing is written.
    pub(super) async fn renew(&self, mut server: Server, length: Duration) -> Result<(bool, Words), RedisError> {
        let mut call = self.call(&self.scripts.renew);
        call.arg(name(self.gateway)).arg(millis(length)).arg(millis(KEPT)).arg(&server.run_id);
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
        (longest, length): (Duration, Duration),
    ) -> Result<Listed, RedisError> {
        let mut call = self.call(&self.scripts.hold);
        call.arg(name(self.gateway)).arg(round).arg(millis(longest)).arg(&server.run_id);
        call.arg(self.publish()).arg(&self.all).arg(message).arg(millis(length)).arg(millis(KEPT));
        Listed::of(&call.invoke_async::<Vec<Value>>(&mut server.connection).await?, length)
    }

    /// Who holds a lease.
    pub(super) async fn list(&self, server: &mut Server, length: Duration) -> Result<Listed, RedisError> {
        let mut call = self.call(&self.scripts.list);
        call.arg(&server.run_id).arg(millis(length));
        Listed::of(&call.invoke_async::<Vec<Value>>(&mut server.connection).await?, length)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::tests::servers::Server as Redis;

    /// No test waits for it to pass.
    const LENGTH: Duration = Duration::from_secs(3600);

    struct World {
        redis: Redis,
        table: Table,
        server: Server,
    }

    impl World {
        async fn new() -> Self {
            let redis = Redis::start();
            let client = ::redis::Client::open(redis.url()).unwrap();
            let connection = client.get_multiplexed_async_connection().await.unwrap();
            let server = Server { connection, run_id: "run".into() };
            Self { redis, table: Table::new("p", 1, false), server }
        }

        /// What a push would be told.
        async fn lacks(&self, run_id: &str) -> Duration {
            let mut server = Server { run_id: run_id.into(), ..self.server.clone() };
            self.table.hold(&mut server, (1, b"m"), (LENGTH, LENGTH)).await.unwrap().lacks
        }

        /// Since when the table is there, in ms, and of which era.
        fn since(&self) -> Option<(u64, String)> {
            let since: Option<String> = self.redis.ask(&[b"HGET", self.table.leases.as_bytes(), b"since"]);
            since.map(|since| since.split_once(' ').map(|(at, era)| (at.parse().unwrap(), era.to_owned())).unwrap())
        }

        /// As if it had begun so much earlier.
        fn began_before(&self, by: Duration) {
            let (at, era) = self.since().unwrap();
            let since = format!("{} {era}", at - millis(by));
            self.redis.ask::<()>(&[b"HSET", self.table.leases.as_bytes(), b"since", since.as_bytes()]);
        }

        fn lose(&self) {
            self.redis.ask::<()>(&[b"FLUSHALL"]);
        }
    }

    #[tokio::test]
    async fn a_table_may_lack_leases_for_as_long_as_one_lasts_after_it_began() {
        let world = World::new().await;
        assert_eq!(world.lacks("run").await, LENGTH, "it was not there");
        world.began_before(LENGTH / 2);
        let half = world.lacks("run").await;
        assert!(half > Duration::ZERO && half <= LENGTH / 2, "{half:?}: not as long again");
        world.began_before(LENGTH);
        assert_eq!(world.lacks("run").await, Duration::ZERO);
        // What may have lost it in part begins it anew.
        assert_eq!(world.lacks("another run").await, LENGTH);
        world.began_before(LENGTH);
        assert_eq!(world.lacks("another run").await, Duration::ZERO);
        world.lose();
        assert_eq!(world.lacks("another run").await, LENGTH);
        // Before its clock was set back, it began later than now.
        let (at, era) = world.since().unwrap();
        let later = format!("{} {era}", at + millis(LENGTH));
        world.redis.ask::<()>(&[b"HSET", world.table.leases.as_bytes(), b"since", later.as_bytes()]);
        assert_eq!(world.lacks("another run").await, LENGTH);
        world.began_before(LENGTH);
        assert_eq!(world.lacks("another run").await, Duration::ZERO);
    }

    #[tokio::test]
    async fn it_begins_with_whoever_comes_first_so_that_most_pushes_need_not_wait_for_it() {
        let mut world = World::new().await;
        let life = |world: &World| world.redis.ask::<i64>(&[b"PTTL", world.table.leases.as_bytes()]);
        // Who keeps no rows has nothing to renew.
        assert!(!world.table.renew(world.server.clone(), LENGTH).await.unwrap().0);
        assert_eq!(world.redis.ask::<u64>(&[b"DBSIZE"]), 0);
        world.table.look(world.server.clone(), LENGTH).await.unwrap();
        world.began_before(LENGTH);
        assert_eq!(world.lacks("run").await, Duration::ZERO);
        assert!(life(&world) > 0);
        world.lose();
        assert!(world.table.enter(&mut world.server, LENGTH).await.unwrap().is_empty());
        world.began_before(LENGTH);
        assert_eq!(world.lacks("run").await, Duration::ZERO);
        assert!(world.table.renew(world.server.clone(), LENGTH).await.unwrap().0);
        assert_eq!(world.lacks("run").await, Duration::ZERO, "renewed, it is the same");
    }

    #[tokio::test]
    async fn a_server_that_does_not_say_who_it_is_may_always_lack_some() {
        let world = World::new().await;
        world.redis.ask::<()>(&[b"ACL", b"SETUSER", b"default", b"-info"]);
        for _ in 0..2 {
            assert_eq!(world.lacks("run").await, LENGTH);
            assert_eq!(world.since(), None);
        }
    }
}
