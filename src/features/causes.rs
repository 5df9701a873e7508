//! An error for a log line or an operator: what is behind it is told too, which `Display` leaves to `source`.

use std::error::Error;

/// An error and what is behind it, in one line, whatever a store answered. Some libraries repeat the source in the error: it is
/// told once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = error.source();
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Said {
        words: &'static str,
        source: Option<Box<Said>>,
    }

    fn said(words: &[&'static str]) -> Option<Box<Said>> {
        let (words, behind) = words.split_first()?;
        Some(Box::new(Said { words, source: said(behind) }))
    }

    #[test]
    fn each_cause_is_told_once_and_all_in_one_line() {
        let told = |words: &[&'static str]| chain(&*said(words).unwrap());
        assert_eq!(told(&["no rows", "no answer", "reset"]), "no rows: no answer: reset");
        assert_eq!(told(&["no rows: no answer", "no answer", "reset"]), "no rows: no answer: reset");
        assert_eq!(told(&["refused", "<html>\n  no\n</html>"]), "refused: <html> no </html>");
    }
}
