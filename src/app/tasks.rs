//! The process's tasks, so that a drain knows what it waits for. Weir spawns tasks nowhere else; libraries spawn their own:
//! hyper's HTTP/2 a task a stream. Threads of their own have the object store, the embedded L2's writer and the access log's
//! writer.

use std::future::Future;

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
