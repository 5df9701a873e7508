//! `weir offline build`: a view's lookup file from the parquet files that Feast's `FileSource` or pandas writes.
//!
//! The newest row of each entity is kept: by event time, then by `created`; the whole row, nulls too. Memory is bounded whatever the
//! size of the input: parquet is read batch by batch and rows are sorted in temporary files (`TMPDIR`). Nothing changes for readers
//! until the last byte is written. Errors name file, column and row.

mod columns;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod measure;
mod rows;
mod source;

use std::{fmt, io::Write, sync::Arc};

use anyhow::{anyhow, bail};
use tokio::time::{Duration, Instant};

use crate::{
    config::{Config, View},
    features::{
        chain,
        lookup::{Location, Patience, Target, Writer, manifest::Manifest},
    },
};
use rows::{Names, RowReader};

const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// What `weir offline build` is told besides the configuration.
#[derive(Clone, Debug, clap::Args)]
pub struct BuildArgs {
    /// The feature view to build, as the configuration names it
    #[arg(long)]
    pub view: String,
    /// Parquet to read: a file, a folder of part files, or hive-partitioned folders (path, file://, s3://, gs://, az://)
    #[arg(long)]
    pub from: String,
    /// Where lookup files are, as in `features.l3.url`; written to `TO/project/view/`
    #[arg(long)]
    pub to: String,
    /// The column with the event time
    #[arg(long, default_value = "event_timestamp")]
    pub timestamp_field: String,
    /// The column that decides between rows of equal event time [default: `created` where there is one]
    #[arg(long)]
    pub created_field: Option<String>,
}

/// Builds the lookup file of `args.view`, and prints what was made.
///
/// # Errors
/// The view is not in the configuration, the input does not fit it, or a store fails; readers then see what they saw before.
pub fn build(config: &Config, args: &BuildArgs) -> anyhow::Result<()> {
    let view = find_view(&config.features.views, &args.view)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(build_view(view, &config.features.project, args))?;
    writeln!(std::io::stdout(), "{summary}")?;
    Ok(())
}

fn find_view<'a>(views: &'a [Arc<View>], name: &str) -> anyhow::Result<&'a View> {
    if let Some(view) = views.iter().find(|view| *view.name == *name) {
        return Ok(view);
    }
    let known: Vec<_> = views.iter().map(|view| view.name.as_ref()).collect();
    bail!("--view: unknown view {name:?}; the configuration has {}", known.join(", "))
}

async fn build_view(view: &View, project: &str, args: &BuildArgs) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let open = |flag, url| Location::open(url, Patience::COMMAND).map_err(|error| anyhow!("{flag}: {}", chain(&error)));
    let (from, to) = (open("--from", &args.from)?, open("--to", &args.to)?);
    let sources = source::list(&from).await?;
    let names = Names { timestamp: &args.timestamp_field, created: args.created_field.as_deref() };

    let mut writer = Writer::new();
    let mut progress = Progress { started, last: started, files: sources.len() };
    for (number, source) in sources.iter().enumerate() {
        let file = source.fetch().await?;
        for batch in RowReader::open(source, file, view, names)? {
            for row in batch?.rows() {
                let (key, row, created) = row?;
                writer.push(&key, &row, created)?;
            }
            progress.tell(number, writer.rows());
        }
    }
    let rows = writer.rows();
    eprintln!("{rows} rows read from {} files; writing", sources.len());
    let manifest = writer.finish(Target { to: &to, project, view, source: &args.from }).await;
    let manifest = manifest.map_err(|error| anyhow!("writing to {to}: {}", chain(&error)))?;
    let folder = format!("{}/{}/{}", args.to.trim_end_matches('/'), manifest.project, manifest.view);
    Ok(Summary { rows, manifest, folder, took: started.elapsed() })
}

/// Tells how far it is, every few seconds.
struct Progress {
    started: Instant,
    last: Instant,
    files: usize,
}

impl Progress {
    fn tell(&mut self, file: usize, rows: u64) {
        let now = Instant::now();
        if now - self.last >= PROGRESS_EVERY {
            self.last = now;
            let seconds = (now - self.started).as_secs();
            eprintln!("{rows} rows read after {seconds} s, in file {} of {}", file + 1, self.files);
        }
    }
}

/// What was made.
struct Summary {
    rows: u64,
    manifest: Manifest,
    folder: String,
    took: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, manifest, folder, took } = self;
        write!(
            f,
            "{rows} rows read, {} entities written, {} bytes in {:.1} s\n  data      {folder}/{}\n  manifest  {folder}/manifest.json",
            manifest.rows,
            manifest.size,
            took.as_secs_f64(),
            manifest.data,
        )
    }
}

#[cfg(test)]
mod tests;
