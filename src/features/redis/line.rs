//! One connection to a server, or the work of getting one.
//!
//! ```text
//! idle ──first use──► dialing ──ok──► live ──broken──► dialing
//!                        └──failed──► down ──(backoff, in the background)──► live
//! ```
//!
//! *Dialing* is worth waiting for, *down* is not: the last attempt failed and the next one is not due. A request that finds
//! the server down fails at once; the background goes on trying until the line is dropped or the process stops.
//!
//! A connection that breaks is replaced at once, for servers close idle ones. After two in a row that broke unanswered the
//! line is down: a server that takes connections and drops them is dialed no more often than one that takes none.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::redis::{Client, RedisError};
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    PATIENCE,
    channel::{Busy, Channel, Lost},
    command::{Batch, LONG},
    dial,
    guard::{Guard, News},
    node::{Role, Terms},
    reply::Reply,
};
use crate::{
    app::Tasks,
    features::l2::{Error, Sent},
};

/// The first wait after a failed attempt, doubled up to [`LONGEST_BACKOFF`], each ± 50 % so that gateways do not come at once.
const BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// A connection.
#[derive(Debug)]
pub(super) struct Line {
    address: Arc<str>,
    client: Client,
    tls: Option<Arc<ClientConfig>>,
    role: Role,
    link: watch::Sender<Link>,
    /// Cells that are asked for and not answered yet, whether anybody waits for them or not.
    under_way: Arc<AtomicUsize>,
    guard: Arc<Guard>,
    tasks: Tasks,
}

#[derive(Clone, Debug)]
enum Link {
    Idle,
    /// For the connection of that number.
    Dialing(u64),
    Live(Live),
    Down(Arc<str>),
}

#[derive(Clone, Debug)]
struct Live {
    channel: Channel,
    /// So that an old connection's failure does not end a new one.
    number: u64,
    /// Connections right before it that broke unanswered.
    unanswered: u32,
}

/// Connections in a row that may break unanswered before the next one has to wait.
const UNANSWERED: u32 = 1;

/// How good a line is to send on: the less the better, first by its state, then by what is under way on it. That counts in
/// [`LONG`] commands: short ones go over one line, for what is written and read together costs fewer system calls.
type Rank = (u8, usize);

impl Line {
    pub(super) fn new(client: Client, guard: &Arc<Guard>, terms: &Terms) -> Self {
        Self {
            address: client.get_connection_info().addr().to_string().into(),
            client,
            tls: terms.tls.clone(),
            role: terms.role,
            link: watch::Sender::new(Link::Idle),
            under_way: Arc::default(),
            guard: Arc::clone(guard),
            tasks: terms.tasks.clone(),
        }
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) const fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    /// How good it is now; one that was never dialed is from here on.
    pub(super) fn rank(self: &Arc<Self>) -> Rank {
        let state = match &*self.link.borrow() {
            Link::Live(live) if !live.channel.is_overdue() => Some(0),
            Link::Dialing(_) => Some(1),
            Link::Live(_) => Some(2),
            Link::Down(_) => Some(3),
            Link::Idle => None,
        };
        let state = state.unwrap_or_else(|| {
            self.begin(|link| matches!(link, Link::Idle));
            1
        });
        (state, self.under_way.load(Ordering::Relaxed) / LONG)
    }

    #[cfg(test)]
    pub(super) fn hold(&self, cells: usize) -> Busy {
        Busy::counted(&self.under_way, cells)
    }

    /// A request's time was up before its answer came: until one comes, other lines are better.
    pub(super) fn gave_up(&self) {
        if let Link::Live(live) = &*self.link.borrow() {
            live.channel.gave_up();
        }
    }

    /// The replies to a batch, refusals among them. Sent once more on a new connection if the one at hand turns out to be
    /// broken.
    pub(super) async fn send(self: &Arc<Self>, batch: &Batch) -> Result<Vec<Reply>, Error> {
        if let Ok(replies) = self.try_send(batch).await? {
            return Ok(replies);
        }
        match self.try_send(batch).await {
            Ok(Ok(replies)) => Ok(replies),
            Ok(Err(error)) => Err(self.unreachable(&error.to_string(), Sent::Perhaps)),
            Err(Error::Unreachable { why, .. }) => Err(self.unreachable(&why, Sent::Perhaps)),
            Err(error) => Err(error),
        }
    }

    async fn try_send(self: &Arc<Self>, batch: &Batch) -> Result<Result<Vec<Reply>, Lost>, Error> {
        let busy = Busy::counted(&self.under_way, batch.cells());
        let (channel, number) = self.connection().await?;
        let replies = channel.ask(batch.clone(), busy).await;
        Ok(replies.inspect_err(|error| self.lost(number, error)))
    }

    /// A live connection and its number, once there is one; an error as soon as there will not be one soon.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<(Channel, u64), Error> {
        if let Link::Live(live) = &*self.link.borrow() {
            return Ok((live.channel.clone(), live.number));
        }
        self.begin(|link| matches!(link, Link::Idle));
        let mut link = self.link.subscribe();
        let settled = link.wait_for(|link| matches!(link, Link::Live(..) | Link::Down(_))).await;
        match &*settled.expect("the line holds the sender") {
            Link::Live(live) => Ok((live.channel.clone(), live.number)),
            Link::Down(why) => Err(self.unreachable(why, Sent::Nothing)),
            Link::Idle | Link::Dialing(_) => unreachable!("waited for another state"),
        }
    }

    fn unreachable(&self, why: &str, sent: Sent) -> Error {
        Error::Unreachable { address: Arc::clone(&self.address), why: why.into(), sent }
    }

    /// The connection of that number broke.
    fn lost(self: &Arc<Self>, number: u64, error: &Lost) {
        if self.begin(|link| matches!(link, Link::Live(live) if live.number == number))
            && self.guard.is_news(News::Lost)
        {
            tracing::warn!(address = %self.address, %error, "connection to redis lost");
        }
    }

    /// Dials, if the link is as `when` says.
    fn begin(self: &Arc<Self>, when: impl Fn(&Link) -> bool) -> bool {
        let mut next = None;
        self.link.send_if_modified(|link| {
            if !when(link) {
                return false;
            }
            let (last, unanswered) = match link {
                Link::Live(live) if live.channel.has_answered() => (live.number, 0),
                Link::Live(live) => (live.number, live.unanswered.saturating_add(1)),
                _ => (0, 0),
            };
            let number = last + 1;
            next = Some(Dial { line: Arc::downgrade(self), number, unanswered });
            let wait = unanswered > UNANSWERED;
            *link = if wait { Link::Down("connections break unanswered".into()) } else { Link::Dialing(number) };
            true
        });
        let Some(dial) = next else { return false };
        self.tasks.background(dial.run());
        true
    }

    async fn connect(&self) -> Result<Channel, RedisError> {
        let connecting = async {
            let mut socket = dial::connect(&self.client, self.tls.as_ref()).await?;
            if self.role == Role::ClusterReplica {
                dial::accept_lag(&mut socket).await?;
            }
            Ok::<_, RedisError>(socket)
        };
        let late = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        let (channel, driver) = Channel::over(timeout(PATIENCE, connecting).await.unwrap_or_else(late)?);
        self.tasks.attend(driver);
        Ok(channel)
    }
}

/// The work of getting a line a connection. Dropped before that is done, it leaves the line down: nobody is to wait for it.
struct Dial {
    line: Weak<Line>,
    number: u64,
    /// Connections right before it that broke unanswered.
    unanswered: u32,
}

impl Dial {
    /// Connects, however often that takes; gives up when nobody holds the line any more.
    async fn run(self) {
        let waits = self.unanswered.saturating_sub(UNANSWERED);
        if waits > 0 {
            sleep(backoff(waits - 1, rand::random())).await;
        }
        for failures in 0.. {
            let Some(line) = self.line.upgrade() else { return };
            match line.connect().await {
                Ok(channel) => return self.done(&line, channel, failures),
                Err(error) => {
                    if failures == 0 && line.guard.is_news(News::Unreachable) {
                        tracing::warn!(address = %line.address, %error, "cannot connect to redis; trying on");
                    }
                    line.link.send_replace(Link::Down(error.to_string().into()));
                }
            }
            drop(line);
            sleep(backoff(waits.saturating_add(failures), rand::random())).await;
        }
    }

    fn done(&self, line: &Line, channel: Channel, failures: u32) {
        if line.guard.is_news(News::Connected) {
            tracing::info!(address = %line.address, "connected to redis");
        }
        line.link.send_replace(Link::Live(Live { channel, number: self.number, unanswered: self.unanswered }));
        // That says something only of a server that refused one before.
        if failures > 0 {
            line.guard.found_well();
        }
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        let Some(line) = self.line.upgrade() else { return };
        line.link.send_if_modified(|link| {
            let given_up = matches!(link, Link::Dialing(number) if *number == self.number);
            if given_up {
                *link = Link::Down("connecting was given up".into());
            }
            given_up
        });
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
