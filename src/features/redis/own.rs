//! What Weir keeps in Redis beside Feast's rows, under names that no row has.
//!
//! Feast's keys begin with the number of their join keys in four bytes; `weir` read as one is some two thousand million. Neither
//! do they end as one of Feast's projects does, which is how Feast finds what it deletes.

use std::time::Duration;

use ::redis::{Cmd, Value, cmd};
use tokio::time::Instant;

use super::{PATIENCE, Redis, command::Commands, reply::Reply};
use crate::features::l2::Error;

impl Redis {
    /// What is kept under a name for the project.
    pub(crate) async fn read_own(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let key = self.own(name);
        let mut get = cmd("GET");
        get.arg(&key);
        match self.run_own(get, 1).await? {
            Value::BulkString(bytes) => Ok(Some(bytes)),
            _ => Ok(None),
        }
    }

    /// Keeps something under a name for the project, in place of what was there, for as long as `ttl` says.
    pub(crate) async fn write_own(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let key = self.own(name);
        let life = u64::try_from(self.ttl.max(Duration::from_millis(1)).as_millis()).unwrap_or(u64::MAX);
        let mut set = cmd("SET");
        set.arg(&key).arg(bytes).arg("PX").arg(life);
        self.run_own(set, 1).await.map(drop)
    }

    pub(super) fn own(&self, name: &str) -> String {
        format!("weir:{}:{name}", self.project)
    }

    /// On the connections of the control thread, with more time than a request has. The key is the argument at `key_at`.
    pub(super) async fn run_own(&self, cmd: Cmd, key_at: usize) -> Result<Value, Error> {
        let mut commands = Commands::default();
        commands.add(&cmd, key_at);
        let deadline = Instant::now() + PATIENCE;
        let mut answers = self.active().run(self.control, commands, deadline).await;
        match answers.pop().unwrap_or(Err(Error::TimedOut(PATIENCE)))? {
            Reply::Value(value) => Ok(value),
            Reply::Row(_) | Reply::Refusal(_) => unreachable!("it is read as a value, and a refusal is an error"),
        }
    }
}
