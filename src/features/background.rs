//! Where the feature stage's own tasks run: on the runtime that begins them, known to whoever drains.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The drain's hold on tasks: it says stop, and waits.
#[derive(Clone, Debug, Default)]
pub struct Background {
    /// Every task is begun here.
    pub tasks: TaskTracker,
    /// Cancelled when tasks that would go on for ever must end: after the last request, which may still need a connection.
    pub stop: CancellationToken,
}

impl Background {
    /// Runs a task to its end: what it began matters also while draining.
    pub(super) fn finish(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Runs a task until it ends or the process drains.
    pub(super) fn until_stopped(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled_owned(task).await;
        });
    }
}
