//! From a path to what is asked. Borrowing, no table: the protocols' paths are few and fixed.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::telemetry::handles::feast::Endpoint;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// V1 `:predict` (POST).
    V1Predict(Cow<'a, str>),
    /// V1 `:explain` (POST).
    V1Explain(Cow<'a, str>),
    /// `/v1/models`
    V1Models,
    /// `/v1/models/{m}`
    V1Model(Cow<'a, str>),
    /// `/v1/async/{id}`
    V1Async(&'a str),
    /// V2 `…/infer` (POST).
    V2Infer(Cow<'a, str>, Option<&'a str>),
    /// `/v2`
    V2Server,
    /// `/v2/health/live`
    V2Live,
    /// `/v2/health/ready`
    V2Ready,
    /// `…/ready`
    V2ModelReady(Cow<'a, str>),
    /// `/v2/models/{m}` and what else a server has below it: forwarded.
    V2Model(Cow<'a, str>),
    /// `/v2/repository/models/{m}/load` or `unload` (POST).
    V2RepositoryModel(Cow<'a, str>),
    /// What else there is below `/v2/repository`.
    V2Repository,
    /// Feast's feature server.
    Feast(Endpoint),
    /// `/{package.Service}/{Method}`
    Grpc(&'a str, &'a str),
    /// One that is refused, and why: forwarded as it is, it might be another path to the model's server.
    Refused(&'static str),
    /// None of these.
    Unknown,
}

/// Reads a path.
pub(super) fn route(path: &str) -> Route<'_> {
    of_most(path).unwrap_or_else(|| by_segments(path))
}

fn by_segments(path: &str) -> Route<'_> {
    let mut segments = path.strip_prefix('/').unwrap_or(path).splitn(4, '/');
    match (segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some("v2"), Some("models"), Some(model), rest) if !model.is_empty() => v2_model(model, rest),
        (Some("v1"), Some("models"), Some(model), None) if !model.is_empty() => v1_model(model),
        (Some("v1"), Some("models"), None | Some(""), None) => Route::V1Models,
        (Some("v1"), Some("async"), Some(id), None) if !id.is_empty() => Route::V1Async(id),
        (Some("v2"), None | Some(""), None, None) => Route::V2Server,
        (Some("v2"), Some("health"), Some("live"), None) => Route::V2Live,
        (Some("v2"), Some("health"), Some("ready"), None) => Route::V2Ready,
        (Some("v2"), Some("repository"), Some("models"), Some(rest)) => match rest.split_once('/') {
            Some((model, "load" | "unload")) if !model.is_empty() => named(model, Route::V2RepositoryModel),
            _ => Route::V2Repository,
        },
        (Some("v2"), Some("repository"), ..) => Route::V2Repository,
        (Some("get-online-features"), None, None, None) => Route::Feast(Endpoint::GetOnlineFeatures),
        (Some("push"), None, None, None) => Route::Feast(Endpoint::Push),
        (Some("write-to-online-store"), None, None, None) => Route::Feast(Endpoint::WriteToOnlineStore),
        (Some("health"), None, None, None) => Route::Feast(Endpoint::Health),
        (Some("materialize"), None, None, None) => Route::Feast(Endpoint::Materialize),
        (Some("materialize-incremental"), None, None, None) => Route::Feast(Endpoint::MaterializeIncremental),
        (Some(service), Some(method), None, None) if service.contains('.') => Route::Grpc(service, method),
        _ => Route::Unknown,
    }
}

/// The two paths that nearly every request has, of a model whose name is spelt as it is.
fn of_most(path: &str) -> Option<Route<'_>> {
    let as_it_is = |model: &&str| {
        let is_one = !model.bytes().any(|byte| matches!(byte, b'/' | b'%' | b'\\' | b':'));
        is_one && !matches!(*model, "" | "." | "..")
    };
    let of = |start, end| path.strip_prefix(start)?.strip_suffix(end).filter(as_it_is).map(Cow::Borrowed);
    let infer = || of("/v2/models/", "/infer").map(|model| Route::V2Infer(model, None));
    infer().or_else(|| of("/v1/models/", ":predict").map(Route::V1Predict))
}

fn v2_model<'a>(model: &'a str, rest: Option<&'a str>) -> Route<'a> {
    let Some(rest) = rest else {
        return named(model, Route::V2Model);
    };
    if rest.split('/').any(leads_elsewhere) {
        return Route::Refused(ELSEWHERE);
    }
    let mut segments = rest.splitn(3, '/');
    match (segments.next(), segments.next(), segments.next()) {
        (Some("infer"), None, None) => named(model, |model| Route::V2Infer(model, None)),
        (Some("ready"), None, None) => named(model, Route::V2ModelReady),
        (Some("versions"), Some(version), Some("infer")) if !version.is_empty() => {
            named(model, |model| Route::V2Infer(model, Some(version)))
        }
        (Some("versions"), Some(version), Some("ready")) if !version.is_empty() => named(model, Route::V2ModelReady),
        _ => named(model, Route::V2Model),
    }
}

fn v1_model(model: &str) -> Route<'_> {
    match model.rsplit_once(':') {
        Some((model, "predict")) => named(model, Route::V1Predict),
        Some((model, "explain")) => named(model, Route::V1Explain),
        Some(_) => Route::Unknown,
        None => named(model, Route::V1Model),
    }
}

const ELSEWHERE: &str =
    "the path has a segment \".\" or \"..\", or an encoded slash; allowed: the path itself, without either";
const NOT_UTF8: &str = "the model's name in the path is not valid UTF-8 once its percent-encoding is undone";

/// A route of the model that the segment names.
fn named<'a>(segment: &'a str, route: impl FnOnce(Cow<'a, str>) -> Route<'a>) -> Route<'a> {
    if leads_elsewhere(segment) {
        return Route::Refused(ELSEWHERE);
    }
    match decoded(segment) {
        Cow::Borrowed(_) => route(Cow::Borrowed(segment)),
        Cow::Owned(bytes) => String::from_utf8(bytes).map_or(Route::Refused(NOT_UTF8), |name| route(Cow::Owned(name))),
    }
}

/// A segment without its percent-encoding; most have none.
fn decoded(segment: &str) -> Cow<'_, [u8]> {
    if segment.contains('%') { percent_decode_str(segment).into() } else { Cow::Borrowed(segment.as_bytes()) }
}

/// Whether a server that undoes the percent-encoding and then normalizes the path reads something else than one segment.
fn leads_elsewhere(segment: &str) -> bool {
    let decoded = decoded(segment);
    matches!(&*decoded, b"." | b"..") || decoded.iter().any(|byte| matches!(byte, b'/' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_protocols() {
        let m = || Cow::Borrowed("m");
        for (path, expected) in [
            ("/v1/models/m:predict", Route::V1Predict(m())),
            ("/v1/models/m:explain", Route::V1Explain(m())),
            ("/v1/models/m:delete", Route::Unknown),
            ("/v1/models", Route::V1Models),
            ("/v1/async/0a", Route::V1Async("0a")),
            ("/v1/async/", Route::Unknown),
            ("/v1/async/0a/b", Route::Unknown),
            ("/v1/models/m", Route::V1Model(m())),
            ("/v2", Route::V2Server),
            ("/v2/", Route::V2Server),
            ("/v2/health/live", Route::V2Live),
            ("/v2/health/ready", Route::V2Ready),
            ("/v2/models/m", Route::V2Model(m())),
            ("/v2/models/m/infer", Route::V2Infer(m(), None)),
            ("/v2/models/m/versions/3/infer", Route::V2Infer(m(), Some("3"))),
            ("/v2/models/m/versions/3", Route::V2Model(m())),
            ("/v2/models/m/versions/3/ready", Route::V2ModelReady(m())),
            ("/v2/models/m/ready", Route::V2ModelReady(m())),
            ("/v2/models/m/stats", Route::V2Model(m())),
            ("/v2/models/a%20b/infer", Route::V2Infer("a b".into(), None)),
            ("/v2/repository/index", Route::V2Repository),
            ("/v2/repository/models/m/load", Route::V2RepositoryModel(m())),
            ("/v2/repository/models/m/unload", Route::V2RepositoryModel(m())),
            ("/v2/repository/models/m", Route::V2Repository),
            ("/inference.GRPCInferenceService/ModelInfer", Route::Grpc("inference.GRPCInferenceService", "ModelInfer")),
            ("/get-online-features", Route::Feast(Endpoint::GetOnlineFeatures)),
            ("/push", Route::Feast(Endpoint::Push)),
            ("/write-to-online-store", Route::Feast(Endpoint::WriteToOnlineStore)),
            ("/health", Route::Feast(Endpoint::Health)),
            ("/materialize", Route::Feast(Endpoint::Materialize)),
            ("/materialize-incremental", Route::Feast(Endpoint::MaterializeIncremental)),
            ("/push/", Route::Unknown),
            ("/", Route::Unknown),
            ("", Route::Unknown),
            ("/v2/models//infer", Route::Unknown),
            ("/v3/models/m", Route::Unknown),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn what_most_paths_ask_is_what_their_segments_say() {
        let names = ["m", "m-1.2", "", ".", "..", "a/b", "a%20b", "a%2fb", "m:n", "a\\b", "infer", "é"];
        let ends = ["/infer", ":predict", "/infer/", "", "/infer/infer", ":predict:predict", "/versions/1/infer"];
        let mut known = 0;
        for (start, name, end) in all_of(&["/v2/models/", "/v1/models/"], &names, &ends) {
            let path = format!("{start}{name}{end}");
            if let Some(route) = of_most(&path) {
                assert_eq!(route, by_segments(&path), "{path}");
                known += 1;
            }
        }
        assert!(known >= 8, "{known}");
    }

    fn all_of<'a>(starts: &[&'a str], names: &[&'a str], ends: &[&'a str]) -> Vec<(&'a str, &'a str, &'a str)> {
        let of = |start: &'a str| names.iter().flat_map(move |name| ends.iter().map(move |end| (start, *name, *end)));
        starts.iter().flat_map(|start| of(start)).collect()
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "/v2/models/m/../../repository/models/x/load",
            "/v2/models/m/%2e%2E/x",
            "/v2/models/m/./infer",
            "/v2/models/m/versions/../infer",
            "/v2/models/m/versions/1%2f..%2fx/infer",
            "/v2/models/m/x%5cy",
            "/v2/models/..",
            "/v2/models/%2e%2e/repository",
            "/v2/models/a%2Fb/infer",
            "/v2/repository/models/../load",
            "/v1/models/..:predict",
        ] {
            assert_eq!(route(path), Route::Refused(ELSEWHERE), "{path}");
        }
        for path in ["/v2/models/%ff/infer", "/v1/models/%c3%28:predict", "/v2/models/%ff"] {
            assert_eq!(route(path), Route::Refused(NOT_UTF8), "{path}");
        }
        assert_eq!(route("/v2/models/m/..x/infer"), Route::V2Model(Cow::Borrowed("m")));
    }
}
