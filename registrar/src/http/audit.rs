//! The audit log.

use std::sync::Arc;

use axum::{Json as Answer, extract::State};
use serde::Deserialize;

use super::{App, devices::page, error::Failure, extract::Params};
use crate::api::Audit;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Params(list): Params<List>,
) -> Result<Answer<Audit>, Failure> {
    let limit = page(list.limit)?;
    let mut entries = app.service()?.store().audit(list.after, limit + 1).await?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|entry| entry.seq);
    Ok(Answer(Audit { entries, next }))
}
