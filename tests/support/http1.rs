//! A raw HTTP/1.1 client: sends the bytes it is given, malformed ones too, and reads the answer as it is on the wire.
//!
//! One connection, used again until dropped, so that a test sees whether an error left it usable. Decodes only the framing.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In wire order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What followed a chunked body.
    pub(crate) trailers: Vec<(String, String)>,
}

impl Response {
    /// The header of that name; several are joined as the RFC says.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> =
            self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.text()))
    }

    /// The text under `error` of an error's body.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no \"error\" in {}", self.text())).to_owned()
    }

    /// Fails, showing the answer, unless it has that status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }
}

/// A connection.
pub(crate) struct Http1 {
    authority: String,
    stream: BufReader<TcpStream>,
}

impl Http1 {
    /// Connects.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("it is a TCP socket");
        // Far beyond every deadline in the tests: a hung connection fails a test instead of hanging the suite.
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it is a TCP socket");
        Self { authority: address.to_string(), stream: BufReader::new(stream) }
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Writes a request: `host` and `content-length` are added, unless `headers` frames the body itself.
    #[track_caller]
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.authority);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let framed = headers.iter().any(|(name, _)| matches!(*name, "content-length" | "transfer-encoding"));
        if !framed && (!body.is_empty() || method == "POST") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.send_raw(&bytes);
    }

    /// One exchange.
    #[track_caller]
    pub(crate) fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(method, path, headers, body);
        self.receive()
    }

    /// A POST of JSON.
    #[track_caller]
    pub(crate) fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", path, &[("content-type", "application/json")], body.as_ref())
    }

    /// A GET.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// Reads one answer, informational ones before it apart.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Response {
        self.receive_as_far_as_it_comes().unwrap_or_else(|cut| panic!("the whole body comes, not {cut:?}"))
    }

    /// Reads one answer; `Err`: what came of one whose body broke off.
    #[track_caller]
    pub(crate) fn receive_as_far_as_it_comes(&mut self) -> Result<Response, Response> {
        loop {
            let status = self.status_line().expect("an answer, not the connection's end");
            let headers = self.headers();
            if (100..200).contains(&status) {
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new(), trailers: Vec::new() };
            return match self.body(&mut response) {
                Ok(()) => Ok(response),
                Err(_) => Err(response),
            };
        }
    }

    /// The next informational or final status, its headers read and dropped; the body stays unread.
    #[track_caller]
    pub(crate) fn receive_head(&mut self) -> u16 {
        let status = self.status_line().expect("an answer, not the connection's end");
        self.headers();
        status
    }

    /// Whether the server ended the connection, waiting for it; what it still sends is dropped.
    pub(crate) fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Ends our sending side.
    pub(crate) fn finish_sending(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).expect("it is connected");
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(1..) => {}
            Ok(0) => return None,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("the server answers in time: {error}"),
        }
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn status_line(&mut self) -> Option<u16> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        Some(status.unwrap_or_else(|| panic!("not a status line: {line:?}")))
    }

    fn headers(&mut self) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        headers
    }

    fn body(&mut self, response: &mut Response) -> io::Result<()> {
        if response.status == 204 || response.status == 304 {
            return Ok(());
        }
        if response.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            self.chunks(&mut response.body)?;
            response.trailers = self.headers();
            return Ok(());
        }
        match response.header("content-length") {
            Some(length) => self.read_into(&mut response.body, length.parse().expect("a length is a number")),
            None => self.stream.read_to_end(&mut response.body).map(drop),
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.line().ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = line.split(';').next().and_then(|size| usize::from_str_radix(size, 16).ok());
            let size = size.unwrap_or_else(|| panic!("not a chunk size: {line:?}"));
            if size == 0 {
                return Ok(());
            }
            self.read_into(body, size)?;
            let end = self.line().ok_or(io::ErrorKind::UnexpectedEof)?;
            assert_eq!(end, "", "a chunk ends with a line break");
        }
    }

    /// Reads so many bytes, or what there is of them and fails; one that hangs fails the test.
    fn read_into(&mut self, body: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let read = self.stream.by_ref().take(length as u64).read_to_end(body);
        match read {
            Ok(read) if read == length => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the server answers in time"),
            Err(error) => Err(error),
        }
    }
}

/// One POST of JSON on a connection of its own.
#[track_caller]
pub(crate) fn post(address: SocketAddr, path: &str, body: impl AsRef<[u8]>) -> Response {
    Http1::connect(address).post(path, body)
}

/// One GET on a connection of its own.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    Http1::connect(address).get(path)
}

/// A GET that may find nobody there.
pub(crate) fn try_get(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}
