//! One connection's life.
//!
//! ```text
//! connecting ─► subscribed ─► entered (a term begins) ─► hears, renews, tells ──broken──► connecting
//!                                  ▲                          │                (the term ends)
//!                                  └── renewal refused ───────┘
//! ```
//!
//! What is told on it comes in the order in which the table changed, and who hears nothing any more cannot renew. What nobody waits for
//! (rows of `ttl` views, an operator's word) goes out together with whatever else there is, and again where it was not answered
//! (`outbox`). A gateway that has given its lease up enters no more: what it is granted yet, it gives back.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::redis::{PushInfo, PushKind, RedisError, Value};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use super::{
    Keeps, Leases,
    bus::{Bus, Ended, Messages, lock},
    fences::RoundId,
    message::{Change, Dropped, Message, Said},
    outbox::Outbox,
    table::{Server, Words},
};
use crate::telemetry::handles::lease::{Fence, Told};

/// Messages that are read before what they ask for is answered.
const AT_ONCE: usize = 256;

/// By its number among what is unanswered; `None`: it is not told again.
type Sent<'a> = BoxFuture<'a, Result<Option<u64>, RedisError>>;
type Renewal<'a> = Pin<Box<dyn Future<Output = (Instant, Renewed)> + Send + 'a>>;
type Renewed = Result<(bool, Words), RedisError>;

/// A connection, from when it is there.
pub(super) struct Session<'a> {
    leases: &'a Leases,
    bus: &'a Bus,
    server: Server,
    messages: Messages,
    sending: FuturesUnordered<Sent<'a>>,
    /// What was taken from the outbox, and whose answers are not there.
    unanswered: BTreeMap<u64, Outbox>,
    next: u64,
    /// How many words the server has counted that have been heard by now.
    pub(super) words: Words,
    renewal: Option<Renewal<'a>>,
    renew_at: Instant,
}

impl<'a> Session<'a> {
    pub(super) async fn begin(leases: &'a Leases, bus: &'a Bus) -> Result<Self, Ended> {
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
        session.introduce().await?;
        session.flush();
        Ok(session)
    }

    /// Has others find the server.
    async fn introduce(&mut self) -> Result<(), Ended> {
        self.bus.server.store(Some(Arc::new(self.server.clone())));
        if self.bus.keeps == Keeps::UnderLease && self.leases.lease.is_given_up() {
            // Perhaps before the server was found: then nobody has told it.
            self.bus.table.leave(&mut self.server).await?;
        }
        Ok(())
    }

    fn wants_lease(&self) -> bool {
        self.bus.keeps == Keeps::UnderLease && !self.leases.lease.is_given_up()
    }

    /// Begins a term, with whatever is held now.
    async fn enter(&mut self) -> Result<(), Ended> {
        // Who wants no lease looks at the table at once all the same.
        if !self.wants_lease() {
            return Ok(());
        }
        let sent = Instant::now();
        self.renew_at = sent + self.bus.length / 3;
        let holds = self.bus.table.enter(&mut self.server, self.bus.length).await?;
        self.entered(sent, &holds).await
    }

    /// Takes the lease that the server has granted, or gives it back.
    async fn entered(&mut self, sent: Instant, holds: &[Vec<u8>]) -> Result<(), Ended> {
        for hold in holds {
            if let Some(Message { from, said: Said::Hold { round, rows } }) = Message::decode(hold)
                && from != self.bus.gateway()
            {
                self.leases.hold(RoundId { by: from, number: round }, &rows);
            }
        }
        if self.leases.lease.begin(self.bus.length, sent, Instant::now()) {
            self.leases.metrics.held.set(1.0);
        } else {
            // Given up meanwhile, by somebody who could not give this one back.
            self.bus.table.leave(&mut self.server).await?;
        }
        Ok(())
    }

    /// Until it ends; why, and what was heard by then.
    pub(super) async fn run(mut self) -> (Ended, Words) {
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
        if self.wants_lease() && (!renewed || self.leases.lease.term(now).is_none()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app::Tasks,
        config,
        features::{
            lease::{Caches, Meeting, Missed, table},
            redis::Redis,
            tests::{features, servers::Server as RedisServer},
        },
        fixture,
        infer::EntityKey,
        telemetry::handles::lease::LetGo,
    };

    /// No test waits for it to pass.
    const LENGTH: Duration = Duration::from_secs(3600);

    struct NoCaches;

    impl Caches for NoCaches {
        fn forget(&self, _: &str, _: &EntityKey) {}

        fn change(&self, _: Change, _: Option<SystemTime>) {}

        fn missed(&self, _: Missed) -> LetGo {
            LetGo::Nothing
        }
    }

    #[tokio::test]
    async fn what_is_granted_after_it_was_given_up_is_given_back() {
        let server = RedisServer::start();
        let redis = fixture::redis(vec![config::Secret(server.url())]);
        let features = features("p", &[], config::L2::Redis(redis.clone()), None);
        let redis = Redis::open(&redis, &features, 1, &Tasks::default()).unwrap();
        let meeting = Meeting { owner: redis.owner(), project: "p", length: LENGTH, keeps: Keeps::UnderLease };
        let leases = Leases::shared(meeting, Box::new(NoCaches));
        let bus = leases.bus.as_ref().unwrap();
        let lease = format!("g:{}", table::name(bus.gateway()));
        let is_listed = || server.ask::<bool>(&[b"HEXISTS", bus.table.key().as_bytes(), lease.as_bytes()]);
        let is_held = || leases.lease.term(Instant::now()).is_some();

        let mut session = Session::begin(&leases, bus).await.unwrap();
        assert!(is_listed() && is_held());
        // Given up before the server is found, and after it was granted.
        bus.server.store(None);
        leases.leave().await;
        assert!(is_listed() && !is_held());
        session.introduce().await.unwrap();
        assert!(!is_listed());
        // Asked for before it was given up, and answered after that.
        let sent = Instant::now();
        let holds = bus.table.enter(&mut session.server, LENGTH).await.unwrap();
        assert!(is_listed());
        session.entered(sent, &holds).await.unwrap();
        assert!(!is_listed() && !is_held());

        // Nor does another connection, or a renewal that finds it lost.
        drop(session);
        let mut session = Session::begin(&leases, bus).await.unwrap();
        session.renewed(Instant::now(), (false, None)).await.unwrap();
        assert!(!is_listed() && !is_held());
    }
}
