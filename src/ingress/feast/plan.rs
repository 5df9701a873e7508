//! From what a request names to what is read: the views, as what, by which columns, which features.
//!
//! Mistakes are found in the order in which Feast's own server finds them.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use smallvec::SmallVec;

use super::{
    catalog::Catalog,
    errors::{Class, Refusal, repr},
    recent::Asked,
    request::Online,
    value,
};
use crate::{
    config::{Compat, View},
    infer::{Error, Kind, ViewId, decoded::shown},
};

/// How much of a caller's name a message shows.
const NAME: usize = 128;

/// One view's share of an answer.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) view: Arc<View>,
    /// What it is called in the answer.
    pub(super) name: Arc<str>,
    /// What the request calls each of its join keys, in their order.
    pub(super) columns: SmallVec<[Arc<str>; 2]>,
    /// Positions in the view's features.
    pub(super) select: SmallVec<[usize; 16]>,
}

/// A feature reference, `view:feature`.
#[derive(Clone, Copy, Debug)]
struct Reference<'a> {
    whole: &'a str,
    view: &'a str,
    feature: &'a str,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    /// The view of vectors that all of it comes from.
    pub(super) vectors: Option<ViewId>,
    /// The names of the answer's columns, but for the entities': JSON texts with commas between them.
    pub(super) names: Box<[u8]>,
}

/// What the request asks for: as it was lately resolved, or anew.
pub(super) fn resolve(catalog: &Catalog, request: &Online<'_>) -> Result<Arc<Plan>, Refusal> {
    let asked = Asked { service: request.service(), features: request.features.raw(), full_names: request.full_names };
    if let Some(plan) = catalog.recent.get(asked) {
        return Ok(plan);
    }
    let plan = Arc::new(Plan::of(catalog, request)?);
    catalog.recent.put(asked, &plan);
    Ok(plan)
}

impl Plan {
    fn of(catalog: &Catalog, request: &Online<'_>) -> Result<Self, Refusal> {
        let full_names = request.full_names;
        let Some(name) = request.service() else {
            let parts = of_references(catalog, &request.features.texts(), full_names)?;
            return Ok(Self { names: names(&parts, full_names), parts, vectors: None });
        };
        let parts = of_service(catalog, name, full_names)?;
        let vectors = catalog.vectors(name);
        if vectors.is_some() && !full_names {
            return Err(no_vectors(name));
        }
        Ok(Self { names: names(&parts, full_names), parts, vectors })
    }
}

fn names(parts: &[Part], full_names: bool) -> Box<[u8]> {
    let mut names = Vec::new();
    for part in parts {
        for &at in &part.select {
            if !names.is_empty() {
                names.push(b',');
            }
            let feature = &part.view.features[at].name;
            if full_names {
                value::string(&mut names, &[&part.name, "__", feature].concat());
            } else {
                value::string(&mut names, feature);
            }
        }
    }
    names.into()
}

fn of_service(catalog: &Catalog, name: &str, full_names: bool) -> Result<Vec<Part>, Refusal> {
    let Some(service) = catalog.service(name).filter(|service| !service.projections.is_empty()) else {
        refuse_unserved(catalog, "feature service", name)?;
        let (name, project) = (shown(name, NAME), &catalog.project);
        let message = format!("Feature service {name} does not exist in project {project}");
        return Err(Refusal::Feast { class: Class::FeatureService, message });
    };
    let mut parts = Vec::with_capacity(service.projections.len());
    for projection in &service.projections {
        let view = catalog.by_id(projection.view);
        parts.push(Part {
            view: Arc::clone(view),
            name: Arc::clone(projection.alias.as_ref().unwrap_or(&view.name)),
            columns: projection.columns.iter().cloned().collect(),
            select: projection.select.iter().copied().collect(),
        });
    }
    let named = parts
        .iter()
        .flat_map(|part| part.select.iter().map(|&at| (Cow::Borrowed(&*part.name), &*part.view.features[at].name)));
    collisions(named, full_names)?;
    Ok(parts)
}

/// What Feast says where it cannot answer a service from its vectors, whose features have full names.
pub(super) fn no_vectors(name: &str) -> Refusal {
    Refusal::python(
        format!(
            "FeatureService {} has precompute_online=True but pre-computed vectors could not be read. Run `feast precompute \
             {name}` or materialize to populate vectors.",
            repr(name)
        ),
        "there is no precomputed vector of these features for every entity",
    )
}

fn of_references(catalog: &Catalog, given: &[Cow<'_, str>], full_names: bool) -> Result<Vec<Part>, Refusal> {
    if given.is_empty() {
        let text = "No features specified for retrieval";
        return Err(Refusal::python(text, "no features are asked for: give \"features\" or \"feature_service\""));
    }
    let references = given.iter().map(|text| Reference::read(text)).collect::<Result<Vec<_>, _>>()?;
    for reference in &references {
        if catalog.view(reference.view).is_none() {
            return Err(unknown_view(catalog, reference.view));
        }
    }
    let named = references.iter().map(|reference| match reference.whole.split_once(':') {
        // Of the whole text, as Feast compares it: `view@latest` is another name there.
        Some((view, _)) if full_names => (Cow::Borrowed(view), reference.feature),
        _ => (Cow::Borrowed(reference.view), reference.feature),
    });
    collisions(named, full_names)?;
    let mut parts = Vec::<Part>::new();
    for Reference { view: name, feature, .. } in references {
        let view = catalog.view(name).ok_or_else(|| unknown_view(catalog, name))?;
        let at = catalog.feature(name, feature).ok_or_else(|| unknown_feature(view, feature))?;
        match parts.iter_mut().find(|part| part.view.id == view.id) {
            // Under a name and `@latest`, with full names: once.
            Some(part) if part.select.contains(&at) => {}
            Some(part) => part.select.push(at),
            None => parts.push(Part {
                view: Arc::clone(view),
                name: Arc::clone(&view.name),
                columns: view.entities.iter().map(|(key, _)| Arc::clone(key)).collect(),
                select: SmallVec::from_slice(&[at]),
            }),
        }
    }
    Ok(parts)
}

impl<'a> Reference<'a> {
    fn read(whole: &'a str) -> Result<Self, Refusal> {
        let Some((view, feature)) = whole.split_once(':') else {
            let text = format!(
                "Invalid feature reference {}. Expected format: '<feature_view>:<feature>' or \
                 '<feature_view>@<version>:<feature>'",
                repr(whole)
            );
            let told = format!("feature reference {:?}: allowed: \"view:feature\"", shown(whole, NAME));
            return Err(Refusal::python(text, told));
        };
        let Some((name, version)) = view.split_once('@') else { return Ok(Self { whole, view, feature }) };
        if version.is_empty() || version.eq_ignore_ascii_case("latest") {
            return Ok(Self { whole, view: name, feature });
        }
        let number = version.strip_prefix(['v', 'V']).unwrap_or_default();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            // Not a version: the view is called that.
            return Ok(Self { whole, view, feature });
        }
        let number = number.trim_start_matches('0');
        let number = if number.is_empty() { "0" } else { number };
        let text = format!(
            "Version-qualified ref '{name}@v{number}' not supported: online versioning is disabled. Set \
             'enable_online_feature_view_versioning: true' under 'registry' in feature_store.yaml."
        );
        let told = format!("feature reference {:?}: versions are not served; allowed: @latest", shown(whole, NAME));
        Err(Refusal::python(text, told))
    }
}

/// Two columns of an answer may not have one name.
fn collisions<'a>(
    named: impl Iterator<Item = (Cow<'a, str>, &'a str)> + Clone,
    full_names: bool,
) -> Result<(), Refusal> {
    const SHOWN: usize = 20;
    let (mut seen, mut told) = (HashSet::new(), HashSet::new());
    let mut twice = Vec::new();
    for (view, feature) in named {
        let name = if full_names { Cow::Owned(format!("{view}__{feature}")) } else { Cow::Borrowed(feature) };
        if !seen.insert(name.clone()) && told.len() < SHOWN && told.insert(name.clone()) {
            twice.push(name);
        }
    }
    if twice.is_empty() {
        return Ok(());
    }
    let way_out = if full_names {
        "To resolve this collision, please ensure that the feature views or their own features have different names. If you're \
         intentionally joining the same feature view twice on different sets of entities, please rename one of the feature views \
         with '.with_name'."
    } else {
        "To resolve this collision, either use the full feature name by setting 'full_feature_names=True', or ensure that the \
         features in question have different names."
    };
    let message = format!("Duplicate features named {} found.\n{way_out}", twice.join(", "));
    Err(Refusal::Feast { class: Class::NameCollision, message })
}

fn unknown_view(catalog: &Catalog, name: &str) -> Refusal {
    if let Err(unserved) = refuse_unserved(catalog, "view", name) {
        return unserved;
    }
    let (name, project) = (shown(name, NAME), &catalog.project);
    let message = match catalog.compat {
        Compat::FeastPython => format!("Feature view {name} does not exist in project {project}"),
        Compat::Truthful => {
            format!("Feature view {name} does not exist in project {project}; configured: {}", catalog.some_views())
        }
    };
    Refusal::Feast { class: Class::FeatureView, message }
}

fn unknown_feature(view: &View, feature: &str) -> Refusal {
    let feature = shown(feature, NAME);
    let text = repr(&format!("Feature {feature} not found in projection {}", view.name));
    let names: Vec<&str> = view.features.iter().take(50).map(|feature| &*feature.name).collect();
    let told = format!("view {} has no feature {feature:?}; allowed: {}", view.name, names.join(", "));
    Refusal::python(text, told)
}

/// 501 for what the registry has and Weir does not serve.
pub(super) fn refuse_unserved(catalog: &Catalog, what: &str, name: &str) -> Result<(), Refusal> {
    match catalog.unserved(name) {
        Some(why) => Err(Error::new(Kind::Unimplemented, format!("{what} {name:?} is not served: {why}")).into()),
        None => Ok(()),
    }
}
