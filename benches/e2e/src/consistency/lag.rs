//! Invalidation: how long a gateway that keeps a row for an hour goes on serving it after it was written elsewhere.
//!
//! The clock starts when the write is acknowledged, and stops when the first answer with the new row has arrived. In between the row is
//! asked for at fixed moments, a step apart, whatever the answers do; the first at once. Before each write the row has to be in L1.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::world::{World, first_feature, is_from_l1};
use crate::{caller::Caller, cluster::Writer, feast, part::Bench};

/// Between two looks.
pub(super) const STEP: Duration = Duration::from_micros(500);
/// How long the new row is waited for.
pub(super) const LIMIT: Duration = Duration::from_secs(1);
/// So many rows in a row that do not change are enough.
const HOPELESS: u64 = 3;
/// Entities of each way.
const USERS: i64 = 50;
/// The first value that is written: none that a row has in the beginning.
const FIRST: u64 = 1_000_000;
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(5);

/// How the gateway hears of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From Redis, which another client wrote to.
    Tracking,
    /// From another gateway, which was pushed to.
    Bus,
    /// The same, which waited until everybody had dropped the row.
    WriteThrough,
}

/// What was seen of one way.
pub(super) struct Lag {
    pub(super) way: Way,
    /// Nanoseconds.
    pub(super) took: Histogram<u64>,
    /// Writes that were not seen within [`LIMIT`].
    pub(super) lost: u64,
    /// Answers with what was there before, after the acknowledgement.
    pub(super) olds: u64,
}

impl Way {
    const ALL: [Self; 3] = [Self::Tracking, Self::Bus, Self::WriteThrough];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tracking => "a plain Redis client's write (`invalidate.tracking`)",
            Self::Bus => "a push at another gateway (`ttl`)",
            Self::WriteThrough => "a push at another gateway (`write_through`)",
        }
    }

    /// What is said of the view, and of features.
    const fn config(self) -> (&'static str, &'static str) {
        match self {
            Self::Tracking => ("", "  invalidate: {tracking: true}\n"),
            Self::Bus => ("", "  invalidate: {tracking: false}\n"),
            Self::WriteThrough => ("      consistency: write_through\n", "  invalidate: {tracking: false}\n"),
        }
    }
}

impl Lag {
    fn new(way: Way) -> Result<Self> {
        Ok(Self { way, took: Histogram::new_with_max(LIMIT.as_nanos() as u64 * 2, 3)?, lost: 0, olds: 0 })
    }

    /// Milliseconds; `None`: nothing was seen.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        (!self.took.is_empty()).then(|| self.took.value_at_quantile(quantile) as f64 / 1e6)
    }

    fn add(&mut self, (took, olds): (Option<Duration>, u64)) {
        self.olds += olds;
        match took {
            Some(took) => self.took.saturating_record(took.as_nanos() as u64),
            None => self.lost += 1,
        }
    }

    fn is_hopeless(&self) -> bool {
        self.took.is_empty() && self.lost >= HOPELESS
    }
}

/// Measures each way for so long.
pub(super) fn run(bench: Bench<'_>, length: Duration) -> Result<Vec<Lag>> {
    let world = World::start(bench, USERS as usize * Way::ALL.len())?;
    Way::ALL.into_iter().enumerate().map(|(index, way)| of(bench, (&world, index), way, length)).collect()
}

fn of(bench: Bench<'_>, (world, index): (&World, usize), way: Way, length: Duration) -> Result<Lag> {
    let (view, more) = way.config();
    let weir = |role: &str| world.gateway(bench, &format!("weir-{role}-{index}"), ("10MiB", view, more));
    let (writer, reader) = (weir("writer")?, weir("reader")?);
    let mut pen = match way {
        Way::Tracking => Pen::Redis(world.cluster.writer()?),
        Way::Bus | Way::WriteThrough => Pen::Gateway(Caller::connect(writer.server.address)?),
    };
    let mut lag = Lag::new(way)?;
    let first = 1 + index as i64 * USERS;
    let (mut users, end) = ((first..first + USERS).cycle(), Instant::now() + length);
    let mut version = FIRST;
    while Instant::now() < end && !lag.is_hopeless() {
        let user = users.next().unwrap_or(first);
        version += 1;
        keep(reader.server.address, user)?;
        let acknowledged = pen.write(world, user, version)?;
        lag.add(seen(reader.server.address, (user, version), acknowledged)?);
        thread::sleep(PAUSE);
    }
    let half = lag.quantile(0.5).unwrap_or(f64::NAN);
    eprintln!("{}: p50 {half:.2} ms, {} not seen, {} old answers", way.name(), lag.lost, lag.olds);
    Ok(lag)
}

/// Who writes.
enum Pen {
    Redis(Writer),
    Gateway(Caller),
}

impl Pen {
    /// Writes a row whose first feature is `version`; when that was acknowledged.
    fn write(&mut self, world: &World, user: i64, version: u64) -> Result<Instant> {
        let values = |_| version as f64;
        match self {
            Self::Redis(writer) => {
                let row = feast::row_of(user, world.loaded + 1, values);
                writer.write_to(world.owners[user as usize - 1], &row)?;
            }
            Self::Gateway(caller) => {
                // Later than what is stored, and not ahead of the clock.
                let answer = caller.call(&feast::push(user, world.loaded * 1_000_000_000 + version, values))?;
                ensure!(answer.status == 200, "a push is answered {}", String::from_utf8_lossy(&answer.body));
            }
        }
        Ok(Instant::now())
    }
}

/// Has the gateway keep the row.
fn keep(gateway: SocketAddr, user: i64) -> Result<()> {
    let (mut caller, read, until) = (Caller::connect(gateway)?, feast::read(user, ""), Instant::now() + LIMIT);
    while !is_from_l1(&caller.call(&read)?) {
        ensure!(Instant::now() < until, "a row is not kept in L1");
        thread::sleep(STEP);
    }
    Ok(())
}

/// From then on until an answer has the version, and how many came before that had not.
fn seen(gateway: SocketAddr, (user, version): (i64, u64), from: Instant) -> Result<(Option<Duration>, u64)> {
    let (mut caller, read) = (Caller::connect(gateway)?, feast::read(user, ""));
    let (mut due, mut olds) = (from, 0);
    while due - from < LIMIT {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = caller.call(&read)?;
        let took = from.elapsed();
        if first_feature(&answer)? == version as f64 {
            return Ok((Some(took), olds));
        }
        olds += 1;
        // Those that were due meanwhile are asked by this one.
        while due <= from + took {
            due += STEP;
        }
    }
    Ok((None, olds))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers so many requests with the old version, and the others with the new one.
    fn gateway(olds: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut socket, mut request) = (listener.accept().unwrap().0, [0; 4096]);
            for asked in 0.. {
                if !socket.read(&mut request).is_ok_and(|read| read > 0) {
                    return;
                }
                let version = if asked < olds { FIRST } else { FIRST + 1 };
                let body = format!(
                    "{{\"metadata\":{{\"feature_names\":[\"user_id\",\"f0\"]}},\"results\":[{{\"values\":[1]}},{{\"values\":[{version}.0]}}]}}"
                );
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if socket.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        address
    }

    #[test]
    fn the_clock_stops_at_the_first_answer_with_the_new_row() {
        let from = Instant::now();
        let (took, olds) = seen(gateway(10), (1, FIRST + 1), from).unwrap();
        let took = took.expect("it comes");
        assert!(took >= STEP * 10 && took <= from.elapsed() && olds == 10, "{took:?} {olds}");
        let (never, olds) = seen(gateway(usize::MAX), (1, FIRST + 1), Instant::now()).unwrap();
        assert!(never.is_none() && olds > 0);
    }

    #[test]
    fn three_rows_that_never_change_are_enough_unless_one_did() {
        let mut lag = Lag::new(Way::Bus).unwrap();
        (0..HOPELESS).for_each(|_| lag.add((None, 1)));
        assert!(lag.is_hopeless() && lag.quantile(0.5).is_none());
        lag.add((Some(STEP), 0));
        assert!(!lag.is_hopeless() && lag.quantile(0.5).is_some() && lag.olds == HOPELESS);
    }
}
