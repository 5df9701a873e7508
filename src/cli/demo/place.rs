//! Where the gateway listens, and whether it is ready there.
//!
//! A default port that is taken is given up for a free one, since a demo must start on a developer's machine; a port that
//! was asked for never is.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

/// Asks `GET /readyz` at the admin port until it says 200, for ten seconds, or until `shutdown`.
pub(super) fn wait_until_ready(admin: SocketAddr, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = ask(admin).context("the admin port does not answer")?;
        if answer.split_whitespace().nth(1) == Some("200") || shutdown.is_cancelled() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("Weir is not ready after ten seconds; /readyz says:\n{answer}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ask(admin: SocketAddr) -> std::io::Result<String> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
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

    #[test]
    fn readiness_is_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let admin = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).unwrap() > 0);
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
        });
        wait_until_ready(admin, &CancellationToken::new()).unwrap();
        server.join().unwrap();
    }
}
