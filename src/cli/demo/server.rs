//! The sample model server: a thread of its own that serves HTTP and gRPC on free loopback ports until it is dropped.
//!
//! It never shares a thread with the gateway, so what the gateway measures of it is a server across a socket. It ends
//! abruptly: whoever calls it has been drained before.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread::JoinHandle,
};

use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use super::{grpc::Service, http};
use crate::proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;

/// Largest request body and gRPC message, as many as the gateway takes.
pub(super) const MAX_BODY: usize = 64 << 20;

/// A running sample server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds both ports, so that they accept when this returns, and serves them on a new thread.
    pub(super) fn start() -> io::Result<Self> {
        let (http, grpc) = (bind()?, bind()?);
        let addresses = (http.local_addr()?, grpc.local_addr()?);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("demo-models".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    result = serve(http, grpc) => {
                        if let Err(error) = result {
                            tracing::error!(%error, "the sample models stopped");
                        }
                    }
                }
            });
        })?;
        Ok(Self { http: addresses.0, grpc: addresses.1, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed when it happened.
            let _ = thread.join();
        }
    }
}

fn bind() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(http: TcpListener, grpc: TcpListener) -> io::Result<()> {
    let http = axum::serve(tokio::net::TcpListener::from_std(http)?, http::router());
    let service = GrpcInferenceServiceServer::new(Service)
        .max_decoding_message_size(MAX_BODY)
        .max_encoding_message_size(MAX_BODY);
    let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(grpc)?).with_nodelay(Some(true));
    let grpc = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
    let grpc = async { grpc.await.map_err(io::Error::other) };
    tokio::try_join!(async { http.await }, grpc)?;
    Ok(())
}
