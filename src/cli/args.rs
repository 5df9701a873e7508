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
        Where `features.registry` names Feast's registry, what was found in it is listed, and what of it is not served.\n\
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
    Demo(super::demo::Args),
    /// Hold a model of a running gateway at a level for a while, to see what its callers would get.
    #[command(after_help = "Examples:\n  weir drill --model fraud-detector --level 3 --for 5m\n  \
        weir drill --model fraud-detector --level 0 --for 0s      end it at once\n\n\
        Levels: 1 reduced_features, 2 simplified_model, 3 default_response, 4 reject.")]
    Drill(Drill),
    /// Make the lookup files that the third layer (`features.l3`) reads.
    #[command(subcommand)]
    Offline(Offline),
    /// See, replay and drop the requests that are kept for later.
    #[command(subcommand)]
    Spool(super::spool::Command),
    /// What a gateway starts to read a Kafka topic. Not for people.
    #[cfg(feature = "kafka")]
    #[command(hide = true, name = crate::kafka::COMMAND)]
    ReadKafka,
}

/// Which configuration file.
#[derive(Debug, Arguments)]
pub(super) struct ConfigFile {
    /// The configuration file (YAML).
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

#[derive(Debug, Arguments)]
pub(super) struct Drill {
    /// The model, as callers name it.
    #[arg(long)]
    pub(super) model: String,
    /// The level, 0 to 4; 0 ends a drill.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=4))]
    pub(super) level: u8,
    /// How long, such as 5m; at most 24h.
    #[arg(long = "for", value_name = "TIME")]
    pub(super) time: String,
    /// The gateway's admin address (`listen.admin`).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9090")]
    pub(super) admin: String,
    /// The admin token (`listen.admin_token`), for a gateway that is not on this machine.
    #[arg(long, env = "WEIR_ADMIN_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
}

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
        #[command(flatten)]
        build: super::offline::BuildArgs,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_parse_as_their_examples_say() {
        Args::command().debug_assert();
        let parse = |line: &str| Args::try_parse_from(line.split(' ')).map(|args| args.command);
        assert!(matches!(parse("weir serve -c weir.yaml"), Ok(Command::Serve(_))));
        assert!(matches!(parse("weir check -c weir.yaml --explain"), Ok(Command::Check { explain: true, .. })));
        assert!(matches!(parse("weir schema"), Ok(Command::Schema)));
        assert!(matches!(parse("weir demo"), Ok(Command::Demo(_))));
        let Ok(Command::Offline(Offline::Build { build, file })) =
            parse("weir offline build -c w.yaml --view v --from /in --to s3://b/p")
        else {
            panic!("offline build")
        };
        assert_eq!(
            (&*build.view, &*build.from, &*build.to, file.config.to_str()),
            ("v", "/in", "s3://b/p", Some("w.yaml"))
        );
        for line in
            ["ls", "ls --state parked --limit 5", "show x", "replay x y", "replay --state parked", "drop --state done"]
        {
            let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
            let line = format!("weir spool {command} -c w.yaml {rest}");
            assert!(matches!(parse(line.trim_end()), Ok(Command::Spool(_))), "{line}");
        }
        for line in ["drop -c w.yaml", "drop -c w.yaml x --state done", "ls -c w.yaml --state gone", "show -c w.yaml"] {
            assert!(parse(&format!("weir spool {line}")).is_err(), "{line}");
        }
        let error = parse("weir spool replay -c w.yaml").unwrap_err().to_string();
        assert!(error.contains("<IDS|--state <STATE>>"), "either would do: {error}");
        assert!(parse("weir spool ls -c w.yaml --limit 10001").is_err());
        assert!(matches!(parse("weir drill --model m --level 3 --for 5m"), Ok(Command::Drill(Drill { level: 3, .. }))));
        assert!(parse("weir drill --model m --level 5 --for 5m").is_err());
        assert!(parse("weir serve").is_err() && parse("weir").is_err());
    }

    #[test]
    fn the_help_lists_what_there_is() {
        let args = Args::command();
        let shown = || args.get_subcommands().filter(|command| !command.is_hide_set());
        let commands: Vec<_> = shown().map(clap::Command::get_name).collect();
        assert_eq!(commands, ["serve", "check", "schema", "demo", "drill", "offline", "spool"]);
        for command in shown() {
            let documented = command.get_after_help().is_some() || command.has_subcommands();
            assert!(command.get_about().is_some() && documented, "{}", command.get_name());
        }
    }

    #[test]
    fn the_smallest_configuration_in_the_help_is_good() {
        let (_, rest) = EXAMPLES.split_once("model server:\n").unwrap();
        let (yaml, _) = rest.split_once("\n\n").unwrap();
        let config = crate::config::Config::parse(yaml, "help").unwrap();
        assert_eq!(config.models.len(), 1);
    }
}
