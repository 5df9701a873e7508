//! Compiles `proto/inference.proto` without a system `protoc`: messages, client, server, and the encoded descriptor set
//! that gRPC reflection answers from. Nothing is written outside `OUT_DIR`.

use std::{env, error::Error, fs, path::PathBuf};

/// The one file that the protocol is described in.
const PROTO: &str = "proto/inference.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).open_file(PROTO)?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("inference.descriptors"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // `Bytes` slices raw tensors from the message that brought them, where `Vec` would copy.
        .bytes(".inference")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
