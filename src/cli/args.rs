//! The arguments, and the help that a newcomer can work from.

use std::path::PathBuf;

use clap::{Args as Arguments, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  weir demo                                    try it: everything embedded, with curl lines to paste
  weir check -c weir.yaml                      all that is wrong with a configuration, with line numbers
  weir serve -c weir.yaml                      run the gateway
  weir schema > weir.schema.json               for completion in an editor

A smallest configuration, a proxy in front of one model server:
  pools:
    models: {endpoints: [http://127.0.0.1:9000]}
  models:
    fraud-detector: {}

Log detail: RUST_LOG=debug weir serve -c weir.yaml";

/// Inference gateway and sidecar for KServe that joins online features on the way.
///
/// Callers send ordinary inference requests (KServe V1, Open Inference Protocol over
/// HTTP or gRPC) that name entities; Weir joins their features (in process, Redis,
/// object store), sends the model the tensors it wants, and answers in time.
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment, name = "weir", version, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C, then drain and exit 0.
    #[command(after_help = "Example:\n  weir serve -c weir.yaml\n\n\
        Ports (keys of `listen`): 8080 HTTP and gRPC, 8081 gRPC, 9090 metrics, probes and admin.\n\
        On SIGTERM: not ready for `drain.delay`, then requests in flight have `drain.deadline`.")]
    Serve(ConfigFile),
    /// Check a configuration: prints every problem with its key and line and exits 1, or a summary and exits 0.
    #[command(
        after_help = "Examples:\n  weir check -c weir.yaml\n  weir check -c weir.yaml --explain | grep retry\n\n\
        A problem reads `key: what is wrong; allowed: …; given: … (file:line:column)`.\n\
        Keys that this version accepts and does not act upon yet are listed after the summary."
    )]
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Also print the effective value of every key, whether it was set, and when a change of it takes effect.
        #[arg(long)]
        explain: bool,
    },
    /// Print the configuration's JSON Schema (2020-12).
    #[command(after_help = "Example:\n  weir schema > weir.schema.json\n\n\
        Editors with YAML support read it from a first line:\n  # yaml-language-server: $schema=weir.schema.json")]
    Schema,
    /// Run Weir with everything embedded and sample models, and print curl lines to try.
    #[command(
        after_help = "Example:\n  weir demo\n\nNeeds no configuration, no Redis and no model server. Ctrl-C ends it."
    )]
    Demo(DemoArgs),
    /// Make the lookup files that the third layer (`features.l3`) reads.
    #[command(subcommand)]
    Offline(Offline),
}

/// Which configuration file.
#[derive(Debug, Arguments)]
pub(super) struct ConfigFile {
    /// The configuration file (YAML).
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

/// How the demo runs.
#[derive(Clone, Debug, Arguments)]
#[non_exhaustive]
pub struct DemoArgs {}

#[derive(Debug, Subcommand)]
pub(super) enum Offline {
    /// Turn a view's Parquet files into lookup files: the latest row of each entity, found with at most two ranged reads.
    #[command(after_help = "Example:\n  \
        weir offline build -c weir.yaml --view user_stats --from s3://features/user_stats/ --to s3://features/lookup\n\n\
        Columns are found by name: the view's join keys and features, and an event timestamp.\n\
        `--to` is what `features.l3.url` says.")]
    Build {
        #[command(flatten)]
        file: ConfigFile,
        /// The view, a key of `features.views`.
        #[arg(long)]
        view: String,
        /// A Parquet file, or a folder of them: a path, file://, s3://, gs:// or az://.
        #[arg(long, value_name = "URL")]
        from: String,
        /// Where the lookup files go: a path, file://, s3://, gs:// or az://.
        #[arg(long, value_name = "URL")]
        to: String,
    },
}
