//! What gateways tell each other about hot keys: one hash a project, changed and read by one script a gateway and second.
//!
//! ```text
//! weir:<project>:hot-keys-shared-v1
//!   r<gateway>   ends, report      how often this gateway's hot keys are read there; for some seconds
//!   c<key>       ends              the key may have copies until then (`key_copies`)
//! ```
//!
//! Times are the server's. What has ended is dropped by whoever comes next; the hash goes when nobody comes any more.

use std::time::Duration;

use ::redis::{Value, cmd};
use tokio::time::Instant;

use super::Redis;
use crate::{features::l2::Error, infer::EntityKey, resilience::since::millis};

/// What the hash is called. With its layout's version: during an upgrade each has its own.
const NAME: &str = "hot-keys-shared-v1";

/// How long a report counts: some are missed before a gateway is taken for gone.
const REPORT: Duration = Duration::from_secs(5);

/// Arguments: the gateway, its report, the report's life, then key and life of each announcement; lives in milliseconds. Answers
/// field, what is left of its life, and report, of everything.
const EXCHANGE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function put(field, life, report)
  redis.call('HSET', KEYS[1], field, string.format('%.0f', now + life) .. ' ' .. report)
end
put('r' .. ARGV[1], ARGV[3], ARGV[2])
for at = 4, #ARGV, 2 do
  local field = 'c' .. ARGV[at]
  local held = redis.call('HGET', KEYS[1], field)
  held = held and tonumber(string.match(held, '^%d+')) or 0
  if held < now + ARGV[at + 1] then put(field, ARGV[at + 1], '') end
end
local all = redis.call('HGETALL', KEYS[1])
local answer, longest = {}, 0
for at = 1, #all, 2 do
  local ends, report = string.match(all[at + 1], '^(%d+) (.*)$')
  local left = ends and tonumber(ends) - now or 0
  if left > 0 then
    longest = math.max(longest, left)
    answer[#answer + 1] = all[at]
    answer[#answer + 1] = left
    answer[#answer + 1] = report
  else
    redis.call('HDEL', KEYS[1], all[at])
  end
end
redis.call('PEXPIRE', KEYS[1], longest)
return answer
";

/// What an exchange brought.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    /// Of the other gateways.
    reports: Vec<Vec<u8>>,
    /// Keys that may have copies, and for how long yet.
    copied: Vec<(EntityKey, Duration)>,
}

impl Redis {
    /// Tells the other gateways how often keys are read here and which of them may get copies, and hears theirs.
    ///
    /// # Errors
    ///
    /// Redis did not answer: nothing may have been told.
    pub(crate) async fn exchange(&self, gateway: &str, report: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let announced = self.copies.as_ref().map_or_else(Vec::new, |copies| copies.announcements());
        let key = self.own(NAME);
        let mut call = cmd("EVAL");
        call.arg(EXCHANGE).arg(1).arg(&key).arg(gateway).arg(report).arg(millis(REPORT));
        for (key, life) in &announced {
            call.arg(key.as_bytes()).arg(millis(*life));
        }
        let began = Instant::now();
        let Heard { reports, copied } = heard(self.run_own(call, 3).await?, gateway);
        if let Some(copies) = &self.copies {
            copies.take_list((began, Instant::now()), copied, &announced);
        }
        Ok(reports)
    }
}

/// What is no part of an exchange is passed over.
fn heard(answer: Value, gateway: &str) -> Heard {
    let Value::Array(all) = answer else { return Heard::default() };
    let mut heard = Heard::default();
    let mut all = all.into_iter();
    while let (Some(field), Some(left), Some(report)) = (all.next(), all.next(), all.next()) {
        let (Value::BulkString(field), Value::Int(left), Value::BulkString(report)) = (field, left, report) else {
            continue;
        };
        match field.split_first() {
            Some((b'r', name)) if name != gateway.as_bytes() => heard.reports.push(report),
            Some((b'c', key)) => heard.copied.push((key.into(), Duration::from_millis(left.unsigned_abs()))),
            _ => {}
        }
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_is_of_others_and_of_keys() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answer = Value::Array(vec![
            text("rme"),
            Value::Int(9),
            text("mine"),
            text("ryou"),
            Value::Int(9),
            text("yours"),
            text("ckey"),
            Value::Int(1500),
            text(""),
            text("?"),
            Value::Nil,
            text("odd"),
            text("x"),
        ]);
        let expected = Heard {
            reports: vec![b"yours".to_vec()],
            copied: vec![(EntityKey::from(&b"key"[..]), Duration::from_millis(1500))],
        };
        assert_eq!(heard(answer, "me"), expected);
        assert_eq!(heard(Value::Nil, "me"), Heard::default());
    }
}
