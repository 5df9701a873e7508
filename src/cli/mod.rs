//! The command line: one file a command.
//!
//! Standard output carries what was asked for and nothing else; problems go to standard error, and the exit code is 0 or 1 (2
//! for a command line that cannot be read).

mod admin;
mod args;
mod check;
pub mod demo;
mod drill;
pub mod offline;
mod schema;
pub mod serve;
mod spool;

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;

use crate::{app::Configured, config::Config};

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = run(args::Args::parse().command);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is gone, nobody can be told.
            let _ = writeln!(io::stderr().lock(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: args::Command) -> anyhow::Result<()> {
    match command {
        args::Command::Serve(file) => serve::run(&file.config),
        args::Command::Check { file, explain } => check::run(&file.config, explain.into()),
        args::Command::Schema => schema::run(),
        args::Command::Demo(args) => demo::run(args),
        args::Command::Drill(args) => drill::run(&args),
        args::Command::Spool(command) => spool::run(&read(&command.file().config)?, &command),
        #[cfg(feature = "kafka")]
        args::Command::ReadKafka => {
            crate::telemetry::log::init();
            crate::kafka::read()
        }
        args::Command::Offline(args::Offline::Build { file, build }) => offline::build(&read(&file.config)?, &build),
    }
}

fn read(path: &Path) -> anyhow::Result<Config> {
    serve::block_on(Configured::load(path)).map(|configured| configured.config)
}

/// Prints to standard output; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}
