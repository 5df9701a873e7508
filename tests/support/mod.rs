//! What the integration tests stand on: real servers as child processes, raw clients, and conditions awaited.
//!
//! Nothing here imitates a server that Weir talks to in production, but for one upstream (`hand`) whose connection a test
//! has to watch from inside. Nothing outlives the test binary (`process`), whatever ends it.

pub(crate) mod client;
pub(crate) mod faulty;
pub(crate) mod faulty_model;
pub(crate) mod feast;
pub(crate) mod figures;
pub(crate) mod grpc;
pub(crate) mod hand;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod kserve;
pub(crate) mod lookup;
pub(crate) mod metrics;
pub(crate) mod mlflow;
pub(crate) mod parts;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod seaweed;
pub(crate) mod slow_line;
#[cfg(feature = "kafka")]
pub(crate) mod tansu;
pub(crate) mod triton;
pub(crate) mod vectors;
pub(crate) mod weir;

pub(crate) use feast::{Feast, FeastServer};
pub(crate) use figures::measured;
pub(crate) use kserve::KServe;
pub(crate) use redis::{Redis, RedisCluster};
pub(crate) use seaweed::SeaweedFs;
pub(crate) use slow_line::SlowLine;
pub(crate) use triton::Triton;
pub(crate) use weir::Weir;
