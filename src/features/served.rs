//! L2 behind feature servers: rows read over Feast's HTTP API from a fleet of Weirs, or of Feast's own servers.
//!
//! ```text
//! asks ─► question: one a view and 128 keys ─► fleet: the better of two servers ─► answer: rows out of the JSON
//!            entity: keys back to values          └─ no connection, 5xx, no answer: another one, once
//! ```
//!
//! What is told of a row (its values, its event's time, what is null and what is not there) is what the server told; whether
//! it is too old is judged here, as for any other store. What it served past its time (its own store was down) stays that. Nothing is written: the fleet writes back what it finds in its own L3,
//! and is pushed to directly. Precomputed vectors are not read; their services are answered from their views.

mod answer;
mod cell;
mod client;
mod entity;
mod fleet;
mod load;
mod question;
mod server;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Response;
use tokio::time::Instant;

pub use self::answer::read_any;
use self::{
    fleet::Fleet,
    question::{Form, Question},
};
use super::{
    Row,
    feast::Malformed,
    l2::{Ask, Error},
};
use crate::{
    app::Tasks,
    config::{self, View},
    infer::WorkerId,
    resilience::budget::Budget,
};

/// Questions under way for one lookup; more wait their turn.
const ABREAST: usize = 8;

type Answer = Result<Option<Row>, Error>;

/// A fleet of feature servers.
#[derive(Debug)]
pub(crate) struct Served {
    /// Shared by all snapshots: connections outlive a change of the registry.
    fleet: Arc<Fleet>,
    /// By view.
    forms: Box<[Form]>,
}

impl Served {
    /// Connects to nothing yet.
    pub(crate) fn open(
        config: &config::FeatureServers,
        features: &config::Features,
        workers: usize,
        tasks: &Tasks,
    ) -> Self {
        let served = Self::unwatched(config, features, workers);
        let fleet = Arc::clone(&served.fleet);
        tasks.background(async move { fleet.watch().await });
        served
    }

    /// One that learns from requests alone.
    fn unwatched(config: &config::FeatureServers, features: &config::Features, workers: usize) -> Self {
        Self { fleet: Arc::new(Fleet::new(config, features, workers)), forms: forms(features) }
    }

    /// The same servers, over the same connections, for what the views have become.
    pub(crate) fn next(&self, features: &config::Features) -> Self {
        Self { fleet: Arc::clone(&self.fleet), forms: forms(features) }
    }

    /// Each view's keys in one request, more than 128 in several, some of them at a time. A question that is not answered in
    /// time is the last.
    pub(crate) async fn read(&self, worker: WorkerId, asks: &[Ask]) -> Vec<Answer> {
        let (questions, mut answers) = question::of(asks);
        let mut is_late = false;
        for questions in questions.chunks(ABREAST) {
            if is_late {
                break;
            }
            let by = Instant::now() + self.timeout();
            let answered = join_all(questions.iter().map(|question| self.ask(worker, question, by))).await;
            for (question, rows) in questions.iter().zip(answered) {
                is_late |= matches!(rows.first(), Some(Err(Error::TimedOut(_))));
                question.places.iter().zip(rows).for_each(|(place, row)| answers[*place] = Some(row));
            }
        }
        let not_asked = || Err(Error::TimedOut(self.timeout()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(not_asked)).collect()
    }

    /// The rows of one question, in its order.
    async fn ask(&self, worker: WorkerId, question: &Question<'_>, by: Instant) -> Vec<Answer> {
        let (view, count) = (question.view, question.places.len());
        let form = &self.forms[view.id.index()];
        let read = |told: &Response<Bytes>| {
            let rows = answer::rows(form.features(), told.body(), count)?;
            Ok((rows, answer::stale(told.headers(), &view.name)))
        };
        match self.fleet.ask(worker, (form.body(question).into(), count, by), read).await {
            Ok((rows, stale)) => rows.into_iter().map(|row| truth(row, stale, view)).collect(),
            Err(error) => vec![error; count].into_iter().map(Err).collect(),
        }
    }

    /// Longest wait for one round trip.
    pub(crate) fn timeout(&self) -> Duration {
        self.fleet.timeout()
    }

    /// What may be asked again; for lookups to pay in.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        self.fleet.budget()
    }

    /// Whether a server would be asked now, as far as breakers go.
    pub(crate) fn would_ask(&self) -> bool {
        self.fleet.would_ask(Instant::now())
    }

    /// Writes how long open breakers stay so.
    pub(crate) fn show(&self, now: Instant) {
        self.fleet.show(now);
    }

    /// Whether every server's breaker refuses now.
    pub(crate) fn is_unavailable(&self, now: Instant) -> bool {
        self.fleet.is_unavailable(now)
    }

    /// Opens a connection of the worker's to each server.
    pub(crate) async fn connect(&self, worker: WorkerId) {
        // What fails is met again by requests.
        let _ = self.fleet.health(worker).await;
    }

    /// Whether one of the servers is well; else what each says.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        let told = self.fleet.health(self.fleet.control()).await;
        if told.iter().any(Result::is_ok) {
            return Ok(());
        }
        let words: Vec<String> = told.into_iter().filter_map(Result::err).collect();
        Err(format!("feature server {}", words.join(", ")))
    }
}

/// A row as the server told it. That it had to serve rows past their time is told of all that it served.
fn truth(row: Result<Option<Row>, Malformed>, stale: Option<Duration>, view: &View) -> Answer {
    match (row, stale) {
        (Ok(Some(row)), Some(age)) => Err(Error::Stale { row: Arc::new(row), age }),
        (Ok(row), _) => Ok(row),
        (Err(source), _) => Err(Error::Malformed { view: Arc::clone(&view.name), source }),
    }
}

fn forms(features: &config::Features) -> Box<[Form]> {
    features.views.iter().map(|view| Form::of(view)).collect()
}

#[cfg(test)]
mod tests;
