//! One Redis server as one worker sees it: the worker's connections to it, behind the guard that all workers share.

use std::{sync::Arc, time::Duration};

use ::redis::{Client, Cmd, Value};
use futures_util::future::join_all;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};

use super::{
    command::Batch,
    guard::{Guard, Guards},
    line::Line,
    reply::Reply,
};
use crate::{app::Tasks, features::l2::Error};

/// How servers are asked: the same for all of a store's.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// Longest wait for one round trip.
    pub(super) timeout: Duration,
    /// Of a worker to one server.
    pub(super) connections: usize,
    pub(super) guards: Arc<Guards>,
    /// Of encrypted connections.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) role: Role,
    pub(super) tasks: Tasks,
}

/// What a server is asked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// What has the rows.
    Master,
    /// A copy of what another has.
    Replica,
    /// The same in a cluster, where a connection has to say that it may be behind.
    ClusterReplica,
}

/// A server.
#[derive(Debug)]
pub(super) struct Node {
    address: Arc<str>,
    timeout: Duration,
    guard: Arc<Guard>,
    /// At least one.
    lines: Box<[Arc<Line>]>,
}

impl Node {
    pub(super) fn new(client: &Client, terms: &Terms) -> Self {
        let address = client.get_connection_info().addr().to_string().into();
        let guard = terms.guards.of(&address);
        let line = |_| Arc::new(Line::new(client.clone(), &guard, terms));
        let lines = (0..terms.connections.max(1)).map(line).collect();
        Self { address, timeout: terms.timeout, guard, lines }
    }

    /// How it is connected to.
    pub(super) fn client(&self) -> Client {
        self.lines[0].client().clone()
    }

    pub(super) fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.lines[0].tls()
    }

    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The replies to a batch, refusals among them: by `deadline`, and if the server is admitted to. What comes of it is the
    /// guard's to know.
    pub(super) async fn request(&self, batch: &Batch, deadline: Instant) -> Result<Vec<Reply>, Error> {
        let pass = self.guard.admit()?;
        let had = deadline.saturating_duration_since(Instant::now());
        let line = self.line();
        let answered = timeout_at(deadline, line.send(batch)).await;
        let answers = answered.unwrap_or_else(|_| {
            line.gave_up();
            Err(Error::TimedOut(self.timeout))
        });
        // One that was left hardly any time is not to blame that it ran out: others used it.
        if !(matches!(answers, Err(Error::TimedOut(_))) && had < self.timeout / 2) {
            pass.record(&answers);
        }
        answers
    }

    /// The answers to a batch, in one round trip: a request.
    pub(super) async fn request_all(&self, batch: &Batch, deadline: Instant) -> Vec<Result<Reply, Error>> {
        match self.request(batch, deadline).await {
            Ok(replies) => replies.into_iter().map(|reply| self.answer(reply)).collect(),
            Err(error) => vec![error; batch.len()].into_iter().map(Err).collect(),
        }
    }

    /// The answer to a question that is no request: around the guard, and without bound, so that the caller sets the time.
    pub(super) async fn ask(&self, command: Cmd) -> Result<Value, Error> {
        let reply = self.line().send(&Batch::of(&command)).await?.pop();
        match self.answer(reply.expect("as many replies as commands"))? {
            Reply::Value(value) => Ok(value),
            Reply::Row(_) | Reply::Refusal(_) => unreachable!("a batch of one is read as a value"),
        }
    }

    /// Whether its breaker would let a request through now.
    pub(super) fn would_admit(&self) -> bool {
        self.guard.would_admit()
    }

    /// Whether its breaker refuses every request now.
    pub(super) fn refuses(&self, now: Instant) -> bool {
        self.guard.refuses(now)
    }

    /// Has its breaker, where it is open, let a request through and learn from it.
    pub(super) async fn mend(&self) {
        if !self.guard.is_closed() {
            self.guard.found_well();
            // What comes of it is the guard's to know.
            let _ = self.request(&Batch::of(&::redis::cmd("PING")), Instant::now() + self.timeout).await;
        }
    }

    pub(super) async fn ping(&self) -> Result<(), Error> {
        self.ask(::redis::cmd("PING")).await.map(drop)
    }

    /// Waits until every connection is there, or will not be soon.
    pub(super) async fn connect(&self) {
        join_all(self.lines.iter().map(|line| line.connection())).await;
    }

    /// What the server said, a refusal told apart.
    pub(super) fn answer(&self, reply: Reply) -> Result<Reply, Error> {
        told(&self.address, reply)
    }

    /// The connection to send on: one that is there and answers, and of those the first that is not busy with much, so that
    /// small requests go together and a large one holds up as few others as may be.
    fn line(&self) -> &Arc<Line> {
        self.lines.iter().min_by_key(|line| line.rank()).expect("a node has a line")
    }
}

/// What the server at an address said, a refusal told apart.
pub(super) fn told(address: &Arc<str>, reply: Reply) -> Result<Reply, Error> {
    match reply {
        Reply::Refusal(error) => {
            let why = [error.code(), error.details().unwrap_or_default()].join(" ").into();
            Err(Error::Refused { address: Arc::clone(address), why })
        }
        reply => Ok(reply),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::features::{
        l2::Sent,
        redis::command::{Commands, Reading},
        tests::{breaker, view},
    };

    const TIMEOUT: Duration = Duration::from_millis(20);

    /// A server that takes connections and says nothing, and what asks it.
    async fn asked(tasks: Tasks) -> (TcpListener, Node) {
        asked_over(1, tasks).await
    }

    async fn asked_over(connections: usize, tasks: Tasks) -> (TcpListener, Node) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::open(format!("redis://{}", listener.local_addr().unwrap())).unwrap();
        let guards = Arc::new(Guards::new(&breaker(), 8));
        let node =
            Node::new(&client, &Terms { timeout: TIMEOUT, connections, guards, tls: None, role: Role::Master, tasks });
        (listener, node)
    }

    fn ping() -> Batch {
        Batch::of(&::redis::cmd("PING"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_left_hardly_any_time_is_not_blamed() {
        // Nobody answers there: every request ends at its deadline.
        let (_silent, node) = asked(Tasks::default()).await;
        let threshold = breaker().failure_threshold;
        let ask = async |left: Duration| node.request(&ping(), Instant::now() + left).await;
        for _ in 0..3 * threshold {
            assert!(matches!(ask(TIMEOUT / 2 - Duration::from_millis(1)).await, Err(Error::TimedOut(TIMEOUT))));
            assert!(node.would_admit(), "others used its time");
        }
        for _ in 0..threshold {
            assert!(node.would_admit(), "not before its failures are as many as open it");
            assert!(matches!(ask(TIMEOUT / 2).await, Err(Error::TimedOut(TIMEOUT))));
        }
        assert!(!node.would_admit(), "half of it is enough to be blamed");
        assert!(matches!(ask(TIMEOUT).await, Err(Error::Open { .. })));
    }

    /// Lets a client in; ends when that is told.
    async fn handshake(socket: &mut TcpStream) {
        let mut said = Vec::new();
        while said.windows(7).filter(|word| word == b"SETINFO").count() < 2 || !said.ends_with(b"\r\n") {
            assert_ne!(socket.read_buf(&mut said).await.unwrap(), 0, "closed within the handshake");
        }
        socket.write_all(b"+OK\r\n+OK\r\n").await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_drops_every_command_is_neither_stormed_nor_found_well() {
        let (listener, node) = asked(Tasks::default()).await;
        let accepted = AtomicUsize::new(0);
        let serve = async {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::Relaxed);
                handshake(&mut socket).await;
                // Dropped at the first command.
                let _ = socket.read(&mut [0; 64]).await;
            }
        };
        let threshold = breaker().failure_threshold;
        let asks = async {
            let late = Instant::now() + Duration::from_secs(60);
            let first = node.request(&ping(), late).await;
            assert!(matches!(first, Err(Error::Unreachable { sent: Sent::Perhaps, .. })), "{first:?}");
            for _ in 1..threshold {
                assert!(matches!(node.request(&ping(), late).await, Err(Error::Unreachable { .. })));
            }
            let most = threshold as usize + 2;
            assert!(accepted.load(Ordering::Relaxed) <= most, "{accepted:?} connections");
            assert!(matches!(node.request(&ping(), late).await, Err(Error::Open { .. })));
            while node.lines[0].connection().await.is_err() {
                tokio::task::yield_now().await;
            }
            assert!(!node.would_admit(), "a handshake is no sign that such a server is well");
        };
        tokio::select! { () = asks => {}, _ = serve => {} }
    }

    /// A read of a row without features.
    fn short() -> Batch {
        let reading = Reading::of(&view("v").features(&[]).build());
        Commands::reads([(&reading, [&b"k"[..], b""])].into_iter()).all()
    }

    /// Lets a client in, and answers each read: there is nothing.
    async fn answering(mut socket: TcpStream) {
        handshake(&mut socket).await;
        let mut asked = [0; 1024];
        loop {
            let read = socket.read(&mut asked).await.unwrap();
            let reads = asked[..read].windows(5).filter(|word| word == b"HMGET").count();
            socket.write_all("*1\r\n$-1\r\n".repeat(reads).as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn short_requests_go_together_and_one_that_finds_much_under_way_goes_elsewhere() {
        let (listener, node) = asked_over(2, Tasks::default()).await;
        let serve = async {
            let [mut first, mut second] = [listener.accept().await.unwrap().0, listener.accept().await.unwrap().0];
            tokio::join!(handshake(&mut first), handshake(&mut second));
            std::future::pending::<()>().await;
        };
        let choose = async {
            node.connect().await;
            let first = node.line();
            let same = |line: &Arc<Line>| Arc::ptr_eq(line, first);
            let held: Vec<_> = (0..10).map(|_| node.line().hold(50)).collect();
            assert!(same(node.line()), "500 cells are not much");
            let more = node.line().hold(50);
            assert!(!same(node.line()));
            drop((held, more));
            assert!(same(node.line()));
        };
        tokio::select! { () = choose => {}, () = serve => unreachable!() }
    }

    #[tokio::test]
    async fn a_connection_that_left_somebody_waiting_is_passed_over() {
        let (listener, node) = asked_over(2, Tasks::default()).await;
        let serve = async {
            let [mut silent, socket] = [listener.accept().await.unwrap().0, listener.accept().await.unwrap().0];
            tokio::join!(answering(socket), async {
                handshake(&mut silent).await;
                std::future::pending::<()>().await;
            });
        };
        let asks = async {
            node.connect().await;
            let late = async |left| node.request(&short(), Instant::now() + left).await;
            let mut unanswered = 0;
            for _ in 0..10 {
                unanswered += u32::from(late(TIMEOUT).await.is_err());
            }
            assert!(unanswered <= 1, "{unanswered} requests waited for the silent one");
        };
        tokio::select! { () = asks => {}, () = serve => unreachable!() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_a_connection_that_nobody_makes() {
        let tasks = Tasks::default();
        tasks.finish().await;
        let (_silent, node) = asked(tasks).await;
        let answer = node.request(&ping(), Instant::now() + TIMEOUT).await;
        assert!(matches!(answer, Err(Error::Unreachable { sent: Sent::Nothing, .. })), "{answer:?}");
    }
}
