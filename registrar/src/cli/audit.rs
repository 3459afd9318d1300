use clap::Subcommand;
use protocol::{Epoch, GatewayId};

use super::{
    Client, Error,
    output::{Format, Printer, Record, or_dash, time},
    tell,
};
use crate::api::{Audit, AuditEntry};

/// How many entries are asked for at one time.
const PAGE: u64 = 1000;

/// What to do with the audit log.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List entries in the order they were written.
    List {
        /// Only those after this entry.
        #[arg(long, value_name = "SEQ")]
        after: Option<u64>,
        /// How many at most; 0 for all.
        #[arg(long, default_value_t = 100)]
        limit: u64,
    },
}

pub fn run(verb: Verb, client: &Client, format: Format) -> Result<(), Error> {
    let Verb::List { mut after, limit } = verb;
    let mut printer = Printer::new::<AuditEntry>(format)?;
    let mut left = if limit == 0 { u64::MAX } else { limit };
    loop {
        let mut query = vec![("limit", left.min(PAGE).to_string())];
        query.extend(after.map(|seq| ("after", seq.to_string())));
        let page: Audit = client.get("/v1/audit", &query)?;
        page.entries.iter().try_for_each(|entry| printer.row(entry))?;
        left = left.saturating_sub(page.entries.len() as u64);
        after = page.next;
        if after.is_none() || left == 0 {
            break;
        }
    }
    printer.finish()?;
    if let Some(after) = after {
        tell(format_args!("there is more: --after {after}"));
    }
    Ok(())
}

impl Record for AuditEntry {
    const COLUMNS: &'static [&'static str] = &[
        "seq", "at", "actor", "action", "device", "subject", "before", "after", "labels", "note", "detail",
    ];

    fn cells(&self) -> Vec<String> {
        let assignment = |row: &Option<(GatewayId, Epoch)>| {
            or_dash(
                row.as_ref()
                    .map(|(gateway, epoch)| format!("{gateway} ({epoch})")),
            )
        };
        let texts = |texts: &Option<(String, String)>| {
            or_dash(
                texts
                    .as_ref()
                    .map(|(before, after)| format!("{before:?} to {after:?}")),
            )
        };
        vec![
            self.seq.to_string(),
            time(self.at),
            self.actor.clone(),
            self.action.clone(),
            or_dash(self.device.as_ref()),
            or_dash(self.subject.as_ref()),
            assignment(&self.before),
            assignment(&self.after),
            texts(&self.labels),
            texts(&self.note),
            or_dash(self.detail.as_ref()),
        ]
    }
}
