//! Streamed answers that their callers stopped taking.
//!
//! A streamed answer keeps its tier's slot and its endpoint's connection until the last byte was taken, and a body is asked for
//! more only while its caller takes some: a caller that stops would keep both for ever, unnoticed. So the streamed answers of a
//! connection are looked at from outside. One that was not asked for more in all of `listen.send_timeout` (and so in at most twice
//! that) gives back what it holds and breaks off; over HTTP/1.1 its connection is closed, over HTTP/2 only its stream ends, once
//! the caller takes something again.
//!
//! A model that is silent for long is not its caller's fault: an answer that waits for more is bounded by the request's deadline.
//! The task that looks exists only while there is something to look at.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::Notify;

use super::body::{Flow, ResponseBody};
use crate::{app::Tasks, telemetry::handles::ingress::StallHandles};

/// The streamed answers of one connection.
pub(super) struct Answers {
    timeout: Duration,
    handles: StallHandles,
    tasks: Tasks,
    list: Mutex<List>,
    stalled: Notify,
}

#[derive(Default)]
struct List {
    /// Those that ended are taken out now and then.
    answers: Vec<Weak<Mutex<Flow>>>,
    watched: bool,
}

impl Answers {
    pub(super) fn new(timeout: Duration, handles: StallHandles, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self { timeout, handles, tasks, list: Mutex::default(), stalled: Notify::new() })
    }

    /// Watches `body` to its end, if it is a streamed one.
    pub(super) fn watch(self: &Arc<Self>, body: &ResponseBody) {
        let ResponseBody::Stream(passing) = body else { return };
        let mut list = lock(&self.list);
        if list.answers.len() == list.answers.capacity() {
            list.answers.retain(|answer| answer.strong_count() > 0);
        }
        list.answers.push(passing.flow());
        if !std::mem::replace(&mut list.watched, true) {
            self.tasks.attend(Arc::clone(self).look());
        }
    }

    /// Ends when an answer was broken off.
    pub(super) async fn stalled(&self) {
        self.stalled.notified().await;
    }

    async fn look(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.timeout).await;
            let mut list = lock(&self.list);
            list.answers.retain(|answer| self.goes_on(answer));
            list.watched = !list.answers.is_empty();
            if !list.watched {
                return;
            }
        }
    }

    /// Whether the answer is to be looked at again.
    fn goes_on(&self, answer: &Weak<Mutex<Flow>>) -> bool {
        let Some(flow) = answer.upgrade() else { return false };
        let Some(body) = lock(&flow).stalled() else { return true };
        drop(body);
        tracing::debug!("a caller took nothing of its answer for listen.send_timeout: broken off");
        self.handles.broken_off();
        self.stalled.notify_one();
        false
    }
}

/// What these locks guard is whole whenever they are let go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{infer::Error, telemetry::scratch};

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// A streamed answer whose parts are sent by hand. The channel closes when it lets go of what it holds.
    fn answer() -> (mpsc::UnboundedSender<Bytes>, ResponseBody) {
        let (parts, came) = mpsc::unbounded_channel::<Bytes>();
        let frames = futures_util::stream::unfold(came, |mut came| async move {
            let part = came.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(part)), came))
        });
        let body = StreamBody::new(frames).map_err(|never| -> Error { match never {} });
        (parts, ResponseBody::stream(body.boxed_unsync()))
    }

    fn answers() -> Arc<Answers> {
        Answers::new(TIMEOUT, StallHandles::new(), Tasks::default())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_gives_back_what_it_holds() {
        let (answers, scrape) = scratch(answers);
        let (parts, mut body) = answer();
        answers.watch(&body);
        parts.send(Bytes::from_static(b"first")).unwrap();
        parts.send(Bytes::from_static(b"second")).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        let asked = tokio::time::Instant::now();
        parts.closed().await;
        assert!((TIMEOUT..=2 * TIMEOUT).contains(&asked.elapsed()), "{:?}", asked.elapsed());
        answers.stalled().await;
        assert!(body.frame().await.unwrap().is_err() && body.frame().await.is_none(), "cut short, and so told");
        assert!(scrape.render().contains("weir_stalled_answers_total 1\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_ever_asked_for_more_is_not_waited_for_either() {
        let (answers, (parts, body)) = (answers(), answer());
        answers.watch(&body);
        parts.closed().await;
        drop(body);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_and_a_silent_model_are_no_stall() {
        let (answers, (parts, mut body)) = (answers(), answer());
        answers.watch(&body);
        for _ in 0..5 {
            parts.send(Bytes::from_static(b"part")).unwrap();
            assert!(body.frame().await.unwrap().is_ok());
            tokio::time::sleep(TIMEOUT - Duration::from_secs(1)).await;
        }
        let silent = tokio::time::timeout(10 * TIMEOUT, body.frame()).await;
        assert!(silent.is_err() && !parts.is_closed(), "it waits for the model");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_looks_where_there_is_nothing_to_see() {
        let answers = answers();
        for _ in 0..2 {
            let (_parts, body) = answer();
            answers.watch(&body);
            drop(body);
            assert!(lock(&answers.list).watched);
            tokio::time::sleep(2 * TIMEOUT).await;
            assert!(!lock(&answers.list).watched && Arc::strong_count(&answers) == 1);
        }
    }
}
