//! `${VAR}` and `${file:/path}` in scalars; `$${` stands for `${`.
//!
//! What came so is marked and never shown. Substitution happens once: a value that itself holds `${` stays as it is.

use super::{
    problems::{Path, Problem},
    tree::{Kind, Node},
};

/// Where values come from.
pub(crate) struct Sources<'a> {
    pub(crate) var: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) file: &'a dyn Fn(&str) -> std::io::Result<String>,
}

/// Replaces every reference in the tree; what cannot be found is a problem, and the reference stays.
pub(crate) fn substitute(node: &mut Node, path: &Path, sources: &Sources<'_>, problems: &mut Vec<Problem>) {
    match &mut node.kind {
        Kind::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                substitute(item, &path.item(i), sources, problems);
            }
        }
        Kind::Map(entries) => {
            for (key, _, value) in entries {
                substitute(value, &path.key(key), sources, problems);
            }
        }
        Kind::Scalar { text, .. } if text.contains("${") => match expand(text, sources) {
            Ok((expanded, secret)) => {
                *text = expanded;
                node.secret = secret;
            }
            Err(text) => problems.push(Problem { position: node.position, path: path.clone(), text }),
        },
        Kind::Scalar { .. } => {}
    }
}

fn expand(text: &str, sources: &Sources<'_>) -> Result<(String, bool), String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut secret = false;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end =
            inner.find('}').ok_or("`${` without `}`; allowed: ${VAR}, ${file:/path}, or $${ for the characters")?;
        out.push_str(&resolve(&inner[..end], sources)?);
        secret = true;
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok((out, secret))
}

fn resolve(reference: &str, sources: &Sources<'_>) -> Result<String, String> {
    if let Some(file) = reference.strip_prefix("file:") {
        let text = (sources.file)(file).map_err(|error| {
            format!("cannot read the file; allowed: a readable UTF-8 file; given: ${{{reference}}} ({error})")
        })?;
        return Ok(text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)).to_owned());
    }
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if reference.is_empty() || !reference.chars().all(named) {
        return Err(format!("not a reference; allowed: ${{VAR}}, ${{file:/path}}; given: ${{{reference}}}"));
    }
    (sources.var)(reference)
        .ok_or_else(|| format!("no such environment variable; allowed: one that is set; given: ${{{reference}}}"))
}
