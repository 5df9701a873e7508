//! The process's tasks, so that a drain knows what it waits for. Weir spawns tasks nowhere else; libraries spawn their own:
//! hyper's HTTP/2 a task a stream, its client one a connection, the Redis driver one a connection that it makes. Threads of their own have
//! the object store, Kafka's consumer, the embedded L2's writer and the access log's writer.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Context,
};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Spawns on the runtime it is called from; shared by every runtime of the process.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// A task that a drain waits for.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task);
    }

    /// Work that whoever began it goes on with while waiting; what is left of it when the wait is over becomes a task.
    pub fn outliving<F>(&self, work: F) -> Outliving<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Outliving { work: Some(Box::pin(work)), tasks: self.clone() }
    }

    /// A task that runs until the process ends: a drain drops it.
    pub fn background<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// A task that serves others and ends with the last of them, or with its runtime: a connection's. A drain neither drops it,
    /// for they may need it to the end, nor waits for it.
    #[expect(clippy::disallowed_methods, reason = "a drain does not wait for it")]
    pub fn attend<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(task);
    }

    /// Whether nothing runs.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Drops the background tasks and waits for all others.
    pub async fn finish(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Work that ends whatever becomes of who began it, at no cost of a task while that one waits for it.
#[derive(Debug)]
#[must_use = "dropped, it becomes a task"]
pub struct Outliving<F: Future<Output = ()> + Send + 'static> {
    /// `None` once it has ended.
    work: Option<Pin<Box<F>>>,
    tasks: Tasks,
}

impl<F: Future<Output = ()> + Send + 'static> Outliving<F> {
    /// Waits for something, and goes on with the work meanwhile. The work comes first: what it has brought about is seen.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it can be called again.
    pub async fn until<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        let mut awaited = pin!(awaited);
        poll_fn(|cx| {
            self.advance(cx);
            awaited.as_mut().poll(cx)
        })
        .await
    }

    /// Work that panics is dropped by that.
    fn advance(&mut self, cx: &mut Context<'_>) {
        if let Some(mut work) = self.work.take()
            && work.as_mut().poll(cx).is_pending()
        {
            self.work = Some(work);
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Drop for Outliving<F> {
    fn drop(&mut self) {
        // Without a runtime (its threads are ending) nothing could go on with it.
        if let Some(work) = self.work.take()
            && Handle::try_current().is_ok()
        {
            self.tasks.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test]
    async fn work_that_ends_while_it_is_waited_for_never_was_a_task() {
        let tasks = Tasks::default();
        let (done, told) = oneshot::channel();
        let mut work = tasks.outliving(async move { done.send(1).unwrap() });
        assert_eq!(work.until(told).await, Ok(1));
        drop(work);
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn what_is_left_of_the_work_goes_on_as_a_task() {
        let tasks = Tasks::default();
        let (go, went) = oneshot::channel::<()>();
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut work = tasks.outliving(async move {
            tell.send("began").unwrap();
            went.await.unwrap();
            tell.send("ended").unwrap();
        });
        assert_eq!(work.until(told.recv()).await, Some("began"));
        // Whoever waits is cancelled.
        assert!(futures_util::poll!(pin!(work.until(pending::<()>()))).is_pending());
        drop(work);
        go.send(()).unwrap();
        tasks.finish().await;
        assert_eq!(told.recv().await, Some("ended"));
    }

    #[test]
    fn without_a_runtime_it_is_let_go() {
        let (tell, told) = oneshot::channel::<()>();
        drop(Tasks::default().outliving(async move {
            pending::<()>().await;
            drop(tell);
        }));
        assert!(told.blocking_recv().is_err());
    }
}
