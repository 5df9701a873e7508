//! Finding out how far replicas are behind: one task, four times in `max_lag`.
//!
//! ```text
//! tick ─► every master: INFO replication ─offset, history─► Progress ─► its replicas: INFO replication ─► AsOf
//! ```
//!
//! Offsets, and no key written by Weir: they need no write to anybody's database, tell of every master whatever slots it has, and
//! a replica's is that of the commands it has carried out. Whoever has reached what the master said has all that the master had
//! when it was asked (`resilience::lag`), whether anybody writes or not. A replica whose link is down, or that follows another
//! history, counts as unknown at once; one that does not answer, or whose master does not, grows old.
//!
//! Each server is asked again only when it has answered or [`PATIENCE`] is over: one that hangs holds up no other.
//!
//! **Source:** Redis 7.0, `replication.c` (`master_repl_offset`, `reploff`) and `INFO`.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use ::redis::Value;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{
    PATIENCE,
    cluster::Cluster,
    node::Role,
    replicas::{Member, Shard},
};
use crate::infer::WorkerId;

/// Questions in the time that a replica may be behind.
const LOOKS: u32 = 4;

/// A server that is asked.
struct Question {
    shard: Arc<Shard>,
    of: Arc<Member>,
    is_primary: bool,
}

/// What a server said of how far it is.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Master {
        history: String,
        offset: u64,
    },
    /// Its link is up.
    Replica {
        history: String,
        offset: u64,
    },
    /// Its link is down, or it is sent everything anew.
    Apart,
}

/// What became of a question: what was said, and when it was asked.
type Answer = (Question, Option<(Standing, Instant)>);

/// Keeps what is known of replicas current, over that worker's connections, until nobody has the cluster any more.
pub(super) async fn watch(cluster: Weak<Cluster>, worker: WorkerId, max_lag: Duration) {
    let mut ticks = interval(max_lag / LOOKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut asked, mut waiting) = (FuturesUnordered::<BoxFuture<'static, Answer>>::new(), HashSet::<Arc<str>>::new());
    loop {
        let next = tokio::select! {
            _ = ticks.tick() => {
                let Some(cluster) = cluster.upgrade() else { return };
                cluster.shards(worker).into_iter().map(Question::of_primary).collect()
            }
            Some((question, answer)) = asked.next(), if !asked.is_empty() => {
                waiting.remove(&question.of.address);
                question.take(answer)
            }
        };
        let Some(cluster) = cluster.upgrade() else { return };
        for question in next {
            if waiting.insert(Arc::clone(&question.of.address)) {
                asked.push(ask(Arc::clone(&cluster), worker, question).boxed());
            }
        }
    }
}

/// What the server says, and when it was asked.
async fn ask(cluster: Arc<Cluster>, worker: WorkerId, question: Question) -> Answer {
    let role = if question.is_primary { Role::Master } else { cluster.replicas_role() };
    let node = cluster.node(worker, &question.of.address, role);
    // A handshake is no part of the way there.
    node.connect().await;
    let began = Instant::now();
    let info = timeout(PATIENCE, node.ask(::redis::cmd("INFO").arg("replication").take())).await;
    let standing = info.ok().and_then(Result::ok).as_ref().and_then(read);
    if standing.is_some() {
        let now = Instant::now();
        question.of.distance.record(now - began, now);
    }
    (question, standing.map(|standing| (standing, began)))
}

impl Question {
    fn of_primary(shard: Arc<Shard>) -> Self {
        Self { of: Arc::clone(&shard.primary), shard, is_primary: true }
    }

    /// Takes the answer; whom to ask next.
    fn take(self, answer: Option<(Standing, Instant)>) -> Vec<Self> {
        let mut progress = self.shard.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            // Nothing was said: what is known grows old.
            None => return Vec::new(),
            Some((Standing::Master { history, offset }, asked)) if self.is_primary => {
                progress.note((&history, offset), asked);
                let of_replica =
                    |of: &Arc<Member>| Self { shard: Arc::clone(&self.shard), of: Arc::clone(of), is_primary: false };
                return self.shard.replicas.iter().map(of_replica).collect();
            }
            Some((Standing::Replica { history, offset }, _)) if !self.is_primary => {
                self.of.as_of.set(progress.as_of((&history, offset)));
            }
            // It is not what the map says.
            Some(_) if !self.is_primary => self.of.as_of.set(None),
            Some(_) => {}
        }
        Vec::new()
    }
}

/// What `INFO` says.
fn text(info: &Value) -> Option<&str> {
    match info {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Whether `INFO replication` is that of a replica which never had its master's rows whole: it has none, or an earlier master's.
pub(super) fn lacks_rows(info: &Value) -> bool {
    let Some(text) = text(info) else { return false };
    let field = |name| field(text, name).map(str::trim);
    // As it starts: Redis counts from 1.
    let has_begun =
        field("slave_repl_offset").and_then(|offset| offset.parse().ok()).is_none_or(|offset: i64| offset > 1);
    field("role") == Some("slave") && (!has_begun || field("master_sync_in_progress") == Some("1"))
}

/// Reads `INFO replication`; `None`: it says nothing of use.
fn read(info: &Value) -> Option<Standing> {
    let text = text(info)?;
    let field = |name: &str| field(text, name);
    let history = field("master_replid")?.to_owned();
    let number = |name| field(name)?.trim().parse().ok();
    Some(match field("role")? {
        "master" => Standing::Master { history, offset: number("master_repl_offset")? },
        _ if field("master_link_status") == Some("up") => {
            Standing::Replica { history, offset: number("slave_repl_offset")? }
        }
        _ => Standing::Apart,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_it_is_and_how_far() {
        let said = |text: &str| read(&Value::BulkString(text.replace('\n', "\r\n").into_bytes()));
        let of = "master_replid:abc\nmaster_repl_offset:70\n";
        let history = || "abc".to_owned();
        let replica = |link: &str| said(&format!("role:slave\nmaster_link_status:{link}\nslave_repl_offset:69\n{of}"));
        assert_eq!(said(&format!("# R\nrole:master\n{of}")), Some(Standing::Master { history: history(), offset: 70 }));
        assert_eq!(replica("up"), Some(Standing::Replica { history: history(), offset: 69 }));
        assert_eq!(replica("down"), Some(Standing::Apart));
        for nothing in ["", "role:master\n", "role:master\nmaster_replid:abc\nmaster_repl_offset:x\n"] {
            assert_eq!(said(nothing), None, "{nothing}");
        }
        assert_eq!(read(&Value::Nil), None);
    }

    #[test]
    fn a_replica_without_its_masters_rows_says_so() {
        let lacks = |text: &str| lacks_rows(&Value::BulkString(text.replace('\n', "\r\n").into_bytes()));
        assert!(lacks("role:slave\nmaster_link_status:down\nmaster_sync_in_progress:0\nslave_repl_offset:1\n"));
        assert!(lacks("role:slave\nmaster_link_status:down\nmaster_sync_in_progress:1\nslave_repl_offset:70\n"));
        assert!(!lacks("role:slave\nmaster_link_status:down\nmaster_sync_in_progress:0\nslave_repl_offset:70\n"));
        assert!(!lacks("role:master\nmaster_repl_offset:0\n"));
        assert!(!lacks_rows(&Value::Nil));
    }
}
