//! What the integration tests stand on: real servers as child processes, raw clients, and conditions awaited.
//!
//! Nothing here imitates a server that Weir talks to in production, but for one upstream (`hand`) whose connection a test
//! has to watch from inside. Nothing outlives the test binary (`process`), whatever ends it.

pub mod client;
pub mod feast;
pub mod grpc;
pub mod hand;
pub mod http1;
pub mod kserve;
pub mod metrics;
pub mod parts;
pub mod process;
pub mod redis;
pub mod seaweed;
pub mod triton;
pub mod vectors;
pub mod weir;

pub use feast::Feast;
pub use kserve::KServe;
pub use redis::{Redis, RedisCluster};
pub use seaweed::SeaweedFs;
pub use triton::Triton;
pub use weir::Weir;
