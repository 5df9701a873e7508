//! No text makes the parser panic, and what is wrong is always said.

use proptest::prelude::*;

use super::{FULL, read};

/// Where a text is changed, and how.
#[derive(Clone, Debug)]
enum Change {
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let words = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\n",
        "  ",
        "- ",
        "'",
        "\"",
        "&a ",
        "*a",
        "!t ",
        "|",
        ">",
        "~",
        "null",
        "1e999",
        "-1",
        "0x",
        "${",
        "${X}",
        "}",
        "a: b",
        "---\n",
        "\t",
        "\u{0}",
        "\u{feff}",
        "é",
        ".nan",
        "99999999999999999999",
        "0s",
        "gpu-a",
    ]);
    prop_oneof![
        (any::<prop::sample::Index>(), 1usize..40).prop_map(|(at, n)| Change::Remove(at, n)),
        (any::<prop::sample::Index>(), words).prop_map(|(at, word)| Change::Insert(at, word.to_owned())),
        any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    if chars.is_empty() {
        return String::new();
    }
    match change {
        Change::Remove(at, n) => {
            let at = at.index(chars.len());
            chars.drain(at..(at + n).min(text.chars().count()));
        }
        Change::Insert(at, word) => {
            let at = at.index(chars.len());
            chars.splice(at..at, word.chars());
        }
        Change::Swap(a, b) => {
            let (a, b) = (a.index(chars.len()), b.index(chars.len()));
            chars.swap(a, b);
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_file_is_read_or_refused_in_words(changes in prop::collection::vec(change(), 1..6)) {
        let text = changes.iter().fold(FULL.to_owned(), |text, change| apply(&text, change));
        if let Err(problems) = read(&text) {
            prop_assert!(!problems.is_empty());
            for line in problems.to_string().lines() {
                prop_assert!(line.contains("(weir.yaml:"), "{line}");
                prop_assert!(!line.contains("t0ken"), "{line}");
            }
        }
    }
}
