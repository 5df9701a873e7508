//! What an operator drops.

use serde_json::{Value as Json, json};

use crate::{
    admin::{Invalidation, Refusal, Which},
    config::View,
    features::invalidate::{Dropped, KeyCopies, Origin, Scope, entity},
    pipeline::Pipeline,
};

/// Does as the operator says; what came of it.
pub(super) async fn invalidate(pipeline: &Pipeline, said: Invalidation) -> Result<Json, Refusal> {
    match said {
        Invalidation::Model(model) => drop_model(pipeline, &model),
        Invalidation::View(view, which) => drop_rows(pipeline, &view, which).await,
    }
}

fn drop_model(pipeline: &Pipeline, model: &str) -> Result<Json, Refusal> {
    let Some(id) = pipeline.config.model_id(model) else {
        let known = pipeline.config.models.iter().map(|model| &*model.name);
        return Err(unknown("model", model, known));
    };
    if !pipeline.predictions.are_kept(id) {
        return Ok(json!({"model": model, "predictions": "not kept"}));
    }
    pipeline.predictions.drop_model(id);
    let told = if pipeline.predictions.reach_others() { "told" } else { "not told" };
    tracing::info!(model, other_gateways = told, "predictions dropped");
    Ok(json!({"model": model, "predictions": "dropped", "other_gateways": told}))
}

async fn drop_rows(pipeline: &Pipeline, name: &str, which: Which) -> Result<Json, Refusal> {
    let views = &pipeline.config.features.views;
    let Some(view) = views.iter().find(|view| *view.name == *name) else {
        return Err(unknown("view", name, views.iter().map(|view| &*view.name)));
    };
    let what = words(&which);
    let scope = scope(view, which).map_err(|wrong| Refusal::Wrong(wrong.to_string()))?;
    let Dropped { rows, copies } = pipeline.features.invalidate(&scope, Origin::Admin, None).await;
    let told = if pipeline.features.tell_of(&scope) { "told" } else { "not told" };
    tracing::info!(view = name, what, rows, other_gateways = told, "an operator's word: rows dropped");
    let mut answer = json!({"view": name, "rows": rows, "other_gateways": told});
    match copies {
        KeyCopies::NotAsked => {}
        KeyCopies::Removed => answer["key_copies"] = "removed".into(),
        KeyCopies::Left => answer["key_copies"] = "not removed".into(),
    }
    Ok(answer)
}

/// What an operator named, for the log.
fn words(which: &Which) -> String {
    match which {
        Which::All => "all".to_owned(),
        Which::Entity(given) => Json::from(given.clone()).to_string(),
        Which::Prefix(text) => format!("what begins with {text:?}"),
    }
}

fn scope(view: &View, which: Which) -> Result<Scope, entity::Wrong> {
    match which {
        Which::All => Ok(Scope::View(view.id)),
        Which::Entity(given) => entity::row(view, &given),
        Which::Prefix(text) => entity::prefix(view, &text),
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Refusal {
    let known: Vec<_> = known.collect();
    let known = if known.is_empty() { "none is configured".to_owned() } else { known.join(", ") };
    Refusal::Unknown(format!("unknown {what} {name:?}; configured: {known}"))
}
