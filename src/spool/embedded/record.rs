//! An entry as the database has it: a protobuf message, so that another version can read it.

use bytes::Bytes;
use prost::Message as _;

use super::{
    super::{Entry, State, Unreadable, Why},
    book::Mark,
};

/// Numbers are never used again for something else.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    model: String,
    #[prost(string, tag = "4")]
    why: String,
    #[prost(bytes = "bytes", tag = "5")]
    digest: Bytes,
    #[prost(uint64, tag = "6")]
    received: u64,
    #[prost(uint64, tag = "7")]
    expires: u64,
    #[prost(uint32, tag = "8")]
    attempts: u32,
    #[prost(uint64, tag = "9")]
    claims: u64,
    #[prost(oneof = "Stood", tags = "10, 11, 12, 13")]
    state: Option<Stood>,
    #[prost(string, tag = "14")]
    word: String,
    #[prost(uint64, tag = "15")]
    bytes: u64,
    #[prost(bool, tag = "16")]
    once: bool,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Stood {
    #[prost(uint64, tag = "10")]
    Waiting(u64),
    #[prost(uint64, tag = "11")]
    Running(u64),
    #[prost(uint64, tag = "12")]
    Done(u64),
    #[prost(uint64, tag = "13")]
    Parked(u64),
}

/// Writes an entry down; its id is the database's key.
pub(super) fn encode(mark: Mark, entry: &Entry) -> Vec<u8> {
    let (state, word) = match &entry.state {
        State::Waiting { due } => (Stood::Waiting(*due), ""),
        State::Running { by, until } => (Stood::Running(*until), &**by),
        State::Done { at } => (Stood::Done(*at), ""),
        State::Parked { at, reason } => (Stood::Parked(*at), &**reason),
    };
    let record = Record {
        number: mark.number,
        bytes: mark.bytes,
        key: (*entry.key).into(),
        model: (*entry.model).into(),
        why: entry.why.name().into(),
        once: entry.once,
        digest: Bytes::copy_from_slice(&entry.digest.to_le_bytes()),
        received: entry.received,
        expires: entry.expires,
        attempts: entry.attempts,
        claims: entry.claims,
        state: Some(state),
        word: word.into(),
    };
    record.encode_to_vec()
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(id: &str, bytes: &[u8]) -> Result<(Mark, Entry), Unreadable> {
    let record = Record::decode(bytes).map_err(Unreadable::because)?;
    let digest = <[u8; 16]>::try_from(&record.digest[..]).map_err(Unreadable::because)?;
    let state = match record.state.ok_or_else(|| Unreadable::because("its state"))? {
        Stood::Waiting(due) => State::Waiting { due },
        Stood::Running(until) => State::Running { by: record.word.into(), until },
        Stood::Done(at) => State::Done { at },
        Stood::Parked(at) => State::Parked { at, reason: record.word.into() },
    };
    let entry = Entry {
        id: id.into(),
        key: record.key.into(),
        model: record.model.into(),
        why: Why::named(&record.why).ok_or_else(|| Unreadable::because("why it is kept"))?,
        once: record.once,
        digest: u128::from_le_bytes(digest),
        received: record.received,
        expires: record.expires,
        attempts: record.attempts,
        claims: record.claims,
        state,
    };
    Ok((Mark { number: record.number, bytes: record.bytes }, entry))
}
