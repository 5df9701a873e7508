//! The scanner and the wire code against parsers that others wrote.

use proptest::prelude::*;

use super::{
    json::{Scanner, unescape, utf8},
    scalar::Scalar,
    wire::{self, Cut, Fields, Wire},
};

#[test]
fn escapes() {
    assert_eq!(unescape(br#"\"\\\/\b\f\n\r\t\u00e9\ud83e\udd80x"#).unwrap(), "\"\\/\u{8}\u{c}\n\r\té🦀x");
    for lone in [&br"\ud800"[..], br"\ud800x", br"\ud800\n", br"\ud800\ud800", br"\udc00"] {
        assert_eq!(unescape(lone), None, "{}", lone.escape_ascii());
    }
}

#[test]
fn elements_are_counted_through_nesting() {
    let cases = [("[]", 0), ("[[],[]]", 0), ("[1, [2, [3]], {\"a\": [1, 2]}, \"x\", null]", 6), ("7", 1), ("{}", 1)];
    for (text, count) in cases {
        assert_eq!(Scanner::new(text.as_bytes()).value().unwrap(), count, "{text}");
    }
}

#[test]
fn varints() {
    for (value, length) in [(0, 1), (127, 1), (128, 2), (u64::from(u32::MAX), 5), (u64::MAX >> 1, 9), (u64::MAX, 10)] {
        let mut out = Vec::new();
        wire::put_varint(&mut out, value);
        assert_eq!((out.len(), wire::varint_length(value)), (length, length));
        assert_eq!(wire::varint(&out), Ok((value, length)));
        assert_eq!(wire::varint(&out[..length - 1]), Err(Cut::Short));
    }
    assert_eq!(wire::varint(&[0xff; 10]), Err(Cut::Long));
    assert_eq!(wire::varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2]), Err(Cut::Long));
}

#[test]
fn long_values_are_cut_in_messages() {
    let long = format!("{}é", "a".repeat(31));
    assert_eq!(Scalar::Text(long.as_str().into()).to_string(), format!("{:?}", "a".repeat(31)));
}

proptest! {
    #[test]
    fn strings_read_as_serde_json_wrote_them(text in any::<String>()) {
        let json = serde_json::to_string(&text).unwrap();
        utf8(json.as_bytes()).unwrap();
        prop_assert_eq!(Scanner::new(json.as_bytes()).value().unwrap(), 1);
        prop_assert_eq!(Scalar::json(json.as_bytes()), Scalar::Text(text.into()));
    }

    #[test]
    fn records_read_as_they_were_written(records in proptest::collection::vec((1u32..16, proptest::collection::vec(any::<u8>(), 0..200)), 0..8)) {
        let mut message = Vec::new();
        for (number, bytes) in &records {
            let before = message.len();
            wire::put_bytes(&mut message, *number, bytes);
            prop_assert_eq!(message.len() - before, wire::record_length(bytes.len()));
        }
        let mut fields = Fields::all(&message);
        for (number, bytes) in &records {
            let field = fields.next().unwrap().unwrap();
            let Wire::Bytes(span) = field.value else { panic!("length-delimited") };
            prop_assert_eq!((field.number, span.of(&message)), (*number, bytes.as_slice()));
        }
        prop_assert!(fields.next().unwrap().is_none());
    }
}
