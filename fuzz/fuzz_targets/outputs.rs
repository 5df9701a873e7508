//! Models' answers in every protocol: reading them never panics, and what was read can be written.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::infer::{
    Protocol,
    outputs::{RequestedOutputs, Head, read, write},
};

fuzz_target!(|data: &[u8]| {
    let Some((&length, body)) = data.split_first() else { return };
    let (body, asked) = (Bytes::copy_from_slice(body), RequestedOutputs::default());
    let head = Head { model: "m", version: None, asked: &asked };
    let binary = Some(usize::from(length));
    for (protocol, length) in
        [(Protocol::V1, None), (Protocol::V2Json, None), (Protocol::V2Binary, binary), (Protocol::Grpc, None)]
    {
        let Ok(outputs) = read(protocol, &body, length) else { continue };
        let written = write(Protocol::Grpc, &outputs, &head).expect("gRPC can say every value");
        assert_eq!(read(Protocol::Grpc, &written.body, None).expect("it was just written"), outputs);
        if let Ok(written) = write(Protocol::V2Json, &outputs, &head) {
            assert_eq!(read(Protocol::V2Json, &written.body, None).expect("it was just written"), outputs);
        }
    }
});
