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

/// The addresses to listen on, and a sentence for each default port that is taken.
pub(super) fn choose(args: &Args) -> (Listen, Vec<String>) {
    let mut moved = Vec::new();
    let mut place = |asked, port| {
        let (address, sentence) = place(asked, port);
        moved.extend(sentence);
        address
    };
    let listen = Listen { http: place(args.http, 8080), grpc: place(args.grpc, 8081), admin: place(args.admin, 9090) };
    (listen, moved)
}

fn place(asked: Option<SocketAddr>, port: u16) -> (SocketAddr, Option<String>) {
    if let Some(asked) = asked {
        return (asked, None);
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(address) {
        Ok(_) => (address, None),
        Err(error) => {
            let sentence = format!("{address} cannot be had ({error}): a free port is used instead.");
            (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Some(sentence))
        }
    }
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

    #[test]
    fn a_taken_default_moves_and_says_so() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let (address, sentence) = place(None, port);
        assert_eq!(address.port(), 0);
        assert!(sentence.unwrap().contains(&format!("127.0.0.1:{port} ")));
    }

    #[test]
    fn a_port_that_was_asked_for_stays() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let asked = taken.local_addr().unwrap();
        assert_eq!(place(Some(asked), 8080), (asked, None));
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
