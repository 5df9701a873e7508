//! The rows of a V1 body: each instance's members, and where they lie. Answers' predictions have the same form.

use super::{Span, Text, json::Scanner};
use crate::infer::Error;

/// The instances of a V1 body.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    /// The array.
    pub(crate) span: Span,
    /// Each one's members' positions in `members`; `None`: not an object.
    pub(crate) rows: Vec<Option<Span>>,
    /// The members of every instance that is an object, in order.
    pub(crate) members: Vec<Member>,
}

/// A member of a JSON object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) key: Text,
    /// Key, colon and value.
    pub(crate) span: Span,
    pub(crate) value: Span,
}

impl Instances {
    /// Reads an array, at its opening bracket.
    pub(crate) fn read(scanner: &mut Scanner<'_>) -> Result<Self, Error> {
        let mut read = Self::default();
        read.span = scanner.array(|scanner| {
            let instance = if scanner.peek() == Some(b'{') {
                let first = read.members.len();
                scanner.object(|scanner, key| {
                    let value = scanner.span()?;
                    read.members.push(Member { key, span: member_span(key, value), value });
                    Ok(())
                })?;
                Some(Span::new(first, read.members.len()))
            } else {
                scanner.value()?;
                None
            };
            read.rows.push(instance);
            Ok(())
        })?;
        Ok(read)
    }

    /// An instance's members; `None` where it is not an object.
    pub(crate) fn members(&self, row: usize) -> Option<&[Member]> {
        self.rows[row].map(|span| &self.members[span.range()])
    }

    /// The value of `key` in an instance.
    ///
    /// # Errors
    /// The key is there twice: which one the model would believe is anybody's guess.
    pub(crate) fn get(&self, body: &[u8], row: usize, key: &str) -> Result<Option<Span>, Error> {
        let mut found = None;
        for member in self.members(row).unwrap_or_default() {
            if member.key.is(body, key) && found.replace(member.value).is_some() {
                return Err(Error::invalid(format!("instance {row}: duplicate key {key:?}")));
            }
        }
        Ok(found)
    }
}

/// From the key's opening quote to the value's end.
pub(crate) const fn member_span(key: Text, value: Span) -> Span {
    Span::new(key.span.start() - 1, value.end())
}
