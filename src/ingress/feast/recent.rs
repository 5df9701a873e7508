//! What was asked for lately, and what it came to: callers ask for the same features again and again.
//!
//! By the text that the request has it in, so that a list which was resolved once is not taken apart again. A place for each
//! hash, the latest stays; what is long is not kept. One catalog's: the next has its own, and begins empty.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::plan::Plan;

const PLACES: usize = 64;

/// Longer texts are resolved each time: with them, a caller could have all places hold a few megabytes.
const LONGEST: usize = 16 * 1024;

/// What decides a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// Then the features are not looked at.
    pub(super) service: Option<&'a str>,
    /// The list as it was written.
    pub(super) features: &'a [u8],
    pub(super) full_names: bool,
}

#[derive(Debug)]
pub(super) struct Recent {
    places: Box<[ArcSwapOption<Known>]>,
    seed: u64,
}

#[derive(Debug)]
struct Known {
    is_service: bool,
    full_names: bool,
    text: Box<[u8]>,
    plan: Arc<Plan>,
}

impl<'a> Asked<'a> {
    fn text(&self) -> &'a [u8] {
        self.service.map_or(self.features, str::as_bytes)
    }

    fn is(&self, known: &Known) -> bool {
        self.service.is_some() == known.is_service && self.full_names == known.full_names && self.text() == &*known.text
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| ArcSwapOption::empty()).collect(), seed: rand::random() }
    }
}

impl Recent {
    /// The plan of what is asked, where it is known.
    pub(super) fn get(&self, asked: Asked<'_>) -> Option<Arc<Plan>> {
        let known = self.place(asked).load_full()?;
        asked.is(&known).then(|| Arc::clone(&known.plan))
    }

    pub(super) fn put(&self, asked: Asked<'_>, plan: &Arc<Plan>) {
        let text = asked.text();
        if text.len() <= LONGEST {
            self.place(asked).store(Some(Arc::new(Known {
                is_service: asked.service.is_some(),
                full_names: asked.full_names,
                text: text.into(),
                plan: Arc::clone(plan),
            })));
        }
    }

    fn place(&self, asked: Asked<'_>) -> &ArcSwapOption<Known> {
        let kind = u64::from(asked.full_names) + 2 * u64::from(asked.service.is_some());
        &self.places[xxh3_64_with_seed(asked.text(), self.seed ^ kind) as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(features: &'static str) -> Asked<'static> {
        Asked { service: None, features: features.as_bytes(), full_names: false }
    }

    fn plan() -> Arc<Plan> {
        Arc::new(Plan { parts: Vec::new(), vectors: None, names: [].into() })
    }

    #[test]
    fn a_plan_is_known_for_what_it_was_made_for_and_nothing_else() {
        let (recent, plan) = (Recent::default(), plan());
        let asked = list(r#"["v:f"]"#);
        assert!(recent.get(asked).is_none());
        recent.put(asked, &plan);
        assert!(Arc::ptr_eq(&recent.get(asked).expect("it was put"), &plan));
        for other in [
            Asked { full_names: true, ..asked },
            Asked { service: Some(r#"["v:f"]"#), ..asked },
            Asked { service: Some("s"), ..asked },
            list(r#"["v:g"]"#),
        ] {
            assert!(recent.get(other).is_none(), "{other:?}");
        }
        let service = Asked { service: Some("s"), features: b"", full_names: true };
        recent.put(service, &plan);
        assert!(recent.get(Asked { features: b"[]", ..service }).is_some());
    }

    #[test]
    fn what_is_long_is_not_kept() {
        let recent = Recent::default();
        let long = "x".repeat(LONGEST + 1);
        let asked = Asked { service: None, features: long.as_bytes(), full_names: false };
        recent.put(asked, &plan());
        assert!(recent.get(asked).is_none());
    }
}
