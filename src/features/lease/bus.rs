//! The connection on which gateways hear each other.
//!
//! ```text
//! connecting ─► subscribed ─► entered (a term begins) ─► hears, renews, tells ──broken──► connecting
//!                                  ▲                          │                (the term ends)
//!                                  └── renewal refused ───────┘
//! ```
//!
//! One connection to the server of the leases: what is told there comes in the order in which the table changed, and who hears nothing
//! any more cannot renew. It lives on the control thread; pushes, on theirs, use it at the same time. What nobody waits for (rows of
//! `ttl` views, an operator's word) goes out together with whatever else there is, and again where it was not answered (`outbox`).
//!
//! **After a gap** something may have been missed: what other gateways wrote, which Redis tells too where it is listened to
//! (`redis::tracking`), and what operators said, which nobody else tells. How often they did is counted in the table, in the same step:
//! who has heard it counted has heard it, for both come over one connection.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use ::redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use arc_swap::ArcSwapOption;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Keeps, LONGEST, Leases, Meeting, Missed,
    fences::RoundId,
    message::{Change, Dropped, Message, Said},
    outbox::{Outbox, nanos},
    rounds::Waiting,
    table::{Server, Table, Words},
};
use crate::{
    features::{l2, redis::Owner},
    infer::EntityKey,
    telemetry::handles::lease::{Fence, Told},
};

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Messages that are read before what they ask for is answered.
const AT_ONCE: usize = 256;
/// Rounds of a gateway's whose writes were not answered, of the last half minute.
const ABANDONED: usize = 1024;

/// The way to the other gateways.
pub(super) struct Bus {
    pub(super) table: Table,
    owner: Owner,
    /// Of a lease.
    pub(super) length: Duration,
    keeps: Keeps,
    /// The server, while it is connected to.
    server: ArcSwapOption<Server>,
    /// Rounds of this gateway's that wait.
    rounds: Mutex<HashMap<u64, Arc<Waiting>>>,
    outbox: Mutex<Outbox>,
    /// Rounds whose write was not answered, and when they began: noted until what was sent is carried out, or never will be.
    abandoned: Mutex<VecDeque<(Instant, u64)>>,
    /// Rung when there is something in the outbox.
    bell: Notify,
    /// Rung when somebody found that the connection does not answer.
    broken: Notify,
    leaving: AtomicBool,
}

/// Why a connection is no more.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("nobody knows which server has the leases")]
    NoServer(#[from] l2::Error),
    #[error("the server did not do what it was asked to")]
    Refused(#[from] RedisError),
    #[error("the connection broke")]
    Broken,
    #[error("no answer within {ANSWER:?}")]
    Late,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("gateway", &self.gateway()).finish_non_exhaustive()
    }
}

impl Bus {
    pub(super) fn new(meeting: Meeting<'_>) -> Self {
        let Meeting { owner, project, length, keeps } = meeting;
        Self {
            table: Table::new(project, rand::random(), owner.is_cluster()),
            owner,
            length,
            keeps,
            server: ArcSwapOption::empty(),
            rounds: Mutex::default(),
            outbox: Mutex::default(),
            abandoned: Mutex::default(),
            bell: Notify::new(),
            broken: Notify::new(),
            leaving: AtomicBool::new(false),
        }
    }

    pub(super) const fn gateway(&self) -> u64 {
        self.table.gateway
    }

    pub(super) fn is_connected(&self) -> bool {
        self.server.load_full().is_some()
    }

    pub(super) fn server(&self) -> Option<Server> {
        self.server.load_full().map(|server| Server::clone(&server))
    }

    /// What was asked of the server was not answered: the connection is to be made anew.
    pub(super) fn broke(&self) {
        self.broken.notify_one();
    }

    pub(super) fn await_round(&self, round: u64) -> Arc<Waiting> {
        let waiting = Arc::<Waiting>::default();
        lock(&self.rounds).insert(round, Arc::clone(&waiting));
        waiting
    }

    pub(super) fn forget_round(&self, round: u64) {
        lock(&self.rounds).remove(&round);
    }

    /// Takes rows to be told of, which were written at `written`; how many it did not.
    pub(super) fn tell<'a>(
        &self,
        view: &Arc<str>,
        keys: impl Iterator<Item = &'a EntityKey>,
        written: SystemTime,
    ) -> u64 {
        let written = nanos(written);
        let left_out = lock(&self.outbox).take_rows(keys.map(|key| (Arc::clone(view), key.clone(), written)));
        self.bell.notify_one();
        left_out
    }

    /// Takes a change to be told of. One that comes while there is no connection is told once there is one: an operator's word counts.
    pub(super) fn tell_change(&self, change: Change) -> bool {
        let has_room = lock(&self.outbox).take_change(change);
        self.bell.notify_one();
        has_room && self.is_connected()
    }

    /// Has a round released that was given up.
    pub(super) fn release_later(&self, round: u64, rows: Vec<u128>) {
        lock(&self.outbox).take_release((round, rows));
        self.bell.notify_one();
    }

    /// A round's write was not answered.
    pub(super) fn abandon(&self, round: u64, began: Instant) {
        lock(&self.abandoned).push_back((began, round));
    }

    /// Whether so many are noted that no more should be.
    pub(super) fn is_crowded(&self) -> bool {
        lock(&self.abandoned).len() >= ABANDONED
    }

    /// Has those released that began so long ago that nothing of them can happen any more.
    fn forget_abandoned(&self, now: Instant) {
        let mut abandoned = lock(&self.abandoned);
        let over = abandoned.iter().take_while(|(began, _)| now.saturating_duration_since(*began) > LONGEST).count();
        let over: Vec<_> = abandoned.drain(..over).collect();
        drop(abandoned);
        // Their rows are free everywhere: only the note is left.
        over.into_iter().for_each(|(_, round)| self.release_later(round, Vec::new()));
    }

    pub(super) async fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        if let Some(mut server) = self.server() {
            // Where it fails, the lease runs out.
            let _ = timeout(ANSWER, self.table.leave(&mut server)).await;
        }
    }

    async fn connect(&self) -> Result<(Server, Messages), Ended> {
        let client = self.owner.client(self.table.key().as_bytes()).await?;
        let (heard, messages) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER))
            .set_push_sender(heard);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = timeout(2 * ANSWER, connecting).await.map_err(|_| Ended::Late)??;
        let mut subscribe = ::redis::cmd(self.table.subscribe());
        subscribe.arg(&self.table.all).arg(self.table.channel_of(self.gateway()));
        subscribe.exec_async(&mut connection).await?;
        let run_id = run_id(&mut connection).await;
        Ok((Server { connection, run_id }, messages))
    }
}

/// Of the server; empty where it does not say.
async fn run_id(connection: &mut MultiplexedConnection) -> String {
    let info: Result<String, _> = ::redis::cmd("INFO").arg("server").query_async(connection).await;
    let info = info.unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    line.unwrap_or_default().trim().to_owned()
}

type Messages = mpsc::UnboundedReceiver<PushInfo>;

impl Leases {
    /// Connects, hears, tells; for as long as it is polled.
    pub(super) async fn tend_bus(&self) {
        let Some(bus) = &self.bus else { return };
        // The last that was heard, once something may have been missed.
        let (mut said, mut gap) = (false, None::<Words>);
        loop {
            let ended = match Session::begin(self, bus).await {
                Ok(session) => {
                    tracing::info!(gateway = super::table::name(bus.gateway()), "hears other gateways' pushes");
                    said = false;
                    self.metrics.connected.set(1.0);
                    if let Some(heard) = gap {
                        self.missed(if heard == session.words { Missed::Rows } else { Missed::Words });
                    }
                    let (ended, heard) = session.run().await;
                    gap = Some(heard);
                    ended
                }
                Err(ended) => {
                    gap.get_or_insert(None);
                    ended
                }
            };
            let was_connected = bus.server.swap(None).is_some();
            self.metrics.connected.set(0.0);
            if was_connected {
                self.fence(Fence::Disconnected);
            }
            bus.owner.learn();
            if !said {
                let error = with_causes(&ended);
                tracing::warn!(
                    error,
                    "does not hear other gateways' pushes: write_through rows are read from Redis, and pushing them fails"
                );
                said = true;
            }
            sleep(PAUSE.mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }
}

/// An error with its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// By its number among what is unanswered; `None`: it is not told again.
type Sent<'a> = BoxFuture<'a, Result<Option<u64>, RedisError>>;
type Renewal<'a> = Pin<Box<dyn Future<Output = (Instant, Renewed)> + Send + 'a>>;
type Renewed = Result<(bool, Words), RedisError>;

/// One connection's life.
struct Session<'a> {
    leases: &'a Leases,
    bus: &'a Bus,
    server: Server,
    messages: Messages,
    sending: FuturesUnordered<Sent<'a>>,
    /// What was taken from the outbox, and whose answers are not there.
    unanswered: BTreeMap<u64, Outbox>,
    next: u64,
    /// How many words the server has counted that have been heard by now.
    words: Words,
    renewal: Option<Renewal<'a>>,
    renew_at: Instant,
}

impl<'a> Session<'a> {
    async fn begin(leases: &'a Leases, bus: &'a Bus) -> Result<Self, Ended> {
        let (mut server, messages) = bus.connect().await?;
        let words = bus.table.words(&mut server).await?;
        let mut session = Self {
            leases,
            bus,
            server,
            messages,
            sending: FuturesUnordered::new(),
            unanswered: BTreeMap::new(),
            next: 0,
            words,
            renewal: None,
            renew_at: Instant::now(),
        };
        session.enter().await?;
        bus.server.store(Some(Arc::new(session.server.clone())));
        session.flush();
        Ok(session)
    }

    /// Begins a term, with whatever is held now.
    async fn enter(&mut self) -> Result<(), Ended> {
        // Who wants no lease looks at the table at once all the same.
        if self.bus.keeps != Keeps::UnderLease || self.bus.leaving.load(Ordering::Acquire) {
            return Ok(());
        }
        let sent = Instant::now();
        self.renew_at = sent + self.bus.length / 3;
        let holds = self.bus.table.enter(&mut self.server, self.bus.length).await?;
        for hold in &holds {
            if let Some(Message { from, said: Said::Hold { round, rows } }) = Message::decode(hold)
                && from != self.bus.gateway()
            {
                self.leases.hold(RoundId { by: from, number: round }, &rows);
            }
        }
        let now = Instant::now();
        self.leases.lease.begin(self.bus.length, sent, now);
        self.leases.metrics.held.set(1.0);
        Ok(())
    }

    /// Until it ends; why, and what was heard by then.
    async fn run(mut self) -> (Ended, Words) {
        let ended = loop {
            if let Err(ended) = self.step().await {
                break ended;
            }
        };
        // What has come was heard, and may be counted already. Of rounds the next session is told.
        while let Ok(PushInfo { data, .. }) = self.messages.try_recv() {
            if matches!(read(&data), Some(Message { said: Said::Dropped(_), .. })) {
                self.take(&data, &mut HashMap::new());
            }
        }
        let left_out = lock(&self.bus.outbox).put_back(std::mem::take(&mut self.unanswered).into_values());
        self.leases.metrics.untold(left_out);
        (ended, self.words)
    }

    async fn step(&mut self) -> Result<(), Ended> {
        tokio::select! {
            biased;
            (sent, renewed) = renewed(&mut self.renewal) => {
                self.renewal = None;
                self.renewed(sent, renewed?).await
            }
            () = sleep_until(self.renew_at), if self.renewal.is_none() => {
                self.renew();
                Ok(())
            }
            () = self.bus.broken.notified() => Err(Ended::Broken),
            message = self.messages.recv() => self.hear(message),
            Some(sent) = self.sending.next() => {
                if let Some(number) = sent? {
                    self.unanswered.remove(&number);
                }
                Ok(())
            }
            () = self.bus.bell.notified() => {
                self.flush();
                Ok(())
            }
        }
    }

    fn renew(&mut self) {
        self.renew_at = Instant::now() + self.bus.length / 3;
        self.bus.forget_abandoned(Instant::now());
        let (table, server, length, sent) = (&self.bus.table, self.server.clone(), self.bus.length, Instant::now());
        let keeps = self.bus.keeps;
        self.renewal = Some(Box::pin(async move {
            let renewed = match keeps {
                Keeps::Nothing => table.look(server, length).await.map(|words| (false, words)),
                // Without a lease this tells whether the connection still answers.
                Keeps::UnderLease | Keeps::Alone | Keeps::Unconcerned => table.renew(server, length).await,
            };
            (sent, renewed)
        }));
    }

    async fn renewed(&mut self, sent: Instant, (renewed, words): (bool, Words)) -> Result<(), Ended> {
        let now = Instant::now();
        self.words = words;
        if renewed {
            self.leases.lease.renew(self.bus.length, sent, now);
        }
        let wants = self.bus.keeps == Keeps::UnderLease && !self.bus.leaving.load(Ordering::Acquire);
        if wants && (!renewed || self.leases.lease.term(now).is_none()) {
            tracing::warn!("the lease of write_through rows was lost: they are read anew");
            self.leases.lease.end();
            self.leases.metrics.fenced(Fence::Revoked);
            return self.enter().await;
        }
        Ok(())
    }

    /// What came, and whatever else did.
    fn hear(&mut self, first: Option<PushInfo>) -> Result<(), Ended> {
        let mut heard = HashMap::<u64, Vec<u64>>::new();
        let mut next = first;
        for _ in 0..AT_ONCE {
            match next.ok_or(Ended::Broken)? {
                PushInfo { kind: PushKind::Message | PushKind::SMessage, data } => self.take(&data, &mut heard),
                // The slot has moved, or the connection is no more.
                PushInfo { kind: PushKind::Disconnection | PushKind::SUnsubscribe, .. } => return Err(Ended::Broken),
                PushInfo { .. } => {}
            }
            match self.messages.try_recv() {
                Ok(message) => next = Some(message),
                Err(_) => break,
            }
        }
        let acknowledgements = heard.into_iter().map(|(to, rounds)| {
            (self.bus.table.channel_of(to), Message { from: self.bus.gateway(), said: Said::Heard { rounds } })
        });
        // Nobody waits for them any more when there is another connection.
        self.publish(acknowledgements.collect(), None);
        Ok(())
    }

    fn take(&self, data: &[Value], heard: &mut HashMap<u64, Vec<u64>>) {
        let metrics = &self.leases.metrics;
        let Some(Message { from, said }) = read(data) else { return metrics.heard(Told::Unreadable) };
        if from == self.bus.gateway() {
            return;
        }
        match said {
            Said::Hold { round, rows } => {
                metrics.heard(Told::Hold);
                self.leases.hold(RoundId { by: from, number: round }, &rows);
                heard.entry(from).or_default().push(round);
            }
            Said::Release { round, rows } => {
                metrics.heard(Told::Release);
                self.leases.release(RoundId { by: from, number: round }, &rows);
            }
            Said::Heard { rounds } => {
                metrics.heard(Told::Heard);
                let waiting = lock(&self.bus.rounds);
                let ours = rounds.iter().filter_map(|round| waiting.get(round));
                ours.for_each(|waiting| waiting.acknowledge(from));
            }
            Said::Dropped(Dropped { change, written }) => {
                metrics.heard(Told::Dropped);
                let written = (written > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(written));
                self.leases.caches.change(change, written);
            }
        }
    }

    /// Sends what is in the outbox.
    fn flush(&mut self) {
        let Outbox { rows, changes, releases } = std::mem::take(&mut *lock(&self.bus.outbox));
        let (from, table) = (self.bus.gateway(), &self.bus.table);
        if !rows.is_empty() {
            let rows = Outbox { rows, ..Outbox::default() };
            let all = |dropped| (table.all.clone(), Message { from, said: Said::Dropped(dropped) });
            let messages = rows.messages().map(all).collect();
            let number = self.awaits_answer(rows);
            self.publish(messages, Some(number));
        }
        if !changes.is_empty() {
            // When what is to be read instead was stored, an operator does not say.
            let said = |change: &Change| Said::Dropped(Dropped { change: change.clone(), written: 0 });
            let messages = changes.iter().map(|change| Message { from, said: said(change) }.encode()).collect();
            let number = self.awaits_answer(Outbox { changes, ..Outbox::default() });
            let server = self.server.clone();
            self.sending.push(async move { table.say(server, messages).await.map(|()| Some(number)) }.boxed());
        }
        for (round, rows) in releases {
            let message = Message { from, said: Said::Release { round, rows: rows.clone() } }.encode();
            let number = self.awaits_answer(Outbox { releases: vec![(round, rows)], ..Outbox::default() });
            let mut server = self.server.clone();
            let releasing = async move { table.release(&mut server, round, &message).await.map(|_| Some(number)) };
            self.sending.push(releasing.boxed());
        }
    }

    /// Notes what is sent, to be told again unless it is answered; its number.
    fn awaits_answer(&mut self, sent: Outbox) -> u64 {
        self.next += 1;
        self.unanswered.insert(self.next, sent);
        self.next
    }

    fn publish(&mut self, messages: Vec<(String, Message)>, number: Option<u64>) {
        if messages.is_empty() {
            return;
        }
        let mut pipeline = ::redis::pipe();
        for (channel, message) in messages {
            pipeline.cmd(self.bus.table.publish()).arg(channel).arg(message.encode()).ignore();
        }
        let mut connection = self.server.connection.clone();
        self.sending.push(async move { pipeline.exec_async(&mut connection).await.map(|()| number) }.boxed());
    }
}

/// What came on a channel.
fn read(data: &[Value]) -> Option<Message> {
    if let [_, Value::BulkString(payload)] = data { Message::decode(payload) } else { None }
}

/// What the renewal comes to; never, while none is under way.
async fn renewed(renewal: &mut Option<Renewal<'_>>) -> (Instant, Renewed) {
    match renewal {
        Some(renewal) => renewal.await,
        None => std::future::pending().await,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that it guards is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
