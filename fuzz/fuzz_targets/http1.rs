//! Answers of HTTP/1.1 servers: reading never panics, and comes to the same however they are cut.
#![no_main]

use bytes::BytesMut;
use http::Method;
use libfuzzer_sys::fuzz_target;
use weir::predict::http1::{Malformed, Progress, read_head};

/// The status, whether the connection stays open, the body, and how many bytes are left; `None` where more would have to come.
type Read = Option<(u16, bool, Vec<u8>, usize)>;

fn read(parts: [&[u8]; 2], verb: &Method) -> Result<Read, Malformed> {
    let (mut buffer, mut body, mut answer) = (BytesMut::new(), Vec::new(), None);
    for part in parts {
        buffer.extend_from_slice(part);
        if answer.is_none() {
            answer = read_head(&mut buffer, verb)?;
        }
        let Some(answer) = &mut answer else { continue };
        while let Progress::Data(data) = answer.framing.decode(&mut buffer)? {
            body.extend_from_slice(&data);
        }
    }
    let ended = answer.filter(|answer| answer.framing.is_end());
    Ok(ended.map(|answer| (answer.status.as_u16(), answer.persistent, body, buffer.len())))
}

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (at, asked_for_head, answer) = input;
    let verb = if asked_for_head { Method::HEAD } else { Method::POST };
    let (first, second) = answer.split_at((at as usize).min(answer.len()));
    let (whole, cut) = (read([answer, b""], &verb), read([first, second], &verb));
    // Where it is broken behind its end, one of them may not have come that far.
    if let (Ok(whole), Ok(cut)) = (whole, cut) {
        assert_eq!(whole, cut);
    }
});
