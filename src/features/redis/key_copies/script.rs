//! The steps in which a copy is made, each one script: two on the copy's own server, and one between them on the key's.
//!
//! ```text
//! TAKE   a copy that is young: its age, it may be read as it is
//!        somebody else has just taken it: not now
//!        else: the copy is leased, and may be filled with what is read from the key from now on
//! READ   the key's cells; the key is marked as one that may have copies
//! FILL   the lease is still there: the copy is what was read, as old as the lease
//!        it is gone: what was read may be old, and is thrown away
//! ```
//!
//! Who invalidates removes the copy and with it the lease: see `key_copies` for why that is enough.
//!
//! **Source:** Nishtala et al., Scaling Memcache at Facebook, NSDI 2013, "Leases".

use std::time::Duration;

use ::redis::{Cmd, cmd};

use crate::resilience::since::millis;

/// Where in a call its key is.
pub(super) const KEY_AT: usize = 3;

/// How long whoever took a copy keeps others from taking it.
pub(super) const TURN: Duration = Duration::from_secs(1);

/// A lease on a copy that is not there yet goes away by itself.
const LEASE: Duration = Duration::from_secs(10);

/// Arguments: the lease, the age from which a copy is to be made anew, how long another's lease is respected, the life of a lease without a
/// copy; all in milliseconds. Answers the copy's age, -1 where it is leased, -2 where another has just leased it.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'weir:made', 'weir:leased')
local made, leased = tonumber(held[1] or ''), tonumber(held[2] or '')
if made then
  local age = now - made
  if age >= 0 and age < tonumber(ARGV[2]) then return age end
end
if leased and math.abs(now - leased) < tonumber(ARGV[3]) then return -2 end
redis.call('HSET', KEYS[1], 'weir:lease', ARGV[1])
redis.call('HSET', KEYS[1], 'weir:leased', string.format('%.0f', now))
if not made then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return -1
";

/// Keys: the key, its mark. Argument: for how long it may have copies from now on, in milliseconds. Answers the key's fields and values.
const READ: &str = r"
local cells = redis.call('HGETALL', KEYS[1])
if #cells > 0 and redis.call('PTTL', KEYS[2]) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[2], '', 'PX', ARGV[1])
end
return cells
";

/// Arguments: the lease, the copy's life in milliseconds, then field, value, …. Answers 1 if it is made.
const FILL: &str = r"
local held = redis.call('HMGET', KEYS[1], 'weir:lease', 'weir:leased')
if held[1] ~= ARGV[1] or not held[2] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = math.floor(ARGV[2] - (now - held[2]))
redis.call('DEL', KEYS[1])
if left <= 0 then return 0 end
for at = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
end
redis.call('HSET', KEYS[1], 'weir:made', held[2])
redis.call('PEXPIRE', KEYS[1], left)
return 1
";

/// The call that takes a copy, unless there is one younger than `young`.
pub(super) fn take(copy: &[u8], lease: u64, young: Duration) -> Cmd {
    let mut call = cmd("EVAL");
    call.arg(TAKE).arg(1).arg(copy).arg(lease);
    for time in [young, TURN, LEASE] {
        call.arg(millis(time));
    }
    call
}

/// The call that reads a key for its copies, and marks it for so long.
pub(super) fn read(key: &[u8], mark: &[u8], life: Duration) -> Cmd {
    let mut call = cmd("EVAL");
    call.arg(READ).arg(2).arg(key).arg(mark).arg(millis(life));
    call
}

/// The call that asks how long a key is marked yet, in milliseconds; below zero: it is not.
pub(super) fn marked(mark: &[u8]) -> Cmd {
    let mut call = cmd("PTTL");
    call.arg(mark);
    call
}

/// The call that fills it.
pub(super) fn fill(copy: &[u8], lease: u64, life: Duration, cells: &[(Vec<u8>, Vec<u8>)]) -> Cmd {
    let mut call = cmd("EVAL");
    call.arg(FILL).arg(1).arg(copy).arg(lease).arg(millis(life));
    for (field, value) in cells {
        call.arg(field).arg(value);
    }
    call
}

/// The call that removes it, and any lease.
pub(super) fn remove(copy: &[u8]) -> Cmd {
    let mut call = cmd("UNLINK");
    call.arg(copy);
    call
}
