//! Which versions aliases were last heard to be of, and what a look at them says of promotions.
//!
//! ```text
//!   unknown ──first look: learn──► known ──a look that differs: promotions──► known
//!                                    └────a delivery: noted, no news at the next look
//! ```
//!
//! Invariant: where a look and a delivery cross, a promotion may be found twice, never not at all.

use std::collections::{BTreeMap, HashMap};

/// A registered model's aliases, and the version of each.
pub(super) type Aliases = BTreeMap<String, String>;

/// By registered model, since it was first looked at.
#[derive(Debug, Default)]
pub(super) struct Versions(HashMap<String, Aliases>);

impl Versions {
    /// A delivery told of an alias.
    pub(super) fn told(&mut self, name: &str, alias: &str, version: Option<&str>) {
        let Some(known) = self.0.get_mut(name) else { return };
        match version {
            Some(version) => known.insert(alias.to_owned(), version.to_owned()),
            None => known.remove(alias),
        };
    }

    /// What a look says: what became of each alias that is not as it was, as [`cause`] writes it.
    pub(super) fn looked(&mut self, name: &str, found: Aliases) -> Vec<String> {
        let Some(known) = self.0.insert(name.to_owned(), found.clone()) else { return Vec::new() };
        let gone = known.keys().filter(|alias| !found.contains_key(*alias)).map(|alias| cause(name, alias, None));
        let other = found.iter().filter(|(alias, version)| known.get(*alias) != Some(version));
        gone.chain(other.map(|(alias, version)| cause(name, alias, Some(version)))).collect()
    }
}

/// A promotion in a word, the same for all who see it.
pub(super) fn cause(name: &str, alias: &str, version: Option<&str>) -> String {
    format!("{name}@{alias}={}", version.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aliases(pairs: &[(&str, &str)]) -> Aliases {
        pairs.iter().map(|(alias, version)| ((*alias).to_owned(), (*version).to_owned())).collect()
    }

    #[test]
    fn the_first_look_learns_and_what_differs_later_is_told() {
        let mut versions = Versions::default();
        let mut look = |pairs: &[(&str, &str)]| versions.looked("m", aliases(pairs));
        assert!(look(&[("champion", "1")]).is_empty(), "what it is now is no promotion");
        assert!(look(&[("champion", "1")]).is_empty());
        assert_eq!(look(&[("champion", "2")]), ["m@champion=2"]);
        assert_eq!(look(&[("champion", "2"), ("shadow", "3")]), ["m@shadow=3"]);
        assert_eq!(look(&[("shadow", "4")]), ["m@champion=", "m@shadow=4"]);
        assert_eq!(look(&[]), ["m@shadow="]);
        assert_eq!(look(&[("champion", "2")]), ["m@champion=2"], "set anew");
    }

    #[test]
    fn what_was_delivered_is_no_news() {
        let mut versions = Versions::default();
        versions.told("m", "champion", Some("2"));
        assert!(versions.looked("m", aliases(&[("champion", "1")])).is_empty(), "nothing was known: learnt");
        versions.told("m", "champion", Some("2"));
        assert!(versions.looked("m", aliases(&[("champion", "2")])).is_empty());
        versions.told("m", "champion", None);
        assert!(versions.looked("m", aliases(&[])).is_empty());
    }

    #[test]
    fn a_look_that_crosses_a_delivery_finds_too_much_rather_than_too_little() {
        let mut versions = Versions::default();
        versions.looked("m", aliases(&[("champion", "1")]));
        versions.told("m", "champion", Some("2"));
        // The look was answered before.
        assert_eq!(versions.looked("m", aliases(&[("champion", "1")])), ["m@champion=1"]);
        assert_eq!(versions.looked("m", aliases(&[("champion", "2")])), ["m@champion=2"]);
    }
}
