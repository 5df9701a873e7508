//! Where the gateway listens, and whether it is ready there.
//!
//! A default port that is taken is given up for a free one, since a demo must start on a developer's machine; a port that
//! was asked for never is.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{Args, settings::Listen};
use crate::app::Sockets;

/// The sockets to listen on, and a sentence for each default port that is taken.
pub(super) struct Place {
    pub(super) listen: Listen,
    pub(super) sockets: Sockets,
    pub(super) moved: Vec<String>,
}

/// Binds them, so that nobody else can take a port between the choice and its use. To be called on a runtime.
pub(super) fn choose(args: &Args) -> anyhow::Result<Place> {
    let mut moved = Vec::new();
    let mut place = |asked, port| -> anyhow::Result<_> {
        let (socket, sentence) = bind(asked, port)?;
        moved.extend(sentence);
        Ok((socket.local_addr()?, socket))
    };
    let ((http, http_socket), (grpc, grpc_socket)) = (place(args.http, 8080)?, place(args.grpc, 8081)?);
    let (admin, admin_socket) = place(args.admin, 9090)?;
    let sockets = Sockets { http: http_socket, grpc: Some(grpc_socket), admin: admin_socket };
    Ok(Place { listen: Listen { http, grpc, admin }, sockets, moved })
}

fn bind(asked: Option<SocketAddr>, port: u16) -> anyhow::Result<(tokio::net::TcpListener, Option<String>)> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (socket, sentence) = match (TcpListener::bind(asked.unwrap_or(default)), asked) {
        (Ok(socket), _) => (socket, None),
        (Err(error), Some(asked)) => return Err(error).with_context(|| format!("cannot listen on {asked}")),
        (Err(error), None) => {
            let sentence = format!("{default} cannot be had ({error}): a free port is used instead.");
            (TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, Some(sentence))
        }
    };
    socket.set_nonblocking(true)?;
    Ok((tokio::net::TcpListener::from_std(socket)?, sentence))
}

/// Asks `GET /readyz` at the admin port until it says 200, for ten seconds.
pub(super) async fn wait_until_ready(admin: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = timeout(Duration::from_secs(2), ask(admin)).await.map_err(io::Error::from);
        let answer = answer.and_then(|answer| answer).context("the admin port does not answer")?;
        if answer.split_whitespace().nth(1) == Some("200") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("Weir is not ready after ten seconds; /readyz says:\n{answer}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn ask(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_default_moves_and_says_so() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let (socket, sentence) = bind(None, port).unwrap();
        assert_ne!(socket.local_addr().unwrap().port(), port);
        assert!(sentence.unwrap().contains(&format!("127.0.0.1:{port} ")));
    }

    #[tokio::test]
    async fn a_port_that_was_asked_for_is_taken_or_refused() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let asked = taken.local_addr().unwrap();
        let error = bind(Some(asked), 8080).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {asked}"));
        // The system's choice: no other test can have taken a port meanwhile.
        let (socket, sentence) = bind(Some((Ipv4Addr::LOCALHOST, 0).into()), 8080).unwrap();
        assert!(socket.local_addr().unwrap().port() > 0 && sentence.is_none());
    }

    #[tokio::test]
    async fn readiness_is_waited_for() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let admin = listener.local_addr().unwrap();
        let server = async {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).await.unwrap() > 0);
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let (ready, ()) = tokio::join!(wait_until_ready(admin), server);
        ready.unwrap();
    }
}
