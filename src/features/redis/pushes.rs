//! What a server says of its own accord: which keys were changed, on a connection that tracks them.
//!
//! Read where it lies and as it comes: a message names as many keys as were changed at once, which may be a million. Beside
//! them come the answers to what keeps the connection; whatever else is pushed is skipped.
//!
//! **Source:** Redis documentation, "Client-side caching in Redis"; Redis serialization protocol specification, RESP3.

use super::reply::{Broken, attributes, bulk, extent, number};

/// The kind of the messages that name keys.
const INVALIDATE: &[u8] = b"invalidate";

/// One thing that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// A key was changed, expired or was evicted.
    Changed(&'a [u8]),
    /// All keys were.
    Flushed,
    /// An answer: yes, or why not.
    Answer(Result<(), &'a [u8]>),
}

/// Takes what is said off what was read.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    /// Keys of a message that are still to come.
    left: u64,
}

/// What the first bytes say, if anything, and how many they are.
type Taken<'a> = (Option<Said<'a>>, usize);

impl Pushes {
    /// Reads the first thing of `bytes`; `None`: some of it is still to come.
    ///
    /// # Errors
    ///
    /// Bytes that no Redis says. Nothing that follows can be told apart.
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Taken<'a>>, Broken> {
        if self.left > 0 {
            let taken = key(bytes)?;
            self.left -= u64::from(taken.is_some());
            return Ok(taken);
        }
        match bytes.first() {
            Some(b'>') => self.message(bytes),
            Some(b'|') => Ok(attributes(bytes)?.map(|length| (None, length))),
            _ => Ok(extent(bytes)?.map(|length| (Some(Said::Answer(answer(&bytes[..length]))), length))),
        }
    }

    /// `>2`, the kind, and a list of keys or a null.
    fn message<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Taken<'a>>, Broken> {
        let Some((count, head)) = number(bytes)? else { return Ok(None) };
        let skipped = || Ok(extent(bytes)?.map(|length| (None, length)));
        if count != 2 || !matches!(bytes.get(head), None | Some(b'$')) {
            return skipped();
        }
        let Some((kind, length)) = (if head < bytes.len() { bulk(&bytes[head..])? } else { None }) else {
            return Ok(None);
        };
        if kind != Some(INVALIDATE) {
            return skipped();
        }
        let at = head + length;
        match bytes.get(at) {
            None => Ok(None),
            Some(b'*') => {
                let Some((keys, length)) = number(&bytes[at..])? else { return Ok(None) };
                match u64::try_from(keys) {
                    Ok(keys) => {
                        self.left = keys;
                        Ok(Some((None, at + length)))
                    }
                    Err(_) => Ok(Some((Some(Said::Flushed), at + length))),
                }
            }
            // A null, of whichever kind. Of anything else it is not known what it is about: of everything, then.
            Some(_) => Ok(extent(&bytes[at..])?.map(|length| (Some(Said::Flushed), at + length))),
        }
    }
}

fn key(bytes: &[u8]) -> Result<Option<Taken<'_>>, Broken> {
    match bytes.first() {
        Some(b'$') => Ok(bulk(bytes)?.map(|(key, length)| (key.map(Said::Changed), length))),
        _ => Ok(extent(bytes)?.map(|length| (None, length))),
    }
}

fn answer(bytes: &[u8]) -> Result<(), &[u8]> {
    match bytes {
        [b'-' | b'!', why @ ..] => Err(why.trim_ascii_end()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that `bytes` say, as text, when they come in pieces.
    fn said(bytes: &[u8], step: usize) -> Result<Vec<String>, Broken> {
        let (mut pushes, mut input, mut said) = (Pushes::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            input.extend_from_slice(piece);
            let mut at = 0;
            while let Some((one, length)) = pushes.take(&input[at..])? {
                said.extend(one.map(|one| match one {
                    Said::Changed(key) => String::from_utf8_lossy(key).into_owned(),
                    Said::Flushed => "(all)".to_owned(),
                    Said::Answer(answer) => format!("({:?})", answer.map_err(String::from_utf8_lossy)),
                }));
                at += length;
            }
            input.drain(..at);
        }
        Ok(said)
    }

    #[test]
    fn keys_are_told_one_by_one_wherever_the_bytes_are_cut() {
        let bytes = b"+OK\r\n>2\r\n$10\r\ninvalidate\r\n*2\r\n$3\r\na\r\n\r\n$0\r\n\r\n>3\r\n$7\r\nmessage\r\n+c\r\n*1\r\n:7\r\n\
            |1\r\n+ttl\r\n:1\r\n+PONG\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n>2\r\n$4\r\nelse\r\n*1\r\n$1\r\nx\r\n-NOPERM no\r\n\
            >2\r\n$10\r\ninvalidate\r\n*0\r\n>2\r\n$10\r\ninvalidate\r\n*-1\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nz\r\n\
            >2\r\n$10\r\ninvalidate\r\n*2\r\n:5\r\n$1\r\ny\r\n";
        let expected = ["(Ok(()))", "a\r\n", "", "(Ok(()))", "(all)", "(Err(\"NOPERM no\"))", "(all)", "y"];
        for step in 1..bytes.len() {
            assert_eq!(said(bytes, step).unwrap(), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn what_is_no_reply_ends_it() {
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b">2\r\n$10\r\ninvalidate\r\n*1\r\n?\r\n", b">x\r\n", b">2\r\n$-x\r\n"]
        {
            assert!(said(bytes, 64).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    const PARTS: &[&[u8]] = &[
        b">2\r\n",
        b"$10\r\ninvalidate\r\n",
        b"*2\r\n",
        b"$1\r\nk\r\n",
        b"_\r\n",
        b"+OK\r\n",
        b"-E\r\n",
        b"|1\r\n",
        b"*-1\r\n",
        b"\r\n",
        b">1\r\n",
        b"%1\r\n",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_alike_however_they_are_cut(
            parts in prop::collection::vec(prop::sample::select(PARTS), 0..20),
            step in 1_usize..20,
        ) {
            let bytes = parts.concat();
            let (whole, cut) = (said(&bytes, bytes.len().max(1)), said(&bytes, step));
            prop_assert_eq!(whole.is_err(), cut.is_err());
            if let (Ok(whole), Ok(cut)) = (whole, cut) {
                prop_assert_eq!(whole, cut);
            }
        }
    }
}
