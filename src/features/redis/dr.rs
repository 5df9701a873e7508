//! The Redis that takes over when the first is lost (`features.l2.dr`).
//!
//! ```text
//! every tick: look at both ──► resilience::standby ──over──► rows are read from the DR, and pushed to it
//!   (answers? role? counts)                        ──back──► close the DR (a script), then as before
//!
//! push at the DR: rows ─stored─► count (a script) ─counted─► acknowledged
//!                   └─READONLY: not promoted yet      └─closed: others have gone back; not acknowledged
//! ```
//!
//! What is counted is kept in a hash beside the rows, `weir:PROJECT:dr`: `acknowledged`, how many batches of pushed rows were
//! acknowledged at a DR, each counted after its rows and before its caller hears of it; `closed`, a word that is there while nothing may
//! be acknowledged; `vouched`, what an operator says that this Redis has. The hash goes wherever the rows go: a Redis that follows
//! another has the other's. One server and one behind sentinels write one stream, so that a count proves the rows before it; a cluster's
//! masters write one each, and there only `vouched` counts.
//!
//! Who goes over because the first is gone may open what is closed, if it was closed when he went; who finds it closed later may not.
//!
//! Write-backs from L3 are acknowledged to nobody and not counted. What others write into the DR, as Feast's own jobs, is not known
//! here: docs/dr.md says how to have it counted.

mod ready;

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{Cmd, Value, cmd};
use tokio::{
    sync,
    time::{Instant, MissedTickBehavior, interval},
};

use self::ready::Link;
pub(crate) use self::ready::Readiness;
use super::{command::Commands, fence::Fence, lag, reply::Reply, servers::Servers};
use crate::{
    config,
    features::l2::Error,
    infer::WorkerId,
    resilience::standby::{Counts, Order, ProbeResult, Side, Standby, Verdict, Why},
    telemetry::handles::dr::{Dr as Handles, REASONS},
};

/// Looks in the time after which the DR takes over.
const LOOKS: u32 = 10;
/// How far apart looks are.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// Key: the hash. Arguments: the word with which whoever went over may open what is closed (or none), and the highest count known.
/// Answers the count, or -1 where it is closed to them.
const COUNT: &str = r"
local closed = redis.call('HGET', KEYS[1], 'closed')
if closed then
  if closed ~= ARGV[1] then return -1 end
  redis.call('HDEL', KEYS[1], 'closed')
end
local count = tonumber(redis.call('HGET', KEYS[1], 'acknowledged') or '0')
count = math.max(count, tonumber(ARGV[2])) + 1
redis.call('HSET', KEYS[1], 'acknowledged', string.format('%.0f', count))
return count
";

/// Key: the hash. Arguments: the count, a new word. Answers 1 if it is closed now and was counted no further, else 0.
const CLOSE: &str = r"
local count = redis.call('HGET', KEYS[1], 'acknowledged') or '0'
if tonumber(count) > tonumber(ARGV[1]) then return 0 end
redis.call('HSETNX', KEYS[1], 'closed', ARGV[2])
return 1
";

/// Key: the hash. Argument: the count that it is to have at least.
const RAISE: &str = r"
local count = redis.call('HGET', KEYS[1], 'acknowledged') or '0'
if tonumber(count) < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'acknowledged', ARGV[1]) end
return 1
";

/// Both Redises, and which has the rows.
#[derive(Debug)]
pub(super) struct Dr {
    primary: Arc<Servers>,
    pub(super) standby: Servers,
    /// Of the hash, in both.
    key: Box<str>,
    order: Order,
    over: AtomicBool,
    /// How often the rows' place has moved.
    moves: sync::watch::Sender<u64>,
    /// Both were looked at.
    looked: AtomicBool,
    /// The highest count that this process has seen a script answer.
    counted: AtomicU64,
    /// The highest count that looks have found anywhere.
    highest: AtomicU64,
    /// The word that was there when this process went over.
    word: Mutex<Option<Vec<u8>>>,
    why: Mutex<Why>,
    ready: Mutex<Readiness>,
    handles: Handles,
    /// Whose connections looks use.
    control: WorkerId,
}

/// Where rows are, and why; and whether the DR could have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    pub(crate) side: Side,
    pub(crate) why: Why,
    pub(crate) dr: Readiness,
}

impl Dr {
    pub(super) fn new(
        (primary, standby): (Arc<Servers>, Servers),
        project: &str,
        (order, control): (Order, WorkerId),
    ) -> Arc<Self> {
        Arc::new(Self {
            primary,
            standby,
            key: format!("weir:{project}:dr").into(),
            order,
            over: AtomicBool::new(false),
            moves: sync::watch::Sender::new(0),
            looked: AtomicBool::new(false),
            counted: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            word: Mutex::default(),
            why: Mutex::new(Why::Well),
            ready: Mutex::new(Readiness::Unknown),
            handles: Handles::new(),
            control,
        })
    }

    /// Whether the DR has the rows. One load; who sees that it has them sees what was known then, too: a batch is counted on from there.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Told each time that the rows' place has moved.
    pub(super) fn moves(&self) -> sync::watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// Fails until it is known who has the rows: what a DR acknowledged is not to be missed by who has just started.
    pub(super) fn known(&self) -> Result<(), String> {
        let known = self.looked.load(Ordering::Relaxed);
        known.then_some(()).ok_or_else(|| "which of l2.redis and l2.dr has the rows is not known yet".to_owned())
    }

    pub(super) fn whereabouts(&self) -> Whereabouts {
        let side = if self.is_over() { Side::Standby } else { Side::Primary };
        let why = *self.why.lock().unwrap_or_else(PoisonError::into_inner);
        Whereabouts { side, why, dr: *self.ready.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Counts a batch whose rows the DR has stored: from then on it may be acknowledged.
    ///
    /// # Errors
    ///
    /// It is not counted, or that is not known.
    pub(super) async fn count(&self, worker: WorkerId, deadline: Instant) -> Result<(), Error> {
        let word = self.word().clone().unwrap_or_default();
        let mut count = cmd("EVAL");
        count.arg(COUNT).arg(1).arg(&*self.key).arg(word).arg(self.highest.load(Ordering::Acquire));
        let mut commands = Commands::default();
        commands.add(&count, 3);
        let answer = self.standby.run(worker, commands, deadline).await.pop();
        match answer.unwrap_or(Err(Error::TimedOut(Duration::ZERO)))? {
            Reply::Value(Value::Int(count)) if count > 0 => {
                self.counted.fetch_max(count.unsigned_abs(), Ordering::AcqRel);
                Ok(())
            }
            _ => Err(Error::Closed { address: self.standby.addresses(worker).into() }),
        }
    }

    /// What a refusal of a write there means.
    pub(super) fn refusal(&self, error: Error) -> Error {
        match error {
            Error::Refused { address, why } if why.starts_with("READONLY") => match self.whereabouts().why {
                // The first answers, and had all when it was looked at last, or follows the DR: there is nothing to be promoted.
                Why::Settling | Why::ReadOnly => Error::Returning { address },
                _ => Error::NotPromoted { address },
            },
            other => other,
        }
    }

    fn word(&self) -> std::sync::MutexGuard<'_, Option<Vec<u8>>> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at both, and moves the rows' place, until nobody has it any more. Whoever reads replicas is told by the fence.
pub(super) async fn watch(dr: Weak<Dr>, config: config::Dr, fence: Option<Arc<Fence>>) {
    let mut ticks = interval((config.failover_after / LOOKS).clamp(SHORTEST, LONGEST));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(order) = dr.upgrade().map(|dr| dr.order) else { return };
    let mut machine = Standby::new(config.failover_after, config.back_after, order);
    loop {
        ticks.tick().await;
        let Some(dr) = dr.upgrade() else { return };
        let before = machine.side();
        dr.look(&mut machine).await;
        if machine.side() != before {
            if let Some(fence) = &fence {
                fence.all_changed(Instant::now());
            }
            dr.moves.send_modify(|moves| *moves += 1);
        }
    }
}

/// What a look at a Redis found, how it gets its rows, and the word of a closed one.
struct Look {
    seen: ProbeResult,
    link: Link,
    word: Option<Vec<u8>>,
}

impl Dr {
    async fn look(&self, machine: &mut Standby) {
        let now = Instant::now();
        let (primary, standby) = tokio::join!(self.look_at(&self.primary), self.look_at(&self.standby));
        self.heed(machine, (primary, standby), now).await;
    }

    async fn heed(&self, machine: &mut Standby, (primary, standby): (Look, Look), now: Instant) {
        machine.has_acknowledged(self.counted.load(Ordering::Acquire));
        let verdict = machine.look((primary.seen, standby.seen), now);
        // Before rows move: whoever pushes next counts on from it.
        self.highest.store(machine.highest(), Ordering::Release);
        let why = match verdict {
            Verdict::Stay(why) => why,
            Verdict::Over(why) => {
                // Others' acknowledgements are no reason to open what they close.
                *self.word() = standby.word.filter(|_| !matches!(why, Why::Lacks { .. }));
                self.move_to(Side::Standby, why);
                why
            }
            Verdict::Back { close_at, count } => match self.hand_back(close_at, count).await {
                Ok(()) => {
                    machine.is_back();
                    self.move_to(Side::Primary, Why::Well);
                    Why::Well
                }
                Err(error) => {
                    tracing::debug!(%error, "the DR Redis is not closed");
                    Why::NotClosed
                }
            },
        };
        self.tell(machine.side(), why);
        self.tell_readiness(Readiness::of((machine.side(), self.order), primary.seen, (standby.seen, standby.link)));
        self.looked.store(true, Ordering::Relaxed);
    }

    async fn look_at(&self, servers: &Servers) -> Look {
        let gone = Look { seen: ProbeResult::Gone, link: Link::Untold, word: None };
        if servers.ready(self.control).await.is_err() {
            return gone;
        }
        let mut counts = cmd("HMGET");
        counts.arg(&*self.key).arg(&["acknowledged", "vouched", "closed"]);
        let mut replication = cmd("INFO");
        replication.arg("replication");
        let role = servers.ask(self.control, self.key.as_bytes(), cmd("ROLE"));
        let replication = servers.ask(self.control, self.key.as_bytes(), replication);
        let counts = servers.ask(self.control, self.key.as_bytes(), counts);
        let (role, replication, counts) = tokio::join!(role, replication, counts);
        // It would say of rows that there are none.
        if replication.is_ok_and(|info| lag::lacks_rows(&info)) {
            return gone;
        }
        // One that refuses to say so may well be a master: a write tells.
        let link = match role {
            Ok(Value::Array(parts)) => Link::of(&parts),
            Err(error) if is_out_of_service(&error) => return gone,
            _ => Link::Untold,
        };
        let writable = matches!(link, Link::Leads | Link::Untold);
        let fields = match counts {
            Ok(Value::Array(fields)) => fields,
            Err(error) if is_out_of_service(&error) => return gone,
            Err(error) => {
                tracing::warn!(%error, key = %self.key, "what a DR acknowledged cannot be read; taken for nothing");
                Vec::new()
            }
            Ok(_) => Vec::new(),
        };
        servers.mend(self.control).await;
        let text = |at: usize| match fields.get(at) {
            Some(Value::BulkString(bytes)) => Some(bytes.clone()),
            _ => None,
        };
        let number = |at| text(at).and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()).unwrap_or(0);
        let counts = Counts { acknowledged: number(0), vouched: number(1) };
        Look { seen: ProbeResult::Here { writable, counts }, link, word: text(2) }
    }

    /// Tells the first Redis what it has, and has the DR acknowledge nothing any more; `None`: it takes no writes anyway.
    async fn hand_back(&self, close_at: Option<u64>, count: u64) -> Result<(), Error> {
        if count > 0 {
            let mut raise = cmd("EVAL");
            raise.arg(RAISE).arg(1).arg(&*self.key).arg(count);
            self.primary.ask(self.control, self.key.as_bytes(), raise).await?;
        }
        let Some(count) = close_at else { return Ok(()) };
        let mut close: Cmd = cmd("EVAL");
        close.arg(CLOSE).arg(1).arg(&*self.key).arg(count).arg(format!("{:016x}", rand::random::<u64>()));
        match self.standby.ask(self.control, self.key.as_bytes(), close).await? {
            Value::Int(1) => Ok(()),
            _ => Err(Error::Closed { address: "it has acknowledged more".into() }),
        }
    }

    fn move_to(&self, side: Side, why: Why) {
        self.over.store(side == Side::Standby, Ordering::Release);
        self.handles.moved(side == Side::Standby);
        let (primary, dr) = (self.primary.addresses(self.control), self.standby.addresses(self.control));
        match side {
            Side::Standby => {
                tracing::warn!(%primary, %dr, why = REASONS[reason(why)], "rows are read from the DR Redis from now on")
            }
            Side::Primary => tracing::info!(%primary, %dr, "rows are read from the first Redis again"),
        }
    }

    /// Shows why rows are where they are, and says so once.
    fn tell(&self, side: Side, why: Why) {
        let before = std::mem::replace(&mut *self.why.lock().unwrap_or_else(PoisonError::into_inner), why);
        let at = reason(why);
        self.handles.show(at);
        let is_news = reason(before) != at;
        if !is_news {
            return;
        }
        let (key, has_rows) = (&self.key, if side == Side::Standby { "dr" } else { "primary" });
        match why {
            // Rows that moved back have a line of their own.
            Why::Well if !matches!(before, Why::PrimaryGone | Why::ReadOnly) => {}
            Why::Well | Why::Settling => tracing::info!(has_rows, why = REASONS[at], %key, "{}", words(why)),
            _ => tracing::warn!(has_rows, why = REASONS[at], %key, "{}", words(why)),
        }
    }

    /// Shows whether the DR could take over, and says so once.
    fn tell_readiness(&self, now: Readiness) {
        let before = std::mem::replace(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner), now);
        self.handles.ready(now.is_ready());
        match now.why() {
            _ if now == before => {}
            Some(why) => {
                tracing::warn!(dr = %self.standby.addresses(self.control), why, "the DR Redis could not take over now")
            }
            None if before == Readiness::Unknown => {}
            None => tracing::info!(dr = %self.standby.addresses(self.control), "the DR Redis could take over again"),
        }
    }
}

/// Whether the server serves nobody, rather than not this.
fn is_out_of_service(error: &Error) -> bool {
    match error {
        Error::Refused { why, .. } => ["LOADING", "MASTERDOWN", "CLUSTERDOWN"].iter().any(|code| why.starts_with(code)),
        _ => true,
    }
}

/// The place of a reason among those of the metric.
pub(crate) const fn reason(why: Why) -> usize {
    match why {
        Why::Well => 0,
        Why::PrimaryGone => 1,
        Why::StandbyGone => 2,
        Why::ReadOnly => 3,
        Why::Lacks { .. } => 4,
        Why::Settling => 5,
        Why::NotClosed => 6,
    }
}

/// For an operator.
pub(crate) const fn words(why: Why) -> &'static str {
    match why {
        Why::Well => "the first Redis is well",
        Why::PrimaryGone => "the first Redis does not answer, or not for all rows",
        Why::StandbyGone => "the first Redis is gone for longer than failover_after, and the DR does not answer either",
        Why::ReadOnly => "the first Redis answers, and takes no writes: it is a replica",
        Why::Lacks { .. } => {
            "the first Redis lacks what was acknowledged at the DR: have it follow the DR, or vouch for it"
        }
        Why::Settling => "the first Redis is well again, and not yet for back_after",
        Why::NotClosed => "the DR cannot be closed: it does not answer, or acknowledges still",
    }
}

#[cfg(test)]
mod tests {
    use ::redis::Client;
    use tracing_subscriber::{
        Layer, Registry,
        layer::{Context, SubscriberExt as _},
    };

    use super::*;
    use crate::{
        app::Tasks,
        config::RedisMode,
        features::{
            redis::{
                guard::Guards,
                node::{Role, Terms},
            },
            tests::breaker,
        },
    };

    const CONTROL: WorkerId = WorkerId(0);

    /// Notes what a push would count on from, whenever something is told while the DR has the rows.
    struct Pusher {
        dr: Arc<Dr>,
        counts: Arc<Mutex<Vec<u64>>>,
    }

    impl Layer<Registry> for Pusher {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, Registry>) {
            if self.dr.is_over() {
                self.counts.lock().unwrap().push(self.dr.highest.load(Ordering::Acquire));
            }
        }
    }

    /// Of a server that nobody asks.
    fn servers(port: u16) -> Servers {
        let terms = Terms {
            timeout: Duration::ZERO,
            connections: 1,
            guards: Arc::new(Guards::new(&breaker(), 8)),
            tls: None,
            role: Role::Master,
            tasks: Tasks::default(),
        };
        let client = Client::open(format!("redis://nobody.example:{port}")).unwrap();
        Servers::open((&RedisMode::Single, vec![client]), 1, (&terms, None))
    }

    #[tokio::test]
    async fn the_first_push_after_rows_moved_counts_on_from_what_the_look_found() {
        let dr = Dr::new((Arc::new(servers(1)), servers(2)), "p", (Order::Kept, CONTROL));
        let counts = Arc::<Mutex<Vec<u64>>>::default();
        let pusher = Pusher { dr: Arc::clone(&dr), counts: Arc::clone(&counts) };
        let _told = tracing::subscriber::set_default(tracing_subscriber::registry().with(pusher));
        let mut machine = Standby::new(Duration::ZERO, Duration::ZERO, Order::Kept);
        let primary = Look { seen: ProbeResult::Gone, word: None, link: Link::Untold };
        let acknowledged = Counts { acknowledged: 7, vouched: 0 };
        let standby =
            Look { seen: ProbeResult::Here { writable: true, counts: acknowledged }, word: None, link: Link::Untold };
        dr.heed(&mut machine, (primary, standby), Instant::now()).await;
        assert!(dr.is_over());
        let counts = counts.lock().unwrap();
        assert!(!counts.is_empty() && counts.iter().all(|count| *count == 7), "{counts:?}");
    }
}
