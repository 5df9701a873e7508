//! Where the installed parts are, as `scripts/test-parts.sh` says; it installs what is missing, so `cargo test` alone works.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

static PARTS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test-parts.sh");
    let output = Command::new(&script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("bash is there");
    assert!(output.status.success(), "{} failed: the tests' parts are not installed", script.display());
    let text = String::from_utf8(output.stdout).expect("paths are UTF-8");
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, path)| (name.into(), path.into())).collect()
});

/// A Python environment's folder: `triton`, `kserve`, `feast`, `mlflow` or `kafka`.
pub(crate) fn environment(name: &str) -> PathBuf {
    PathBuf::from(&PARTS[name])
}

/// A Python environment's interpreter.
pub(crate) fn python(name: &str) -> PathBuf {
    environment(name).join("bin/python")
}

/// The interpreters' version, `3.11`.
pub(crate) fn python_version() -> &'static str {
    &PARTS["python"]
}

/// Where a Python environment keeps its packages.
pub(crate) fn site_packages(name: &str) -> PathBuf {
    environment(name).join(format!("lib/python{}/site-packages", python_version()))
}

/// A file of this folder, `tests/support`.
pub(crate) fn support_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

/// A file of `tests/data`.
pub(crate) fn data_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}
