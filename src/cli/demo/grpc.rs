//! The sample server's gRPC service: all six methods of the protocol.
//!
//! An answer has the form of its request: typed contents for typed contents, raw bytes for raw bytes.

use std::collections::HashMap;

use tonic::{Request, Response, Status};

use super::{
    model::{DATATYPE, Model, OUTPUT, Refusal, VERSION},
    v2,
};
use crate::proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::GrpcInferenceService, model_infer_response::InferOutputTensor,
    model_metadata_response::TensorMetadata,
};

/// The sample models behind the generated service.
#[derive(Debug)]
pub(super) struct Service;

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let request = request.into_inner();
        Model::find(&request.name, Some(&request.version))?;
        Ok(Response::new(ModelReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "weir-demo-models".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: vec![],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let request = request.into_inner();
        let model = Model::find(&request.name, Some(&request.version))?;
        let tensor = |name: &str, shape| TensorMetadata { name: name.into(), datatype: DATATYPE.into(), shape };
        Ok(Response::new(ModelMetadataResponse {
            name: model.name.into(),
            versions: vec![VERSION.into()],
            platform: "weir-demo".into(),
            inputs: vec![tensor(model.input, model.input_shape())],
            outputs: vec![tensor(OUTPUT, vec![-1])],
            properties: HashMap::new(),
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        Ok(Response::new(infer(request.into_inner())?))
    }
}

fn infer(request: ModelInferRequest) -> Result<ModelInferResponse, Refusal> {
    let model = Model::find(&request.model_name, Some(&request.model_version))?;
    if let Some(other) = request.outputs.iter().find(|output| output.name != OUTPUT) {
        return Err(Refusal::Invalid(format!("output {:?} does not exist; there is {OUTPUT:?}", other.name)));
    }
    let raw = !request.raw_input_contents.is_empty();
    if raw && request.raw_input_contents.len() != request.inputs.len() {
        let (contents, inputs) = (request.raw_input_contents.len(), request.inputs.len());
        return Err(Refusal::Invalid(format!("{contents} raw_input_contents for {inputs} inputs")));
    }
    let position = request.inputs.iter().position(|tensor| tensor.name == model.input);
    let position = position.ok_or_else(|| model.invalid("missing"))?;
    let tensor = &request.inputs[position];
    let scores = if raw {
        let data = v2::from_raw(model, &request.raw_input_contents[position])?;
        model.infer(&tensor.datatype, &tensor.shape, &data)?
    } else {
        let data = tensor.contents.as_ref().map_or(&[][..], |contents| &contents.fp32_contents);
        model.infer(&tensor.datatype, &tensor.shape, data)?
    };
    Ok(answer(model, request.id, scores, raw))
}

fn answer(model: &Model, id: String, scores: Vec<f32>, raw: bool) -> ModelInferResponse {
    let shape = vec![scores.len() as i64];
    let raw_output_contents = match raw {
        true => vec![scores.iter().flat_map(|score| score.to_le_bytes()).collect()],
        false => vec![],
    };
    let contents = (!raw).then(|| InferTensorContents { fp32_contents: scores, ..Default::default() });
    let output = InferOutputTensor {
        name: OUTPUT.into(),
        datatype: DATATYPE.into(),
        shape,
        parameters: HashMap::new(),
        contents,
    };
    ModelInferResponse {
        model_name: model.name.into(),
        model_version: VERSION.into(),
        id,
        parameters: HashMap::new(),
        outputs: vec![output],
        raw_output_contents,
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match &refusal {
            Refusal::Unknown(text) => Self::not_found(text),
            Refusal::Invalid(text) => Self::invalid_argument(text),
        }
    }
}
