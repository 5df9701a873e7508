//! What L2 did not end: L3 is asked, whoever waits is told, and L2 gets back what it said that it lacks. The end, where there is no L3.
//!
//! L2 gets nothing back that it could not speak of: it may hold a newer row.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{
    Boxed, L3, Shared,
    fly::{At, Behind, Done, Id, Progress},
    online,
};
use crate::{
    features::{
        Row,
        l2::{Ask, Purpose, Put, Written},
        memory::Fetch,
        object,
    },
    infer::WorkerId,
    resilience::flight::Lead,
    telemetry::handles::features::{Layer, Outcome, WriteBack},
};

/// A read of L3 has a timeout of its own, which tells more: it is to ring before the one around the wait for a place and the read.
const SLACK: Duration = Duration::from_millis(20);

/// A fetch that L2 did not end.
pub(super) struct Further {
    pub(super) lead: Lead<Id, Progress>,
    pub(super) ask: Ask,
    pub(super) behind: Behind,
    /// When L2 may be asked, where its breaker kept it from being asked now.
    pub(super) until: Option<Instant>,
    /// When L2 was asked: what is known is as old as that.
    pub(super) began: Instant,
}

impl Shared {
    /// What L2 did not end: at L3, and back to L2 what that had; the end where there is no L3.
    pub(super) async fn go_beyond_l2(&self, worker: WorkerId, further: Vec<Further>) {
        let Some(l3) = &self.l3 else { return self.give_up(further, At::L2) };
        // What L3 has may be older than a push that was acknowledged.
        let (told, further) = further
            .into_iter()
            .partition(|fetch| fetch.ask.view.reads_primary_only() && fetch.behind != Behind::Absence);
        self.give_up(told, At::L2);
        let further: Vec<_> = further;
        let began = Instant::now();
        let landed = join_all(further.into_iter().map(|fetch| self.ask_l3(l3, fetch))).await;
        if !landed.is_empty() {
            self.metrics.took(Layer::L3, began.elapsed());
        }
        self.write_back(worker, landed.into_iter().flatten().collect()).await;
    }

    /// What a retry needs of the time that is left: another answer of L2, and L3 in case that there is none.
    pub(super) fn one_more_takes(&self) -> Duration {
        self.l2.timeout() + self.l3.as_ref().map_or(Duration::ZERO, L3::typically)
    }

    /// What L3 has of one row. Returns it if L2 is to have it too.
    async fn ask_l3(&self, l3: &L3, fetch: Further) -> Option<(Ask, Arc<Row>)> {
        fetch.lead.publish(Progress::AtL3(fetch.behind));
        let began = Instant::now();
        let read = async {
            let _permit = l3.reads.acquire().await;
            l3.source.get(&fetch.ask).await
        };
        let answer = timeout(l3.timeout + SLACK, read).await;
        let (now, mut until) = (Instant::now(), None);
        l3.pace.took(now - began, now);
        let (outcome, row) = match answer {
            Ok(Ok(Some(row))) => (Outcome::Hit, Some(row)),
            Ok(Ok(None)) => (Outcome::Miss, None),
            Ok(Err(error)) => {
                tracing::debug!(view = %fetch.ask.view.name, %error, "row not read from L3");
                until = open_until(&error);
                (l3_outcome(&error), None)
            }
            Err(_) => (Outcome::Timeout, None),
        };
        self.metrics.looked_up(Layer::L3, outcome, 1);
        let at = At::L3(fetch.behind);
        match row {
            Some(row) => return self.land(fetch, Arc::new(row)),
            None if outcome == Outcome::Miss => self.give_up(vec![fetch], at),
            None => fetch.lead.end(Progress::Done(match fetch.behind {
                Behind::Absence if outcome == Outcome::Unreadable => Done::Unreadable(at),
                Behind::Absence => Done::Failed(at, until),
                Behind::Failure => Done::Failed(at, fetch.until.zip(until).map(|(l2, l3)| l2.min(l3))),
                Behind::Unreadable => Done::Unreadable(at),
            })),
        }
        None
    }

    /// A row of L3, to whoever waits. L2 is to have it too, unless it could not say what it has; or it is a `write_through` row, which is
    /// written by pushes alone: other gateways are not asked to let go of what they have.
    fn land(&self, fetch: Further, row: Arc<Row>) -> Option<(Ask, Arc<Row>)> {
        let Further { lead, ask, behind, began, .. } = fetch;
        match behind {
            Behind::Absence => {
                let fetch = Fetch { began, took: began.elapsed() };
                self.keep(&ask, Some(Arc::clone(&row)), fetch);
            }
            Behind::Failure | Behind::Unreadable => {
                self.metrics.stood_in(ask.view.id);
                self.l1.put_doubtful(ask.view.id, &ask.key, &row, began);
            }
        }
        lead.end(Progress::Done(Done::Row(Arc::clone(&row), At::L3(behind))));
        (behind == Behind::Absence && !ask.view.reads_primary_only()).then_some((ask, row))
    }

    /// In batches: each is one request to a server, and a large lookup must not take all the places that a server has.
    async fn write_back(&self, worker: WorkerId, landed: Vec<(Ask, Arc<Row>)>) {
        if !self.l2.is_writable() {
            return;
        }
        let puts: Vec<Put> = landed.into_iter().map(|(ask, row)| Put { ask, row }).collect();
        for batch in puts.chunks(online::BATCH) {
            let written = self.l2.write(worker, batch, Purpose::WriteBack).await;
            for (put, written) in batch.iter().zip(written) {
                self.metrics.wrote_back(match &written {
                    Ok(Written::Written) => WriteBack::Written,
                    Ok(Written::Mended) => WriteBack::Mended,
                    Ok(Written::Older) => WriteBack::Older,
                    Err(_) => WriteBack::Error,
                });
                if let Err(error) = written {
                    tracing::debug!(view = %put.ask.view.name, %error, "row not written back to L2");
                }
            }
        }
    }

    /// No layer has the rows: each an absence if all said so, else a failure.
    fn give_up(&self, fetches: Vec<Further>, last: At) {
        let end = |Further { lead, ask, behind, until, began }| {
            let done = match behind {
                Behind::Absence => {
                    self.keep(&ask, None, Fetch::from(began));
                    Done::Absent(last)
                }
                Behind::Failure => Done::Failed(last, until),
                Behind::Unreadable => Done::Unreadable(last),
            };
            (lead, Progress::Done(done))
        };
        Lead::end_all(fetches.into_iter().map(end).collect());
    }
}

impl L3 {
    /// What a read takes lately.
    pub(super) fn typically(&self) -> Duration {
        self.pace.at(Instant::now())
    }
}

fn open_until(error: &Boxed) -> Option<Instant> {
    match error.downcast_ref() {
        Some(object::Error::Open { until }) => Some(*until),
        _ => None,
    }
}

fn l3_outcome(error: &Boxed) -> Outcome {
    match error.downcast_ref() {
        Some(object::Error::Damaged(_)) => Outcome::Unreadable,
        Some(object::Error::Timeout(_)) => Outcome::Timeout,
        _ => Outcome::Error,
    }
}
