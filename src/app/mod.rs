//! The composition root: builds everything from a config, owns the tasks, and ends in a drain.
//!
//! ```text
//!   control thread                         one thread a worker
//!   ┌──────────────────────────────┐       ┌───────────────────────────────┐
//!   │ acceptors ── connections ────┼──────►│ serves its connections, owns  │
//!   │ admin, health checks,        │       │ its upstream connections      │
//!   │ readiness, background fills  │       └───────────────────────────────┘
//!   └──────────────────────────────┘
//!   SIGTERM ─► not ready, still accepting ─► listeners close, GOAWAY ─► in flight finishes ─► exit
//! ```

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

mod build;
mod hot;
mod invalidate;
mod levels;
mod pools;
mod readiness;
mod registry;
mod replay;
mod rows;
mod tasks;
mod warm;

use readiness::Readiness;
pub use registry::Configured;
pub use tasks::Tasks;

use crate::{
    config::{Config, Drain},
    features::Store,
    infer::WorkerId,
    ingress::{
        server::{self, Inbox, Limits, Workers},
        service::Gateway,
    },
    predict,
    promotions::Promotions,
};

/// A running gateway.
pub struct App {
    addresses: Addresses,
    drain: Drain,
    readiness: Readiness,
    tasks: Tasks,
    /// Closes the listeners.
    stop_accepting: CancellationToken,
    /// Asks every connection to end after what it has in flight.
    end_connections: CancellationToken,
    /// Says that no request is left to be logged.
    stop_logging: CancellationToken,
    /// Set by `POST /admin/v1/drain`.
    asked_to_drain: CancellationToken,
    acceptors: Workers,
    threads: Vec<tokio::sync::oneshot::Receiver<()>>,
}

/// Where a gateway listens, with the ports that `:0` was given.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HTTP/1.1, h2c and gRPC.
    pub http: SocketAddr,
    /// gRPC, where it has a port of its own.
    pub grpc: Option<SocketAddr>,
    /// Probes, metrics, administration.
    pub admin: SocketAddr,
}

impl App {
    /// Binds, builds and starts. Backends and stores that are down make it not ready, not fail.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, a thread or a runtime that cannot be started, a store that cannot be opened at all.
    pub async fn start(configured: Configured, scrape: crate::telemetry::Scrape) -> anyhow::Result<Self> {
        let sockets = Sockets::bind(&configured.config)?;
        Self::start_on(sockets, configured, scrape).await
    }

    /// As [`App::start`], on sockets that are bound already.
    ///
    /// # Errors
    ///
    /// As [`App::start`].
    pub(crate) async fn start_on(
        sockets: Sockets,
        configured: Configured,
        scrape: crate::telemetry::Scrape,
    ) -> anyhow::Result<Self> {
        let Configured { config, registry, .. } = configured;
        let config = Arc::new(config);
        let addresses = sockets.addresses()?;
        let tasks = Tasks::default();
        let readiness = Readiness::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        let gateway = build::gateway(config.clone(), &tasks, readiness.clone(), health_service).await?;
        let gateway = Arc::new(ArcSwap::from_pointee(gateway));
        let (acceptors, inboxes) = Workers::new(config.workers);
        let limits = Limits::new(&config.listen);
        let app = Self {
            addresses,
            drain: config.drain.clone(),
            readiness: readiness.clone(),
            tasks: tasks.clone(),
            stop_accepting: CancellationToken::new(),
            end_connections: CancellationToken::new(),
            stop_logging: CancellationToken::new(),
            asked_to_drain: CancellationToken::new(),
            acceptors,
            threads: Vec::new(),
        };
        let updates = read_updates(&config, &tasks, &gateway).await?;
        let app = app.start_workers(inboxes, &gateway, &limits).await?;
        let control = WorkerId(u32::try_from(config.workers).unwrap_or(u32::MAX));
        gateway.load_full().pipeline.predict.watch(control);
        tasks.background(maintain(gateway.clone()));
        tasks.background(levels::watch(gateway.clone()));
        tasks.background(hot::tend(gateway.clone(), control));
        let listened = gateway.clone();
        tasks.background(async move {
            Store::listen(|| Arc::clone(&listened.load_full().pipeline.features)).await;
        });
        let predictions = Arc::clone(&gateway.load_full().pipeline.predictions);
        tasks.background(async move { predictions.tend().await });
        let shown = Arc::clone(&gateway.load_full().pipeline.predictions);
        scrape.before(move || shown.show(Instant::now()));
        let promotions = follow_promotions(&config, &tasks, &gateway);
        let verdict = registry.map(|registry| registry.follow(&tasks, gateway.clone()));
        let warm = keep_warm(&config, control, &tasks, (&gateway, &readiness));
        tasks.background(readiness.clone().watch(gateway.clone(), health, warm));
        keep_for_later(&config, control, &tasks, (&gateway, &readiness, &app.stop_logging));
        give_back(&tasks, (&gateway, &app.stop_logging));
        let door = gateway.load_full().pipeline.admission.clone();
        scrape.before(move || door.observe());
        let holds = gateway.load_full().holds.clone();
        scrape.before(move || holds.show());
        let predict = gateway.load_full().pipeline.predict.clone();
        scrape.before(move || predict.show(Instant::now()));
        let current = gateway.clone();
        scrape.before(move || current.load_full().pipeline.features.show(Instant::now()));
        let admin = build::admin(
            readiness,
            scrape,
            app.asked_to_drain.clone(),
            &gateway,
            (rows::Rows { registry: verdict, updates }, promotions),
        );
        tasks.background(async move {
            if let Err(error) = crate::admin::serve(sockets.admin, admin, std::future::pending()).await {
                tracing::error!(%error, "the admin port closed");
            }
        });
        let listeners = [("http", Some(sockets.http)), ("grpc", sockets.grpc)];
        for (name, listener) in listeners.into_iter().filter_map(|(name, listener)| Some((name, listener?))) {
            tasks.spawn(server::accept(name, listener, app.acceptors.clone(), app.stop_accepting.clone()));
        }
        Ok(app)
    }

    /// Where it listens.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown`, then drains: not ready but still accepting for `drain.delay`, then no new connections, and
    /// `drain.deadline` for what is in flight.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            () = self.asked_to_drain.cancelled() => {}
        }
        tracing::info!(delay = ?self.drain.delay, deadline = ?self.drain.deadline, "draining");
        self.readiness.drain();
        tokio::time::sleep(self.drain.delay).await;
        self.stop_accepting.cancel();
        self.end_connections.cancel();
        // The workers' inboxes end when nobody can hand over any more.
        drop(self.acceptors);
        let workers = futures_util::future::join_all(self.threads);
        if tokio::time::timeout(self.drain.deadline, workers).await.is_err() {
            tracing::warn!("requests were still in flight at the end of drain.deadline");
        }
        self.stop_logging.cancel();
        self.tasks.finish().await;
        tracing::info!("stopped");
    }

    async fn start_workers(
        mut self,
        inboxes: Vec<Inbox>,
        gateway: &Arc<ArcSwap<Gateway>>,
        limits: &Limits,
    ) -> anyhow::Result<Self> {
        for inbox in inboxes {
            let worker = Worker {
                gateway: gateway.clone(),
                limits: limits.clone(),
                end_connections: self.end_connections.clone(),
            };
            // Built in the thread that owns it: a runtime must not be dropped inside another.
            let (started, start) = tokio::sync::oneshot::channel();
            let (ended, wait) = tokio::sync::oneshot::channel();
            let name = format!("worker-{}", inbox.worker().index());
            thread::Builder::new()
                .name(name)
                .spawn(move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => {
                        // Nobody waits for what is told where the start of another worker failed.
                        let _ = started.send(Ok(()));
                        runtime.block_on(worker.run(inbox));
                        drop(runtime);
                        let _ = ended.send(());
                    }
                    Err(error) => drop(started.send(Err(error))),
                })
                .context("cannot start a worker thread")?;
            start.await.context("a worker thread ended at once")?.context("cannot start a worker's runtime")?;
            self.threads.push(wait);
        }
        Ok(self)
    }
}

/// Warms L1 up and saves its keys, where the config says so; what a start waits for.
fn keep_warm(
    config: &Config,
    control: WorkerId,
    tasks: &Tasks,
    (gateway, readiness): (&Arc<ArcSwap<Gateway>>, &Readiness),
) -> warm::Missing {
    let Some(config) = config.features.l1.warm_start.clone() else { return warm::Missing::default() };
    let (warm, missing) = warm::Warm::new(config, control);
    // Not in the background: a drain waits for the last save.
    tasks.spawn(warm.run(gateway.clone(), readiness.draining()));
    missing
}

/// Reads feature updates from Kafka, where the config says so. Waits a moment until the place in the topic is taken, so that no row
/// is cached before that. What it returns shows how the consumer stands.
#[cfg(feature = "kafka")]
async fn read_updates(
    config: &Config,
    tasks: &Tasks,
    gateway: &Arc<ArcSwap<Gateway>>,
) -> anyhow::Result<Option<crate::admin::Section>> {
    let Some(kafka) = &config.features.kafka else { return Ok(None) };
    let gateway = Arc::clone(gateway);
    let current = move || {
        let pipeline = &gateway.load_full().pipeline;
        (Arc::clone(&pipeline.config), Arc::clone(&pipeline.features))
    };
    let consumer = crate::kafka::Consumer::start(kafka, Box::new(current))?;
    consumer.settled(KAFKA_PATIENCE).await;
    let standing = consumer.standing();
    // It ends when it is dropped.
    tasks.background(async move {
        let _reads = consumer;
        std::future::pending::<()>().await;
    });
    Ok(Some(Box::new(move || standing.shown())))
}

#[cfg(not(feature = "kafka"))]
async fn read_updates(
    config: &Config,
    _: &Tasks,
    _: &Arc<ArcSwap<Gateway>>,
) -> anyhow::Result<Option<crate::admin::Section>> {
    anyhow::ensure!(config.features.kafka.is_none(), "this build does not read Kafka");
    Ok(None)
}

/// Hears of promotions, and looks for them where the config says so.
fn follow_promotions(config: &Config, tasks: &Tasks, gateway: &ArcSwap<Gateway>) -> Arc<Promotions> {
    let promotions = Arc::new(Promotions::new(config, Arc::clone(&gateway.load_full().pipeline.predictions)));
    let looking = Arc::clone(&promotions);
    tasks.background(async move { looking.reconcile().await });
    promotions
}

/// Replays what is kept for later, and keeps what was answered at level 3, where there are models to be asked. Neither is in the
/// background: a drain waits until claims are given back, and the last request is kept.
fn keep_for_later(
    config: &Config,
    control: WorkerId,
    tasks: &Tasks,
    (gateway, readiness, stop_logging): (&Arc<ArcSwap<Gateway>>, &Readiness, &CancellationToken),
) {
    if config.models.is_empty() {
        return;
    }
    let replayer = replay::Replayer::new(gateway.clone(), control);
    tasks.spawn(replayer.run(readiness.draining(), config.drain.deadline));
    let (spool, end) = (gateway.load_full().spool.clone(), stop_logging.clone());
    tasks.spawn(async move { spool.log_all(end).await });
}

/// Once no request is left, gives back the lease under which rows are kept. Not in the background: a drain waits for it.
fn give_back(tasks: &Tasks, (gateway, no_requests): (&Arc<ArcSwap<Gateway>>, &CancellationToken)) {
    let (gateway, no_requests) = (gateway.clone(), no_requests.clone());
    tasks.spawn(async move {
        no_requests.cancelled().await;
        gateway.load_full().pipeline.features.leave().await;
    });
}

/// Keeps the feature store tidy and gauges current, whichever snapshot's they are.
async fn maintain(gateway: Arc<ArcSwap<Gateway>>) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let (now, gateway) = (Instant::now(), gateway.load_full());
        gateway.feast.maintain(now - last);
        last = now;
        // Once a minute this goes through all of L1: not on the thread that accepts connections.
        let tidied = tokio::task::spawn_blocking(move || {
            gateway.pipeline.features.maintain();
            gateway.pipeline.predictions.maintain(Instant::now());
        });
        let tidied = tidied.await;
        if let Err(panicked) = tidied {
            tracing::error!(%panicked, "L1 was not tidied");
        }
    }
}

/// One thread's part of the work.
struct Worker {
    gateway: Arc<ArcSwap<Gateway>>,
    limits: Limits,
    end_connections: CancellationToken,
}

/// How long a start waits for Kafka.
#[cfg(feature = "kafka")]
const KAFKA_PATIENCE: Duration = Duration::from_secs(3);

/// A timer set while no other is due earlier interrupts the runtime's wait for sockets, at the cost of two system calls. One
/// that is always due soon spares that to every attempt whose timeout is longer; a request alone would pay it each time.
const METRONOME: Duration = Duration::from_millis(50);

impl Worker {
    async fn run(self, inbox: Inbox) {
        let tasks = Tasks::default();
        let (id, gateway) = (inbox.worker(), self.gateway.clone());
        tasks.background(async move {
            let mut tick = tokio::time::interval(predict::SWEEP_EVERY);
            loop {
                tick.tick().await;
                gateway.load_full().pipeline.predict.sweep(id);
            }
        });
        tasks.background(async {
            let mut tick = tokio::time::interval(METRONOME);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
            }
        });
        let features = self.gateway.load_full().pipeline.features.clone();
        features.connect(id).await;
        inbox.serve(self.gateway, self.limits, tasks.clone(), self.end_connections).await;
        tasks.finish().await;
    }
}

/// The listeners, bound.
pub(crate) struct Sockets {
    pub(crate) http: TcpListener,
    pub(crate) grpc: Option<TcpListener>,
    pub(crate) admin: TcpListener,
}

impl Sockets {
    fn bind(config: &Config) -> anyhow::Result<Self> {
        let http = server::bind("http", config.listen.http)?;
        let grpc = match config.listen.grpc {
            Some(address) => Some(server::bind("grpc", address)?),
            None => None,
        };
        let admin = server::bind("admin", config.listen.admin)?;
        Ok(Self { http, grpc, admin })
    }

    fn addresses(&self) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            http: self.http.local_addr()?,
            grpc: self.grpc.as_ref().map(TcpListener::local_addr).transpose()?,
            admin: self.admin.local_addr()?,
        })
    }
}
