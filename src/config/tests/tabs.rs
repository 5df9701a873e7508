//! Tabs: the mistake that no parser names, and the places where they are right.

use super::{bad, good};

#[test]
fn a_tab_in_the_indentation_is_named() {
    for (text, line, column) in [
        ("pools:\n\tp: {endpoints: [http://h:1]}\n", 2, 1),
        ("pools:\n  p:\n\t  endpoints: [http://h:1]\n", 3, 1),
        ("pools:\n  p:\n  \tendpoints: [http://h:1]\n", 3, 3),
        ("pools:\n  p:\n    endpoints:\n\t- http://h:1\n", 4, 1),
        ("pools:\n  p:\n    endpoints: [http://h:1]\n\tzone: a\n", 4, 1),
        ("workers:\t2\n", 1, 9),
        ("workers: 2\n\tdrain: {delay: 1s}\n", 2, 1),
    ] {
        let told = format!("line {line}: a tab; YAML indents with spaces (weir.yaml:{line}:{column})");
        assert_eq!(bad(text), [told], "{text:?}");
    }
}

#[test]
fn a_tab_elsewhere_is_no_mistake() {
    good("workers: 2 # cores\tthat is\npools: {p: {endpoints: [\"http://h:1\"]}}\n\t# well\n");
}

#[test]
fn what_else_is_no_yaml_is_told_as_before() {
    let told = bad("workers: [\n");
    assert!(told[0].starts_with("not YAML: "), "{told:?}");
}
