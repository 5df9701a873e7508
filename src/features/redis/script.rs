//! The write: compare event times, write, set a life, as one step no other writer gets between.
//!
//! Feast compares with `<=` in two steps; this keeps its rule (a stored time that is as new wins) without the gap. A stored
//! time that cannot be read holds nothing up. A hash is
//! shared by all views of an entity, so `PEXPIRE` is for hashes that a write-back created; others keep the life they have, and
//! one that a push creates has no end, and one that a push of a `write_through` row finds has none any more.
//! The life is `l2.ttl`, whatever view the row is of: what Feast writes into such a hash later goes with it when it expires,
//! unless Feast sets a life of its own (`key_ttl_seconds`).

use std::time::Duration;

use ::redis::Cmd;

use crate::features::{
    Row,
    feast::{Layout, encode_time},
    l2::{Order, Purpose},
};

/// Keys: the hash. Arguments: the field of the event time, the event time (seconds, nanoseconds, serialized; empty: the row
/// has none), life in milliseconds of a hash that is new (empty: as it is; `-1`: for ever, also of one that has an end), `1` where a stored event not after 1970 holds nothing up, then field,
/// value, …. Answers 1 if it wrote, 2 if it wrote over an event time that cannot be read.
///
/// A stored time that is none holds nothing up: else what spoiled it would keep out every row for ever.
///
/// Numbers in Lua are doubles. Seconds are exact below 2^53; a negative one is a ten-byte varint and is read through its
/// complement.
pub(super) const WRITE: &str = r"
local function parse(raw)
  local seconds, nanos, at = 0, 0, 1
  while at <= #raw do
    local field = raw:byte(at)
    at = at + 1
    local low, flipped, scale, count = 0, 0, 1, 0
    local byte
    repeat
      byte = raw:byte(at)
      if not byte then return nil end
      local bits = byte % 128
      low = low + bits * scale
      if count < 9 then flipped = flipped + (127 - bits) * scale end
      scale = scale * 128
      at = at + 1
      count = count + 1
    until byte < 128
    local number = low
    if count == 10 then number = -flipped - 1 end
    if field == 8 then seconds = number elseif field == 16 then nanos = number else return nil end
  end
  return seconds, nanos
end
if ARGV[5] == '-1' then redis.call('PERSIST', KEYS[1]) end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local wrote = 1
if stored then
  if ARGV[4] == '' and ARGV[2] == '' then return 0 end
  local seconds, nanos = parse(stored)
  if seconds then
    local new_seconds, new_nanos = tonumber(ARGV[2]), tonumber(ARGV[3])
    local counts = ARGV[6] ~= '1' or seconds > 0 or (seconds == 0 and nanos > 0)
    if counts and (new_seconds < seconds or (new_seconds == seconds and new_nanos <= nanos)) then return 0 end
  else
    wrote = 2
  end
end
local existed = redis.call('EXISTS', KEYS[1])
for at = 7, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[4]) end
if existed == 0 and ARGV[5] ~= '' and ARGV[5] ~= '-1' then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
return wrote
";

/// How long the hash of a row lives once it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// So long, where the write makes it.
    IfNew(Duration),
    /// As long as it did before.
    AsItIs,
    /// For ever.
    Endless,
}

/// Where in a call its key is.
pub(super) const KEY_AT: usize = 3;

/// The call of the script, by its text (`EVAL`) or its hash (`EVALSHA`), for a key and its row.
pub(super) fn call(
    name: &str,
    code: &str,
    (key, layout, row): (&[u8], &Layout, &Row),
    (purpose, life): (Purpose, Life),
) -> Cmd {
    let mut cmd = ::redis::cmd(name);
    cmd.arg(code).arg(1).arg(key).arg(layout.event_time());
    match row.event_time {
        Some(time) => {
            let (seconds, nanos) = (time.div_euclid(1_000_000_000), time.rem_euclid(1_000_000_000));
            cmd.arg(seconds).arg(nanos).arg(encode_time(time))
        }
        None => cmd.arg("").arg("").arg(""),
    };
    match life {
        Life::IfNew(life) => cmd.arg(life.as_millis().max(1) as u64),
        Life::AsItIs => cmd.arg(""),
        Life::Endless => cmd.arg("-1"),
    };
    cmd.arg(if purpose == Purpose::Push(Order::SinceEpoch) { "1" } else { "" });
    for (field, value) in layout.cells(row) {
        cmd.arg(field).arg(value);
    }
    cmd
}
