//! One Redis server as one worker sees it: a connection, or the work of getting one.
//!
//! ```text
//! idle ──first use──► dialing ──ok──► live ──broken──► dialing
//!                        └──failed──► down ──(backoff, in the background)──► live
//! ```
//!
//! *Dialing* is worth waiting for, *down* is not: the last attempt failed and the next one is not due. A request that finds
//! the server down fails at once; the background goes on trying until the node is dropped or the process stops.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError,
    Value, aio::MultiplexedConnection, io::tcp::socket2::TcpKeepalive,
};
use tokio::{sync::watch, time::sleep};

use super::PATIENCE;
use crate::{app::Tasks, features::l2::Error};

/// The first wait after a failed attempt, doubled up to [`LONGEST_BACKOFF`], each ± 50 % so that gateways do not come at once.
const BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// After this long without traffic the kernel asks whether the peer is still there.
const IDLE: Duration = Duration::from_secs(15);

/// A server.
#[derive(Debug)]
pub(super) struct Node {
    address: Arc<str>,
    client: Client,
    timeout: Duration,
    link: watch::Sender<Link>,
    tasks: Tasks,
}

#[derive(Clone, Debug)]
enum Link {
    Idle,
    Dialing,
    /// With its number, so that an old connection's failure does not end a new one.
    Live(MultiplexedConnection, u64),
    Down(Arc<str>),
}

/// A client of the server at a URL, its socket set up for requests.
pub(super) fn client(url: &str) -> Result<Client, RedisError> {
    open(url.into_connection_info()?)
}

/// A client of the server at `host:port`, with the secrets and the encryption of another.
pub(super) fn at(other: &Client, address: &str) -> Client {
    let info = other.get_connection_info();
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let (host, port) = (host.to_owned(), port.parse().unwrap_or(6379));
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    Client::open(info.clone().set_addr(addr)).expect("nothing is parsed")
}

fn open(info: ConnectionInfo) -> Result<Client, RedisError> {
    // A peer that vanished without a word: an idle connection finds out by itself, one in use by its unanswered bytes, and
    // not after the kernel's quarter of an hour.
    let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(PATIENCE);
    let settings = info.tcp_settings().clone().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(PATIENCE * 2);
    Client::open(info.set_tcp_settings(settings))
}

impl Node {
    pub(super) fn new(client: Client, timeout: Duration, tasks: Tasks) -> Self {
        let address = client.get_connection_info().addr().to_string().into();
        Self { address, client, timeout, link: watch::Sender::new(Link::Idle), tasks }
    }

    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The answers to the commands, in one round trip. Waits without bound: the caller sets the time.
    pub(super) async fn send_all(
        self: &Arc<Self>,
        commands: impl ExactSizeIterator<Item = Cmd>,
    ) -> Vec<Result<Value, Error>> {
        let count = commands.len();
        let mut pipeline = Pipeline::with_capacity(count);
        for command in commands {
            pipeline.add_command(command);
        }
        match self.send(&pipeline).await {
            Ok(values) => values.into_iter().map(|value| self.answer(value)).collect(),
            Err(error) => vec![Err(error); count],
        }
    }

    /// The raw answers to a pipeline, server errors among them. Sent once more on a new connection if the one at hand
    /// turns out to be broken.
    pub(super) async fn send(self: &Arc<Self>, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let (mut connection, number) = self.connection().await?;
        match connection.send_packed_commands(pipeline, 0, pipeline.len()).await {
            Ok(values) => return Ok(values),
            Err(error) => self.lost(number, &error),
        }
        let (mut connection, number) = self.connection().await?;
        connection.send_packed_commands(pipeline, 0, pipeline.len()).await.map_err(|error| {
            self.lost(number, &error);
            self.unreachable(&error.to_string())
        })
    }

    pub(super) async fn ping(self: &Arc<Self>) -> Result<(), Error> {
        let answer = self.send_all([::redis::cmd("PING")].into_iter()).await.pop();
        answer.expect("as many answers as commands").map(drop)
    }

    /// A live connection and its number, once there is one; an error as soon as there will not be one soon.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<(MultiplexedConnection, u64), Error> {
        if let Link::Live(connection, number) = &*self.link.borrow() {
            return Ok((connection.clone(), *number));
        }
        self.begin(|link| matches!(link, Link::Idle));
        let mut link = self.link.subscribe();
        let settled = link.wait_for(|link| matches!(link, Link::Live(..) | Link::Down(_))).await;
        match &*settled.expect("the node holds the sender") {
            Link::Live(connection, number) => Ok((connection.clone(), *number)),
            Link::Down(why) => Err(self.unreachable(why)),
            Link::Idle | Link::Dialing => unreachable!("waited for another state"),
        }
    }

    /// What the server said, a refusal told apart.
    pub(super) fn answer(&self, value: Value) -> Result<Value, Error> {
        match value {
            Value::ServerError(error) => {
                let why = [error.code(), error.details().unwrap_or_default()].join(" ").into();
                Err(Error::Refused { address: Arc::clone(&self.address), why })
            }
            value => Ok(value),
        }
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::Unreachable { address: Arc::clone(&self.address), why: why.into() }
    }

    /// The connection of that number broke.
    fn lost(self: &Arc<Self>, number: u64, error: &RedisError) {
        if self.begin(|link| matches!(link, Link::Live(_, live) if *live == number)) {
            tracing::warn!(address = %self.address, %error, "connection to redis lost");
        }
    }

    /// Dials, if the link is as `when` says.
    fn begin(self: &Arc<Self>, when: impl Fn(&Link) -> bool) -> bool {
        let mut last = 0;
        let begun = self.link.send_if_modified(|link| {
            let begin = when(link);
            if begin {
                last = if let Link::Live(_, number) = link { *number } else { 0 };
                *link = Link::Dialing;
            }
            begin
        });
        if begun {
            self.tasks.background(dial(Arc::downgrade(self), last + 1));
        }
        begun
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            // A backstop: every caller gives up earlier.
            .set_response_timeout(Some(self.timeout + PATIENCE));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// Connects, however often that takes; gives up when nobody holds the node any more.
async fn dial(node: Weak<Node>, number: u64) {
    for failures in 0.. {
        let Some(node) = node.upgrade() else { return };
        match node.connect().await {
            Ok(connection) => {
                tracing::info!(address = %node.address, "connected to redis");
                node.link.send_replace(Link::Live(connection, number));
                return;
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(address = %node.address, %error, "cannot connect to redis; trying on");
                }
                node.link.send_replace(Link::Down(error.to_string().into()));
            }
        }
        drop(node);
        sleep(backoff(failures, rand::random())).await;
    }
}

/// The wait after that many failures before; `luck` is in 0..1.
pub(super) fn backoff(failures: u32, luck: f64) -> Duration {
    let base = BACKOFF.saturating_mul(1 << failures.min(16)).min(LONGEST_BACKOFF);
    base.mul_f64(0.5 + luck)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_spread() {
        assert_eq!(backoff(0, 0.5), BACKOFF);
        assert_eq!(backoff(2, 0.5), 4 * BACKOFF);
        assert_eq!(backoff(2, 0.0), 2 * BACKOFF);
        assert_eq!(backoff(u32::MAX, 0.5), LONGEST_BACKOFF);
    }
}
