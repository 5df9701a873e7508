//! The demo's users and merchants: the same rows in every run, but for their event times, which are recent.
//!
//! Each number is drawn from a hash of what it belongs to, so that no row depends on how many there are.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    features::Row,
    infer::{EntityKey, EntityValue, Value},
};

/// Users are numbered from 1 to this.
pub(super) const USERS: i64 = 5000;

/// Merchants are named from `m_1` to this.
pub(super) const MERCHANTS: i64 = 500;

/// The rows of `user_stats`: `txn_count_1h`, `avg_amount_7d`. `now` is nanoseconds since the epoch.
pub(super) fn users(now: i64) -> impl Iterator<Item = (EntityKey, Row)> {
    (1..=USERS).map(move |user| {
        // Most users pay once or twice an hour, a few in bursts.
        let count = (draw("user_stats:txn_count_1h", user).powi(3) * 15.0) as i64;
        let average = (500.0 + draw("user_stats:avg_amount_7d", user) * 39_500.0).round() / 100.0;
        let key = EntityKey::new([("user_id", &EntityValue::Int64(user))].into_iter());
        (key, row(event_time(now, draw("user_stats", user)), [Value::Int64(count), Value::Double(average)]))
    })
}

/// The rows of `merchant_stats`: `chargeback_rate`. `now` is nanoseconds since the epoch.
pub(super) fn merchants(now: i64) -> impl Iterator<Item = (EntityKey, Row)> {
    (1..=MERCHANTS).map(move |merchant| {
        let rate = (draw("merchant_stats:chargeback_rate", merchant).powi(2) * 800.0).round() / 10_000.0;
        let name = EntityValue::String(format!("m_{merchant}"));
        let key = EntityKey::new([("merchant_id", &name)].into_iter());
        (key, row(event_time(now, draw("merchant_stats", merchant)), [Value::Float(rate as f32)]))
    })
}

/// A number in `0.0..1.0` that is always the same for `what` of the entity.
fn draw(what: &str, entity: i64) -> f64 {
    // 53 bits: all that an f64 holds.
    (xxh3_64_with_seed(what.as_bytes(), entity.cast_unsigned()) >> 11) as f64 / (1u64 << 53) as f64
}

/// A time in the last six hours, in whole microseconds, as Feast stores them.
fn event_time(now: i64, draw: f64) -> i64 {
    const SPAN: f64 = Duration::from_secs(6 * 3600).as_micros() as f64;
    (now / 1000 - (draw * SPAN) as i64) * 1000
}

fn row<const N: usize>(event_time: i64, values: [Value; N]) -> Row {
    Row::new(Some(event_time), values.map(Some).into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: i64 = 1_800_000_000_123_456_789;

    #[test]
    fn every_entity_has_one_row_with_recent_times() {
        let rows: Vec<_> = users(NOW).chain(merchants(NOW)).collect();
        let keys: HashSet<_> = rows.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!((rows.len(), keys.len()), (5500, 5500));
        for (_, row) in &rows {
            let age = NOW - row.event_time.unwrap();
            assert!((0..6 * 3600 * 1_000_000_000 + 1000).contains(&age), "{age}");
        }
    }

    #[test]
    fn values_are_plausible_and_differ() {
        let rows: Vec<_> = users(NOW).map(|(_, row)| row.values).collect();
        for values in &rows {
            let [Some(Value::Int64(count)), Some(Value::Double(average))] = &values[..] else { panic!("{values:?}") };
            assert!((0..15).contains(count) && (5.0..=400.0).contains(average), "{values:?}");
        }
        let distinct: HashSet<_> = rows.iter().map(|values| format!("{values:?}")).collect();
        assert!(distinct.len() > 4900, "{}", distinct.len());
    }

    #[test]
    fn rows_are_the_same_in_every_run() {
        let (key, row) = users(NOW).nth(1000).unwrap();
        let id = EntityValue::Int64(1001);
        assert_eq!(key, EntityKey::new([("user_id", &id)].into_iter()));
        let (_, later) = users(NOW + 1_000_000_000).nth(1000).unwrap();
        assert_eq!(row.values, later.values);
        assert_eq!(later.event_time.unwrap() - row.event_time.unwrap(), 1_000_000_000);
    }
}
