//! A JSON scanner: checks every byte against RFC 8259 and hands out where things lie, building nothing.
//!
//! The text must be UTF-8 already ([`utf8`]). Faults are named with line, column and byte. Nesting is bounded, so that the
//! recursion is too. It does not look for duplicate keys: whoever reads an object does.

use super::{Span, Text};
use crate::infer::Error;

/// How deep arrays and objects may nest.
const DEPTH: u32 = 128;

/// A reader over JSON text.
#[derive(Clone, Copy)]
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What is wrong, and where; small, so that the hot path returns it in registers.
struct Fault {
    at: usize,
    what: &'static str,
}

type Checked<T> = Result<T, Fault>;

/// Checks that the text is UTF-8.
///
/// # Errors
/// Names the first byte that is not.
pub(crate) fn utf8(bytes: &[u8]) -> Result<(), Error> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(malformed(bytes, error.valid_up_to(), "not valid UTF-8")),
    }
}

#[cold]
fn malformed(bytes: &[u8], at: usize, what: &str) -> Error {
    let before = &bytes[..at.min(bytes.len())];
    let line = 1 + memchr::memchr_iter(b'\n', before).count();
    let column = 1 + before.len() - memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    Error::invalid(format!("malformed JSON at line {line} column {column} (byte {at}): {what}"))
}

/// Which bytes a string may hold as they are.
static PLAIN: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = false;
        byte += 1;
    }
    table[b'"' as usize] = false;
    table[b'\\' as usize] = false;
    table
};

impl<'a> Scanner<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// The next byte, without taking it.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Takes one byte that was peeked at.
    pub(crate) const fn bump(&mut self) {
        self.at += 1;
    }

    /// Passes white space.
    pub(crate) fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// A fault at the scanner's place.
    pub(crate) fn fault(&self, what: &str) -> Error {
        malformed(self.bytes, self.at, what)
    }

    fn told<T>(&self, checked: Checked<T>) -> Result<T, Error> {
        checked.map_err(|fault| malformed(self.bytes, fault.at, fault.what))
    }

    /// Passes one value; returns how many elements it holds, counted through nested arrays (a scalar or an object is one).
    pub(crate) fn value(&mut self) -> Result<usize, Error> {
        let checked = self.any(0);
        self.told(checked)
    }

    /// Passes one value; returns where it lies.
    pub(crate) fn span(&mut self) -> Result<Span, Error> {
        let start = self.at;
        self.value()?;
        Ok(Span::new(start, self.at))
    }

    /// Passes one string, else fails saying `what` must be one.
    pub(crate) fn text(&mut self, what: &str) -> Result<Text, Error> {
        if self.peek() != Some(b'"') {
            self.value()?;
            return Err(Error::invalid(format!("{what} must be a string")));
        }
        let checked = self.string();
        let text = self.told(checked)?;
        if text.escaped && unescape(text.span.of(self.bytes)).is_none() {
            return Err(malformed(self.bytes, text.span.start(), "a lone surrogate in a string"));
        }
        Ok(text)
    }

    /// Walks an object's members: `visit` takes the scanner at the value and passes it.
    pub(crate) fn object(
        &mut self,
        mut visit: impl FnMut(&mut Self, Text) -> Result<(), Error>,
    ) -> Result<Span, Error> {
        let start = self.at;
        self.bump();
        self.space();
        if self.peek() == Some(b'}') {
            self.bump();
            return Ok(Span::new(start, self.at));
        }
        loop {
            let key = self.key();
            let key = self.told(key)?;
            visit(self, key)?;
            let end = self.more(b'}', "expected ',' or '}'");
            if !self.told(end)? {
                return Ok(Span::new(start, self.at));
            }
        }
    }

    /// Walks an array's elements: `visit` takes the scanner at each and passes it.
    pub(crate) fn array(&mut self, mut visit: impl FnMut(&mut Self) -> Result<(), Error>) -> Result<Span, Error> {
        let start = self.at;
        self.bump();
        self.space();
        if self.peek() == Some(b']') {
            self.bump();
            return Ok(Span::new(start, self.at));
        }
        loop {
            visit(self)?;
            let end = self.more(b']', "expected ',' or ']'");
            if !self.told(end)? {
                return Ok(Span::new(start, self.at));
            }
        }
    }

    /// Checks that nothing follows.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        self.space();
        if self.at < self.bytes.len() { Err(self.fault("something follows the JSON value")) } else { Ok(()) }
    }

    fn key(&mut self) -> Checked<Text> {
        if self.peek() != Some(b'"') {
            return Err(self.here("expected a key in double quotes"));
        }
        let key = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.here("expected ':'"));
        }
        self.bump();
        self.space();
        Ok(key)
    }

    /// After an element: `true` at a comma (passed, with the space after it), `false` at the closing byte (passed).
    fn more(&mut self, close: u8, what: &'static str) -> Checked<bool> {
        self.space();
        let byte = self.peek();
        if byte == Some(b',') {
            self.bump();
            self.space();
            Ok(true)
        } else if byte == Some(close) {
            self.bump();
            Ok(false)
        } else {
            Err(self.here(if byte.is_none() { "the text ends too soon" } else { what }))
        }
    }

    const fn here(&self, what: &'static str) -> Fault {
        Fault { at: self.at, what }
    }

    fn any(&mut self, depth: u32) -> Checked<usize> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'"') => self.string().map(|_| 1),
            Some(b'[') => self.elements(depth),
            Some(b'{') => self.members(depth),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.no_value()),
        }
    }

    fn elements(&mut self, depth: u32) -> Checked<usize> {
        self.nest(depth)?;
        if self.peek() == Some(b']') {
            self.bump();
            return Ok(0);
        }
        let mut count = 0;
        loop {
            count += self.any(depth + 1)?;
            if !self.more(b']', "expected ',' or ']'")? {
                return Ok(count);
            }
        }
    }

    fn members(&mut self, depth: u32) -> Checked<usize> {
        self.nest(depth)?;
        if self.peek() == Some(b'}') {
            self.bump();
            return Ok(1);
        }
        loop {
            self.key()?;
            self.any(depth + 1)?;
            if !self.more(b'}', "expected ',' or '}'")? {
                return Ok(1);
            }
        }
    }

    fn nest(&mut self, depth: u32) -> Checked<()> {
        if depth >= DEPTH {
            return Err(self.here("nested more than 128 deep"));
        }
        self.bump();
        self.space();
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Checked<usize> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.here("expected a value"));
        }
        self.at += word.len();
        Ok(1)
    }

    #[cold]
    fn no_value(&self) -> Fault {
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let what = if rest.is_empty() {
            "the text ends too soon"
        } else if rest.starts_with(b"NaN") {
            "NaN is not JSON; allowed: finite numbers"
        } else if rest.starts_with(b"Inf") {
            "Infinity is not JSON; allowed: finite numbers"
        } else {
            "expected a value"
        };
        self.here(what)
    }

    fn number(&mut self) -> Checked<usize> {
        if self.peek() == Some(b'-') {
            self.bump();
            if self.peek() == Some(b'I') {
                return Err(Fault { at: self.at - 1, what: "-Infinity is not JSON; allowed: finite numbers" });
            }
        }
        if self.peek() == Some(b'0') {
            self.bump();
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err(self.here("a number may not begin with 0"));
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.bump();
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.bump();
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.bump();
            }
            self.digits()?;
        }
        Ok(1)
    }

    fn digits(&mut self) -> Checked<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.here("expected a digit")) } else { Ok(()) }
    }

    fn string(&mut self) -> Checked<Text> {
        self.bump();
        let start = self.at;
        let mut escaped = false;
        loop {
            while self.bytes.get(self.at).is_some_and(|&byte| PLAIN[byte as usize]) {
                self.at += 1;
            }
            match self.peek() {
                Some(b'"') => {
                    let span = Span::new(start, self.at);
                    self.bump();
                    return Ok(Text { span, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.here("a control character in a string must be escaped")),
                None => return Err(self.here("the text ends inside a string")),
            }
        }
    }

    fn escape(&mut self) -> Checked<()> {
        self.bump();
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.bump();
                Ok(())
            }
            Some(b'u') => {
                self.bump();
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.here("expected four hexadecimal digits after \\u"));
                    }
                    self.bump();
                }
                Ok(())
            }
            _ => Err(self.here("unknown escape in a string")),
        }
    }
}

/// What a checked string's inside says; `None` where it holds a lone surrogate.
pub(crate) fn unescape(raw: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(skip) = memchr::memchr(b'\\', &raw[at..]) {
        out.extend_from_slice(&raw[at..at + skip]);
        at += skip + 2;
        let plain = match raw.get(at - 1)? {
            b'b' => b'\x08',
            b'f' => b'\x0c',
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut buffer = [0; 4];
                let character = surrogates(raw, &mut at)?;
                out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
                continue;
            }
            &byte => byte,
        };
        out.push(plain);
    }
    out.extend_from_slice(&raw[at..]);
    String::from_utf8(out).ok()
}

/// The character at `at`, just after `\u`, of one escape or a surrogate pair.
fn surrogates(raw: &[u8], at: &mut usize) -> Option<char> {
    let first = hex(raw, at)?;
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(first);
    }
    if raw.get(*at..*at + 2)? != b"\\u" {
        return None;
    }
    *at += 2;
    let second = hex(raw, at)?;
    if !(0xDC00..0xE000).contains(&second) {
        return None;
    }
    char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
}

fn hex(raw: &[u8], at: &mut usize) -> Option<u32> {
    let digits = std::str::from_utf8(raw.get(*at..*at + 4)?).ok()?;
    *at += 4;
    u32::from_str_radix(digits, 16).ok()
}
