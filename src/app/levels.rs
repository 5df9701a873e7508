//! Gathers what moves models' standing levels, and shows where they stand.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    infer::{Level, ModelId},
    ingress::service::Gateway,
    ladder::{Facts, ModelFacts, State},
    pipeline::Pipeline,
};

/// How often facts are gathered: well under the shortest `enter_after` that makes sense.
const EVERY: Duration = Duration::from_millis(100);

/// Moves models until it is cancelled.
pub(super) async fn watch(gateway: Arc<ArcSwap<Gateway>>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (gateway, now) = (gateway.load_full(), Instant::now());
        gateway.pipeline.ladder.look(&facts(&gateway.pipeline, now), now);
    }
}

fn facts(pipeline: &Pipeline, now: Instant) -> Facts {
    let (config, predict) = (&pipeline.config, &pipeline.predict);
    let store = pipeline.features.signals(now);
    // An ensemble has no attempts but its members'.
    let timeouts = |id| {
        let members = config.model(id).members().iter().map(|member| predict.timeouts(*member, now));
        members.fold(predict.timeouts(id, now), Ord::max)
    };
    let of_model =
        |id| ModelFacts { timeouts: timeouts(id), gpu_memory: predict.gpu_memory(config.model(id).pool, now) };
    let ids = (0..config.models.len()).filter_map(|index| u32::try_from(index).ok()).map(ModelId);
    Facts { features_slow: store.slow, features_unavailable: store.unavailable, models: ids.map(of_model).collect() }
}

/// Each model by name.
pub(super) fn states(pipeline: &Pipeline) -> Value {
    let now = Instant::now();
    let models = pipeline.config.models.iter();
    let state = |name: &str| Some((name.to_owned(), shown(pipeline, name, now)?));
    models.filter_map(|model| state(&model.name)).collect::<serde_json::Map<_, _>>().into()
}

/// Holds a model at a level for a while.
pub(super) fn drill(pipeline: &Pipeline, model: &str, level: Level, time: Duration) -> Option<Value> {
    let (id, now) = (pipeline.config.model_id(model)?, Instant::now());
    tracing::warn!(model, %level, ?time, "drill");
    pipeline.ladder.drill(id, level, time, now);
    shown(pipeline, model, now)
}

fn shown(pipeline: &Pipeline, model: &str, now: Instant) -> Option<Value> {
    let State { level, causes, drill_left, readmitted, acts } =
        pipeline.ladder.state(pipeline.config.model_id(model)?, now);
    Some(json!({
        "level": level as u8,
        "name": level.name(),
        "reasons": causes,
        "drill_seconds_left": drill_left.map(|left| left.as_secs_f64()),
        "readmitted": readmitted,
        "acts": acts,
    }))
}
