//! From what the file says to a [`Config`] that cannot be wrong: references, sums, types, ranges that hang together.
//!
//! One file a section. Every check records its problem and goes on with a placeholder, so that all problems are found; the
//! `Config` made that way is only handed out when there was none.

mod balance;
mod copies;
mod endpoints;
mod fallbacks;
mod features;
mod inputs;
mod joins;
mod kafka;
mod listen;
mod mlflow;
mod models;
mod pools;
mod registry;
mod spool;
mod store;
mod tiers;
mod url;

use rapidhash::RapidHashMap;

use super::{
    Config, Drain, Ladder, LadderMode, Supplied,
    problems::{Path, Places, Problem},
    raw::{self, Root},
    shape::nearest,
};

pub(super) use features::{ENTITY_TYPES, zero};

/// Checks what the file means. `broken` are the keys whose shape is wrong: nothing is reported about them again.
pub(super) fn validate(raw: &Root, places: &Places, broken: &[Path], registry: Supplied<'_>) -> (Config, Vec<Problem>) {
    let mut check = Check { raw, places, broken, problems: Vec::new(), views: Views::Known };
    let listen = check.listen();
    let tiers = check.tiers();
    check.raw.zone.iter().for_each(|zone| drop(check.label(&Path::of("zone"), zone)));
    let pools = check.pools();
    let capacity = check.capacity();
    let features = check.features(registry);
    let models = check.models(&tiers, &features);
    let predictions = check.predictions(&features, &models);
    let spool = check.spool(&features);
    let mlflow = check.mlflow();
    let config = Config {
        listen,
        workers: raw.workers.map_or_else(cores, |n| n as usize),
        capacity,
        model_ids: ids(&models),
        tiers,
        pools,
        models,
        features,
        ladder: check.ladder(&raw.ladder),
        predictions,
        mlflow,
        drain: Drain { delay: raw.drain.delay.0, deadline: raw.drain.deadline.0 },
        spool,
        metrics_aliases: raw.metrics.aliases,
        allow_repository: raw.allow_repository,
        notices: Vec::new(),
        warnings: Vec::new(),
    };
    check.burst(&config);
    (config, check.problems)
}

/// Checks a list of endpoints that stands alone; `zone`: of those that name none.
pub(super) fn endpoints(
    raw: &[super::raw::Endpoint],
    places: &Places,
    zone: Option<&std::sync::Arc<str>>,
) -> (endpoints::Found, Vec<Problem>) {
    let root = Root::default();
    let mut check = Check { raw: &root, places, broken: &[], problems: Vec::new(), views: Views::Known };
    let found = check.endpoints(&Path::default(), raw, zone);
    (found, check.problems)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn ids(models: &[super::Model]) -> RapidHashMap<std::sync::Arc<str>, crate::infer::ModelId> {
    models.iter().enumerate().map(|(i, model)| (model.name.clone(), crate::infer::ModelId(index(i)))).collect()
}

/// A list's index as an id holds it.
fn index(i: usize) -> u32 {
    u32::try_from(i).unwrap_or(u32::MAX)
}

/// What names of a sort may be made of. They stand in headers, gRPC metadata, paths and metric labels, which carry no more.
pub(super) struct Names {
    what: &'static str,
    has: fn(char) -> bool,
    pub(super) told: &'static str,
}

impl Names {
    pub(super) fn fits(&self, name: &str) -> bool {
        !name.is_empty() && name.chars().all(self.has)
    }
}

pub(super) const VIEW_NAMES: Names = Names {
    what: "view",
    has: |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
    told: "ASCII letters, digits, `_`, `-` and `.`",
};

const MODEL_NAMES: Names = Names {
    what: "model",
    has: |c| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '?' | '#'),
    told: "visible ASCII characters without `/`, `:`, `?` and `#`, as it stands in URLs",
};

const TIER_NAMES: Names = Names { what: "tier", has: |c| c.is_ascii_graphic(), told: "visible ASCII characters" };

const POOL_NAMES: Names = Names { what: "pool", has: |c| c.is_ascii_graphic(), told: "visible ASCII characters" };

const LABELS: Names = Names { what: "zone or region", has: |c| c.is_ascii_graphic(), told: "visible ASCII characters" };

/// What the checks share.
struct Check<'a> {
    raw: &'a Root,
    places: &'a Places,
    broken: &'a [Path],
    problems: Vec<Problem>,
    views: Views,
}

/// Whether it is known which views there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Views {
    Known,
    /// The registry could not be read: nothing is said of what refers to its views.
    Unknown,
}

impl Check<'_> {
    /// Records a problem; what was given is looked up.
    fn wrong(&mut self, path: &Path, wrong: impl std::fmt::Display, allowed: impl std::fmt::Display) {
        if self.broken.iter().any(|broken| broken.overlaps(path)) {
            return;
        }
        let mut text = format!("{wrong}; allowed: {allowed}");
        if let Some(given) = self.places.given(path) {
            text.push_str("; given: ");
            text.push_str(given);
        }
        self.note(path, text);
    }

    /// Records a problem with the key itself, whatever its value.
    fn wrong_key(&mut self, path: &Path, key: &str, wrong: impl std::fmt::Display, allowed: impl std::fmt::Display) {
        if !self.broken.iter().any(|broken| broken.overlaps(path)) {
            self.note(path, format!("{wrong}; allowed: {allowed}; given: {key}"));
        }
    }

    fn note(&mut self, path: &Path, text: String) {
        let position = self.places.position(path);
        self.problems.push(Problem { position, path: path.clone(), text });
    }

    /// Whether something is wrong at the path or below it, so that checks built on it would mislead.
    fn is_broken(&self, path: &Path) -> bool {
        self.broken.iter().chain(self.problems.iter().map(|problem| &problem.path)).any(|broken| broken.overlaps(path))
    }

    /// Looks a name up, or records that there is none.
    fn find<'n>(
        &mut self,
        path: &Path,
        what: &str,
        name: &str,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> Option<usize> {
        if let Some(position) = names.clone().position(|n| n == name) {
            return Some(position);
        }
        self.wrong(path, no_such(what, name, names.clone()), one_of(names));
        None
    }

    /// Records a problem if the name does not fit where such names go.
    fn name(&mut self, path: &Path, name: &str, allowed: &Names) {
        if !allowed.fits(name) {
            self.wrong(path, format_args!("not a {}'s name", allowed.what), allowed.told);
        }
    }

    fn ladder(&mut self, raw: &raw::Ladder) -> Ladder {
        let path = Path::of("ladder");
        Ladder {
            mode: match raw.mode {
                raw::LadderMode::Act => LadderMode::Act,
                raw::LadderMode::Observe => LadderMode::Observe,
            },
            feature_p99: self.positive(&path.key("feature_p99"), raw.feature_p99),
            gpu_memory: raw.gpu_memory.0,
            enter_after: raw.enter_after.0,
            exit_after: raw.exit_after.0,
        }
    }

    /// Records a problem if the duration is zero.
    fn positive(&mut self, path: &Path, span: super::raw::Span) -> std::time::Duration {
        if span.0.is_zero() {
            self.wrong(path, "zero", "more than 0s");
        }
        span.0
    }
}

/// What is said of a name that there is not.
fn no_such<'n>(what: &str, name: &str, names: impl Iterator<Item = &'n str> + Clone) -> String {
    let hint = nearest(name, names).map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
    format!("no such {what}{hint}")
}

/// The names a reader may choose from.
fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none is declared".to_owned() } else { names.join(", ") }
}
