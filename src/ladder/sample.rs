//! A sample model with everything below it, for benches; not part of a release.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{Ladder, Settled};
use crate::{
    config::Config,
    infer::{Answer, Error, InferRequest, Kind, Level, ModelId, Payload, Plan, Protocol, TierId},
};

const CONFIG: &str = "
pools: {a: {endpoints: [\"http://127.0.0.1:9000\"]}, b: {endpoints: [\"http://127.0.0.1:9001\"]}}
models:
  m:
    pool: a
    fallback: {model: lite, rule: \"true ? 0.9 : 0.1\", default: {outputs: [{name: score, datatype: FP32, shape: [1], data: [0.5]}]}}
  lite: {pool: b}
";

/// Where the sample's model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// At level 0.
    Full,
    /// At level 2, by a drill.
    Lower,
}

/// A ladder, and a request for its model.
pub struct Sample {
    ladder: Ladder,
    request: InferRequest,
    now: Instant,
}

impl Sample {
    /// A model with a simpler one, a rule and default outputs.
    ///
    /// # Panics
    /// Never: the config is a constant.
    #[must_use]
    pub fn new(stands: Stands) -> Self {
        let config = Config::parse(CONFIG, "sample").expect("the sample's config is valid");
        let (ladder, now) = (Ladder::new(&config), Instant::now());
        let id = config.model_id("m").expect("the sample has the model");
        if stands == Stands::Lower {
            ladder.drill(id, Level::SimplifiedModel, Duration::from_secs(3600), now);
        }
        Self { ladder, request: request(id, config.model(id).tier), now }
    }

    /// An answer of the model.
    #[must_use]
    pub fn answer() -> Answer {
        Answer::whole(StatusCode::OK, HeaderMap::new(), bytes::Bytes::new())
    }

    /// The plan of a request, and what becomes of its answer.
    ///
    /// # Panics
    /// Never: every level of the sample has an answer.
    pub fn settled(&self, answer: Answer) -> Settled {
        self.ladder.settle(&self.plan(), Ok(answer), &mut None, self.now)
    }

    /// The plan of a request, and all the ways down while everything fails; how many walks that were.
    ///
    /// # Panics
    /// Never: every level of the sample has an answer.
    #[must_use]
    pub fn descended(&self) -> usize {
        let failure = || Err(Error::new(Kind::Unavailable, "down"));
        let mut first = None;
        let next = |plan: &Plan| match self.ladder.settle(plan, failure(), &mut first, self.now) {
            Settled::Next(next) => Some(next),
            Settled::Answer(_) | Settled::Error(_) => None,
        };
        std::iter::successors(Some(self.plan()), next).count()
    }

    fn plan(&self) -> Plan {
        self.ladder.plan(&self.request, self.now).expect("no level of the sample is without an answer")
    }
}

fn request(model: ModelId, tier: TierId) -> InferRequest {
    let payload = Payload::Retained(bytes::Bytes::new());
    InferRequest { model, tier, ..crate::enrich::sample::request(Protocol::V2Json, None, payload) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_down_are_walked() {
        assert_eq!(
            Sample::new(Stands::Full).descended(),
            4,
            "the model, the simpler one, the rule, the default outputs"
        );
        assert_eq!(Sample::new(Stands::Lower).descended(), 3);
        let settled = Sample::new(Stands::Full).settled(Sample::answer());
        assert!(matches!(settled, Settled::Answer(answer) if answer.level == Level::Full), "a plan in full");
    }
}
