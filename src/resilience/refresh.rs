//! Early refresh (XFetch): an entry that is asked for often is fetched again shortly before it expires, by one reader at random
//! instead of by all at once when it has expired.
//!
//! The nearer the expiry and the longer a fetch takes, the likelier. Of many readers in the last moments some one is early with
//! near certainty, and of an entry that nobody asks for none is.
//!
//! **Source:** Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015, with β = 1.

use std::time::Duration;

/// Beyond so many fetches' length before the expiry the chance is under one in 10^8, and no randomness is drawn.
const NEVER_BEYOND: u32 = 19;

/// Whether a reader that comes `left` before the expiry is to refresh what took `took` to fetch. `uniform` draws from [0, 1).
pub fn is_due(left: Duration, took: Duration, uniform: impl FnOnce() -> f64) -> bool {
    left <= took.saturating_mul(NEVER_BEYOND) && left.as_secs_f64() <= took.as_secs_f64() * -(1.0 - uniform()).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_chance_is_e_to_the_minus_fetches_left() {
        // 1 - u < exp(-left / took)
        for (left, took, uniform, due) in [
            (0, 1, 0.0, true),
            (1, 1, 0.62, false),
            (1, 1, 0.64, true),
            (3, 1, 0.94, false),
            (3, 1, 0.96, true),
            (1, 0, 0.999, false),
            (20, 1, 1.0 - f64::EPSILON, false),
        ] {
            assert_eq!(is_due(left * MS, took * MS, || uniform), due, "{left} ms left, {took} ms, {uniform}");
        }
    }

    #[test]
    fn far_from_the_expiry_nothing_is_drawn() {
        assert!(!is_due(100 * MS, MS, || unreachable!("drawn")));
    }

    proptest! {
        #[test]
        fn it_grows_likelier_as_the_expiry_nears(left in 0..50_u32, nearer in 0..50_u32, uniform in 0.0..1.0) {
            let (left, nearer) = (left.max(nearer) * MS, left.min(nearer) * MS);
            prop_assert!(!is_due(left, 5 * MS, || uniform) || is_due(nearer, 5 * MS, || uniform));
        }
    }
}
