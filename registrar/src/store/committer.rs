//! The one task that writes single changes: it collects those that wait, and commits them as one batch.

use std::sync::Arc;

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::{Conflict, MAX_BATCH, Store, StoreError, Transaction};

/// Why a transaction was not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The row is not the expected one.
    #[error(transparent)]
    Conflict(Conflict),
    /// The store failed; the transaction may be tried again. It may have been written all the same.
    #[error("not stored: {0}")]
    Failed(Arc<StoreError>),
    /// The committer is closed.
    #[error("the store is closed")]
    Closed,
}

/// What the committer counts.
#[derive(Clone, Debug)]
pub struct CommitMetrics {
    waiting: Gauge,
    batches: Counter,
    committed: Counter,
    conflicts: Counter,
    failures: Counter,
    seconds: Histogram,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        Self {
            waiting: Gauge::default(),
            batches: Counter::default(),
            committed: Counter::default(),
            conflicts: Counter::default(),
            failures: Counter::default(),
            seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
        }
    }
}

impl CommitMetrics {
    /// Makes them part of a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "registrar_commit_waiting",
            "Changes waiting to be stored",
            self.waiting.clone(),
        );
        registry.register("registrar_commit_batches", "Batches stored", self.batches.clone());
        registry.register("registrar_commits", "Changes stored", self.committed.clone());
        registry.register(
            "registrar_commit_conflicts",
            "Changes refused because of a newer one",
            self.conflicts.clone(),
        );
        registry.register(
            "registrar_commit_failures",
            "Batches the store failed on",
            self.failures.clone(),
        );
        registry.register(
            "registrar_commit_seconds",
            "Time to store a batch",
            self.seconds.clone(),
        );
    }
}

struct Waiting {
    transaction: Transaction,
    answer: oneshot::Sender<Result<u64, CommitError>>,
}

/// Where changes are handed in. When the queue is full, callers wait.
#[derive(Clone)]
pub struct Commits {
    queue: mpsc::Sender<Waiting>,
}

impl Commits {
    /// Stores one transaction, and returns the audit log's last place once it is durable. It is stored even when
    /// the caller no longer waits.
    ///
    /// # Errors
    /// A conflict, a failing store, or a closed committer; nothing of the transaction is acknowledged then.
    pub async fn commit(&self, transaction: Transaction) -> Result<u64, CommitError> {
        let (answer, answered) = oneshot::channel();
        match self.queue.send(Waiting { transaction, answer }).await {
            Ok(()) => answered.await.unwrap_or(Err(CommitError::Closed)),
            Err(_) => Err(CommitError::Closed),
        }
    }
}

/// The running task.
pub struct Committer {
    task: JoinHandle<()>,
    close: mpsc::Sender<()>,
}

impl Committer {
    /// Starts it. At most `queue` changes wait inside; further callers wait outside.
    pub fn spawn(store: Arc<dyn Store>, queue: usize, metrics: CommitMetrics) -> (Self, Commits) {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        let (close, closed) = mpsc::channel(1);
        let task = tokio::spawn(run(store, receiver, closed, metrics));
        (Self { task, close }, Commits { queue: sender })
    }

    /// Takes no more changes, stores those that wait, and returns when all are answered.
    pub async fn close(self) {
        drop(self.close);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the committer ended badly");
        }
    }
}

async fn run(
    store: Arc<dyn Store>,
    mut queue: mpsc::Receiver<Waiting>,
    mut closed: mpsc::Receiver<()>,
    metrics: CommitMetrics,
) {
    let mut waiting = Vec::with_capacity(MAX_BATCH);
    loop {
        let received = tokio::select! {
            biased;
            _ = closed.recv(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            received = queue.recv_many(&mut waiting, MAX_BATCH) => received,
        };
        if received == 0 {
            return;
        }
        metrics
            .waiting
            .set(i64::try_from(queue.len() + received).unwrap_or(i64::MAX));
        commit(store.as_ref(), std::mem::take(&mut waiting), &metrics).await;
        metrics
            .waiting
            .set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
    }
}

async fn commit(store: &dyn Store, waiting: Vec<Waiting>, metrics: &CommitMetrics) {
    let (batch, answers): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .map(|waiting| (waiting.transaction, waiting.answer))
        .unzip();
    let started = Instant::now();
    let outcomes = store.commit(batch).await;
    metrics.seconds.observe(started.elapsed().as_secs_f64());
    metrics.batches.inc();
    // A caller that no longer waits is no error: its change is stored all the same.
    match outcomes {
        Ok(outcomes) => {
            for (outcome, answer) in outcomes.into_iter().zip(answers) {
                match outcome {
                    Ok(_) => metrics.committed.inc(),
                    Err(_) => metrics.conflicts.inc(),
                };
                let _ = answer.send(outcome.map_err(CommitError::Conflict));
            }
        }
        Err(error) => {
            tracing::error!(%error, changes = answers.len(), "changes were not stored");
            metrics.failures.inc();
            let error = Arc::new(error);
            for answer in answers {
                let _ = answer.send(Err(CommitError::Failed(Arc::clone(&error))));
            }
        }
    }
}

#[cfg(test)]
mod tests;
