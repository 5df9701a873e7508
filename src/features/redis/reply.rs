//! Replies as they come off the wire, however they are cut: a row's cells become the row where they lie, everything else is
//! left to the Redis driver's parser.
//!
//! One pass, no copy: a cell is decoded out of the read buffer, and a row that is cut is kept as far as it came. Nothing is
//! allocated for what a length only promises. Messages that answer nothing (RESP3's pushes and attributes) are skipped.
//!
//! **Source:** Redis serialization protocol specification, RESP2 and RESP3.

use std::sync::Arc;

use ::redis::{ServerError, Value};
use bytes::{Buf, BytesMut};

use crate::features::{
    Row,
    feast::{Cells, Layout, Malformed},
};

/// What a server said to one command.
#[derive(Debug)]
pub(super) enum Reply {
    /// To a read of a hash's fields: the row that they make.
    Row(Result<Option<Row>, Malformed>),
    /// To any other command.
    Value(Value),
    /// To either, that it refuses.
    Refusal(ServerError),
}

/// What the answer to a command is to be read as.
#[derive(Clone, Debug)]
pub(super) enum Reads {
    Row(Arc<Layout>),
    Value,
}

/// Reads any bytes as replies, by turns to a read of a row of two features and to another command, in pieces of at most `step`
/// bytes; what was read, as text. For fuzzing: whatever the bytes, it does not panic, and where they are cut changes nothing.
#[must_use]
pub fn read_any(bytes: &[u8], step: usize) -> String {
    let row = Reads::Row(Arc::new(Layout::named("v", ["a", "b"].into_iter())));
    let mut asked = [row, Reads::Value].into_iter().cycle().peekable();
    let (mut reader, mut input, mut read) = (Reader::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        input.extend_from_slice(piece);
        while let Some(reads) = asked.peek() {
            match reader.next(&mut input, reads) {
                Ok(Some(reply)) => read.push(format!("{reply:?}")),
                Ok(None) => break,
                Err(broken) => return format!("{read:?} {broken}"),
            }
            asked.next();
        }
    }
    format!("{read:?}")
}

#[cfg(test)]
impl Reply {
    /// What one line says.
    pub(super) fn said(line: &str) -> Self {
        let mut input = BytesMut::from(format!("{line}\r\n").as_bytes());
        Reader::default().next(&mut input, &Reads::Value).unwrap().unwrap()
    }
}

/// The bytes are no reply; nothing that follows can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a reply of Redis: {0}")]
pub(super) struct Broken(&'static str);

/// Takes replies off the front of what was read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// A row that was cut.
    row: Option<Coming>,
}

/// A row of which some cells are still to come.
#[derive(Debug)]
struct Coming {
    cells: Cells,
    left: u64,
}

impl Reader {
    /// What comes while nothing is asked.
    ///
    /// # Errors
    ///
    /// It answers something.
    pub(super) fn idle(&self, input: &mut BytesMut) -> Result<(), Broken> {
        skip_asides(input)?;
        match input.first() {
            None | Some(b'>' | b'|') => Ok(()),
            Some(_) => Err(Broken("an answer to nothing")),
        }
    }

    /// The next reply, read as `reads` says; `None`: some of it is still to come.
    pub(super) fn next(&mut self, input: &mut BytesMut, reads: &Reads) -> Result<Option<Reply>, Broken> {
        if self.row.is_none() {
            if !skip_asides(input)? {
                return Ok(None);
            }
            match reads {
                Reads::Row(layout) if input.first() == Some(&b'*') => {
                    let Some((count, length)) = number(input)? else { return Ok(None) };
                    input.advance(length);
                    // What holds no cells at all is told as what holds too few.
                    self.row = Some(Coming { cells: layout.begin(), left: u64::try_from(count).unwrap_or(0) });
                }
                _ => return other(input, reads),
            }
        }
        let Some(row) = &mut self.row else { return Ok(None) };
        let (taken, whole) = row.take(input)?;
        input.advance(taken);
        Ok(if whole { self.row.take().map(|row| Reply::Row(row.cells.end())) } else { None })
    }
}

impl Coming {
    /// Takes the cells that are there; how many bytes they were, and whether they are all.
    fn take(&mut self, input: &[u8]) -> Result<(usize, bool), Broken> {
        let mut at = 0;
        while self.left > 0 {
            let rest = &input[at..];
            let length = match rest.first() {
                Some(b'$') => bulk(rest)?.map(|(cell, length)| {
                    self.cells.put(cell);
                    length
                }),
                Some(b'|') => {
                    let Some(length) = attributes(rest)? else { break };
                    at += length;
                    continue;
                }
                // A null of RESP3.
                Some(b'_') => extent(rest)?.inspect(|_| self.cells.put(None)),
                // Nothing that a hash holds: no reason to believe that it holds nothing there.
                _ => extent(rest)?.inspect(|_| self.cells.refuse(Malformed::Cell)),
            };
            let Some(length) = length else { break };
            at += length;
            self.left -= 1;
        }
        Ok((at, self.left == 0))
    }
}

/// Skips whole messages that answer nothing. Whether something else begins.
fn skip_asides(input: &mut BytesMut) -> Result<bool, Broken> {
    while let Some(b'>' | b'|') = input.first() {
        let Some(length) = (if input[0] == b'>' { extent(input)? } else { attributes(input)? }) else {
            return Ok(false);
        };
        input.advance(length);
    }
    Ok(!input.is_empty())
}

/// A reply that makes no row.
fn other(input: &mut BytesMut, reads: &Reads) -> Result<Option<Reply>, Broken> {
    let Some(length) = extent(input)? else { return Ok(None) };
    let value = ::redis::parse_redis_value(&input[..length]).map_err(|_| Broken("a value that cannot be read"))?;
    input.advance(length);
    Ok(Some(match (value, reads) {
        (Value::ServerError(error), _) => Reply::Refusal(error),
        (value, Reads::Value) => Reply::Value(value),
        (_, Reads::Row(_)) => Reply::Row(Err(Malformed::Truncated)),
    }))
}

/// The number in the line that begins a value, and that line's length with its end.
#[inline]
pub(super) fn number(bytes: &[u8]) -> Result<Option<(i64, usize)>, Broken> {
    /// Every length has fewer digits.
    const MOST: usize = 18;
    let digits = bytes.get(1..).unwrap_or_default();
    let (negative, digits) = match digits.first() {
        Some(b'-') => (true, &digits[1..]),
        _ => (false, digits),
    };
    let mut number = 0_i64;
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' if at < MOST => number = number * 10 + i64::from(byte - b'0'),
            b'\r' if at > 0 => {
                let head = 1 + usize::from(negative) + at;
                return ends(bytes, head)
                    .map(|whole| whole.map(|length| (if negative { -number } else { number }, length)));
            }
            _ => return Err(Broken("a length that is no number")),
        }
    }
    Ok(None)
}

/// The length with the line end that has to be there.
#[inline]
fn ends(bytes: &[u8], at: usize) -> Result<Option<usize>, Broken> {
    match bytes.get(at..at + 2) {
        Some(b"\r\n") => Ok(Some(at + 2)),
        Some(_) => Err(Broken("a value that does not end where it says")),
        None => Ok(None),
    }
}

/// A string of bytes (`None`: a null), and the length of all of it.
pub(super) type Bulk<'a> = (Option<&'a [u8]>, usize);

#[inline]
pub(super) fn bulk(bytes: &[u8]) -> Result<Option<Bulk<'_>>, Broken> {
    let Some((count, head)) = number(bytes)? else { return Ok(None) };
    let Ok(count) = usize::try_from(count) else { return Ok(Some((None, head))) };
    // Below 10^18 each, so that nothing overflows.
    let whole = ends(bytes, head + count)?;
    Ok(whole.map(|length| (Some(&bytes[head..head + count]), length)))
}

/// The length of the first value, whatever it is made of; `None`: some of it is still to come.
pub(super) fn extent(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    values(bytes, 0, 1)
}

/// The length of the attributes before a value, without it.
pub(super) fn attributes(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let Some((pairs, head)) = number(bytes)? else { return Ok(None) };
    values(bytes, head, u64::try_from(pairs).unwrap_or(0) * 2)
}

/// Where so many values end that begin at `at`. Counts what is inside of others, and so neither recurses nor keeps anything.
fn values(bytes: &[u8], mut at: usize, mut left: u64) -> Result<Option<usize>, Broken> {
    while left > 0 {
        let rest = &bytes[at..];
        let (length, inside) = match rest.first() {
            None => return Ok(None),
            Some(b'$' | b'!' | b'=') => (bulk(rest)?.map(|(_, length)| length), 0),
            Some(b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(') => (line(rest)?, 0),
            Some(kind @ (b'*' | b'~' | b'>' | b'%' | b'|')) => match number(rest)? {
                None => return Ok(None),
                Some((count, length)) => {
                    let count = u64::try_from(count).unwrap_or(0);
                    let inside = match kind {
                        b'%' => count * 2,
                        // And the value that has them.
                        b'|' => count * 2 + 1,
                        _ => count,
                    };
                    (Some(length), inside)
                }
            },
            Some(_) => return Err(Broken("an unknown type")),
        };
        let Some(length) = length else { return Ok(None) };
        at += length;
        left = (left - 1).checked_add(inside).ok_or(Broken("more values than there can be"))?;
    }
    Ok(Some(at))
}

/// The length of a line with its end.
fn line(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    match memchr::memchr(b'\r', bytes) {
        Some(end) => ends(bytes, end),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
