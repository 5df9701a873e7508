//! The wire toward callers: sockets, protocols, and the one table from errors to statuses.
//!
//! `server` accepts, `service` routes, `infer` and `rpc` turn a head and a body into an [`InferRequest`], `encode` turns the
//! [`Answer`] back. The decoders (`v1`, `v2`, `binary`, `grpc`) find byte ranges; they copy and convert nothing.
//!
//! [`InferRequest`]: crate::infer::InferRequest
//! [`Answer`]: crate::infer::Answer

mod body;
mod context;
mod encode;
pub mod feast;
mod front;
pub(crate) mod hold;
mod infer;
pub(crate) mod later;
mod linger;
mod local;
mod receive;
pub(crate) mod record;
pub(crate) mod replay;
mod route;
pub(crate) mod rpc;
pub(crate) mod server;
pub(crate) mod service;
mod stall;
mod status;

pub mod binary;
pub mod decode;
pub mod grpc;
pub mod v1;
pub mod v2;
