//! Checks rows against the store, stages their changes, and writes them.

use std::{
    io::{self, BufRead},
    path::PathBuf,
    sync::Arc,
};

use jiff::Timestamp;
use protocol::CommandId;
use tokio::{
    runtime::Handle,
    sync::{Mutex, mpsc},
    task::spawn_blocking,
};
use uuid::Uuid;

use super::{
    Assignments, ImportError, ImportMetrics, Limits, Order, Written,
    parse::{Parsed, parse},
    plan::{self, Summary},
    staged::{self, Reader, Staged, Writer},
};
use crate::{
    api::ImportProgress,
    store::{
        DeviceChange, ImportChange, MoveChange, Store, Transaction,
        record::{AuditRecord, ImportRecord},
    },
};

/// Rows that are checked, or written and made durable, in one go.
const CHUNK: usize = 5000;
/// Reports that wait for a slow reader; further ones on progress are dropped.
const REPORTS: usize = 256;

/// What an importer works on.
pub struct Importer {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The gateways and moves.
    pub assignments: Arc<dyn Assignments>,
    /// Where rows are staged.
    pub folder: PathBuf,
    /// How much is read at most.
    pub limits: Limits,
    /// What it counts.
    pub metrics: ImportMetrics,
    /// An import that was accepted and is not finished, as the store had it at the start. Whoever holds the lock is
    /// the one import that runs.
    pub unfinished: Mutex<Option<ImportRecord>>,
}

type Reports = mpsc::Sender<ImportProgress>;

impl Importer {
    /// Finishes an import that was cut short, and removes staged rows nobody needs. To be called at every start.
    ///
    /// # Errors
    /// Its staged rows cannot be read, or the store fails; it stays to be finished.
    pub async fn finish(self: &Arc<Self>) -> Result<(), ImportError> {
        let importer = Arc::clone(self);
        let finish = async move {
            let mut unfinished = importer.unfinished.lock().await;
            staged::sweep(&importer.folder, unfinished.as_ref().map(|import| import.id))?;
            importer.write(&mut unfinished, None, &mpsc::channel(1).0).await
        };
        on_blocking_thread(finish).await
    }

    /// Starts an import, and returns its reports; the last one is `Done` or `Failed`. It goes on without a reader.
    pub fn start(
        self: &Arc<Self>,
        input: impl BufRead + Send + 'static,
        order: Order,
    ) -> mpsc::Receiver<ImportProgress> {
        let (reports, reader) = mpsc::channel(REPORTS);
        let (importer, dry_run) = (Arc::clone(self), order.dry_run);
        tokio::spawn(async move {
            let (runner, progress) = (Arc::clone(&importer), reports.clone());
            let result = on_blocking_thread(async move { runner.run(input, order, &progress).await }).await;
            let last = match result {
                Ok(Summary { added, moved, kept }) => ImportProgress::Done {
                    added,
                    moved,
                    kept,
                    dry_run,
                },
                Err(error) => {
                    importer.metrics.failed.inc();
                    let rejected = if let ImportError::Rejected(lines) = error {
                        lines
                    } else {
                        0
                    };
                    ImportProgress::Failed {
                        error: error.to_string(),
                        rejected,
                    }
                }
            };
            tracing::info!(?last, "import ended");
            // Nobody may be reading any more.
            let _ = reports.send(last).await;
        });
        reader
    }

    async fn run(
        &self,
        input: impl BufRead,
        order: Order,
        reports: &Reports,
    ) -> Result<Summary, ImportError> {
        let mut unfinished = self.unfinished.try_lock().map_err(|_| ImportError::Busy)?;
        self.write(&mut unfinished, None, reports).await?;

        let mut parsed = parse(input, order.format, &self.limits, |rows| {
            progress(reports, "checking", rows, None)
        })?;
        self.refuse_wrong(&mut parsed, &order, reports).await?;
        let import = ImportRecord {
            id: CommandId::new(Uuid::now_v7()),
            actor: order.actor,
            at: now(),
        };
        let mut file = if order.dry_run {
            None
        } else {
            Some(Writer::create(&self.folder, import.id)?)
        };
        let checked = self.check(parsed, import.at, file.as_mut(), reports).await;
        let changes = file.map_or(Ok(0), Writer::finish);
        let (summary, changes) = match (checked, changes) {
            (Ok(summary), Ok(changes)) if changes > 0 => (summary, changes),
            (checked, changes) => {
                staged::remove(&self.folder, import.id)?;
                changes?;
                return checked;
            }
        };
        let accepted = Transaction {
            import: Some(ImportChange::Put(import.clone())),
            ..Transaction::default()
        };
        self.store.commit(vec![accepted]).await?;
        *unfinished = Some(import);
        self.write(&mut unfinished, Some(changes), reports).await?;
        Ok(summary)
    }

    /// Reports what is wrong with the lines, and fails if anything is.
    async fn refuse_wrong(
        &self,
        parsed: &mut Parsed,
        order: &Order,
        reports: &Reports,
    ) -> Result<(), ImportError> {
        let mut gateways = parsed.gateways.clone();
        gateways.retain(|(gateway, _)| !order.allow_unknown_gateway && !self.assignments.is_known(gateway));
        for (gateway, line) in gateways {
            let error = format!("gateway {gateway} is not known: it has never connected to this registrar");
            parsed.reject(&self.limits, line.into(), error);
        }
        if parsed.rejected == 0 {
            return Ok(());
        }
        parsed.errors.sort_by_key(|error| error.line);
        for error in parsed.errors.drain(..) {
            // Nobody may be reading any more.
            let _ = reports
                .send(ImportProgress::Rejected {
                    line: error.line,
                    error: error.error,
                })
                .await;
        }
        Err(ImportError::Rejected(parsed.rejected))
    }

    /// Compares the rows with the store, and stages those that change something.
    async fn check(
        &self,
        parsed: Parsed,
        at: Timestamp,
        mut file: Option<&mut Writer>,
        reports: &Reports,
    ) -> Result<Summary, ImportError> {
        let total = parsed.rows.len() as u64;
        let mut summary = Summary::default();
        let mut rows = parsed.rows.into_iter();
        loop {
            let chunk: Vec<_> = rows.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Ok(summary);
            }
            let ids = chunk.iter().map(|row| row.device.clone()).collect();
            let found = self.store.devices_of(ids).await?;
            for (row, before) in chunk.into_iter().zip(found) {
                let gateway = &parsed.gateways[row.gateway as usize].0;
                if let Some(change) = plan::change(row, gateway, before, at, &mut summary)
                    && let Some(file) = &mut file
                {
                    file.push(&change)?;
                }
            }
            progress(reports, "checking", total - rows.len() as u64, Some(total));
        }
    }

    /// Writes what is staged, in the order of ids. A device that was changed since it was checked stays as it is: it
    /// was changed by this very import before it broke off, or by someone else later.
    async fn write(
        &self,
        unfinished: &mut Option<ImportRecord>,
        total: Option<u64>,
        reports: &Reports,
    ) -> Result<(), ImportError> {
        let Some(import) = unfinished.as_ref() else {
            return Ok(());
        };
        self.write_staged(import, total, reports)
            .await
            .map_err(|error| ImportError::Unfinished(Box::new(error)))?;
        self.metrics.finished.inc();
        let id = import.id;
        *unfinished = None;
        // The rows are durable: a file that stays is removed at the next start.
        if let Err(error) = staged::remove(&self.folder, id) {
            tracing::warn!(%error, "staged rows of a finished import could not be removed");
        }
        Ok(())
    }

    async fn write_staged(
        &self,
        import: &ImportRecord,
        total: Option<u64>,
        reports: &Reports,
    ) -> Result<(), ImportError> {
        let mut staged = Reader::open(&staged::path(&self.folder, import.id))?;
        let mut rows = 0;
        loop {
            let chunk = staged.next(CHUNK)?;
            if chunk.is_empty() {
                break;
            }
            rows += chunk.len() as u64;
            let (batch, written): (Vec<_>, Vec<_>) = chunk
                .into_iter()
                .map(|change| self.transaction(change, import))
                .unzip();
            let outcomes = self.store.stage(batch).await?;
            self.store.sync().await?;
            let written: Vec<_> = written
                .into_iter()
                .zip(outcomes)
                .filter_map(|(row, outcome)| outcome.ok().map(|_| row))
                .collect();
            self.metrics.rows.inc_by(written.len() as u64);
            self.assignments.written(written).await?;
            progress(reports, "writing", rows, total);
        }
        let finished = Transaction {
            import: Some(ImportChange::Remove),
            ..Transaction::default()
        };
        self.store.commit(vec![finished]).await?;
        Ok(())
    }

    fn transaction(&self, change: Staged, import: &ImportRecord) -> (Transaction, Written) {
        let Staged { device, before, put } = change;
        let expect = before.as_ref().map(|before| before.epoch);
        let assigned = before.filter(|before| !before.removed);
        let changed = expect != Some(put.epoch);
        let from = assigned.as_ref().map(|before| &before.gateway);
        let moved = changed
            .then(|| self.assignments.plan_move(&device, from, &put, &import.actor))
            .flatten();
        let audit = AuditRecord {
            at: import.at,
            actor: import.actor.clone(),
            action: "import".into(),
            device: Some(device.clone()),
            before: assigned.map(|before| (before.gateway, before.epoch)),
            after: Some((put.gateway.clone(), put.epoch)),
        };
        let transaction = Transaction {
            device: Some(DeviceChange {
                id: device.clone(),
                expect,
                put: put.clone(),
            }),
            moves: moved.iter().cloned().map(MoveChange::Put).collect(),
            audit: Some(audit),
            ..Transaction::default()
        };
        (
            transaction,
            Written {
                device,
                record: put,
                moved,
            },
        )
    }
}

fn progress(reports: &Reports, phase: &str, rows: u64, total: Option<u64>) {
    let phase = phase.to_owned();
    // A reader that is slower than the work misses some of it.
    let _ = reports.try_send(ImportProgress::Progress { phase, rows, total });
}

#[allow(clippy::disallowed_methods, reason = "an import is given its time here")]
fn now() -> Timestamp {
    // Rows keep their time to the millisecond.
    Timestamp::from_millisecond(Timestamp::now().as_millisecond()).expect("a rounded time is a time")
}

/// Files are read and written along the way, which no thread of the runtime may wait for.
async fn on_blocking_thread<T: Send + 'static>(
    work: impl Future<Output = Result<T, ImportError>> + Send + 'static,
) -> Result<T, ImportError> {
    let handle = Handle::current();
    match spawn_blocking(move || handle.block_on(work)).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(format!("the import ended badly: {error}")).into()),
    }
}
