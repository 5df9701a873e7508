//! Every reply, whole and cut at every byte; and what is no reply.

use proptest::prelude::*;

use super::*;
use crate::infer::Value as Stored;

fn layout() -> Arc<Layout> {
    Arc::new(Layout::named("v", ["a", "b"].into_iter()))
}

/// Reads one reply of all the bytes.
fn read(bytes: &[u8], reads: &Reads) -> Result<Option<Reply>, Broken> {
    let mut input = BytesMut::from(bytes);
    let reply = Reader::default().next(&mut input, reads)?;
    assert!(reply.is_none() || input.is_empty(), "{reply:?} and {input:?}");
    Ok(reply)
}

fn read_row(text: &str) -> Result<Option<Reply>, Broken> {
    read(text.as_bytes(), &Reads::Row(layout()))
}

/// A reply that is a row, or is none.
fn row(text: &str) -> Result<Option<Row>, Malformed> {
    match read_row(text) {
        Ok(Some(Reply::Row(row))) => row,
        other => panic!("{text:?}: {other:?}"),
    }
}

/// `int64_val: 5`, `int64_val: 7`, a time of one second.
const WHOLE: &str = "*3\r\n$2\r\n\x20\x05\r\n$2\r\n\x20\x07\r\n$2\r\n\x08\x01\r\n";

fn whole() -> Row {
    Row::new(Some(1_000_000_000), [5, 7].map(|v| Some(Stored::Int64(v))).into())
}

#[test]
fn a_row_is_made_of_its_cells() {
    assert_eq!(row(WHOLE), Ok(Some(whole())));
    assert_eq!(row("*3\r\n$-1\r\n$-1\r\n$-1\r\n"), Ok(None), "nothing of the view");
    assert_eq!(row("*3\r\n_\r\n_\r\n_\r\n"), Ok(None), "the same in RESP3");
    let null = row("*3\r\n$0\r\n\r\n$-1\r\n$-1\r\n").unwrap().unwrap();
    assert_eq!(*null.values, [Some(Stored::Null), None]);
    assert_eq!(null.event_time, None);
}

#[test]
fn what_answers_nothing_is_skipped() {
    let asides = ">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+ttl\r\n:9\r\n";
    assert_eq!(row(&format!("{asides}{WHOLE}")), Ok(Some(whole())));
    let inside = WHOLE.replacen("$2", "|1\r\n+a\r\n#t\r\n$2", 2);
    assert_eq!(row(&inside), Ok(Some(whole())));
    let mut input = BytesMut::from(asides);
    assert_eq!((Reader::default().idle(&mut input), input.len()), (Ok(()), 0));
    for (part, ok) in [("", true), (">2\r\n+in", true), ("|1\r\n", true), ("+OK\r\n", false), ("x", false)] {
        assert_eq!(Reader::default().idle(&mut BytesMut::from(part)).is_ok(), ok, "{part:?}");
    }
}

#[test]
fn a_refusal_is_told_apart_from_a_row_and_from_a_value() {
    for reads in [Reads::Row(layout()), Reads::Value] {
        let wrong_type = b"-WRONGTYPE Operation against a key\r\n";
        let Ok(Some(Reply::Refusal(error))) = read(wrong_type, &reads) else { panic!("no refusal") };
        assert_eq!((error.code(), error.details()), ("WRONGTYPE", Some("Operation against a key")));
        assert!(matches!(read(b"!7\r\nERR bad\r\n", &reads), Ok(Some(Reply::Refusal(_)))));
    }
    let value = read(b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", &Reads::Value);
    let inner = Value::Array(vec![Value::BulkString(b"x".to_vec())]);
    let Ok(Some(Reply::Value(value))) = value else { panic!("{value:?}") };
    assert_eq!(value, Value::Array(vec![Value::Int(1), inner]));
}

#[test]
fn what_is_no_row_is_malformed_and_the_next_reply_is_read() {
    let few = "*2\r\n$-1\r\n$-1\r\n";
    let number = "*3\r\n$2\r\n\x20\u{1}\r\n$1\r\n\x20\r\n$-1\r\n";
    for (text, expected) in [
        (few, Err(Malformed::Truncated)),
        (number, Err(Malformed::Truncated)),
        ("*0\r\n", Err(Malformed::Truncated)),
        ("*-1\r\n", Err(Malformed::Truncated)),
        ("$-1\r\n", Err(Malformed::Truncated)),
        ("+OK\r\n", Err(Malformed::Truncated)),
        ("%1\r\n+a\r\n+b\r\n", Err(Malformed::Truncated)),
        ("*3\r\n$-1\r\n:1\r\n$-1\r\n", Err(Malformed::Cell)),
        ("*3\r\n$-1\r\n-ERR nested\r\n$-1\r\n", Err(Malformed::Cell)),
        ("*3\r\n*1\r\n-ERR nested\r\n$-1\r\n$-1\r\n", Err(Malformed::Cell)),
        ("*3\r\n$-1\r\n$-1\r\n+x\r\n", Err(Malformed::Cell)),
        ("*4\r\n$-1\r\n_\r\n$-1\r\n:1\r\n", Ok(None)),
        ("*4\r\n$-1\r\n$-1\r\n$-1\r\n$2\r\n\x20\x05\r\n", Ok(None)),
    ] {
        assert_eq!(row(text), expected, "{text:?}");
        let (mut reader, mut input) = (Reader::default(), BytesMut::from(format!("{text}{WHOLE}").as_bytes()));
        let mut next = || reader.next(&mut input, &Reads::Row(layout())).unwrap().unwrap();
        let (_, Reply::Row(second)) = (next(), next()) else { panic!("no second row after {text:?}") };
        assert_eq!(second, Ok(Some(whole())), "{text:?}");
    }
}

#[test]
fn where_a_reply_is_cut_changes_nothing() {
    let error = "-MOVED 1 h:1\r\n";
    let nested = "*2\r\n*1\r\n$3\r\nabc\r\n%1\r\n+k\r\n,1.5\r\n";
    let text = format!("{WHOLE}{nested}>1\r\n+x\r\n{error}|1\r\n+a\r\n+b\r\n:7\r\n{WHOLE}=5\r\ntxt:x\r\n");
    let at_once = read_any(text.as_bytes(), usize::MAX);
    assert_eq!(at_once.matches("event_time: Some(1000000000)").count(), 2, "{at_once}");
    for step in 1..text.len() {
        assert_eq!(read_any(text.as_bytes(), step), at_once, "in pieces of {step}");
    }
}

#[test]
fn a_part_of_a_reply_is_no_error_and_no_reply() {
    for text in [WHOLE, "*2\r\n$1\r\na\r\n:5\r\n", "-ERR x\r\n", "|1\r\n+a\r\n+b\r\n:1\r\n"] {
        for length in 0..text.len() {
            for reads in [Reads::Row(layout()), Reads::Value] {
                let part = &text.as_bytes()[..length];
                assert!(matches!(Reader::default().next(&mut BytesMut::from(part), &reads), Ok(None)), "{part:?}");
            }
        }
    }
}

#[test]
fn what_is_no_reply_is_an_error() {
    for text in [
        "*x\r\n",
        "*\r\n",
        "*-\r\n",
        "*1x\r\n",
        "*3\rx",
        "*3\r\n$2\r\nabc\r\n",
        "*3\r\n$2\r\nab\n\r",
        "*3\r\n$+2\r\nab\r\n",
        "*3\r\n$1234567890123456789\r\n",
        "*3\r\n?1\r\n",
        "HTTP/1.1 400 Bad Request\r\n",
        "$?\r\n",
        "+a\rb\r\n",
        "#x\r\n",
        ":one\r\n",
        "(1\r",
        "\0",
    ] {
        let cut = text == "(1\r";
        for reads in [Reads::Row(layout()), Reads::Value] {
            assert_eq!(read(text.as_bytes(), &reads).is_err(), !cut, "{text:?}");
        }
    }
    let deep = "*1\r\n".repeat(100_000) + ":1\r\n";
    assert!(read(deep.as_bytes(), &Reads::Value).is_err(), "deeper than the driver goes");
    let many = "*999999999999999999\r\n".repeat(30);
    assert!(read(many.as_bytes(), &Reads::Value).is_err(), "more than a u64 counts");
}

#[test]
fn a_length_alone_takes_no_memory() {
    for promise in ["*999999999999999999\r\n", "*3\r\n$999999999999999999\r\nab", "%999999999999999999\r\n"] {
        for reads in [Reads::Row(layout()), Reads::Value] {
            let (mut reader, mut input) = (Reader::default(), BytesMut::from(promise));
            assert!(matches!(reader.next(&mut input, &reads), Ok(None)), "{promise:?}");
            assert!(input.capacity() <= promise.len());
            assert!(reader.row.is_none_or(|row| row.cells.room() <= 2), "{promise:?}");
        }
    }
}

/// A reply as a server may give it.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let bulk = prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| {
        let mut reply = format!("${}\r\n", bytes.len()).into_bytes();
        reply.extend(bytes);
        reply.extend(b"\r\n");
        reply
    });
    let line =
        prop::sample::select(vec!["+OK\r\n", ":12\r\n", "$-1\r\n", "_\r\n", "-ERR no\r\n", "#t\r\n", ",1.5\r\n"]);
    let leaf = prop_oneof![4 => bulk, 1 => line.prop_map(|line| line.as_bytes().to_vec())];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop::collection::vec(inner, 0..5)
            .prop_map(|inner| [format!("*{}\r\n", inner.len()).into_bytes(), inner.concat()].concat())
    })
}

proptest! {
    #[test]
    fn any_replies_in_any_pieces(replies in prop::collection::vec(reply(), 1..6), step in 1..50_usize) {
        let bytes = replies.concat();
        let at_once = read_any(&bytes, usize::MAX);
        prop_assert_eq!(extents(&bytes), replies.len(), "{}", at_once);
        prop_assert_eq!(read_any(&bytes, step), at_once);
    }

    #[test]
    fn any_bytes_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..60), step in 1..20_usize) {
        prop_assert_eq!(read_any(&bytes, step), read_any(&bytes, usize::MAX));
    }

    #[test]
    fn replies_with_a_byte_changed(mut bytes in reply(), at in any::<prop::sample::Index>(), byte: u8, step in 1..20_usize) {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(read_any(&bytes, step), read_any(&bytes, usize::MAX));
    }
}

/// How many values the bytes are.
fn extents(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some(length)) = extent(bytes)
        && length > 0
    {
        bytes = &bytes[length..];
        count += 1;
    }
    count
}
