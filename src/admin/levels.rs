//! Where models stand, and drills that hold one at a level.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::Value;

use super::{Shared, refuse};
use crate::{config, infer::Level};

/// What `POST /admin/v1/levels/{model}` says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drill {
    level: u8,
    #[serde(rename = "for")]
    time: String,
}

/// The longest that a drill may last: one that was forgotten ends.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn shown(State(sources): Shared) -> Json<Value> {
    Json((sources.levels)())
}

pub(super) async fn drill(State(sources): Shared, Path(model): Path<String>, body: Bytes) -> Response {
    let (level, time) = match asked(&body) {
        Ok(asked) => asked,
        Err(wrong) => return refuse(StatusCode::BAD_REQUEST, &wrong),
    };
    match (sources.drill)(&model, level, time) {
        Some(state) => Json(state).into_response(),
        None => {
            let known: Vec<_> = (sources.config)().models.iter().map(|model| model.name.to_string()).collect();
            refuse(StatusCode::NOT_FOUND, &format!("no such model {model:?}; models: {}", known.join(", ")))
        }
    }
}

fn asked(body: &[u8]) -> Result<(Level, Duration), String> {
    const ALLOWED: &str = "{\"level\": 3, \"for\": \"5m\"}";
    let drill: Drill = serde_json::from_slice(body).map_err(|error| format!("{error}; allowed: {ALLOWED}"))?;
    let level = Level::ALL.get(usize::from(drill.level));
    let level = *level.ok_or_else(|| format!("level {}; allowed: 0 to 4, 0 ends a drill", drill.level))?;
    let time = config::duration(&drill.time).filter(|time| *time <= LONGEST);
    let time = time.ok_or_else(|| format!("for {:?}; allowed: 0s to 24h, such as 5m", drill.time))?;
    Ok((level, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_is_a_level_and_a_time() {
        let five = Duration::from_secs(300);
        assert_eq!(asked(br#"{"level": 3, "for": "5m"}"#), Ok((Level::DefaultResponse, five)));
        assert_eq!(asked(br#"{"level": 0, "for": "0s"}"#), Ok((Level::Full, Duration::ZERO)));
        for (body, told) in [
            (&br#"{"level": 5, "for": "5m"}"#[..], "level 5; allowed: 0 to 4"),
            (br#"{"level": 3, "for": "25h"}"#, "for \"25h\"; allowed: 0s to 24h"),
            (br#"{"level": 3, "for": "soon"}"#, "for \"soon\"; allowed: 0s to 24h"),
            (br#"{"level": 3}"#, "missing field `for`"),
            (br#"{"level": 3, "for": "5m", "model": "m"}"#, "unknown field `model`"),
            (b"", "EOF"),
        ] {
            let wrong = asked(body).unwrap_err();
            assert!(wrong.contains(told), "{wrong}");
        }
    }
}
