//! An entry out of its hash.

use std::{collections::HashMap, sync::Arc};

use ::redis::{FromRedisValue, Value};

use super::super::{Entry, Error, Standing, State, Why};

/// What a listing asks for, in the script's order.
const META: [&str; 15] = [
    "key", "model", "why", "digest", "received", "expires", "attempts", "claims", "state", "due", "by", "until", "at",
    "reason", "once",
];

/// A hash's fields.
pub(super) struct Fields(HashMap<String, Vec<u8>>);

impl FromIterator<(String, Vec<u8>)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl Fields {
    /// Those of a listing, in [`META`]'s order.
    pub(super) fn of_meta(values: Vec<Value>) -> Result<Self, Error> {
        let fields = META.into_iter().zip(values).filter(|(_, value)| *value != Value::Nil);
        let fields = fields.map(|(name, value)| {
            let value = Vec::<u8>::from_redis_value(value).map_err(|error| damaged(name, error))?;
            Ok((name.to_owned(), value))
        });
        fields.collect()
    }

    pub(super) fn take(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        self.0.remove(name).ok_or_else(|| damaged(name, "missing"))
    }

    fn text(&mut self, name: &str) -> Result<Arc<str>, Error> {
        let text = String::from_utf8(self.take(name)?).map_err(|error| damaged(name, error))?;
        Ok(text.into())
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<T, Error> {
        let text = self.text(name)?;
        text.parse().map_err(|_| damaged(name, format!("{text:?}")))
    }

    pub(super) fn entry(mut self, id: &str) -> Result<Entry, Error> {
        let standing = self.text("state")?;
        let state = match Standing::named(&standing) {
            Some(Standing::Waiting) => State::Waiting { due: self.number("due")? },
            Some(Standing::Running) => State::Running { by: self.text("by")?, until: self.number("until")? },
            Some(Standing::Done) => State::Done { at: self.number("at")? },
            Some(Standing::Parked) => State::Parked { at: self.number("at")?, reason: self.text("reason")? },
            None => return Err(damaged("state", standing)),
        };
        let (why, digest) = (self.text("why")?, self.text("digest")?);
        Ok(Entry {
            id: id.into(),
            key: self.text("key")?,
            model: self.text("model")?,
            why: Why::named(&why).ok_or_else(|| damaged("why", why))?,
            once: self.take("once").is_ok_and(|once| once == b"1"),
            digest: u128::from_str_radix(&digest, 16).map_err(|error| damaged("digest", error))?,
            received: self.number("received")?,
            expires: self.number("expires")?,
            attempts: self.number("attempts")?,
            claims: self.number("claims")?,
            state,
        })
    }
}

fn damaged(field: &str, why: impl std::fmt::Display) -> Error {
    Error::Damaged(format!("field {field}: {why}").into())
}
