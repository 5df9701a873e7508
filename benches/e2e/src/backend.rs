//! The model server behind every setup: reads the request's body, answers one fixed V2 JSON, keeps the last body.
//!
//! It is as cheap as hyper allows, so that the proxies' cores and not its own are what is measured. `GET /last-body` returns
//! the body of the latest inference, with which the bench checks what a model really receives; every other `GET` is healthy.
//! It computes nothing and knows no model.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What every inference is answered with.
pub(crate) const ANSWER: &str = r#"{"model_name":"m","model_version":"1","outputs":[{"name":"score","datatype":"FP32","shape":[1],"data":[0.87]}]}"#;

/// Serves until the process is stopped.
pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let last = Arc::new(Mutex::new(Bytes::new()));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let last = last.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, last.clone()));
            // A client that goes away in the middle of a request is no concern of a model server.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, last: Arc<Mutex<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = if request.method() == Method::POST {
        let body = read(request.into_body()).await;
        *last.lock().expect("nothing panics while holding it") = body;
        Bytes::from_static(ANSWER.as_bytes())
    } else if request.uri().path() == "/last-body" {
        last.lock().expect("nothing panics while holding it").clone()
    } else {
        Bytes::from_static(br#"{"ready":true}"#)
    };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The whole body; the usual single frame is not copied. A broken one reads as what had arrived.
pub(crate) async fn read(mut body: Incoming) -> Bytes {
    let mut whole = Bytes::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if whole.is_empty() {
            whole = data;
        } else {
            let mut joined = BytesMut::from(whole.as_ref());
            joined.extend_from_slice(&data);
            whole = joined.freeze();
        }
    }
    whole
}
