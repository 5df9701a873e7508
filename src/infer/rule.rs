//! A rule: a CEL expression that answers in the model's place, compiled once and evaluated once a row.
//!
//! The expression is bounded when it is compiled (length, depth, loops in loops), so that evaluating it costs no more than a
//! small multiple of the row it reads. Comparisons work across number types; arithmetic takes two numbers of one type, as CEL
//! says: `amount * 2.0`, not `amount * 2`, where `amount` is a float. What a name means is for the caller to know.
//!
//! **Source:** the Common Expression Language's definition, github.com/cel-expr/cel-spec.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, LazyLock},
    thread,
};

use cel::{
    Context, Env, ExecutionError, Value,
    common::{
        ast::{EntryExpr, Expr, IdedExpr},
        value::CowVal,
    },
    context::VariableResolver,
    parser::{ParseErrors, Parser},
};
use smallvec::SmallVec;

use super::decoded::Scalar;

/// The longest expression.
const LENGTH: usize = 4096;

/// The deepest nesting, of the text and of what it means: evaluation recurses as deep.
const DEPTH: usize = 48;

/// The parser takes up to 100 KiB of stack a level in a debug build, more than the stack of a thread that reloads.
const STACK: usize = 32 << 20;

/// The functions that an expression may call; operators have no such name.
const FUNCTIONS: &[&str] =
    &["bool", "bytes", "contains", "double", "dyn", "endsWith", "int", "size", "startsWith", "string", "uint"];

/// What CEL calls `?:`.
const CONDITIONAL: &str = "_?_:_";

/// What CEL makes of a loop (`all`, `exists`, `map`, `filter`) reads a variable that begins so.
const INTERNAL: char = '@';

static LIBRARY: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled rule.
#[derive(Clone)]
pub struct Rule {
    expression: Arc<IdedExpr>,
    names: Arc<[Box<str>]>,
    text: Arc<str>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({:?})", self.text)
    }
}

impl Rule {
    /// Compiles an expression.
    ///
    /// # Errors
    /// It is no CEL, calls a function that there is not, or is longer or deeper than a rule may be; in words, with the place.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.len() > LENGTH {
            return Err(format!("the expression has {} bytes; allowed: at most {LENGTH}", text.len()));
        }
        let expression = parse(text)?;
        let mut survey = Survey::default();
        survey.walk(&expression, 0, &mut Vec::new())?;
        let names = survey.names.into_iter().map(String::into_boxed_str).collect();
        Ok(Self { expression: Arc::new(expression), names, text: text.into() })
    }

    /// What it reads, sorted: `amount`, `user_stats.txn_count_1h`.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// What it may come to whatever a row holds: the answers of its conditions (`c ? this : that`) that read nothing.
    pub(crate) fn constants(&self) -> Vec<Variable> {
        let mut constants = Vec::new();
        let mut left = vec![&*self.expression];
        while let Some(answer) = left.pop() {
            match &answer.expr {
                Expr::Call(call) if call.func_name == CONDITIONAL => left.extend(call.args.iter().skip(1)),
                Expr::Literal(_) => {
                    let context = Context::with_env(Arc::clone(&LIBRARY));
                    constants.extend(Value::resolve(answer, &context).map(Variable));
                }
                _ => {}
            }
        }
        constants
    }

    /// The expression as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates it over a row: a value for each of its names, in their order.
    ///
    /// # Errors
    /// CEL has no answer, in words: a division by zero, operands of different types.
    pub(crate) fn evaluate(&self, values: &[Variable]) -> Result<Variable, String> {
        let row = Row { names: &self.names, values };
        let mut context = Context::with_env(Arc::clone(&LIBRARY));
        context.set_variable_resolver(&row);
        Value::resolve(&self.expression, &context).map(Variable).map_err(|error| told(&error))
    }
}

/// Parses on a thread of its own, for its stack.
fn parse(text: &str) -> Result<IdedExpr, String> {
    let owned = text.to_owned();
    let parse = move || Parser::new().max_recursion_depth(DEPTH as u16).parse(&owned).map_err(|error| first(&error));
    let thread = thread::Builder::new().name("rule".into()).stack_size(STACK).spawn(parse);
    let thread = thread.map_err(|error| format!("no thread to compile the expression on: {error}"))?;
    thread.join().unwrap_or_else(|_| Err("the expression cannot be parsed".to_owned()))
}

/// The first thing that is wrong: the rest follows from it.
fn first(errors: &ParseErrors) -> String {
    match errors.errors.first() {
        // The parser tells this one as a dump of itself.
        Some(error) if error.msg.contains("Recursion limit") => too_deep(),
        Some(error) => format!("line {} column {}: {}", error.pos.0, error.pos.1, in_words(&error.msg)),
        None => "the expression cannot be parsed".to_owned(),
    }
}

/// What the parser says, where it speaks of itself.
fn in_words(told: &str) -> &str {
    if told.starts_with("Incomplete `ExprContext`") {
        "`?` without both answers: write `condition ? this : that`"
    } else if told.starts_with("Incomplete ") {
        "something is missing here"
    } else if told.contains("'<EOF>'") {
        "the expression ends before it is whole"
    } else if told.contains("expecting <EOF>") {
        "nothing may follow here: the expression is whole before it"
    } else {
        told.strip_prefix("Syntax error: ").unwrap_or(told)
    }
}

fn too_deep() -> String {
    format!("the expression is nested more than {DEPTH} deep")
}

/// What an expression needs.
#[derive(Default)]
struct Survey {
    names: BTreeSet<String>,
}

impl Survey {
    /// Walks an expression; `bound` are the variables of the loops around it.
    fn walk<'e>(&mut self, expression: &'e IdedExpr, depth: usize, bound: &mut Vec<&'e str>) -> Result<(), String> {
        if depth > DEPTH {
            return Err(too_deep());
        }
        match &expression.expr {
            Expr::Call(call) => {
                if !is_known(&call.func_name) {
                    let (name, known) = (&call.func_name, FUNCTIONS.join(", "));
                    return Err(format!(
                        "there is no function {name:?}; allowed: {known}, all, exists, exists_one, map, filter"
                    ));
                }
                call.target
                    .iter()
                    .map(|target| &**target)
                    .chain(&call.args)
                    .try_for_each(|e| self.walk(e, depth + 1, bound))
            }
            Expr::Ident(_) | Expr::Select(_) => self.name(&expression.expr, depth, bound),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.walk(element, depth + 1, bound)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.walk(&entry.key, depth + 1, bound)?;
                    self.walk(&entry.value, depth + 1, bound)
                }
                EntryExpr::StructField(_) => Err("messages cannot be built".to_owned()),
            }),
            Expr::Comprehension(each) => {
                if !bound.is_empty() {
                    return Err("a loop (all, exists, map, filter) inside a loop is not allowed".to_owned());
                }
                self.walk(&each.iter_range, depth + 1, bound)?;
                self.walk(&each.accu_init, depth + 1, bound)?;
                bound.extend([&*each.iter_var, &*each.accu_var].into_iter().chain(each.iter_var2.as_deref()));
                let parts = [&each.loop_cond, &each.loop_step, &each.result];
                parts.into_iter().try_for_each(|part| self.walk(part, depth + 1, bound))?;
                bound.clear();
                Ok(())
            }
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
            Expr::Struct(_) => Err("messages cannot be built".to_owned()),
        }
    }

    /// A name, `a` or `a.b`; what follows are members of its value.
    fn name<'e>(&mut self, expression: &'e Expr, depth: usize, bound: &mut Vec<&'e str>) -> Result<(), String> {
        let mut members = SmallVec::<[&str; 4]>::new();
        let mut inner = expression;
        let root = loop {
            match inner {
                Expr::Ident(name) => break name.as_str(),
                Expr::Select(select) => {
                    // `has(a.b)` asks for `b`, which is no part of a name that there must be.
                    if select.test {
                        return Err("has() is not allowed: what a rule names is always there".to_owned());
                    }
                    members.push(&select.field);
                    inner = &select.operand.expr;
                    if !matches!(inner, Expr::Ident(_) | Expr::Select(_)) {
                        return self.walk(&select.operand, depth + 1, bound);
                    }
                }
                _ => return Ok(()),
            }
        };
        if root.starts_with(INTERNAL) || bound.contains(&root) {
            return Ok(());
        }
        self.names.insert(match members.last() {
            Some(member) => format!("{root}.{member}"),
            None => root.to_owned(),
        });
        Ok(())
    }
}

/// Operators are functions whose name is no identifier.
fn is_known(function: &str) -> bool {
    !function.starts_with(|first: char| first.is_ascii_alphabetic()) || FUNCTIONS.contains(&function)
}

/// A value of a row, or what a rule makes of one.
#[derive(Clone, Debug)]
pub(crate) struct Variable(Value);

impl Variable {
    /// A single value; `None`: CEL has none like it.
    pub(crate) fn new(scalar: &Scalar<'_>) -> Option<Self> {
        value(scalar).map(Self)
    }

    /// A list.
    pub(crate) fn list<'s>(scalars: impl IntoIterator<Item = Scalar<'s>>) -> Option<Self> {
        let list: Option<Vec<Value>> = scalars.into_iter().map(|scalar| value(&scalar)).collect();
        list.map(|list| Self(Value::List(Arc::new(list))))
    }

    /// A list of single values.
    pub(crate) fn of(values: Vec<Self>) -> Self {
        Self(Value::List(Arc::new(values.into_iter().map(|value| value.0).collect())))
    }

    /// Its elements, one for a single value; `None`: it holds something that is no element of a tensor.
    pub(crate) fn elements(&self) -> Option<SmallVec<[Scalar<'_>; 1]>> {
        match &self.0 {
            Value::List(list) => list.iter().map(scalar).collect(),
            single => scalar(single).map(|scalar| SmallVec::from_iter([scalar])),
        }
    }
}

/// Whole numbers up to here are exact as doubles.
const EXACT: i64 = 1 << 53;

fn value(scalar: &Scalar<'_>) -> Option<Value> {
    Some(match scalar {
        Scalar::Bool(value) => Value::Bool(*value),
        Scalar::Int(value) => Value::Int(*value),
        Scalar::Uint(value) => i64::try_from(*value).map_or(Value::UInt(*value), Value::Int),
        Scalar::Float(value) => Value::Float(f64::from(*value)),
        Scalar::Double(value) => Value::Float(*value),
        // JSON does not tell 1200 from 1200.0: a rule must not depend on which one the client wrote. An id that a double
        // would round stays whole.
        Scalar::Number(text) => match text.parse::<i64>() {
            Ok(whole) if !(-EXACT..=EXACT).contains(&whole) => Value::Int(whole),
            _ => Value::Float(text.parse().ok()?),
        },
        Scalar::Text(text) => Value::String(Arc::new(text.clone().into_owned())),
        // BYTES carries text in every protocol.
        Scalar::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(Arc::new(text.to_owned())),
            Err(_) => Value::Bytes(Arc::new(bytes.to_vec())),
        },
        Scalar::Null => Value::Null,
        Scalar::Other => return None,
    })
}

fn scalar(value: &Value) -> Option<Scalar<'_>> {
    Some(match value {
        Value::Bool(value) => Scalar::Bool(*value),
        Value::Int(value) => Scalar::Int(*value),
        Value::UInt(value) => Scalar::Uint(*value),
        Value::Float(value) => Scalar::Double(*value),
        Value::String(text) => Scalar::Text(text.as_str().into()),
        Value::Bytes(bytes) => Scalar::Bytes(bytes),
        _ => return None,
    })
}

/// The names of a rule and their values in one row.
struct Row<'a> {
    names: &'a [Box<str>],
    values: &'a [Variable],
}

impl VariableResolver for Row<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let index = self.names.iter().position(|name| **name == *variable)?;
        self.values.get(index)?.0.clone().try_into().ok().map(CowVal::Owned)
    }
}

/// An evaluation's error, and what most likely mends it.
fn told(error: &ExecutionError) -> String {
    let mixed = match error {
        ExecutionError::UnsupportedBinaryOperator(_, left, right) => is_number(left) && is_number(right),
        ExecutionError::NoSuchOverload(overload) => {
            overload.argument_types().iter().all(|kind| matches!(&**kind, "int" | "uint" | "double"))
        }
        _ => false,
    };
    let hint = if mixed { "; arithmetic takes two numbers of one type: write 2.0 for 2, or double(x)" } else { "" };
    format!("{error}{hint}")
}

const fn is_number(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::UInt(_) | Value::Float(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(text: &str, values: &[Scalar<'_>]) -> Result<String, String> {
        let rule = Rule::compile(text)?;
        let values: Vec<Variable> = values.iter().map(|value| Variable::new(value).unwrap()).collect();
        let result = rule.evaluate(&values)?;
        Ok(format!("{:?}", result.elements().unwrap().as_slice()))
    }

    #[test]
    fn a_rule_knows_what_it_reads() {
        for (text, names) in [
            ("amount > 1000.0 ? 0.9 : 0.1", &["amount"][..]),
            ("user_stats.txn_count_1h * 2 + b + user_stats.txn_count_1h", &["b", "user_stats.txn_count_1h"]),
            ("size(words) + words.filter(w, w == country).size()", &["country", "words"]),
            ("{'a': x}['a'] + [y][0]", &["x", "y"]),
            ("0.5", &[]),
        ] {
            let rule = Rule::compile(text).unwrap();
            assert_eq!(rule.names().iter().map(|name| &**name).collect::<Vec<_>>(), names, "{text}");
            assert_eq!(rule.text(), text);
        }
    }

    #[test]
    fn a_rule_knows_what_it_may_come_to() {
        for (text, constants) in [
            ("\"abc\"", &["[Text(\"abc\")]"][..]),
            ("a > 1.0 ? 0.9 : b ? \"x\" : c", &["[Text(\"x\")]", "[Double(0.9)]"]),
            ("a * 2.0", &[]),
        ] {
            let rule = Rule::compile(text).unwrap();
            let told: Vec<_> =
                rule.constants().iter().map(|each| format!("{:?}", each.elements().unwrap().as_slice())).collect();
            assert_eq!(told, constants, "{text}");
        }
    }

    #[test]
    fn bad_rules_are_told_with_their_place() {
        let unknown = Rule::compile("maximum(a, b)").unwrap_err();
        assert!(
            !unknown.contains("has") && unknown.ends_with("uint, all, exists, exists_one, map, filter"),
            "{unknown}"
        );
        let place = Rule::compile("amount >").unwrap_err();
        assert!(place.starts_with("line 1 column 9: "), "{place}");
        for text in ["amount > 1000.0 ? 0.9", "amount >", "(a", "a b", "a.", "a[1", "1 +", "a ? b :"] {
            let told = Rule::compile(text).unwrap_err();
            assert!(
                told.starts_with("line 1 column ") && !told.contains("Context") && !told.contains("EOF"),
                "{text}: {told}"
            );
        }
        let halved = Rule::compile("amount > 1000.0 ? 0.9").unwrap_err();
        assert!(halved.ends_with("`?` without both answers: write `condition ? this : that`"), "{halved}");
        for (text, told) in [
            ("maximum(a, b)", "there is no function \"maximum\"; allowed: bool, bytes"),
            ("a.all(x, a.all(y, x == y))", "a loop (all, exists, map, filter) inside a loop is not allowed"),
            ("has(a.b)", "has() is not allowed"),
            ("T{a: 1}", "messages cannot be built"),
        ] {
            let error = Rule::compile(text).unwrap_err();
            assert!(error.starts_with(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_rule_s_cost_is_bounded() {
        let long = vec!["a"; LENGTH].join("+");
        assert_eq!(Rule::compile(&long).unwrap_err(), "the expression has 8191 bytes; allowed: at most 4096");
        let chain = vec!["a"; 200].join("+");
        assert_eq!(Rule::compile(&chain).unwrap_err(), "the expression is nested more than 48 deep");
        let nested = format!("{}a{}", "(".repeat(500), ")".repeat(500));
        assert_eq!(Rule::compile(&nested).unwrap_err(), too_deep());
        assert!(Rule::compile(&vec!["a"; DEPTH].join("+")).is_ok());
    }

    #[test]
    fn rules_are_evaluated_as_a_user_expects() {
        let number = |text: &'static str| Scalar::Number(text);
        for (text, value, result) in [
            ("amount > 1000.0 ? 0.9 : 0.1", Scalar::Float(1000.5), "[Double(0.9)]"),
            ("amount > 1000 ? 0.9 : 0.1", Scalar::Double(999.0), "[Double(0.1)]"),
            ("amount > 1000.5 ? 1 : 0", Scalar::Int(1001), "[Int(1)]"),
            ("amount == 3", Scalar::Double(3.0), "[Bool(true)]"),
            ("amount * 2.0", number("1200"), "[Double(2400.0)]"),
            ("amount * 2.0", number("1200.5"), "[Double(2401.0)]"),
            ("id == 9007199254740993", number("9007199254740993"), "[Bool(true)]"),
            ("id == 9007199254740993", number("9007199254740994"), "[Bool(false)]"),
            ("n == 18446744073709551615u", Scalar::Uint(u64::MAX), "[Bool(true)]"),
            ("n + 1", Scalar::Uint(1), "[Int(2)]"),
            ("country == 'FR' ? [0.25, 0.75] : [0.5, 0.5]", Scalar::Bytes(b"FR"), "[Double(0.25), Double(0.75)]"),
            ("view.country.startsWith('F')", Scalar::Text("FR".into()), "[Bool(true)]"),
            ("string(int(x)) + 'x'", Scalar::Double(1.5), "[Text(\"1x\")]"),
        ] {
            assert_eq!(evaluated(text, &[value]).unwrap(), result, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_told() {
        let error = evaluated("a * 2", &[Scalar::Double(1.5)]).unwrap_err();
        assert!(error.ends_with("arithmetic takes two numbers of one type: write 2.0 for 2, or double(x)"), "{error}");
        let error = evaluated("1 / a", &[Scalar::Int(0)]).unwrap_err();
        assert!(error.contains("Division by zero"), "{error}");
        assert!(evaluated("a > 'x'", &[Scalar::Int(0)]).is_err());
        assert!(evaluated("a + 1", &[Scalar::Int(i64::MAX)]).is_err());
        assert!(evaluated("a > 1", &[Scalar::Null]).is_err());
        let rule = Rule::compile("{'a': a}").unwrap();
        assert!(rule.evaluate(&[Variable::new(&Scalar::Int(1)).unwrap()]).unwrap().elements().is_none());
    }

    #[test]
    fn every_function_that_is_allowed_is_there() {
        let text = "bool('true') && size(bytes('ab')) == 2 && 'abc'.contains('b') && double(1) == 1.0 && dyn(1) == 1 \
                    && 'abc'.endsWith('c') && int('1') == 1 && 'abc'.startsWith('a') && string(1) == '1' && uint(1) == 1u \
                    && [1, 2].all(x, x > 0) && [1].exists(x, x == 1) && [1].exists_one(x, x == 1) \
                    && [1, 2].map(x, x * 2) == [2, 4] && [1, 2].filter(x, x > 1) == [2]";
        assert_eq!(evaluated(text, &[]).unwrap(), "[Bool(true)]");
    }
}
