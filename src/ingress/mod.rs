//! The front door: what comes off the wire becomes a request, what comes back becomes an answer.
pub mod binary;
pub mod decode;
pub mod grpc;
pub mod v1;
pub mod v2;
