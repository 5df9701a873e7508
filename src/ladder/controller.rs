//! Moves models between levels 0 and 2, and holds them where a drill says.
//!
//! Looked at a few times a second with what the stages report ([`Facts`]). A trigger acts after it lasted `enter_after` and stops after
//! `exit_after` of quiet (`resilience::hysteresis`), so that a signal that flaps around its threshold moves nothing more than once. Two
//! facts depend on a level's own effect, and neither keeps or undoes itself by it. Of timeouts some requests keep telling (`standing`).
//! Those are few: as long as the trigger is in force, what they say counts however few they are. Without any it ends like the others. GPUs
//! that are empty because their low-priority work went elsewhere get it back bit by bit (`readmission`), no further than they stay below
//! the threshold; the model stands at level 0 meanwhile, and only who does not come back yet is answered lower. With `ladder.mode: observe`
//! all of this is told and nothing is lowered; drills act all the same.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    readmission::{Readmission, Resource},
    standing::{Shown, Standing, Trigger},
};
use crate::{
    config::{self, Config, LadderMode},
    infer::{Level, ModelId},
    resilience::{hysteresis::Hysteresis, ratio::Excess},
    telemetry::handles::ladder::LadderHandles,
};

/// What the stages report, gathered in the background.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// More than one in a hundred feature lookups takes longer than `ladder.feature_p99`.
    pub features_slow: bool,
    /// No server of the feature store may be asked.
    pub features_unavailable: bool,
    /// By model.
    pub models: Vec<ModelFacts>,
}

/// What is reported of a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelFacts {
    /// Whether too many of its attempts time out.
    pub timeouts: Excess,
    /// The share of its pool's GPU memory that is in use, where that is known.
    pub gpu_memory: Option<f64>,
}

/// How a model stands, for people.
#[derive(Clone, Debug)]
pub struct State {
    /// The level it stands at.
    pub level: Level,
    /// Why: the triggers in force, in the order of their levels, and a drill.
    pub causes: Vec<&'static str>,
    /// How long a drill has left.
    pub drill_left: Option<Duration>,
    /// The share of its requests that may ask GPUs that are full or were, below 1; `None`: all of them, or it acts on nothing.
    pub readmitted: Option<f64>,
    /// Whether it acts.
    pub acts: bool,
}

/// All models'; outlives the snapshot it was made for.
pub(super) struct Standings {
    mode: LadderMode,
    gpu_memory: f64,
    models: Box<[Model]>,
}

struct Model {
    name: Arc<str>,
    low_priority: bool,
    joins: bool,
    shown: Shown,
    machine: Mutex<Machine>,
    handles: LadderHandles,
}

struct Machine {
    triggers: [Hysteresis; Trigger::ALL.len()],
    /// Whether its pool's GPUs are full, which is a trigger of low priority only.
    gpus: Hysteresis,
    /// Of what was kept from full GPUs.
    readmission: Readmission,
    drill: Option<(Level, Instant)>,
    standing: Standing,
    looked: Instant,
}

impl Standings {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let ladder = &config.ladder;
        Self {
            mode: ladder.mode,
            gpu_memory: ladder.gpu_memory,
            models: config.models.iter().map(|model| Model::new(model, ladder, now)).collect(),
        }
    }

    pub(super) fn shown(&self, model: ModelId) -> &Shown {
        &self.models[model.index()].shown
    }

    pub(super) fn look(&self, facts: &Facts, now: Instant) {
        for (model, of_model) in self.models.iter().zip(&facts.models) {
            let full = of_model.gpu_memory.is_some_and(|share| share > self.gpu_memory);
            let is_active = |trigger, in_force| match trigger {
                Trigger::FeaturesSlow => model.joins && facts.features_slow,
                Trigger::FeaturesUnavailable => model.joins && facts.features_unavailable,
                Trigger::GpuMemory => model.low_priority && full,
                Trigger::Timeouts => {
                    of_model.timeouts == Excess::Proven || (in_force && of_model.timeouts == Excess::OfFew)
                }
            };
            model.look(is_active, full, now);
            model.settle(self.mode, now);
        }
    }

    /// Holds a model at a level until then; level 0 ends a drill.
    pub(super) fn drill(&self, model: ModelId, level: Level, until: Instant, now: Instant) {
        let model = &self.models[model.index()];
        {
            let mut machine = model.lock();
            machine.drill = (level > Level::Full && until > now).then_some((level, until));
        }
        model.settle(self.mode, now);
    }

    pub(super) fn state(&self, model: ModelId, now: Instant) -> State {
        let machine = self.models[model.index()].lock();
        let in_force = Trigger::ALL.into_iter().filter(|trigger| machine.standing.has(*trigger));
        let mut causes: Vec<_> = in_force.map(|trigger| trigger.cause().token()).collect();
        causes.extend(machine.drill.map(|_| crate::infer::Cause::Drill.token()));
        let returns = self.mode == LadderMode::Act && !machine.readmission.is_over();
        State {
            level: machine.standing.level(),
            causes,
            drill_left: machine.drill.map(|(_, until)| until.saturating_duration_since(now)),
            readmitted: returns.then(|| machine.readmission.part()),
            acts: self.mode == LadderMode::Act || machine.drill.is_some(),
        }
    }
}

impl Model {
    fn new(model: &config::Model, ladder: &config::Ladder, now: Instant) -> Self {
        let hysteresis = Hysteresis::new(ladder.enter_after, ladder.exit_after);
        Self {
            name: model.name.clone(),
            low_priority: model.low_priority,
            joins: !model.joins.is_empty(),
            shown: Shown::new(now),
            machine: Mutex::new(Machine {
                triggers: std::array::from_fn(|_| hysteresis.clone()),
                gpus: hysteresis,
                readmission: Readmission::new(ladder.exit_after),
                drill: None,
                standing: Standing::default(),
                looked: now,
            }),
            handles: LadderHandles::new(&model.name),
        }
    }

    /// `is_active`: of a trigger, which is in force or not; `full`: of the pool's GPUs.
    fn look(&self, is_active: impl Fn(Trigger, bool) -> bool, full: bool, now: Instant) {
        let mut machine = self.lock();
        for (trigger, state) in Trigger::ALL.into_iter().zip(&mut machine.triggers) {
            state.look(is_active(trigger, state.in_force()), now);
        }
        let in_force = machine.triggers[Trigger::GpuMemory as usize].in_force();
        let memory = match (in_force, is_active(Trigger::GpuMemory, in_force)) {
            (true, _) => Resource::KeptFrom,
            (false, true) => Resource::Full,
            (false, false) => Resource::Roomy,
        };
        machine.readmission.look(memory, now);
        self.shown.admit(machine.readmission.share());
        machine.gpus.look(full, now);
        self.shown.fill_gpus(machine.gpus.in_force());
    }

    /// Shows what the machine has come to.
    fn settle(&self, mode: LadderMode, now: Instant) {
        let mut machine = self.lock();
        machine.drill = machine.drill.filter(|(_, until)| *until > now);
        let drill = machine.drill.map(|(level, _)| level);
        let all = Trigger::ALL.into_iter().zip(&machine.triggers);
        let in_force = all.filter(|(_, state)| state.in_force());
        let standing = Standing::new(in_force.map(|(trigger, _)| trigger), drill);
        self.handles.stood(machine.standing.level(), now.saturating_duration_since(machine.looked));
        machine.looked = now;
        let before = std::mem::replace(&mut machine.standing, standing);
        if let Some((_, until)) = machine.drill {
            self.shown.drill_until(until);
        }
        self.handles.readmitted(if mode == LadderMode::Act { machine.readmission.part() } else { 1.0 });
        self.shown.store(match mode {
            LadderMode::Act if !machine.readmission.is_over() => standing.returning(),
            LadderMode::Act => standing,
            LadderMode::Observe => Standing::new([], drill),
        });
        if before != standing {
            self.tell(before, standing, mode);
        }
    }

    fn tell(&self, before: Standing, standing: Standing, mode: LadderMode) {
        let level = standing.level();
        let acts = mode == LadderMode::Act;
        self.handles.level(if acts { level } else { standing.drill() });
        self.handles.would_be(level);
        if before.level() == level {
            return;
        }
        self.handles.moved(level);
        let was_held = before.drill() > standing.drill();
        let reason =
            standing.worst().map_or(if was_held { "drill ended" } else { "quiet" }, |(_, cause)| cause.token());
        let model = &self.name;
        if level > before.level() {
            tracing::warn!(%model, %level, from = %before.level(), reason, acts, "model stands lower");
        } else {
            tracing::info!(%model, %level, from = %before.level(), reason, acts, "model stands higher");
        }
    }

    /// Held for a few comparisons; its state is whole between them.
    fn lock(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
