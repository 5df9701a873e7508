//! `weir check`: everything that is wrong with a file, or what it amounts to.

use std::{fmt::Write as _, path::Path};

use crate::config::{self, Config};

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// A line of counts, and the notices.
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
    let loaded = config::load(path)?;
    let mut text = match detail {
        Detail::Explain => loaded.explained,
        Detail::Summary => String::new(),
    };
    text.push_str(&summary(&loaded.config));
    super::print(&text)
}

fn summary(config: &Config) -> String {
    let mut text = format!(
        "ok: {}, {}, {}\n",
        counted(config.models.iter().map(|model| &*model.name), "model"),
        counted(config.pools.iter().map(|pool| &*pool.name), "pool"),
        counted(config.features.views.iter().map(|view| &*view.name), "view"),
    );
    for notice in &config.notices {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "notice: {notice}");
    }
    text
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

    #[test]
    fn the_summary_names_what_there_is() {
        let config = Config::parse("pools: {a: {endpoints: [http://h:1], zone: z}}\nmodels: {m: , n: }", "t").unwrap();
        assert_eq!(
            summary(&config),
            "ok: 2 models (m, n), 1 pool (a), no views\n\
             notice: pools.a.zone: accepted, not acted upon by this version\n"
        );
    }
}
