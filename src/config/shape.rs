//! Checks a file's shape against the schema: unknown keys, wrong types, values out of range, missing keys; all of them.
//!
//! Every scalar ends up as what the schema says it is, and whatever is wrong is reported and taken out, so that the rest can
//! still be read and checked for meaning. Also remembers where each key was.

use serde_json::{Map, Value};

use super::{
    problems::{Path, Places, Problem},
    raw::{Size, Span},
    tree::{Kind, Node, Scalar},
};

/// What the check of the shape found.
#[derive(Debug, Default)]
pub(super) struct Shape {
    pub(super) places: Places,
    pub(super) problems: Vec<Problem>,
    /// Keys that seem to be meant by a misspelt one: nothing is said of their absence.
    pub(super) meant: Vec<Path>,
}

/// Whether a node may stay.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Fits,
    Unfit,
}

impl Shape {
    /// Checks the whole file.
    pub(super) fn check(&mut self, root: &mut Node, schema: &Value) {
        if let Kind::Map(_) = root.kind {
            self.object(root, schema, &Path::default());
        }
    }

    /// Checks a file that is one value.
    pub(super) fn check_value(&mut self, root: &mut Node, schema: &Value) {
        self.node(root, schema, &Path::default());
    }

    fn node(&mut self, node: &mut Node, schema: &Value, path: &Path) -> Verdict {
        node.secret |= kind_of(schema) == "secret";
        self.places.insert(path.clone(), node.position, node.shown());
        let Some(chosen) = choose(node, schema) else {
            return self.unfit(node, path, schema);
        };
        match &node.kind {
            Kind::Map(_) => self.object(node, chosen, path),
            Kind::List(_) => self.list(node, chosen, path),
            Kind::Scalar { .. } => self.scalar(node, (chosen, schema), path),
        }
    }

    fn unfit(&mut self, node: &Node, path: &Path, schema: &Value) -> Verdict {
        let text = format!("not {}; allowed: {}; given: {}", expected(schema), allowed(schema), node.shown());
        self.problems.push(Problem { position: node.position, path: path.clone(), text });
        Verdict::Unfit
    }

    fn object(&mut self, node: &mut Node, schema: &Value, path: &Path) -> Verdict {
        let position = node.position;
        let Kind::Map(entries) = &mut node.kind else { return Verdict::Unfit };
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let additional = schema.get("additionalProperties").filter(|a| a.is_object());
        let mut kept = Vec::with_capacity(entries.len());
        for (key, place, mut value) in entries.drain(..) {
            let (here, path) = (path, path.key(&key));
            match properties.get(&key).or(additional) {
                None => {
                    let meant = nearest(&key, properties.keys().map(String::as_str));
                    let text = unknown_key(&key, meant, properties);
                    self.problems.push(Problem { position: place, path, text });
                    self.meant.extend(meant.map(|name| here.key(name)));
                }
                Some(schema) if value.is_null() => {
                    value.position = place;
                    if let Some(kind) = self.nothing(&value, schema, &path) {
                        value.kind = kind;
                        kept.push((key, place, value));
                    }
                }
                Some(schema) => {
                    if self.node(&mut value, schema, &path) == Verdict::Fits {
                        kept.push((key, place, value));
                    } else if additional.is_some() && is(schema, "object") {
                        // The name stays, so that what refers to it is not reported too.
                        kept.push((key, place, Node { kind: Kind::Map(Vec::new()), ..value }));
                    }
                }
            }
        }
        *entries = kept;
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let path = path.key(name);
            if !self.places.is_set(&path) && !self.meant.contains(&path) {
                let text = format!("missing; allowed: {}", allowed(&properties[name]));
                self.problems.push(Problem { position, path, text });
            }
        }
        Verdict::Fits
    }

    /// A key without a value: an empty section or list, else a problem.
    fn nothing(&mut self, node: &Node, schema: &Value, path: &Path) -> Option<Kind> {
        // Of alternatives, the first is what an empty one is.
        let first = schema["anyOf"].get(0).unwrap_or(schema);
        let kind = match () {
            () if is(first, "object") => Kind::Map(Vec::new()),
            () if is(first, "array") => Kind::List(Vec::new()),
            () => {
                self.places.insert(path.clone(), node.position, node.shown());
                let text = format!("empty; allowed: {}, or leave the key out", allowed(schema));
                self.problems.push(Problem { position: node.position, path: path.clone(), text });
                return None;
            }
        };
        let mut value = Node { kind, ..node.clone() };
        (self.node(&mut value, schema, path) == Verdict::Fits).then_some(value.kind)
    }

    fn list(&mut self, node: &mut Node, schema: &Value, path: &Path) -> Verdict {
        let Kind::List(items) = &mut node.kind else { return Verdict::Unfit };
        let anything = Value::Bool(true);
        let schema = schema.get("items").unwrap_or(&anything);
        let mut verdict = Verdict::Fits;
        for (i, item) in items.iter_mut().enumerate() {
            // Taking one out would move the others: a list with a bad item is left out whole.
            if schema.is_object() && self.node(item, schema, &path.item(i)) == Verdict::Unfit {
                verdict = Verdict::Unfit;
            }
        }
        verdict
    }

    /// `whole`: the schema of which `schema` is the alternative that fits best.
    fn scalar(&mut self, node: &mut Node, (schema, whole): (&Value, &Value), path: &Path) -> Verdict {
        let fits = match kind_of(schema) {
            "duration" => match text_of(node, schema).as_deref().and_then(Span::parse) {
                Some(length) if !Bounds::of(schema).hold(length) => return self.out_of_bounds(node, path, schema),
                length => length.is_some(),
            },
            "size" => text_of(node, schema).is_some_and(|text| Size::parse(&text).is_some()),
            "value" => true,
            _ => plain_fits(node, schema),
        };
        if !fits {
            return self.unfit(node, path, whole);
        }
        if is(schema, "string")
            && kind_of(schema) != "value"
            && let Kind::Scalar { plain, .. } = &mut node.kind
        {
            *plain = false;
        }
        Verdict::Fits
    }

    /// A length that is one, and too short or too long.
    fn out_of_bounds(&mut self, node: &Node, path: &Path, schema: &Value) -> Verdict {
        let (wrong, allowed) = Bounds::of(schema).words();
        let text = format!("{wrong}; allowed: {allowed}; given: {}", node.shown());
        self.problems.push(Problem { position: node.position, path: path.clone(), text });
        Verdict::Unfit
    }
}

/// The shortest and the longest that a length may be (`x-minimum`, `x-maximum`): JSON Schema has no words for it.
struct Bounds<'s> {
    least: Option<&'s str>,
    most: Option<&'s str>,
}

impl<'s> Bounds<'s> {
    fn of(schema: &'s Value) -> Self {
        let bound = |name: &str| schema.get(name).and_then(Value::as_str);
        Self { least: bound("x-minimum"), most: bound("x-maximum") }
    }

    fn hold(&self, length: Span) -> bool {
        let bound = |text: Option<&str>| text.and_then(Span::parse);
        bound(self.least).is_none_or(|least| length >= least) && bound(self.most).is_none_or(|most| length <= most)
    }

    /// What is wrong with one that is out of them, and what is allowed.
    fn words(&self) -> (&'static str, String) {
        match (self.least, self.most) {
            (Some(least), Some(most)) => ("out of range", format!("{least} to {most}")),
            (Some(least), None) => ("too short", format!("{least} or more")),
            (None, most) => ("too long", format!("{} or less", most.unwrap_or_default())),
        }
    }
}

/// The schema that fits the kind of node: itself, or one of `anyOf`.
fn choose<'s>(node: &Node, schema: &'s Value) -> Option<&'s Value> {
    let fits = |schema: &&Value| match &node.kind {
        Kind::Map(_) => is(schema, "object"),
        Kind::List(_) => is(schema, "array"),
        Kind::Scalar { .. } => !is_only(schema, &["object", "array"]),
    };
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(options) => {
            let mut fitting = options.iter().filter(fits);
            let first = fitting.next();
            std::iter::once(first?).chain(fitting).find(|s| plain_fits(node, s)).or(first)
        }
        None => Some(schema).filter(fits),
    }
}

fn is(schema: &Value, kind: &str) -> bool {
    match &schema["type"] {
        Value::String(t) => t == kind,
        Value::Array(types) => types.iter().any(|t| t == kind),
        _ => false,
    }
}

fn is_only(schema: &Value, kinds: &[&str]) -> bool {
    schema["type"].as_str().is_some_and(|t| kinds.contains(&t))
}

fn kind_of(schema: &Value) -> &str {
    schema["x-kind"].as_str().unwrap_or_default()
}

/// Text where text is expected. A substituted scalar is text whatever it looks like; a plain number is not.
fn text_of(node: &Node, schema: &Value) -> Option<String> {
    match (node.scalar()?, &node.kind) {
        (Scalar::Text(text), _) => Some(text.to_owned()),
        (_, Kind::Scalar { text, .. }) if node.secret || kind_of(schema) == "secret" => Some(text.clone()),
        _ => None,
    }
}

fn plain_fits(node: &Node, schema: &Value) -> bool {
    let Some(scalar) = node.scalar() else { return true };
    let words = words(schema);
    if !words.is_empty() {
        return matches!(scalar, Scalar::Text(text) if words.contains(&text));
    }
    let inside = |value: f64| {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        bound("minimum").is_none_or(|min| value >= min) && bound("maximum").is_none_or(|max| value <= max)
    };
    #[expect(clippy::cast_precision_loss, reason = "only compared with small bounds")]
    match scalar {
        Scalar::Int(value) if is(schema, "integer") => {
            inside(value as f64) && (schema["format"] != "uint32" || u32::try_from(value).is_ok())
        }
        Scalar::Int(value) if is(schema, "number") => inside(value as f64),
        Scalar::Float(value) if is(schema, "number") => value.is_finite() && inside(value),
        Scalar::Bool(_) if is(schema, "boolean") => true,
        _ if is(schema, "string") => text_of(node, schema).is_some(),
        _ => false,
    }
}

/// The words of an enum.
fn words(schema: &Value) -> Vec<&str> {
    let listed = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let described = schema["oneOf"].as_array().into_iter().flatten().filter_map(|option| option["const"].as_str());
    listed.chain(described).collect()
}

/// What should stand there, with an article.
fn expected(schema: &Value) -> String {
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().map(expected).collect::<Vec<_>>().join(" or ");
    }
    let one = match kind_of(schema) {
        "duration" => "a duration",
        "size" => "a size",
        _ if !words(schema).is_empty() => "one of the words",
        _ if is(schema, "object") => "a mapping",
        _ if is(schema, "array") => "a list",
        _ if is(schema, "boolean") => "true or false",
        _ if is(schema, "integer") && schema["maximum"].is_number() => "a whole number in range",
        _ if is(schema, "integer") => "a whole number",
        _ if is(schema, "number") && schema["maximum"] == 1 && schema["minimum"] == 0 => "a ratio",
        _ if is(schema, "number") => "a number in range",
        _ => "text",
    };
    one.to_owned()
}

/// What is allowed there.
fn allowed(schema: &Value) -> String {
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().map(allowed).collect::<Vec<_>>().join(", or ");
    }
    let words = words(schema);
    if !words.is_empty() {
        return words.join(", ");
    }
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let range = || match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" of {min} or more"),
        (None, Some(max)) => format!(" of {max} or less"),
        (None, None) => String::new(),
    };
    match kind_of(schema) {
        "duration" => Span::ALLOWED.to_owned(),
        "size" => Size::ALLOWED.to_owned(),
        "secret" => "text, best as ${file:/path} or ${VAR}".to_owned(),
        _ if is(schema, "object") => match schema["properties"].as_object() {
            Some(properties) => format!("a mapping with {}", names(properties)),
            None => format!("a mapping from {}", schema["x-map"].as_str().unwrap_or("names")),
        },
        _ if is(schema, "array") => format!("a list of items that are each {}", allowed(&schema["items"])),
        _ if is(schema, "boolean") => "true, false".to_owned(),
        _ if is(schema, "integer") => format!("a whole number{}", range()),
        _ if is(schema, "number") => format!("a number{}", range()),
        _ => "text (in quotes where it looks like a number)".to_owned(),
    }
}

fn names(properties: &Map<String, Value>) -> String {
    properties.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn unknown_key(key: &str, meant: Option<&str>, properties: &Map<String, Value>) -> String {
    let hint = meant.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default();
    format!("unknown key{hint}; allowed: {}; given: {key}", names(properties))
}

/// The name most like `given`, if any is like it.
pub(super) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.8;
    let scored = names.map(|name| (strsim::jaro_winkler(given, name), name));
    scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}
