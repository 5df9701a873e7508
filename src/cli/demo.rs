//! `weir demo`.
mod grpc;
mod http;
mod model;
mod server;
#[cfg(test)]
mod tests;
mod v2;
