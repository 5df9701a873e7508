//! Redis' protocol, as far as the bench speaks it: commands out, arrays of strings and integers in.
//!
//! [`Replies`] reads every length and every boundary of a pipeline's replies, each byte's header once however the bytes
//! arrive; it copies nothing. Nested arrays are not known.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    ops::Range,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// A command.
pub(crate) fn command(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend(part);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// How far the replies to a pipeline were read. A reply is an array of strings, or an integer.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Up to where everything was read.
    at: usize,
    /// Replies that have not begun.
    replies: usize,
    /// Strings of the array that has.
    strings: usize,
}

/// The next whole part of a reply.
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    /// An array of so many strings begins.
    Array(usize),
    /// Where a string is; `None`: nil.
    Text(Option<Range<usize>>),
    Integer(i64),
}

impl Replies {
    /// None of `replies` was read.
    pub(crate) fn new(replies: usize) -> Self {
        Self { at: 0, replies, strings: 0 }
    }

    /// Reads on; where the last reply ends, once all of it is in `bytes`, which always begin where the first one does.
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        while self.replies > 0 || self.strings > 0 {
            if self.next(bytes)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(self.at))
    }

    /// The next part, once all of it is there.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Option<Part>> {
        let rest = &bytes[self.at..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let line = rest[..end].strip_suffix(b"\r").context("a line without an end")?;
        let text = std::str::from_utf8(line)?;
        ensure!(text.len() > 1, "an empty line");
        let (kind, number) = text.split_at(1);
        let body = self.at + end + 1;
        let part = match (kind, self.strings) {
            ("*", 0) => {
                self.strings = number.parse()?;
                self.replies -= 1;
                self.at = body;
                Part::Array(self.strings)
            }
            (":", 0) => {
                self.replies -= 1;
                self.at = body;
                Part::Integer(number.parse()?)
            }
            ("$", 1..) => {
                let length: i64 = number.parse()?;
                let text = usize::try_from(length).ok().map(|length| body..body + length);
                let after = text.as_ref().map_or(body, |text| text.end + 2);
                if after > bytes.len() {
                    return Ok(None);
                }
                self.strings -= 1;
                self.at = after;
                Part::Text(text)
            }
            _ => bail!("Redis: {text}"),
        };
        Ok(Some(part))
    }
}

/// A blocking connection, for what is not measured.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { stream })
    }

    /// Sends a pipeline and returns the bytes of its `replies`.
    pub(crate) fn ask(&mut self, pipeline: &[u8], replies: usize) -> Result<Vec<u8>> {
        self.stream.write_all(pipeline)?;
        let mut progress = Replies::new(replies);
        let (mut bytes, mut chunk) = (Vec::new(), [0; 64 * 1024]);
        while progress.end(&bytes)?.is_none() {
            let read = self.stream.read(&mut chunk).context("no reply")?;
            ensure!(read > 0, "Redis closed the connection");
            bytes.extend_from_slice(&chunk[..read]);
        }
        Ok(bytes)
    }

    /// Asks for one string.
    pub(crate) fn text(&mut self, words: &[&str]) -> Result<String> {
        let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        self.stream.write_all(&command(&words))?;
        let (mut bytes, mut chunk) = (Vec::new(), [0; 64 * 1024]);
        loop {
            let read = self.stream.read(&mut chunk).context("no reply")?;
            ensure!(read > 0, "Redis closed the connection");
            bytes.extend_from_slice(&chunk[..read]);
            if let Some(text) = string(&bytes)? {
                return Ok(text);
            }
        }
    }
}

/// A reply that is one string, once all of it is there.
fn string(bytes: &[u8]) -> Result<Option<String>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    let length: usize = head.strip_prefix('$').with_context(|| format!("Redis: {head}"))?.parse()?;
    let text = bytes.get(end + 2..end + 2 + length);
    Ok(text.map(|text| String::from_utf8_lossy(text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: &[u8] = b"*2\r\n$3\r\na\r\n\r\n$-1\r\n:5\r\n*1\r\n$0\r\n\r\n";

    #[test]
    fn replies_end_where_their_last_byte_is_however_they_arrive() {
        for step in 1..PIPELINE.len() {
            let mut replies = Replies::new(3);
            for filled in (0..PIPELINE.len()).step_by(step) {
                assert_eq!(replies.end(&PIPELINE[..filled]).unwrap(), None, "{step} {filled}");
            }
            assert_eq!(replies.end(PIPELINE).unwrap(), Some(PIPELINE.len()));
        }
    }

    #[test]
    fn parts_are_told_apart() {
        let mut replies = Replies::new(3);
        let parts: Vec<Part> = std::iter::from_fn(|| replies.next(PIPELINE).unwrap()).collect();
        let text = |range| Part::Text(Some(range));
        let expected = [
            Part::Array(2),
            text(8..11),
            Part::Text(None),
            Part::Integer(5),
            Part::Array(1),
            text(PIPELINE.len() - 2..PIPELINE.len() - 2),
        ];
        assert_eq!(parts, expected);
        assert_eq!(&PIPELINE[8..11], b"a\r\n");
    }

    #[test]
    fn a_string_is_there_once_all_of_it_is() {
        assert_eq!(string(b"$5\r\na\r").unwrap(), None);
        assert_eq!(string(b"$3\r\na\nb\r\n").unwrap().as_deref(), Some("a\nb"));
        assert_eq!(string(b"-ERR no\r\n").unwrap_err().to_string(), "Redis: -ERR no");
    }

    #[test]
    fn an_error_is_none_of_the_replies() {
        let error = Replies::new(1).end(b"-ERR no\r\n").unwrap_err();
        assert_eq!(error.to_string(), "Redis: -ERR no");
    }
}
