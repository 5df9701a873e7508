//! What passing tests measured, for whoever runs all of them: cargo shows only the output of those that fail.
//!
//! `scripts/test.sh` names a file in `WEIR_FIGURES` and prints it at the end; without that it is told as a test tells anything.

use std::{env, fmt::Display, fs::OpenOptions, io::Write, thread};

/// Tells a line, or several, under the name of the test whose thread this is.
#[expect(clippy::print_stdout, reason = "it is a test's")]
pub(crate) fn measured(what: impl Display) {
    let here = thread::current();
    let text = format!("{}: {what}", here.name().unwrap_or("a test"));
    println!("{text}");
    let Some(path) = env::var_os("WEIR_FIGURES") else { return };
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("WEIR_FIGURES is a file's path");
    // One write, so that tests that run at once do not get between each other's lines.
    file.write_all(format!("{}\n", text.trim_end()).as_bytes()).expect("it takes a line");
}
