//! What the parts that need Weir and Redis have in common: a folder, the programs, how quiet it was, and where the report goes.

use std::{num::NonZeroU64, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{Flags, Folder, Only, cpu, peers::Place, report};

/// The programs, and where they keep their files.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) weir: &'a Path,
    pub(crate) redis: &'a Path,
}

/// What a part gives: a section of the document.
pub(crate) trait Part: Sized {
    /// What the part and the document's markers are called.
    const NAME: &'static str;

    /// Measures everything that the flags do not leave out.
    fn measure(bench: Bench<'_>, flags: &Flags) -> Self;

    /// The report; `others` is the share of the machine's processor time that others took.
    fn markdown(&self, flags: &Flags, others: f64) -> String;

    /// What could not be run, and why.
    fn failures(&self) -> &[String];
}

/// Measures, prints the report, and writes it where the flags say.
pub(crate) fn run<P: Part>(flags: &Flags) -> Result<()> {
    // Sends are timed: the default slack of 50 µs would be most of their lateness.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let programs = &flags.programs;
    let (weir, redis) = (programs.weir.as_deref(), programs.redis.as_deref());
    let (weir, redis) = weir.zip(redis).with_context(|| format!("{} needs --weir and --redis", P::NAME))?;
    let folder = Folder::make()?;
    let before = cpu::Machine::at_rest()?;
    let results = P::measure(Bench { place: Place(&folder.0), weir, redis }, flags);
    let others = before.others(cpu::Machine::at_rest()?);

    let text = results.markdown(flags, others);
    println!("{text}");
    ensure!(results.failures().is_empty(), "failed: {}", results.failures().join("; "));
    flags.write.as_ref().map_or(Ok(()), |document| report::splice(document, P::NAME, &text))
}

/// Runs a piece of a part, unless it is left out; keeps why it could not be run.
pub(crate) fn piece<T>(
    name: &str,
    (only, failures): (&Only, &mut Vec<String>),
    run: impl FnOnce() -> Result<T>,
) -> Option<T> {
    if !Only::has(&only.setups, name) {
        return None;
    }
    eprintln!("{name}");
    let failed = |error: anyhow::Error| failures.push(format!("{name}: {error:#}"));
    run().map_err(failed).ok()
}
