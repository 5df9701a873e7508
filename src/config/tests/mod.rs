//! A configuration from its text to what stages read, and from bad text to the exact words.

mod bad;
mod good;
mod kafka;
mod mlflow;
mod mutated;
mod predictions;
mod tabs;

use super::{
    Config,
    load::{Loaded, parse},
    problems::Problems,
    substitute::Sources,
};

/// The whole of it, as documented.
const FULL: &str = include_str!("../testdata/full.yaml");

/// Reads text with one variable (`TOKEN`) and one file (the admin token's).
fn read(text: &str) -> Result<Loaded, Problems> {
    let var = |name: &str| (name == "TOKEN").then(|| "s3cret".to_owned());
    let file = |path: &str| match path {
        "/run/secrets/weir-admin" => Ok("t0ken\n".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    parse(text, "weir.yaml", &Sources { var: &var, file: &file })
}

fn good(text: &str) -> Config {
    read(text).map(|loaded| loaded.config).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The problem lines.
fn bad(text: &str) -> Vec<String> {
    let problems = read(text).map(|_| ()).expect_err("a problem");
    problems.to_string().lines().map(str::to_owned).collect()
}
