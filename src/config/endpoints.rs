//! A file of endpoints: the list that `pools.X.endpoints` could hold, without what would have to be found in turn.

use serde::Deserialize as _;
use std::sync::Arc;

use super::{Endpoint, problems::Problems, raw, schema, shape::Shape, tree, validate};

/// Reads a file's text, YAML or JSON; `zone`: of those that name none.
///
/// # Errors
///
/// Everything that is wrong with it, in one line.
pub(crate) fn read(text: &str, name: &str, zone: Option<&Arc<str>>) -> Result<Vec<Endpoint>, String> {
    list(text, name, zone).map_err(|problems| problems.to_string().lines().collect::<Vec<_>>().join("; "))
}

fn list(text: &str, name: &str, zone: Option<&Arc<str>>) -> Result<Vec<Endpoint>, Problems> {
    let mut problems = Vec::new();
    let mut root = tree::read_as(tree::Whole::Endpoints, text, name, &mut problems)?;
    let start = root.position;
    let refuse = |text: &str| Problems::of_file(name, start, text.to_owned());
    let mut shape = Shape::default();
    shape.check_value(&mut root, endpoints_schema());
    problems.append(&mut shape.problems);
    if !problems.is_empty() {
        return Err(Problems::new(name, problems));
    }
    let raw = Vec::<raw::Endpoint>::deserialize(&root).map_err(|error| refuse(&error.to_string()))?;
    let (found, problems) = validate::endpoints(&raw, &shape.places, zone);
    if !problems.is_empty() {
        return Err(Problems::new(name, problems));
    }
    if !found.discovery.is_empty() {
        return Err(refuse("dns and file have no place in such a file; allowed: URLs, http and grpc"));
    }
    Ok(found.endpoints)
}

fn endpoints_schema() -> &'static serde_json::Value {
    &schema::inlined()["properties"]["pools"]["additionalProperties"]["properties"]["endpoints"]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let endpoints = read(text, "endpoints.yaml", Some(&"b".into()))?;
        let zone = |endpoint: &Endpoint| endpoint.zone.as_deref().unwrap_or_default().to_owned();
        Ok(endpoints.iter().map(|endpoint| format!("{} {}", endpoint.name, zone(endpoint))).collect())
    }

    #[test]
    fn yaml_and_json_are_read_alike() {
        let expected = Ok(vec!["h:1 b".to_owned(), "h:2 a".to_owned()]);
        assert_eq!(names("- http://h:1\n- {http: 'http://h:2', grpc: 'http://h:3', zone: a}\n"), expected);
        assert_eq!(names(r#"["http://h:1", {"http": "http://h:2", "grpc": "http://h:3", "zone": "a"}]"#), expected);
    }

    #[test]
    fn what_is_no_list_of_endpoints_is_refused_in_words() {
        for (text, words) in [
            ("", "list"),
            ("[]", "no endpoint"),
            ("a: b", "list"),
            ("[http://h:1, http://h:1]", "already"),
            ("[{htp: http://h:1}]", "htp"),
            ("[h:1]", "not a URL"),
            ("[{dns: h:1}]", "no place"),
            ("[{file: other}]", "no place"),
            ("{", "endpoints.yaml"),
            ("[~]", "endpoints.yaml"),
        ] {
            let error = names(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
