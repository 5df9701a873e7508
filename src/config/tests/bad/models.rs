//! Models: what they join, what they receive, and what answers in their place.

use super::*;

#[test]
fn references_that_lead_nowhere() {
    says(
        &format!(
            "{POOL}capacity: {{burst_pool: pp}}\ntiers: {{standard: {{pool: x}}}}\nmodels:\n  m: {{tier: standart, fallback: {{model: n}}}}\n  \
             n: {{pool: y, explainer: {{pool: z}}, fallback: {{model: m}}}}\n  a/b: {{fallback: {{model: o}}}}\n"
        ),
        &[
            "capacity.burst_pool: no such pool, did you mean `p`?; allowed: p; given: pp (weir.yaml:2:24)",
            "tiers.standard.pool: no such pool; allowed: p; given: x (weir.yaml:3:26)",
            "models.m.tier: no such tier, did you mean `standard`?; allowed: standard; given: standart (weir.yaml:5:13)",
            "models.m.fallback.model: falls back to itself in the end; allowed: a model whose fallbacks end elsewhere; given: n \
             (weir.yaml:5:41)",
            "models.n.pool: no such pool; allowed: p; given: y (weir.yaml:6:13)",
            "models.n.explainer.pool: no such pool; allowed: p; given: z (weir.yaml:6:34)",
            "models.n.fallback.model: falls back to itself in the end; allowed: a model whose fallbacks end elsewhere; given: m \
             (weir.yaml:6:56)",
            "models.a/b: not a model's name; allowed: visible ASCII characters without `/`, `:`, `?` and `#`, as it stands in URLs; given: a mapping with fallback \
             (weir.yaml:7:8)",
            "models.a/b.fallback.model: no such model; allowed: m, n, a/b; given: o (weir.yaml:7:27)",
        ],
    );
}

#[test]
fn ensembles_that_make_no_sense() {
    let own = |key: &str, given: &str, at: u32| {
        format!(
            "models.e.{key}: set for an ensemble, which asks its members; allowed: the key at its members; given: {given} (weir.yaml:3:{at})"
        )
    };
    says(
        "pools: {p: {endpoints: [http://h:1]}}\nmodels:\n  e: {pool: p, upstream_model: x, idempotent: false, explainer: {pool: p}, cache: {}, ensemble: {members: [m]}}\n  m: {pool: p}\n",
        &[
            &own("pool", "p", 13),
            &own("upstream_model", "x", 32),
            &own("idempotent", "false", 47),
            &own("explainer", "a mapping with pool", 65),
            "models.e.cache: beside `idempotent: false`; allowed: a cache only where asking twice changes nothing; given: a mapping with \
             no keys (weir.yaml:3:83)",
            &own("cache", "a mapping with no keys", 83),
        ],
    );
    says(
        "pools: {p: {endpoints: [http://h:1]}}\nmodels:\n  a: {ensemble: {members: [a, m, n, m], combine: weighted, weights: [1, 0, 2]}}\n  \
         b: {ensemble: {members: []}}\n  c: {ensemble: {members: [b, m], weights: [1, 2]}}\n  m: {pool: p}\n",
        &[
            "models.a.ensemble.members[0]: no such other model; allowed: b, c, m; given: a (weir.yaml:3:28)",
            "models.a.ensemble.members[2]: no such other model; allowed: b, c, m; given: n (weir.yaml:3:34)",
            "models.a.ensemble.members[3]: a member already; allowed: each model once; combine: weighted lets one count more; given: m \
             (weir.yaml:3:37)",
            "models.a.ensemble.weights: 3 weights for 4 members; allowed: one a member; given: a list of 3 (weir.yaml:3:69)",
            "models.a.ensemble.weights[1]: not a weight; allowed: a number above 0; given: 0 (weir.yaml:3:73)",
            "models.b.ensemble.members: no member; allowed: at least one model; given: a list of 0 (weir.yaml:4:27)",
            "models.c.ensemble.members[0]: an ensemble itself; allowed: a model that is none; given: b (weir.yaml:5:28)",
            "models.c.ensemble.weights: weights that combine does not use; allowed: combine: weighted or vote, or no weights; given: a list of 2 \
             (weir.yaml:5:44)",
        ],
    );
}

#[test]
fn joins_and_columns_that_do_not_fit() {
    let matrix = |columns: &str| {
        joined_text(&format!(", inputs: {{as: matrix, name: t, datatype: FP32, columns: [{columns}]}}"))
    };
    says(
        &matrix("x, 'user:s', 'user:l', 'user:zip', 'nope:a', {name: q, from: x}"),
        &[
            "models.m.inputs.columns[1]: a feature of type STRING does not fit a matrix of FP32; allowed: a matrix of BYTES, or as: columns; given: \
             \"user:s\" (weir.yaml:2:173)",
            "models.m.inputs.columns[3]: not a selected feature; allowed: user:s, user:l, user:a, item:f, or a tensor of the request; \
             given: \"user:zip\" (weir.yaml:2:193)",
            "models.m.inputs.columns[4]: not a selected feature; allowed: user:s, user:l, user:a, item:f, or a tensor of the request; \
             given: \"nope:a\" (weir.yaml:2:205)",
            "models.m.inputs.columns[5]: a name for a matrix column; allowed: view:feature, or a tensor's name, alone; given: a mapping \
             with name, from (weir.yaml:2:215)",
        ],
    );
    says(
        &matrix("'user:a'").replace("FP32", "BYTES"),
        &[
            "models.m.inputs.columns[0]: a feature of type INT64 does not fit a matrix of BYTES; allowed: a matrix of any datatype but BYTES, or as: \
           columns; given: \"user:a\" (weir.yaml:2:171)",
        ],
    );
    says(
        &joined_text(", inputs: {as: matrix, datatype: F32}"),
        &[
            "models.m.inputs.columns: missing; allowed: a matrix has name, datatype and columns (weir.yaml:2:122)",
            "models.m.inputs.name: missing; allowed: a matrix has name, datatype and columns (weir.yaml:2:122)",
            "models.m.inputs.datatype: not a datatype; allowed: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, \
             FP64, BF16, BYTES; given: F32 (weir.yaml:2:145)",
        ],
    );
    says(
        &joined_text(", inputs: {as: columns, name: x, columns: ['user:a', {name: a, from: 'item:f'}]}"),
        &[
            "models.m.inputs.name: of a matrix only; allowed: as: matrix, or leave the key out; given: x (weir.yaml:2:142)",
            "models.m.inputs.columns[1]: two tensors named a; allowed: another name, written in inputs.columns as {name: …, from: \
             \"item:f\"}; given: a mapping with name, from (weir.yaml:2:165)",
        ],
    );
    says(
        &joined_text("").replace(
            "item: {entities: {b: INT32, a: STRING}, features: {f:",
            "item: {entities: {b: INT32, a: STRING}, features: {a:",
        ),
        &[
            "models.m.features: two tensors named a; allowed: another name, written in inputs.columns as {name: …, from: \"item:a\"}; given: \
           a list of 2 (weir.yaml:2:24)",
        ],
    );
    says(
        &joined_text("").replace("{b: y, a: x}", "{b: y, c: x}").replace("[s, l, a]", "[s, s, zz]"),
        &[
            "models.m.features[0].select[1]: selected already; allowed: each feature once; given: s (weir.yaml:2:71)",
            "models.m.features[0].select[2]: no such feature; allowed: a, s, l; given: zz (weir.yaml:2:74)",
            "models.m.features[1].join: does not name join key a; allowed: every join key of item: a, b; given: a mapping with b, c \
             (weir.yaml:2:99)",
            "models.m.features[1].join.c: no such join key; allowed: a, b; given: c (weir.yaml:2:109)",
        ],
    );
    says(
        &format!("{POOL}models: {{m: {{inputs: {{as: columns}}}}}}\n"),
        &[
            "models.m.inputs: inputs of a model that joins nothing; allowed: inputs beside `features` only; given: a mapping with as \
           (weir.yaml:2:22)",
        ],
    );
}

#[test]
fn default_answers_that_are_no_tensors() {
    says(
        &format!(
            "{POOL}models: {{m: {{fallback: {{rule: ' ', default: {{outputs: [{{name: a, datatype: F32, shape: [1], data: [1]}}, \
             {{name: b, datatype: UINT8, shape: [2, 1], data: [1, 300, x]}}, {{name: b, datatype: BYTES, shape: [0], data: []}}]}}}}}}}}\n"
        ),
        &[
            "models.m.fallback.rule: empty; allowed: a CEL expression; given: \" \" (weir.yaml:2:31)",
            "models.m.fallback.default.outputs[0].datatype: not a datatype; allowed: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, \
             INT32, INT64, FP16, FP32, FP64, BF16, BYTES; given: F32 (weir.yaml:2:76)",
            "models.m.fallback.default.outputs[1].data: 3 elements for shape [2, 1]; allowed: as many as the shape's dimensions multiply \
             to; given: a list of 3 (weir.yaml:2:153)",
            "models.m.fallback.default.outputs[1].data[1]: does not fit UINT8; allowed: a whole number that the datatype holds; given: 300 \
             (weir.yaml:2:157)",
            "models.m.fallback.default.outputs[1].data[2]: does not fit UINT8; allowed: a whole number that the datatype holds; given: x \
             (weir.yaml:2:162)",
            "models.m.fallback.default.outputs[2].name: two tensors of one name; allowed: each name once; given: b (weir.yaml:2:174)",
        ],
    );
}

#[test]
fn a_list_in_a_matrix_needs_a_length() {
    let inputs = ", inputs: {as: matrix, name: x, datatype: FP32, columns: ['user:l', 'item:f']}";
    let text = |length: &str| joined_text(inputs).replace(", length: 3", length).replace(", default: [1, 2.5]", length);
    let lines = bad(&text(""));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with(
            "features.views.user.features.l: a list of unknown length, and a model's matrix needs it: a missing row would \
             have another width; allowed: length, or a default of as many elements; given: "
        ),
        "{}",
        lines[0]
    );
    assert!(lines[1].starts_with("features.views.item.features.f: a list of unknown length"), "{}", lines[1]);
    super::good(&text(", length: 2"));
    super::good(&text(", default: [1.5]"));
    super::good(&joined_text("").replace(", length: 3", ""));
}

#[test]
fn what_is_wrong_with_joins_hides_nothing_of_the_inputs() {
    let inputs = ", inputs: {as: matrix, name: t, datatype: FP3, columns: ['user:q', 'item:q', 'itm:f', 'user:a']}";
    let text = joined_text(inputs).replace("view: item", "view: itm").replace("{id: user_id}", "{idd: user_id}");
    let problems = bad(&text);
    let paths: Vec<_> = problems.iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        paths,
        [
            "models.m.features[0].join: does not name join key id; allowed",
            "models.m.features[0].join.idd: no such join key, did you mean `id`?; allowed",
            "models.m.features[1].view: no such view, did you mean `item`?; allowed",
            "models.m.inputs.datatype: not a datatype; allowed",
            "models.m.inputs.columns[0]: not a selected feature; allowed",
            "models.m.inputs.columns[1]: not a selected feature; allowed",
        ],
        "{problems:#?}"
    );
}

#[test]
fn rules_that_cannot_answer() {
    let text = format!(
        "{POOL}features:\n  views:\n    a: {{entities: {{u: INT64}}, features: {{x: {{type: FLOAT}}, y: {{type: FLOAT}}}}}}\n    b: {{entities: {{u: \
         INT64}}, features: {{x: {{type: FLOAT}}}}}}\nmodels:\n  m:\n    features: [{{view: a, join: {{u: u}}}}, {{view: b, join: {{u: u}}}}]\n    inputs: \
         {{as: matrix, name: i, datatype: FP32, columns: [a:x]}}\n    fallback:\n      rule: 'x + b.x + y > 1.0 ? 1.0 : 0.0'\n      default: {{outputs: \
         [{{name: s, datatype: FP32, shape: [2], data: [1, 2]}}]}}\n"
    );
    let said = bad(&text);
    let (shape, rule) = (
        "models.m.fallback.default.outputs[0].shape: no row's",
        "models.m.fallback.rule: x is a feature of several views; allowed: a.x, b.x",
    );
    assert!(
        said.len() == 2 && [shape, rule].iter().all(|told| said.iter().any(|line| line.starts_with(told))),
        "{said:#?}"
    );
    good(
        &text.replace("rule: 'x +", "rule: 'a.x +").replace("shape: [2], data: [1, 2]", "shape: [1, 2], data: [1, 2]"),
    );
}

#[test]
fn rules_whose_answers_do_not_fit() {
    let with = |rule: &str, datatype: &str, data: &str| {
        format!(
            "{POOL}models:\n  m: {{fallback: {{rule: '{rule}', default: {{outputs: [{{name: s, datatype: {datatype}, shape: [1], data: [{data}]}}]}}}}}}\n"
        )
    };
    for (rule, datatype, data) in [
        ("\"abc\"", "FP32", "1"),
        ("a > 1.0 ? 0.5 : \"no\"", "FP32", "1"),
        ("0.5", "INT64", "1"),
        ("\"yes\"", "BOOL", "true"),
    ] {
        let said = bad(&with(rule, datatype, data));
        let told = "models.m.fallback.rule: does not fit the output that it fills: tensor \"s\": element 0: ";
        assert!(
            said.len() == 1 && said[0].starts_with(told) && said[0].contains("; allowed: answers that are "),
            "{said:#?}"
        );
    }
    let null = bad(&with("a > 1.0 ? null : 0.5", "FP32", "1"));
    assert!(
        null[0].starts_with("models.m.fallback.rule: does not fit the output that it fills: null is no element; "),
        "{null:?}"
    );
    for (rule, datatype, data) in [
        ("1", "FP32", "1"),
        ("a > 1.0 ? 0.5 : b", "FP32", "1"),
        ("\"abc\"", "BYTES", "x"),
        ("a", "INT64", "1"),
        ("true", "BOOL", "true"),
    ] {
        good(&with(rule, datatype, data));
    }
}
