//! One HTTP/1.1 request at a time, for what is checked and not measured. Answers must have a Content-Length.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header's first value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A connection that is kept alive.
pub(crate) struct Caller {
    stream: TcpStream,
}

impl Caller {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Sends a whole request and waits for its answer.
    pub(crate) fn call(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request)?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 64 * 1024];
        loop {
            let read = self.stream.read(&mut chunk).context("no answer")?;
            ensure!(read > 0, "closed after {}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&chunk[..read]);
            if let Some(answer) = parse(&bytes)? {
                return Ok(answer);
            }
        }
    }
}

/// The answer, once all of it is there.
fn parse(bytes: &[u8]) -> Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(bytes)? else { return Ok(None) };
    let status = head.code.context("no status")?;
    let find = |name: &str| head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let length = find("content-length").context("no content-length")?;
    let length: usize = std::str::from_utf8(length.value)?.trim().parse()?;
    if bytes.len() < start + length {
        return Ok(None);
    }
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    Ok(Some(Answer { status, headers, body: bytes[start..start + length].to_vec() }))
}
