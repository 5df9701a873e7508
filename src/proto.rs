//! The Open Inference Protocol's gRPC types, generated from `proto/inference.proto` when the crate is built.
//!
//! For what must know whole messages: metadata and health answers, clients, tests. The request path does not go through
//! these types; it reads and writes byte ranges of the messages.

/// Package `inference`: messages, [`GRPCInferenceService`](inference::grpc_inference_service_server) and its client.
#[expect(clippy::allow_attributes, clippy::too_many_lines, reason = "generated code")]
pub mod inference {
    tonic::include_proto!("inference");

    /// The encoded `FileDescriptorSet` of this package, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.descriptors"));
}
