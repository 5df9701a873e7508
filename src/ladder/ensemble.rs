//! Plans for models that answer together.
//!
//! A member is asked under its own pool's policy and as it stands itself, within the time of the ensemble, of which enough is left to
//! make one answer of theirs. Its own fallback has no say: who does not answer is left out.

use std::time::Duration;

use tokio::time::Instant;

use super::{FEATURES_SHARE, Ladder, standing::Trigger};
use crate::{
    config::LadderMode,
    infer::{Cause, Deadline, Error, Kind, Level, Method, ModelId, Optional, Plan, Stale, TierId},
};

/// What combining may take at most.
const COMBINING: Duration = Duration::from_millis(10);

/// Of the time left, the share that combining may take, up to [`COMBINING`].
const COMBINING_SHARE: u32 = 10;

impl Ladder {
    /// Whether an answer may be less than the full one.
    pub fn lowers(&self) -> bool {
        self.mode == LadderMode::Act
    }

    /// What is no prediction is asked of an ensemble's first member.
    pub(super) fn in_person(&self, plan: Plan, method: Method) -> Result<Plan, Error> {
        let route = self.route(plan.named);
        match (route.members.first().copied(), method) {
            (None, _) | (Some(_), Method::Predict | Method::Explain) => Ok(plan),
            (Some(first), Method::Other) => Ok(Plan { model: first, ..plan }),
            (Some(_), Method::Stream) => {
                let message = format!("model {:?} is an ensemble: it answers ModelInfer, not streams", route.name);
                Err(Error::new(Kind::Unimplemented, message))
            }
        }
    }

    /// When the answers of a plan's members must be there.
    pub fn members_by(&self, plan: &Plan, now: Instant) -> Deadline {
        let left = plan.model_by.remaining(now);
        plan.deadline.part(now, left - (left / COMBINING_SHARE).min(COMBINING))
    }

    /// The plan for a member of the plan's ensemble, whose answer must be there `by` then.
    ///
    /// # Errors
    ///
    /// Why the member is not to be asked: it makes room on its GPUs, or a drill holds it down.
    pub fn member(&self, plan: &Plan, member: ModelId, by: Deadline, now: Instant) -> Result<Plan, Cause> {
        let mut next = Plan { deadline: by, model_by: by, ..self.alone(plan, member, now) };
        next.features_by = Deadline::after(now, by.remaining(now) / FEATURES_SHARE);
        let standing = self.standings.shown(member).load();
        if standing.is_full() {
            return Ok(next);
        }
        if standing.drill() >= Level::SimplifiedModel {
            return Err(Cause::Drill);
        }
        if standing.makes_room() && !self.standings.shown(member).admits() {
            return Err(Cause::GpuMemory);
        }
        let (drilled, slow) = (standing.drill() > Level::Full, standing.has(Trigger::FeaturesSlow));
        if drilled || slow || standing.has(Trigger::FeaturesUnavailable) {
            next.stale = Stale::Allowed;
        }
        if drilled || slow {
            next.optional = Optional::Skipped;
        }
        Ok(next)
    }

    /// The place of the first member that may be asked alone, as it stands itself. Where that is to make room on GPUs, one at the
    /// ensemble's own pool is not: those are the ones that are full, or were and take its requests back bit by bit.
    pub(super) fn alone_at(&self, ensemble: ModelId, cause: Cause) -> Option<u32> {
        let route = self.route(ensemble);
        let may = |member: &ModelId| {
            let (shown, pool) = (self.standings.shown(*member), self.route(*member).predict);
            let standing = shown.load();
            let is_full = cause == Cause::GpuMemory && (pool == route.predict || shown.gpus_are_full());
            let makes_room = standing.makes_room() && !shown.admits();
            standing.drill() < Level::SimplifiedModel && !is_full && !makes_room
        };
        route.members.iter().position(may).and_then(|place| u32::try_from(place).ok())
    }

    /// The plan for the only member that is asked.
    pub fn alone(&self, plan: &Plan, member: ModelId, now: Instant) -> Plan {
        let route = self.route(member);
        let features = plan.model_by.remaining(now) / FEATURES_SHARE;
        let next = Plan {
            model: member,
            tier: TierId(plan.tier.0.max(route.tier.0)),
            features_by: Deadline::after(now, features),
            ..plan.clone()
        };
        self.moved(&next, route.predict)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::Config,
        fixture,
        infer::{InferRequest, Members, PoolId},
        ladder::{Facts, ModelFacts, State},
        resilience::ratio::Excess,
    };

    const ALL: ModelId = ModelId(0);
    const LOW: ModelId = ModelId(2);
    const MS: Duration = Duration::from_millis(1);

    /// An ensemble of two, of which the second runs under a lower tier and makes room where GPUs are full.
    fn ladder(more: &str) -> Ladder {
        let text = format!(
            "pools: {{p: {{endpoints: [http://h:1], attempt_timeout: 20ms}}, q: {{endpoints: [http://h:2], retry: {{max_retries: 0}}}}}}\n\
             tiers: {{high: , best-effort: {{low_priority: true}}}}\nmodels:\n  all: {{tier: high, ensemble: {{members: [one, low]}}}}\n  \
             one: {{tier: high, pool: p}}\n  low: {{tier: best-effort, pool: q}}\n{more}"
        );
        Ladder::new(&Config::parse(&text, "t").unwrap())
    }

    fn request(method: Method) -> InferRequest {
        InferRequest { method, ..fixture::request(ALL.0, 0, Duration::from_millis(200)) }
    }

    fn plan(ladder: &Ladder, now: Instant) -> Plan {
        let request = InferRequest { deadline: Deadline::after(now, 200 * MS), ..request(Method::Predict) };
        ladder.plan(&request, now).unwrap()
    }

    /// Long enough for every trigger.
    fn long(ladder: &Ladder, facts: &Facts) -> Instant {
        let now = Instant::now();
        (0..30).for_each(|at| ladder.look(facts, now + 100 * MS * at));
        now + 3000 * MS
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_has_its_own_pool_and_policy_in_the_ensembles_time() {
        let (ladder, now) = (ladder(""), Instant::now());
        let all = plan(&ladder, now);
        assert_eq!((all.model, all.pool, all.members), (ALL, PoolId(0), Members::All));
        let by = ladder.members_by(&all, now);
        assert_eq!(by, Deadline::after(now, 190 * MS), "what is left is for combining");
        assert_eq!(
            ladder.members_by(&Plan { model_by: Deadline::after(now, 20 * MS), ..all.clone() }, now),
            Deadline::after(now, 18 * MS)
        );
        let low = ladder.member(&all, LOW, by, now).unwrap();
        assert_eq!((low.named, low.model, low.pool, low.tier), (ALL, LOW, PoolId(1), TierId(1)));
        assert_eq!((low.attempts, low.attempt_timeout, low.level), (1, None, Level::Full));
        assert_eq!((low.deadline, low.model_by, low.features_by), (by, by, Deadline::after(now, 95 * MS)));
        let lower = Plan { tier: TierId(1), ..all };
        let one = ladder.member(&lower, ModelId(1), by, now).unwrap();
        assert_eq!(
            (one.tier, one.pool, one.attempt_timeout),
            (TierId(1), PoolId(0), Some(20 * MS)),
            "a lower tier that was asked for"
        );
    }

    #[test]
    fn an_ensemble_walks_its_own_way_whatever_the_mode() {
        for more in ["", "ladder: {mode: observe}\n"] {
            let ladder = ladder(more);
            let plan = plan(&ladder, Instant::now());
            assert!(ladder.has_ways_down(&plan, Method::Predict), "{more}");
            assert_eq!(ladder.lowers(), more.is_empty());
        }
    }

    #[test]
    fn what_is_no_prediction_is_asked_of_the_first_member() {
        let (ladder, now) = (ladder(""), Instant::now());
        let about = ladder.plan(&request(Method::Other), now).unwrap();
        assert_eq!((about.named, about.model, about.pool), (ALL, ModelId(1), PoolId(0)));
        let refused = ladder.plan(&request(Method::Stream), now).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unimplemented);
        assert_eq!(refused.to_string(), "model \"all\" is an ensemble: it answers ModelInfer, not streams");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_stands_where_it_stands() {
        let ladder = ladder("");
        let full = ModelFacts { gpu_memory: Some(0.99), ..ModelFacts::default() };
        let now = long(&ladder, &Facts { models: vec![full; 3], ..Facts::default() });
        let (all, by) = (plan(&ladder, now), Deadline::after(now, 100 * MS));
        assert!(ladder.member(&all, ModelId(1), by, now).is_ok(), "it is of high priority");
        assert_eq!(ladder.member(&all, LOW, by, now).unwrap_err(), Cause::GpuMemory);
        ladder.drill(ModelId(1), Level::ReducedFeatures, 1000 * MS, now);
        let one = ladder.member(&all, ModelId(1), by, now).unwrap();
        assert_eq!((one.stale, one.optional), (Stale::Allowed, Optional::Skipped));
        ladder.drill(ModelId(1), Level::SimplifiedModel, 1000 * MS, now);
        assert_eq!(ladder.member(&all, ModelId(1), by, now).unwrap_err(), Cause::Drill);
    }

    #[tokio::test(start_paused = true)]
    async fn timeouts_leave_the_first_member() {
        let ladder = ladder("");
        let late = |timeouts| ModelFacts { timeouts, ..ModelFacts::default() };
        let now = long(
            &ladder,
            &Facts { models: vec![late(Excess::Proven), late(Excess::None), late(Excess::None)], ..Facts::default() },
        );
        let State { level, .. } = ladder.state(ALL, now);
        assert_eq!(level, Level::SimplifiedModel);
        // The first is asked in full: what it takes tells when it is over.
        let plans: Vec<_> = (0..3).map(|_| plan(&ladder, now)).collect();
        assert_eq!(
            plans.iter().map(|plan| plan.members).collect::<Vec<_>>(),
            [Members::All, Members::One(0), Members::One(0)]
        );
        let (first, alone) = (&plans[1], ladder.alone(&plans[1], ModelId(1), now));
        assert_eq!((first.level, first.cause), (Level::SimplifiedModel, Some(Cause::Timeouts)));
        assert_eq!((alone.model, alone.pool, alone.model_by), (ModelId(1), PoolId(0), first.model_by));
    }
    /// Pools, and an ensemble of one model at each of the first three, which makes room where the first one's are full.
    fn spread(more: &str) -> Ladder {
        let text = format!(
            "pools: {{p: {{endpoints: [http://h:1]}}, q: {{endpoints: [http://h:2]}}, r: {{endpoints: [http://h:3]}}}}\n\
             models:\n  all: {{low_priority: true, ensemble: {{members: [one, two, three]}}{more}}}\n  one: {{pool: p}}\n  \
             two: {{pool: q}}\n  three: {{pool: r}}\n  lite: {{pool: r}}\n"
        );
        Ladder::new(&Config::parse(&text, "t").unwrap())
    }

    /// Of the three pools, those that are full; the ensemble's is the first, and the simpler model's the last.
    fn full(pools: [bool; 3]) -> Facts {
        let at = |pool: usize| ModelFacts {
            gpu_memory: Some(if pools[pool] { 0.99 } else { 0.5 }),
            ..ModelFacts::default()
        };
        Facts { models: vec![at(0), at(0), at(1), at(2), at(2)], ..Facts::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn where_gpus_are_full_the_first_member_elsewhere_answers_alone() {
        for (pools, place) in [([true, false, false], 1), ([true, true, false], 2)] {
            let ladder = spread("");
            let now = long(&ladder, &full(pools));
            let first = plan(&ladder, now);
            assert_eq!((first.members, first.level), (Members::One(place), Level::SimplifiedModel), "{pools:?}");
            assert_eq!(first.cause, Some(Cause::GpuMemory));
        }
        // Another pool's GPUs are no reason to ask fewer members.
        let ladder = spread("");
        let now = long(&ladder, &full([false, true, true]));
        assert_eq!((plan(&ladder, now).members, plan(&ladder, now).level), (Members::All, Level::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_gpus_are_full_the_ensembles_fallback_answers_or_nobody() {
        let all = [true; 3];
        let ladder = spread(", fallback: {model: lite}");
        let now = long(&ladder, &full(all));
        assert_eq!(plan(&ladder, now).model, ModelId(4));
        let rule =
            ", fallback: {rule: '0.5', default: {outputs: [{name: y, datatype: FP32, shape: [1], data: [0.5]}]}}";
        let ladder = spread(rule);
        let now = long(&ladder, &full(all));
        assert_eq!(
            (plan(&ladder, now).source, plan(&ladder, now).level),
            (crate::infer::Source::Rule, Level::SimplifiedModel)
        );
        let ladder = spread("");
        let now = long(&ladder, &full(all));
        let refused = ladder.plan(&request(Method::Predict), now).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable);
        let told = "model \"all\" has no member on other GPUs, no simpler model and no rule at level 2 (simplified_model: gpu_memory)";
        assert_eq!(refused.to_string(), told);
    }

    /// While requests come back to GPUs that were full, those that do not yet are not sent there by another name.
    #[tokio::test(start_paused = true)]
    async fn a_member_where_requests_come_back_bit_by_bit_does_not_answer_alone() {
        let ladder = spread("");
        let begin = long(&ladder, &full([true, false, false]));
        // Quiet for `exit_after`, and half of as much again.
        (0..150).for_each(|at| ladder.look(&full([false; 3]), begin + 100 * MS * at));
        let now = begin + 15_000 * MS;
        assert_eq!(ladder.state(ALL, now).level, Level::Full);
        let plans: Vec<_> = (0..20).map(|_| plan(&ladder, now).members).collect();
        let (all, alone): (Vec<_>, Vec<_>) = plans.into_iter().partition(|members| *members == Members::All);
        assert!((8..=11).contains(&all.len()), "{} came back", all.len());
        assert!(alone.iter().all(|members| *members == Members::One(1)), "{alone:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_held_down_does_not_answer_alone() {
        let (ladder, now) = (spread(""), Instant::now());
        for member in [1, 2] {
            ladder.drill(ModelId(member), Level::SimplifiedModel, 1000 * MS, now);
        }
        ladder.drill(ALL, Level::SimplifiedModel, 1000 * MS, now);
        assert_eq!(plan(&ladder, now).members, Members::One(2));
    }
}
