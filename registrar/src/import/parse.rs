//! Reads CSV and NDJSON into rows, or says which lines are wrong.

mod columns;
mod lines;

use std::{
    borrow::Cow,
    io::{self, BufRead},
    str::FromStr,
};

use hashbrown::HashMap;
use protocol::{DeviceId, GatewayId, GroupId};
use serde::Deserialize;

use self::{
    columns::Columns,
    lines::{Line, lines},
};
use crate::{
    enrolment::{Key, MAX_GROUPS},
    store::record::check_text,
};

/// How many lines lie between two reports of progress.
const PROGRESS_LINES: u64 = 10_000;

/// How the rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A header `device,gateway[,labels,note,group,key]`, then a row a line; `,` or `;`.
    Csv,
    /// A JSON object with these keys a line.
    Ndjson,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "csv" => Ok(Self::Csv),
            "ndjson" => Ok(Self::Ndjson),
            _ => Err(format!("format {text:?} is neither csv nor ndjson")),
        }
    }
}

/// How much is read at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows.
    pub rows: usize,
    /// Bytes of the whole input.
    pub bytes: u64,
    /// Bytes of one line.
    pub line: usize,
    /// Wrong lines that are listed; further ones are only counted.
    pub errors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rows: 2_000_000,
            bytes: 1024 * 1024 * 1024,
            line: 16 * 1024,
            errors: 100,
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its line, counted from 1 with the header.
    pub line: u32,
    /// The device.
    pub device: DeviceId,
    /// The gateway to assign, an index into [`Parsed::gateways`].
    pub gateway: u32,
    /// The labels to have; `None` leaves them as they are.
    pub labels: Option<Box<str>>,
    /// The note to have; `None` leaves it as it is.
    pub note: Option<Box<str>>,
    /// The enrolment group to have; `None` leaves it as it is.
    pub group: Option<GroupId>,
    /// The key of its own to have; `None` leaves it as it is.
    pub key: Option<Key>,
}

/// What is wrong with one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The line, counted from 1 with the header; 0 for the input as a whole.
    pub line: u64,
    /// What is wrong.
    pub error: String,
}

/// Everything read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The good rows, sorted by device; a device is there once.
    pub rows: Vec<Row>,
    /// The gateways they name, and the first line that names each.
    pub gateways: Vec<(GatewayId, u32)>,
    /// The enrolment groups they name, and the first line that names each.
    pub groups: Vec<(GroupId, u32)>,
    /// What is wrong, in the order of lines; at most [`Limits::errors`].
    pub errors: Vec<LineError>,
    /// How many lines are wrong.
    pub rejected: u64,
}

impl Parsed {
    pub(super) fn reject(&mut self, limits: &Limits, line: u64, error: String) {
        self.rejected += 1;
        if self.errors.len() < limits.errors {
            self.errors.push(LineError { line, error });
        }
    }
}

/// One row before it is checked.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    #[serde(borrow)]
    device: Cow<'a, str>,
    #[serde(borrow)]
    gateway: Cow<'a, str>,
    #[serde(borrow, default)]
    labels: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    note: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    group: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
}

/// Reads all rows and checks each. `progress` is told the number of rows now and then.
///
/// # Errors
/// Only those of `input` itself; wrong lines are part of what is returned.
pub fn parse(
    input: impl BufRead,
    format: Format,
    limits: &Limits,
    mut progress: impl FnMut(u64),
) -> io::Result<Parsed> {
    let mut reader = Reader {
        parsed: Parsed::default(),
        numbers: HashMap::new(),
        limits,
        progress: &mut progress,
    };
    let mut input = input.take(limits.bytes);
    match format {
        Format::Csv => reader.csv(&mut input)?,
        Format::Ndjson => reader.ndjson(&mut input)?,
    }
    if input.limit() == 0 && !input.into_inner().fill_buf()?.is_empty() {
        reader.reject(0, format!("the input is longer than {} bytes", limits.bytes));
    }
    Ok(reader.finish())
}

struct Reader<'a> {
    parsed: Parsed,
    numbers: HashMap<GatewayId, u32>,
    limits: &'a Limits,
    progress: &'a mut dyn FnMut(u64),
}

impl Reader<'_> {
    fn csv(&mut self, input: impl BufRead) -> io::Result<()> {
        let mut columns: Option<Columns> = None;
        lines(input, self.limits.line, |number, line| {
            let text = match line {
                Line::Text(text) => text,
                Line::Bad(error) => return self.reject(number, error) && columns.is_some(),
            };
            match &mut columns {
                None => match Columns::of_header(text) {
                    Ok(header) => {
                        columns = Some(header);
                        true
                    }
                    // Nothing after a wrong header means anything.
                    Err(error) => {
                        self.reject(number, error);
                        false
                    }
                },
                Some(columns) => {
                    let row = columns.split(text);
                    self.row(number, row)
                }
            }
        })?;
        if columns.is_none() && self.parsed.rejected == 0 {
            self.reject(
                1,
                "the input is empty: a header device,gateway[,labels,note] is needed".into(),
            );
        }
        Ok(())
    }

    fn ndjson(&mut self, input: impl BufRead) -> io::Result<()> {
        lines(input, self.limits.line, |number, line| match line {
            Line::Bad(error) => self.reject(number, error),
            Line::Text(text) if !text.trim_start().starts_with('{') => {
                self.reject(number, "not a JSON object".into())
            }
            Line::Text(text) => {
                let row = serde_json::from_str::<Raw<'_>>(text).map_err(|error| within_line(&error));
                self.row(number, row)
            }
        })
    }

    /// Takes a row, and returns whether to go on.
    fn row(&mut self, line: u64, raw: Result<Raw<'_>, String>) -> bool {
        if self.parsed.rows.len() >= self.limits.rows {
            self.reject(line, format!("more than {} rows", self.limits.rows));
            return false;
        }
        match raw.and_then(|raw| self.checked(line, &raw)) {
            Ok(row) => self.parsed.rows.push(row),
            Err(error) => {
                self.reject(line, error);
            }
        }
        if line.is_multiple_of(PROGRESS_LINES) {
            (self.progress)(line);
        }
        true
    }

    fn checked(&mut self, line: u64, raw: &Raw<'_>) -> Result<Row, String> {
        let device = raw.device.parse().map_err(|error| format!("device: {error}"))?;
        let gateway = match self.numbers.get(&*raw.gateway) {
            Some(number) => *number,
            None => {
                let id: GatewayId = raw.gateway.parse().map_err(|error| format!("gateway: {error}"))?;
                let number = short(self.parsed.gateways.len() as u64);
                self.parsed.gateways.push((id.clone(), short(line)));
                self.numbers.insert(id, number);
                number
            }
        };
        let text = |name: &str, text: &Option<Cow<'_, str>>| match text {
            Some(text) => check_text(name, text).map(|()| Some(Box::from(text.as_ref()))),
            None => Ok(None),
        };
        let group = match &raw.group {
            Some(group) => Some(self.group(line, group)?),
            None => None,
        };
        let key = match &raw.key {
            Some(key) => Some(key.parse().map_err(|error| format!("key: {error}"))?),
            None => None,
        };
        Ok(Row {
            line: short(line),
            device,
            gateway,
            labels: text("labels", &raw.labels)?,
            note: text("note", &raw.note)?,
            group,
            key,
        })
    }

    /// Notes a group; there are few.
    fn group(&mut self, line: u64, name: &str) -> Result<GroupId, String> {
        if let Some((known, _)) = self
            .parsed
            .groups
            .iter()
            .find(|(known, _)| known.as_str() == name)
        {
            return Ok(known.clone());
        }
        let id: GroupId = name.parse().map_err(|error| format!("group: {error}"))?;
        if self.parsed.groups.len() >= MAX_GROUPS {
            return Err(format!("group: more than {MAX_GROUPS} groups are named"));
        }
        self.parsed.groups.push((id.clone(), short(line)));
        Ok(id)
    }

    /// Notes a wrong line. Always goes on.
    fn reject(&mut self, line: u64, error: String) -> bool {
        self.parsed.reject(self.limits, line, error);
        true
    }

    fn finish(mut self) -> Parsed {
        let mut rows = std::mem::take(&mut self.parsed.rows);
        rows.sort_unstable_by(|a, b| a.device.cmp(&b.device).then(a.line.cmp(&b.line)));
        let mut first = 0;
        let mut repeated = Vec::new();
        for next in 1..rows.len() {
            if rows[next].device == rows[first].device {
                repeated.push((rows[next].line, first));
            } else {
                first = next;
            }
        }
        repeated.sort_unstable();
        for (line, first) in repeated {
            let (device, first) = (&rows[first].device, rows[first].line);
            self.reject(line.into(), format!("device {device} is already in line {first}"));
        }
        self.parsed.errors.sort_by_key(|error| error.line);
        rows.dedup_by(|next, first| next.device == first.device);
        self.parsed.rows = rows;
        self.parsed
    }
}

/// The line of the input is told already; here it is always the first.
fn within_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(problem) => format!("{problem} at column {}", error.column()),
        None => text,
    }
}

/// Lines and gateways fit: an input of so many lines is longer than any limit on its bytes.
fn short(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
