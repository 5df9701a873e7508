//! When requests are sent: the moments of an open loop, from a fixed seed, so that they are the same for every setup.
//!
//! It sends nothing and knows no connection.

use std::time::{Duration, Instant};

/// The seed of a load that has one stream only.
pub(crate) const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// How the requests are paced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// One outstanding request a connection, always.
    Closed,
    /// So many arrivals a second, whatever the answers do.
    Open(f64),
}

/// Poisson arrivals from a fixed seed.
pub(crate) struct Arrivals {
    pub(crate) pace: Pace,
    /// The first that is not due yet.
    pub(crate) next: Instant,
    dice: Dice,
}

impl Arrivals {
    /// The first is at `start`.
    pub(crate) fn new(pace: Pace, start: Instant, seed: u64) -> Self {
        Self { pace, next: start, dice: Dice::new(seed) }
    }

    /// The arrivals up to now that are before `end`.
    pub(crate) fn due(&mut self, end: Instant) -> Vec<Instant> {
        let Pace::Open(rate) = self.pace else { return Vec::new() };
        let now = Instant::now().min(end);
        let mut due = Vec::new();
        while self.next < now {
            due.push(self.next);
            let gap = -self.dice.uniform().ln() / rate;
            self.next += Duration::from_secs_f64(gap);
        }
        due
    }
}

/// Random numbers that are the same in every run. xorshift64*.
pub(crate) struct Dice(u64);

impl Dice {
    /// `seed` is not 0.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// In (0, 1].
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits + 1) as f64 / (1_u64 << 53) as f64
    }

    /// In 0…`sides` − 1.
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        ((self.uniform() * sides as f64) as usize).min(sides - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_rate() {
        let start = Instant::now() - Duration::from_secs(100);
        let mut arrivals = Arrivals::new(Pace::Open(1000.0), start, SEED);
        let due = arrivals.due(start + Duration::from_secs(50)).len();
        assert!((49_000..51_000).contains(&due), "{due}");
    }

    #[test]
    fn dice_show_every_side() {
        let mut dice = Dice::new(SEED);
        let mut seen = [0; 3];
        (0..3000).for_each(|_| seen[dice.below(3)] += 1);
        assert!(seen.iter().all(|&times| times > 900), "{seen:?}");
    }
}
