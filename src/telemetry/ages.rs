//! Ages of events, gathered by bucket: a lookup of many rows is recorded as a few samples.
//!
//! What the histogram tells is the same: each bucket gets as many samples, and their sum.

use metrics::Histogram;

use super::{buckets::AGE, handles::features::SKEW};

/// Ages that are yet to be recorded, in seconds.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    counts: [u32; AGE.len() + 1],
    sums: [f64; AGE.len() + 1],
    /// Of events that are ahead of the clock.
    pub(super) ahead: u64,
}

impl Ages {
    /// An age; negative where the event is ahead of the clock.
    pub(crate) fn add(&mut self, seconds: f64) {
        self.ahead += u64::from(seconds < -SKEW);
        // A histogram's sum must not fall.
        let seconds = seconds.max(0.0);
        let bucket = AGE.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sums[bucket] += seconds;
    }

    pub(super) fn record(&self, histogram: &Histogram) {
        for (bucket, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // Rounding must not carry the mean out of its bucket.
            let least = bucket.checked_sub(1).map_or(f64::NEG_INFINITY, |below| AGE[below].next_up());
            let most = AGE.get(bucket).copied().unwrap_or(f64::INFINITY);
            let mean = (self.sums[bucket] / f64::from(count)).clamp(least, most);
            histogram.record_many(mean, count as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::histogram;

    use super::*;
    use crate::telemetry::{names, scratch};

    #[test]
    fn gathered_ages_are_told_as_if_each_had_been_recorded() {
        let ages = [-3.0, 0.5, 1.0, 1.0f64.next_up(), 4.0, 4.5, 100_000.0, 1e9, 2e9];
        let told = |record: &dyn Fn(&Histogram)| {
            let ((), scrape) = scratch(|| record(&histogram!(names::FEATURE_AGE, "view" => "v")));
            let text = scrape.render();
            text.lines().filter(|line| line.starts_with(names::FEATURE_AGE)).map(String::from).collect::<Vec<_>>()
        };
        let one_by_one = told(&|histogram| ages.iter().for_each(|age| histogram.record(age.max(0.0))));
        let gathered = told(&|histogram| {
            let mut gathered = Ages::default();
            ages.iter().for_each(|age| gathered.add(*age));
            gathered.record(histogram);
        });
        assert!(one_by_one.len() > AGE.len(), "{one_by_one:?}");
        assert_eq!(one_by_one, gathered);
    }
}
