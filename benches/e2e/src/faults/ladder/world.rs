//! What the ladder is tried on: two models that join a user's features from Redis, their pool, the simpler model and its pool; and
//! all the ways in which these go.
//!
//! Model `m` has everything that a model can have below it: a simpler model, a rule over the features, default outputs. Model `n`
//! is the same without the rule, so that its answers show where nothing but the default outputs is left. L1 holds nothing:
//! every walk reads Redis, or does without.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::{
    super::{
        endpoint::Behaviour,
        failover::Victim,
        fleet::{self, Endpoint},
    },
    Bench,
};
use crate::{
    feast,
    peers::{self, Place, Server, Weir},
    process::steady_address,
    verify,
};

/// By when a caller wants its answer; Weir's `timeout` too.
pub(super) const DEADLINE: Duration = Duration::from_millis(200);
/// How long breakers stay open, and how long a level outlives its reason.
pub(super) const OPEN_FOR: Duration = Duration::from_secs(2);
pub(super) const EXIT_AFTER: Duration = Duration::from_secs(1);
/// What a model takes.
pub(super) const TAKES: Duration = Duration::from_millis(2);
/// What a hanging one takes: longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Of one that is silent now and then, which requests have no answer.
pub(super) const SILENT: u32 = 10;
/// Whose features are joined.
const USER: i64 = 1001;

/// How a part of the world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up,
    /// Every inference is answered 500; health checks pass.
    Errors,
    /// No inference is answered; health checks pass.
    Hangs,
    /// One in ten inferences is not answered.
    NowAndThen,
    /// SIGSTOP.
    Stopped,
    /// `kill -9`.
    Killed,
}

impl State {
    /// In the report.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Errors => "500",
            Self::Hangs => "hangs",
            Self::NowAndThen => "one in ten hangs",
            Self::Stopped => "SIGSTOP",
            Self::Killed => "`kill -9`",
        }
    }

    /// How a running model behaves.
    const fn behaviour(self) -> Behaviour {
        match self {
            Self::Up => Behaviour::well(TAKES),
            Self::Errors => Behaviour { takes: TAKES, status: 500, silent: 0 },
            Self::NowAndThen => Behaviour { takes: TAKES, status: 200, silent: SILENT },
            Self::Hangs | Self::Stopped | Self::Killed => Behaviour::well(FOR_EVER),
        }
    }
}

/// Model servers that share a fate.
pub(super) struct Pool<'a> {
    pub(super) fleet: Vec<Endpoint<'a>>,
    state: State,
}

impl<'a> Pool<'a> {
    pub(super) fn start(place: Place<'a>, count: usize) -> Result<Self> {
        Ok(Self { fleet: fleet::fleet(place, count, TAKES)?, state: State::Up })
    }

    /// Makes all of them so. On the way from one failure to another none of them answers.
    pub(super) fn become_so(&mut self, state: State) -> Result<()> {
        let before = std::mem::replace(&mut self.state, state);
        self.fleet.iter_mut().try_for_each(|endpoint| {
            if before == State::Stopped {
                endpoint.go_on()?;
            }
            // One that is going to be stopped or killed is made to hang: it is not to answer before that.
            endpoint.behave(state.behaviour())?;
            pass_on(endpoint, before, state)
        })
    }
}

/// Signals that lead from one state to another, for what goes on already.
fn pass_on(victim: &mut impl Victim, before: State, state: State) -> Result<()> {
    match (before, state) {
        (State::Killed, State::Killed) => return Ok(()),
        (State::Killed, _) => victim.revive()?,
        (_, State::Killed) => return victim.kill(),
        _ => {}
    }
    if state == State::Stopped { victim.stop() } else { Ok(()) }
}

/// The Redis that has the features.
pub(super) struct Store<'a> {
    pub(super) address: SocketAddr,
    place: Place<'a>,
    program: &'a Path,
    server: Option<Server>,
    state: State,
}

impl<'a> Store<'a> {
    pub(super) fn start(bench: Bench<'a>) -> Result<Self> {
        let Bench { place, redis: program, .. } = bench;
        let mut store = Self { address: steady_address()?, place, program, server: None, state: State::Up };
        store.revive()?;
        Ok(store)
    }

    /// Makes it so: up, stopped or killed.
    pub(super) fn become_so(&mut self, state: State) -> Result<()> {
        let before = std::mem::replace(&mut self.state, state);
        if before == State::Stopped {
            self.go_on()?;
        }
        pass_on(self, before, state)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.server.as_ref().context("it runs")?.process.signal(signal)
    }
}

impl Victim for Store<'_> {
    fn kill(&mut self) -> Result<()> {
        self.server.take().context("it runs")?.process.kill()
    }

    /// With the rows.
    fn revive(&mut self) -> Result<()> {
        self.server = Some(peers::redis_at(self.place, self.program, self.address)?);
        feast::load(self.address, &[USER])
    }

    fn stop(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    fn go_on(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        // One that is stopped would take its SIGTERM only when it goes on.
        if self.server.is_some() {
            let _ = self.go_on();
        }
    }
}

/// How long breakers stay open, levels outlive their reasons, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    /// So short that a bench sees them end: [`OPEN_FOR`], [`EXIT_AFTER`].
    Short,
    /// As they are where a file says nothing.
    Default,
}

impl Times {
    /// Keys of a pool or of the features, of a pool, and of the file.
    fn keys(self) -> [String; 3] {
        match self {
            Self::Short => [
                format!("breaker: {{open_for: {OPEN_FOR:?}}}"),
                ", health: {interval: 1s}".to_owned(),
                format!("ladder: {{enter_after: 1s, exit_after: {EXIT_AFTER:?}}}\n"),
            ],
            Self::Default => ["breaker: {}".to_owned(), String::new(), String::new()],
        }
    }
}

/// Starts Weir in front of a pool, the simpler model's pool and the store.
pub(super) fn weir(
    bench: Bench<'_>,
    (name, times): (&str, Times),
    pools: [&Pool<'_>; 2],
    store: SocketAddr,
) -> Result<Weir> {
    let [breaker, health, ladder] = times.keys();
    let pool = |name: &str, pool: &Pool<'_>| {
        let endpoints: Vec<String> = pool.fleet.iter().map(|it| format!("\"http://{}\"", it.address)).collect();
        format!("  {name}: {{endpoints: [{}], {breaker}{health}}}\n", endpoints.join(", "))
    };
    let default = "default: {outputs: [{name: score, datatype: FP32, shape: [1], data: [0.5]}]}";
    let deadline = DEADLINE.as_millis();
    let config = format!(
        "tiers:
  high: {{pool: primary}}
  standard: {{pool: simpler}}
pools:
{primary}{simpler}models:
  m: {{tier: high, timeout: {deadline}ms, {joins}, fallback: {{model: lite, rule: \"f0 > 1000.0 ? 0.9 : 0.1\", {default}}}}}
  n: {{tier: high, timeout: {deadline}ms, {joins}, fallback: {{model: lite, {default}}}}}
  lite: {{tier: standard, {joins}}}
{ladder}features:
  project: {project}
  l1: {{capacity: 0B}}
  l2: {{redis: [\"redis://{store}\"]}}
  {breaker}
  views: {{{view}: {{entities: {{{entity}: INT64}}, features: {{{types}}}, ttl: 1h}}}}
",
        primary = pool("primary", pools[0]),
        simpler = pool("simpler", pools[1]),
        joins = joins(),
        project = feast::PROJECT,
        view = feast::VIEW,
        entity = feast::ENTITY,
        types = features("{}: {type: DOUBLE, default: 0.0}"),
    );
    peers::weir_with(bench.place, (name, bench.weir), &config)
}

fn joins() -> String {
    let (view, entity) = (feast::VIEW, feast::ENTITY);
    let columns = features(&format!("\"{view}:{{}}\""));
    let select = features("{}");
    format!(
        "features: [{{view: {view}, join: {{{entity}: {entity}}}, select: [{select}]}}], \
         inputs: {{as: matrix, name: input-0, datatype: FP32, columns: [{columns}]}}"
    )
}

/// All features, each where the pattern has its braces.
fn features(pattern: &str) -> String {
    let each = |index| pattern.replacen("{}", &feast::feature(index), 1);
    (0..feast::FEATURES).map(each).collect::<Vec<_>>().join(", ")
}

/// A request of a model about the user.
pub(super) fn request(model: &str) -> Vec<u8> {
    verify::inference_of(model, &verify::joined_body(USER))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what is done to it.
    #[derive(Default)]
    struct Patient(Vec<&'static str>);

    impl Victim for Patient {
        fn kill(&mut self) -> Result<()> {
            self.0.push("kill");
            Ok(())
        }

        fn revive(&mut self) -> Result<()> {
            self.0.push("revive");
            Ok(())
        }

        fn stop(&mut self) -> Result<()> {
            self.0.push("stop");
            Ok(())
        }

        fn go_on(&mut self) -> Result<()> {
            self.0.push("go on");
            Ok(())
        }
    }

    #[test]
    fn every_state_is_reached_from_every_other() {
        use State::{Errors, Hangs, Killed, Stopped, Up};
        for (before, state, done) in [
            (Up, Errors, &[][..]),
            (Hangs, Stopped, &["stop"]),
            (Stopped, Killed, &["kill"]),
            (Killed, Killed, &[]),
            (Killed, Stopped, &["revive", "stop"]),
            (Killed, Up, &["revive"]),
        ] {
            let mut patient = Patient::default();
            pass_on(&mut patient, before, state).expect("a patient takes everything");
            assert_eq!(patient.0, done, "{before:?} {state:?}");
        }
    }

    #[test]
    fn default_times_are_not_written_down() {
        assert!(Times::Short.keys()[0].contains("open_for") && Times::Short.keys()[2].contains("exit_after"));
        assert!(Times::Default.keys().iter().all(|keys| !keys.contains("open_for") && !keys.contains("_after")));
    }

    #[test]
    fn features_fill_the_pattern() {
        assert!(features("\"v:{}\"").starts_with("\"v:f0\", \"v:f1\""), "{}", features("\"v:{}\""));
        assert!(features("{}: {type: DOUBLE}").starts_with("f0: {type: DOUBLE}, f1"));
    }
}
