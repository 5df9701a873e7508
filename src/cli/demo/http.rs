//! The sample server's HTTP routes: KServe V1, and V2 with its health and metadata.
//!
//! Errors are `{"error": "…"}`, 400 for a wrong request and 404 for an unknown model, as model servers answer them.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    model::{DATATYPE, MODELS, Model, OUTPUT, Refusal, VERSION},
    server::MAX_BODY,
    v2,
};

/// Every route of the sample server.
pub(super) fn router() -> Router {
    let v2_model = Router::new()
        .route("/", get(metadata))
        .route("/ready", get(|path: ModelPath| async move { path.find().map(|_| Json(json!({"ready": true}))) }))
        .route("/infer", post(infer));
    Router::new()
        .route("/v1/models", get(|| async { Json(json!({"models": MODELS.each_ref().map(|model| model.name)})) }))
        .route("/v1/models/{model}", get(v1_status).post(v1_predict))
        .route("/v2", get(|| async { Json(server_metadata()) }))
        .route("/v2/health/live", get(|| async { Json(json!({"live": true})) }))
        .route("/v2/health/ready", get(|| async { Json(json!({"ready": true})) }))
        .nest("/v2/models/{model}", v2_model.clone())
        .nest("/v2/models/{model}/versions/{version}", v2_model)
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// The model, and the version where the path names one.
#[derive(Deserialize)]
struct Named {
    model: String,
    version: Option<String>,
}

type ModelPath = Path<Named>;

impl Named {
    fn find(&self) -> Result<&'static Model, Refusal> {
        Model::find(&self.model, self.version.as_deref())
    }
}

fn server_metadata() -> Value {
    json!({"name": "weir-demo-models", "version": env!("CARGO_PKG_VERSION"), "extensions": ["binary_tensor_data"]})
}

async fn metadata(path: ModelPath) -> Result<Json<Value>, Refusal> {
    let model = path.find()?;
    Ok(Json(json!({
        "name": model.name,
        "versions": [VERSION],
        "platform": "weir-demo",
        "inputs": [{"name": model.input, "datatype": DATATYPE, "shape": model.input_shape()}],
        "outputs": [{"name": OUTPUT, "datatype": DATATYPE, "shape": [-1]}],
    })))
}

async fn infer(path: ModelPath, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let header_length = headers.get(v2::HEADER_LENGTH).map(|value| {
        let length = value.to_str().ok().and_then(|length| length.parse().ok());
        length.ok_or_else(|| Refusal::Invalid(format!("{} is not a length: {value:?}", v2::HEADER_LENGTH)))
    });
    let answer = v2::infer(path.find()?, &body, header_length.transpose()?)?;
    Ok(match answer.header_length {
        None => ([(CONTENT_TYPE, "application/json")], answer.body).into_response(),
        Some(length) => {
            let headers =
                [(CONTENT_TYPE.as_str(), "application/octet-stream"), (v2::HEADER_LENGTH, &length.to_string())];
            (headers, answer.body).into_response()
        }
    })
}

async fn v1_status(Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    let model = Model::find(&name, None)?;
    Ok(Json(json!({"name": model.name, "ready": true})))
}

#[derive(Deserialize)]
struct V1Request {
    instances: Vec<Value>,
}

async fn v1_predict(Path(path): Path<String>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let Some(name) = path.strip_suffix(":predict") else {
        return Err(Refusal::Unknown(format!("POST {path:?} is unknown; there is {{model}}:predict")));
    };
    let model = Model::find(name, None)?;
    let request: V1Request = serde_json::from_slice(&body).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let mut data = Vec::with_capacity(request.instances.len() * model.width());
    for (position, instance) in request.instances.iter().enumerate() {
        // A row is bare, or under the input's name.
        let row = instance.get(model.input).unwrap_or(instance);
        let row = v2::from_json(model, row)?;
        if row.len() != model.width() {
            let problem = format!("instance {position} has {} columns, not {}", row.len(), model.width());
            return Err(model.invalid(&problem));
        }
        data.extend(row);
    }
    let shape = [request.instances.len() as i64, model.width() as i64];
    let scores = model.infer(DATATYPE, &shape, &data)?;
    Ok(Json(json!({"predictions": scores})))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
        };
        (status, Json(json!({"error": self.to_string()}))).into_response()
    }
}
