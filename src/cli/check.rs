//! `weir check`: everything that is wrong with a file, or what it amounts to.

use std::{fmt::Write as _, path::Path};

use crate::{
    app::Configured,
    config::{self, Config, Discovery, Features, L2, Projection, Registry, SaveTo, View, WarmStart},
};

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// A line of counts, the notices, and the warnings.
    Summary,
    /// Every key's effective value too.
    Explain,
}

impl From<bool> for Detail {
    fn from(explain: bool) -> Self {
        if explain { Self::Explain } else { Self::Summary }
    }
}

/// Checks the file and prints the outcome.
pub(super) fn run(path: &Path, detail: Detail) -> anyhow::Result<()> {
    let configured = super::serve::block_on(Configured::load(path))?;
    #[cfg(feature = "kafka")]
    if let Some(kafka) = &configured.config.features.kafka {
        crate::kafka::judge(kafka)?;
    }
    let mut text = match detail {
        Detail::Explain => configured.explained,
        Detail::Summary => String::new(),
    };
    text.push_str(&summary(&configured.config));
    super::print(&text)
}

fn summary(config: &Config) -> String {
    let mut text = format!(
        "ok: {}, {}, {}\n",
        counted(config.models.iter().map(|model| &*model.name), "model"),
        counted(config.pools.iter().map(|pool| &*pool.name), "pool"),
        counted(config.features.views.iter().map(|view| &*view.name), "view"),
    );
    if let Some(registry) = &config.features.registry {
        text.push_str(&found(registry, &config.features));
    }
    if let Some(warm) = &config.features.l1.warm_start {
        text.push_str(&warm_line(warm));
    }
    for notice in &config.notices {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "notice: {notice}");
    }
    for warning in config.warnings.iter().cloned().chain(files(config)).chain(folders(config)) {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// Files of endpoints that say nothing yet. No mistake of this file's: whoever writes them may not have begun.
fn files(config: &Config) -> Vec<String> {
    let sources = config.pools.iter().flat_map(|pool| pool.discovery.iter().map(move |source| (pool, source)));
    let files = sources.filter_map(|(pool, source)| match source {
        Discovery::File(file) => Some((pool, file)),
        Discovery::Dns(_) => None,
    });
    let warned = files.filter_map(|(pool, file)| {
        let name = file.path.display().to_string();
        let text = std::fs::read_to_string(&file.path).map_err(|error| format!("{name}: {error}"));
        let wrong = text.and_then(|text| config::read_endpoints(&text, &name, file.zone.as_ref())).err()?;
        Some(format!(
            "pools.{}.endpoints: {wrong}; the pool has no endpoint of it until that is a list of endpoints; write the file, or correct its path",
            pool.name
        ))
    });
    warned.collect()
}

/// Folders of files that Weir makes. No mistake of this file's either: it may be checked elsewhere than it is served.
fn folders(config: &Config) -> impl Iterator<Item = String> {
    let l2 = match &config.features.l2 {
        L2::Embedded { path, .. } => path.as_deref(),
        L2::Redis(_) | L2::FeatureServers(_) => None,
    };
    let keys = config.features.l1.warm_start.as_ref().and_then(|warm| match &warm.save_to {
        SaveTo::File(path) => Some(&**path),
        SaveTo::L2 => None,
    });
    const ENDS: &str = "a start ends there";
    let places = [
        ("spool.path", config.spool.store.file(), ENDS),
        ("features.l2.path", l2, ENDS),
        ("features.l1.warm_start.save_to", keys, "no keys are saved there"),
    ];
    places.into_iter().filter_map(|(key, file, so)| {
        let folder = file?.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())?;
        Some(format!("{key}: there is no folder {}; {so}; make it, or correct the path", folder.display()))
    })
}

/// What the registry has, a line an object.
fn found(registry: &Registry, features: &Features) -> String {
    let mut lines =
        vec![format!("registry {}: project {}", crate::config::without_password(&registry.url), features.project)];
    lines.extend(features.views.iter().map(|view| view_line(view)));
    for service in features.services.iter().filter(|service| !service.projections.is_empty()) {
        let projections = service.projections.iter().map(|projection| projection_words(projection, features));
        let precomputed = if service.precomputed { "; precomputed by Feast, read from its views" } else { "" };
        lines.push(format!("  service {}: {}{precomputed}", service.name, projections.collect::<Vec<_>>().join(", ")));
    }
    for source in &features.push_sources {
        let views: Vec<_> = source.views.iter().map(|view| &*features.views[view.index()].name).collect();
        lines.push(format!("  push source {}: to {}", source.name, views.join(", ")));
    }
    lines.extend(features.unserved.iter().map(|(name, reason)| format!("  not served: {name}: {reason}")));
    lines.push(String::new());
    lines.join("\n")
}

/// What a start waits for, and where that comes from.
fn warm_line(warm: &WarmStart) -> String {
    let WarmStart { save_to, max_keys, save_every, timeout } = warm;
    let place = match save_to {
        SaveTo::L2 => "Redis (l2)".to_owned(),
        SaveTo::File(path) => path.display().to_string(),
    };
    format!(
        "warm start: L1's {max_keys} hottest keys, saved to {place} every {save_every:?}; a start reads their rows, for {timeout:?} \
         at most, before it is ready\n"
    )
}

fn view_line(view: &View) -> String {
    let keys: Vec<_> = view.entities.iter().map(|(key, kind)| format!("{key} {kind}")).collect();
    let of = if view.is_entityless() { "one row for all".to_owned() } else { format!("by {}", keys.join(", ")) };
    let count = view.features.len();
    let mut line = format!("  view {}: {of}; {count} feature{}", view.name, if count == 1 { "" } else { "s" });
    if let Some(age) = view.max_age {
        // Writing to a string cannot fail.
        let _ = write!(line, "; rows up to {age:?} old");
    }
    if view.stored != view.name {
        let _ = write!(line, "; stored as {}", view.stored);
    }
    line
}

/// The view, what the service calls it, and its join keys where they have other names.
fn projection_words(projection: &Projection, features: &Features) -> String {
    let view = &features.views[projection.view.index()];
    let mut words = view.name.to_string();
    if let Some(alias) = &projection.alias {
        let _ = write!(words, " as {alias}");
    }
    for ((key, _), column) in view.entities.iter().zip(&projection.columns).filter(|((key, _), column)| key != *column)
    {
        let _ = write!(words, " by {column} for {key}");
    }
    words
}

fn counted<'n>(names: impl ExactSizeIterator<Item = &'n str>, what: &str) -> String {
    match names.len() {
        0 => format!("no {what}s"),
        1 => format!("1 {what} ({})", names.collect::<String>()),
        n => format!("{n} {what}s ({})", names.collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_summary_says_what_the_registry_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weir.yaml");
        let registry = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/feast/registry.pb");
        std::fs::write(&path, format!("features: {{registry: {registry}, versioned_views: true}}")).unwrap();
        let configured = Configured::load(&path).await.unwrap();
        let text = summary(&configured.config);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("ok: no models, no pools, 10 views (user_profile, "), "{text}");
        assert_eq!(lines[1], format!("registry {registry}: project weir_demo"));
        for line in [
            "  view global_stats: one row for all; 2 features; rows up to 31536000s old",
            "  view all_types: by driver_id INT64; 16 features",
            "  view region_fv: by region_id INT32; 1 feature; rows up to 31536000s old",
            "  view user_item: by item_id INT64, user_id STRING; 4 features; rows up to 604800s old",
            "  service precomp_svc: driver_stats, stale_stats; precomputed by Feast, read from its views",
            "  service aliased_svc: driver_stats as origin_stats by origin_id for driver_id, driver_stats as dest_stats by dest_id for \
             driver_id",
            "  push source live_push: to live",
            "  not served: driver_odfv: an on-demand feature view, which takes Python to compute",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
        assert_eq!(lines.len(), 2 + 10 + 4 + 1 + 3, "{text}");
    }

    #[tokio::test]
    async fn a_registry_that_is_not_there_is_a_problem_with_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weir.yaml");
        std::fs::write(&path, "features: {registry: /no/such/registry.db}\nworkers: 0").unwrap();
        let said = Configured::load(&path).await.unwrap_err().to_string();
        assert!(
            said.starts_with("features.registry: cannot be read: Object at location /no/such/registry.db not found"),
            "{said}"
        );
        assert!(
            said.contains("given: /no/such/registry.db") && said.contains("\nworkers: not a whole number"),
            "{said}"
        );
    }

    #[test]
    fn the_summary_says_what_a_start_waits_for() {
        for (save_to, place) in [("l2", "Redis (l2)"), ("/var/lib/weir/keys", "/var/lib/weir/keys")] {
            let text = format!(
                "features:\n  project: p\n  l2: {{redis: \"redis://h\"}}\n  l1: {{warm_start: {{save_to: {save_to}, timeout: 3s}}}}"
            );
            let said = summary(&Config::parse(&text, "t").unwrap());
            let line = format!(
                "warm start: L1's 10000 hottest keys, saved to {place} every 60s; a start reads their rows, for 3s at most, before \
                 it is ready\n"
            );
            assert!(said.contains(&line), "{said}");
        }
    }

    #[test]
    fn a_file_of_endpoints_that_says_nothing_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.yaml");
        let text = format!("pools: {{p: {{endpoints: [{{file: {}}}]}}}}\nmodels: {{m: }}", path.display());
        let said = || summary(&Config::parse(&text, "t").unwrap());
        let prefix = format!("warning: pools.p.endpoints: {}: No such file", path.display());
        assert!(said().lines().nth(1).is_some_and(|line| line.starts_with(&prefix)), "{}", said());
        std::fs::write(&path, "[http://h:1, http://h:1]").unwrap();
        assert!(said().contains("warning: pools.p.endpoints: ") && said().contains("already"), "{}", said());
        std::fs::write(&path, "[http://h:1]").unwrap();
        assert!(!said().contains("warning"), "{}", said());
    }

    #[test]
    fn a_folder_that_is_not_there_is_warned_of_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let said = |at: &str| {
            let file = |name: &str| folder.path().join(at).join(name).display().to_string();
            let (spool, rows, keys) = (file("spool"), file("rows"), file("keys"));
            let text = format!(
                "spool: {{path: {spool}}}\nfeatures: {{project: p, l2: {{path: {rows}}}, l1: {{warm_start: {{save_to: {keys}}}}}}}"
            );
            summary(&Config::parse(&text, "t").unwrap())
        };
        let (none, there) = (said("none"), said(""));
        for key in ["spool.path", "features.l2.path", "features.l1.warm_start.save_to"] {
            let line = format!("warning: {key}: there is no folder {}; ", folder.path().join("none").display());
            assert!(none.contains(&line) && !there.contains("warning"), "{line}: {none}\n{there}");
        }
        let beside = Config::parse("spool: {path: here}", "t").unwrap();
        assert!(!summary(&beside).contains("warning"), "a file in the folder where it is started");
    }

    #[test]
    fn warnings_are_a_line_each() {
        let config = Config::parse(
            "pools: {a: {endpoints: [http://h:1]}, b: {endpoints: [http://h:2]}}\nmodels: {m: {pool: a}}",
            "t",
        );
        assert_eq!(
            summary(&config.unwrap()),
            "ok: 1 model (m), 2 pools (a, b), no views\n\
             warning: pools.b: no request ever goes there; its endpoints are checked for nobody; name it in a model's or its tier's pool, an \
             explainer, failover or capacity.burst_pool, or take it out\n"
        );
    }

    #[test]
    fn the_summary_names_what_there_is() {
        let text = "pools: {a: {endpoints: [http://h:1]}}\nmodels: {m: , n: }\nfeatures: {hot_keys: {copies: 2}}";
        let summary = summary(&Config::parse(text, "t").unwrap());
        let warned = "ok: 2 models (m, n), 1 pool (a), no views\nwarning: features.hot_keys.copies: ";
        assert!(summary.starts_with(warned) && summary.lines().count() == 2, "{summary}");
    }
}
