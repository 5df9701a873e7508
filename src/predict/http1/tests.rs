//! Answers as servers may send them, whole and in parts, and exchanges over real sockets.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{super::body::Fault, *};

/// What an answer came to: status, body, trailers, and whether the connection could be used again.
type Seen = Result<(u16, Vec<u8>, usize, bool), Malformed>;

/// Reads an answer to `verb` that comes in `parts`, the connection's end behind them; `None`: it broke off.
fn read_in(parts: &[&[u8]], verb: &Method) -> Option<Seen> {
    fn next(parts: &mut std::slice::Iter<'_, &[u8]>, buffer: &mut BytesMut) -> bool {
        parts.next().map(|part| buffer.extend_from_slice(part)).is_some()
    }
    let (mut buffer, mut parts) = (BytesMut::new(), parts.iter());
    let mut head = loop {
        match read_head(&mut buffer, verb) {
            Ok(Some(head)) => break head,
            Ok(None) if next(&mut parts, &mut buffer) => {}
            Ok(None) => return None,
            Err(error) => return Some(Err(error)),
        }
    };
    let (mut body, mut trailers) = (Vec::new(), 0);
    loop {
        match head.framing.decode(&mut buffer) {
            Ok(Progress::Data(data)) => body.extend_from_slice(&data),
            Ok(Progress::Trailers(map)) => trailers = map.len(),
            Ok(Progress::End) => break,
            Ok(Progress::Wanting) if next(&mut parts, &mut buffer) => {}
            Ok(Progress::Wanting) if head.framing.close() => break,
            Ok(Progress::Wanting) => return None,
            Err(error) => return Some(Err(error)),
        }
    }
    let rest = buffer.is_empty() && parts.len() == 0;
    Some(Ok((head.status.as_u16(), body, trailers, head.persistent && rest)))
}

type Expected<'a> = Option<Result<(u16, &'a str, usize, bool), Malformed>>;

/// Whole, and cut in two at every byte, it comes to the same.
#[track_caller]
fn reads(answer: &str, expected: Expected<'_>) {
    let answer = answer.as_bytes();
    let expected =
        expected.map(|seen| seen.map(|(status, body, trailers, open)| (status, body.into(), trailers, open)));
    assert_eq!(read_in(&[answer], &Method::POST), expected, "{}", answer.escape_ascii());
    for at in 1..answer.len() {
        let (head, tail) = answer.split_at(at);
        assert_eq!(
            read_in(&[head, tail], &Method::POST),
            expected,
            "{} | {}",
            head.escape_ascii(),
            tail.escape_ascii()
        );
    }
}

#[test]
fn a_body_ends_by_its_length() {
    reads("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some(Ok((200, "ok", 0, true))));
    reads("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", Some(Ok((200, "", 0, true))));
    reads("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\ncontent-length: 2\r\n\r\nok", Some(Ok((200, "ok", 0, true))));
    reads("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", None);
    // What comes behind is not this answer's: nobody may read it as the next.
    reads("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokay", Some(Ok((200, "ok", 0, false))));
}

#[test]
fn a_length_that_is_none_is_an_error() {
    for length in ["", "x", "-1", "+1", "1 2", "1, 2", "0x1", "18446744073709551616", "1,"] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nok");
        assert_eq!(read_in(&[answer.as_bytes()], &Method::POST), Some(Err(Malformed::Length)), "{length:?}");
    }
    reads("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok", Some(Err(Malformed::Length)));
}

#[test]
fn a_body_ends_with_the_connection() {
    reads("HTTP/1.1 200 OK\r\n\r\nok", Some(Ok((200, "ok", 0, false))));
    reads("HTTP/1.0 200 OK\r\n\r\n", Some(Ok((200, "", 0, false))));
}

#[test]
fn a_body_ends_by_its_last_chunk() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (body, expected) in [
        ("0\r\n\r\n", Ok(("", 0))),
        ("2\r\nok\r\n0\r\n\r\n", Ok(("ok", 0))),
        ("00A\r\n0123456789\r\n1;x=\"y\"\r\n!\r\n1 \t;z\r\n?\r\n0\r\n\r\n", Ok(("0123456789!?", 0))),
        ("2\r\nok\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n", Ok(("ok", 2))),
        ("\r\n", Err(Malformed::Chunk)),
        ("g\r\n", Err(Malformed::Chunk)),
        ("-1\r\n", Err(Malformed::Chunk)),
        ("2\nok\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("2 2\r\nok\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("2\r\r\nok\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("2\x0c\r\nok\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("2;a\rb\r\nok\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        // A trailer frames nothing, whatever it says.
        ("2\r\nok\r\n0\r\ncontent-length: x\r\ntransfer-encoding: gzip\r\nx-a: 1\r\n\r\n", Ok(("ok", 1))),
        ("2\r\nokay\r\n0\r\n\r\n", Err(Malformed::Chunk)),
        ("10000000000000000\r\n", Err(Malformed::Chunk)),
    ] {
        let expected = expected.map(|(body, trailers)| (200, body, trailers, true));
        reads(&format!("{chunked}{body}"), Some(expected));
    }
    reads(&format!("{chunked}2\r\nok\r\n0\r\n"), None);
    reads(&format!("{chunked}ffffffffffffffff\r\nok"), None);
}

#[test]
fn two_ends_are_one_too_many() {
    // A length beside chunks does not count, and the connection is not trusted with another answer.
    reads(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Some(Ok((200, "ok", 0, false))),
    );
    for coding in ["gzip", "gzip, chunked", "chunked, chunked", "chunked, gzip", "identity", "", ","] {
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\ncontent-length: 5\r\n\r\n0\r\n\r\n");
        reads(&answer, Some(Err(Malformed::Coding)));
    }
    reads("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Some(Err(Malformed::Coding)));
}

#[test]
fn connections_are_used_again_only_where_the_server_says_so() {
    for (version, connection, persistent) in [
        ("1.1", "x-other", true),
        ("1.1", "Close", false),
        ("1.1", "keep-alive, close", false),
        ("1.0", "x-other", false),
        ("1.0", "Keep-Alive", true),
    ] {
        let answer = format!("HTTP/{version} 200 OK\r\nconnection: {connection}\r\ncontent-length: 2\r\n\r\nok");
        reads(&answer, Some(Ok((200, "ok", 0, persistent))));
    }
}

#[test]
fn some_answers_have_no_body_whatever_they_say() {
    reads("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", Some(Ok((204, "", 0, true))));
    reads("HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", Some(Ok((304, "", 0, true))));
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(read_in(&[head], &Method::HEAD), Some(Ok((200, Vec::new(), 0, true))));
}

#[test]
fn interim_answers_are_passed_over() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    reads(answer, Some(Ok((200, "ok", 0, true))));
    reads("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", Some(Err(Malformed::Switched)));
}

#[test]
fn what_is_no_answer_is_an_error() {
    for answer in
        ["garbage\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 200 OK\r\na b: c\r\n\r\n"]
    {
        assert!(matches!(read_in(&[answer.as_bytes()], &Method::GET), Some(Err(Malformed::Head(_)))), "{answer:?}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(head::LONGEST));
    assert_eq!(read_in(&[long.as_bytes()], &Method::GET), Some(Err(Malformed::TooLong)));
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(head::LONGEST));
    assert_eq!(read_in(&[endless.as_bytes()], &Method::GET), Some(Err(Malformed::TooLong)));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert!(matches!(
        read_in(&[many.as_bytes()], &Method::GET),
        Some(Err(Malformed::Head(httparse::Error::TooManyHeaders)))
    ));
    let trailers =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: {}", "y".repeat(head::LONGEST));
    assert_eq!(read_in(&[trailers.as_bytes()], &Method::GET), Some(Err(Malformed::TooLong)));
    let line = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;{}", "y".repeat(5000));
    assert_eq!(read_in(&[line.as_bytes()], &Method::GET), Some(Err(Malformed::Chunk)));
}

#[test]
fn text_of_other_alphabets_passes() {
    let mut buffer = BytesMut::from(&b"HTTP/1.1 200 \xe9t\xe9\r\nx-name: \xe9t\xe9\r\nx-empty:\r\n\r\n"[..]);
    let head = read_head(&mut buffer, &Method::GET).unwrap().unwrap();
    assert_eq!((head.headers["x-name"].as_bytes(), head.headers["x-empty"].as_bytes()), (&b"\xe9t\xe9"[..], &b""[..]));
}

/// A connection to a server of the test's own.
async fn pair() -> (Lease, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = Upstream { authority: "m".into(), host: "127.0.0.1".into(), port };
    let lease = lease(&Arc::default(), &upstream, Duration::from_secs(10)).await.unwrap();
    (lease, listener.accept().await.unwrap().0)
}

async fn send(lease: &mut Lease, body: RequestBody) -> Result<(StatusCode, HeaderMap), Failure> {
    let headers = HeaderMap::from_iter([
        (header::HOST, HeaderValue::from_static("theirs")),
        (header::CONTENT_LENGTH, HeaderValue::from_static("7")),
        (header::ACCEPT, HeaderValue::from_static("*/*")),
        (HeaderName::from_static("x-left"), HeaderValue::from_static("theirs")),
        (header::CONTENT_TYPE, HeaderValue::from_static("theirs")),
    ]);
    let request = Request {
        verb: &Method::POST,
        path: &PathAndQuery::from_static("/p?q"),
        host: &HeaderValue::from_static("m:1"),
        headers: &headers,
        own: &[(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        numbers: &[(HeaderName::from_static("x-left"), 12)],
    };
    lease.send(&request, body).await
}

async fn rest(lease: &mut Lease) -> Result<Vec<u8>, Error> {
    let mut whole = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| lease.poll_frame(cx)).await {
        whole.extend_from_slice(&frame?.into_data().unwrap_or_default());
    }
    Ok(whole)
}

#[tokio::test]
async fn a_request_is_framed_by_the_connection() {
    for (body, framed) in [(None, "content-length: 0\r\n\r\n"), (Some("body"), "content-length: 4\r\n\r\nbody")] {
        let (mut lease, mut server) = pair().await;
        let server = async {
            let expected = format!(
                "POST /p?q HTTP/1.1\r\nhost: m:1\r\naccept: */*\r\ncontent-type: application/json\r\nx-left: 12\r\n{framed}"
            );
            let mut seen = vec![0; expected.len()];
            server.read_exact(&mut seen).await.unwrap();
            assert_eq!(String::from_utf8(seen).unwrap(), expected);
            server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            server
        };
        let body = RequestBody::Whole(body.map(Bytes::from));
        let (_server, answered) = tokio::join!(server, send(&mut lease, body));
        assert_eq!((answered.unwrap().0, rest(&mut lease).await.unwrap()), (StatusCode::OK, b"ok".to_vec()));
        assert_eq!(idle_after(lease), 1);
    }
}

/// How many connections are idle once it was given back.
fn idle_after(lease: Lease) -> usize {
    let idle = Arc::clone(&lease.idle);
    lease.release();
    idle.lock().len()
}

/// A caller's body that comes in over a socket: what of `request` follows its head, and then what is written to the stream.
async fn upload(request: &'static str) -> (RequestBody, tokio::io::DuplexStream, Arc<Fault>) {
    let (mut caller, ours) = tokio::io::duplex(1 << 20);
    let (bodies, mut body) = tokio::sync::mpsc::unbounded_channel::<Incoming>();
    let service = service_fn(move |request: http::Request<Incoming>| {
        bodies.send(request.into_body()).unwrap();
        std::future::pending::<Result<http::Response<String>, std::convert::Infallible>>()
    });
    crate::app::Tasks::default().spawn(async move {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(ours), service).await;
    });
    caller.write_all(request.as_bytes()).await.unwrap();
    let (rest, fault) = (Limited::new(body.recv().await.unwrap(), usize::MAX), Arc::<Fault>::default());
    (RequestBody::Stream { head: None, rest, fault: Arc::clone(&fault) }, caller, fault)
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// While its endpoint takes what comes.
#[tokio::test]
async fn a_caller_that_stops_sending_is_known_to_be_waited_for() {
    let (mut body, mut caller, fault) = upload("POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nab").await;
    while body.frame().now_or_never().is_some() {}
    assert!(fault.is_awaited() && fault.noted().is_none());
    caller.write_all(b"cd").await.unwrap();
    while body.frame().await.is_some() {}
    assert!(!fault.is_awaited());
}

#[tokio::test]
async fn an_upload_keeps_its_framing() {
    for (request, framed) in [
        ("POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody", "content-length: 4\r\n\r\nbody"),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ),
    ] {
        let (mut lease, mut server) = pair().await;
        let (body, _caller, _) = upload(request).await;
        let server = async {
            let mut seen = String::new();
            while !seen.ends_with(framed) {
                let mut part = [0; 512];
                let read = server.read(&mut part).await.unwrap();
                assert!(read > 0, "{seen:?}");
                seen.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
            server.write_all(OK).await.unwrap();
        };
        let ((), answered) = tokio::join!(server, send(&mut lease, body));
        assert_eq!((answered.unwrap().0, rest(&mut lease).await.unwrap()), (StatusCode::OK, b"ok".to_vec()));
        assert_eq!(idle_after(lease), 1, "{framed}");
    }
}

#[tokio::test]
async fn a_server_may_refuse_before_it_has_read_all() {
    let (mut lease, mut server) = pair().await;
    let (body, _caller, _) = upload("POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\nsome").await;
    let server = async {
        let _ = server.read(&mut [0; 16]).await.unwrap();
        server.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        server
    };
    let (_server, answered) = tokio::join!(server, send(&mut lease, body));
    assert_eq!(answered.unwrap().0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(rest(&mut lease).await.unwrap(), b"no");
    assert_eq!(idle_after(lease), 0, "half a request is still owed");
}

#[tokio::test]
async fn a_head_in_many_parts_is_read() {
    let (mut lease, mut server) = pair().await;
    let server = async {
        let _ = server.read(&mut [0; 1024]).await.unwrap();
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nok" {
            server.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        server
    };
    let (_server, answered) = tokio::join!(server, send(&mut lease, RequestBody::Whole(None)));
    assert_eq!((answered.unwrap().0, rest(&mut lease).await.unwrap()), (StatusCode::OK, b"ok".to_vec()));
    assert_eq!(idle_after(lease), 1);
}

#[tokio::test]
async fn an_upload_goes_on_while_its_answer_comes() {
    let (mut lease, mut server) = pair().await;
    let (body, mut caller, _) = upload("POST / HTTP/1.1\r\ncontent-length: 8\r\n\r\nsome").await;
    let begun = async {
        let _ = server.read(&mut [0; 1024]).await.unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n").await.unwrap();
    };
    let ((), answered) = tokio::join!(begun, send(&mut lease, body));
    assert_eq!(answered.unwrap().0, StatusCode::OK);
    caller.write_all(b"more").await.unwrap();
    let echoed = async {
        let mut seen = Vec::new();
        while !seen.ends_with(b"more") {
            assert!(server.read_buf(&mut seen).await.unwrap() > 0);
        }
        server.write_all(b"somemore").await.unwrap();
    };
    let ((), body) = tokio::join!(echoed, rest(&mut lease));
    assert_eq!(body.unwrap(), b"somemore");
    assert_eq!(idle_after(lease), 1);
}

#[tokio::test]
async fn an_idle_connection_keeps_no_room_of_a_long_exchange() {
    let (mut lease, mut server) = pair().await;
    let server = async {
        let _ = server.read(&mut [0; 1024]).await.unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 581363\r\n\r\n").await.unwrap();
        server.write_all(&vec![b'x'; 581_363]).await.unwrap();
        server
    };
    let idle = Arc::clone(&lease.idle);
    let (_server, body) = tokio::join!(server, async {
        send(&mut lease, RequestBody::Whole(Some(Bytes::from_static(b"body")))).await.unwrap();
        rest(&mut lease).await.unwrap()
    });
    assert_eq!(body.len(), 581_363);
    lease.release();
    let mut idle = idle.lock();
    assert!(!idle[0].inbox.try_reclaim(READ + 1), "a block of more than {READ} bytes");
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_does_not_end_with_a_reset() {
    let (mut lease, mut server) = pair().await;
    let answered = async {
        let _ = server.read(&mut [0; 1024]).await.unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\nhal").await.unwrap();
        server
    };
    let (server, head) = tokio::join!(answered, send(&mut lease, RequestBody::Whole(None)));
    head.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    assert!(matches!(rest(&mut lease).await, Err(Error::Io(_))));
}

#[tokio::test]
async fn a_caller_that_breaks_off_is_told_from_a_server_that_does() {
    let (mut lease, _server) = pair().await;
    let (body, caller, fault) = upload("POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\nsome").await;
    drop(caller);
    assert!(matches!(send(&mut lease, body).await, Err(Failure::Broken(_))));
    assert!(fault.noted().is_some());
    let (mut lease, server) = pair().await;
    let (body, _caller, fault) = upload("POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\nsome").await;
    drop(server);
    assert!(matches!(send(&mut lease, body).await, Err(Failure::Broken(_) | Failure::Unsent(_))));
    assert!(fault.noted().is_none());
}

#[tokio::test]
async fn a_request_that_was_not_written_is_given_back() {
    let upload = upload("POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody").await;
    for body in [RequestBody::Whole(Some(Bytes::from("body"))), upload.0] {
        let (mut lease, server) = pair().await;
        // Closed with a reset, which the next write meets.
        server.set_zero_linger().unwrap();
        drop(server);
        lease.connection.stream.readable().await.unwrap();
        let Err(Failure::Unsent(body)) = send(&mut lease, body).await else { panic!("it was not written") };
        assert_eq!(Limited::new(body, 64).frame().await.unwrap().unwrap().into_data().unwrap(), "body");
    }
}

#[tokio::test]
async fn a_closed_connection_is_not_taken() {
    let (mut lease, mut server) = pair().await;
    let idle = Arc::clone(&lease.idle);
    let served = async {
        let _ = server.read(&mut [0; 1024]).await.unwrap();
        server.write_all(OK).await.unwrap();
        server
    };
    let (server, answered) = tokio::join!(served, send(&mut lease, RequestBody::Whole(None)));
    answered.unwrap();
    rest(&mut lease).await.unwrap();
    drop(server);
    lease.connection.stream.readable().await.unwrap();
    assert_eq!(idle_after(lease), 1);
    idle.sweep();
    assert_eq!(idle.lock().len(), 0);
}
