//! The columns of a CSV, and how a line is split into them.

use super::Raw;

/// Which column holds what, and how a line is split.
pub(super) struct Columns {
    splitter: csv_core::Reader,
    count: usize,
    device: usize,
    gateway: usize,
    labels: Option<usize>,
    note: Option<usize>,
    group: Option<usize>,
    key: Option<usize>,
}

impl Columns {
    pub fn of_header(text: &str) -> Result<Self, String> {
        let delimiter = if text.contains(';') { b';' } else { b',' };
        let mut splitter = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        let (fields, ends) = split(&mut splitter, text)?;
        let names: Vec<&str> = pieces(&fields, &ends).map(str::trim).collect();
        for (at, name) in names.iter().enumerate() {
            if !["device", "gateway", "labels", "note", "group", "key"].contains(name) {
                return Err(format!(
                    "unknown column {name:?}; known are device, gateway, labels, note, group and key"
                ));
            }
            if names[..at].contains(name) {
                return Err(format!("column {name:?} is there twice"));
            }
        }
        let find = |name| names.iter().position(|found| *found == name);
        let needed = |name| find(name).ok_or_else(|| format!("column {name:?} is missing"));
        Ok(Self {
            count: names.len(),
            device: needed("device")?,
            gateway: needed("gateway")?,
            labels: find("labels"),
            note: find("note"),
            group: find("group"),
            key: find("key"),
            splitter,
        })
    }

    pub fn split(&mut self, text: &str) -> Result<Raw<'static>, String> {
        let (fields, ends) = split(&mut self.splitter, text)?;
        if ends.len() != self.count {
            return Err(format!(
                "{} fields, but the header has {}",
                ends.len(),
                self.count
            ));
        }
        let piece = |at: usize| pieces(&fields, &ends).nth(at).unwrap_or_default().to_owned();
        Ok(Raw {
            device: piece(self.device).into(),
            gateway: piece(self.gateway).into(),
            labels: self.labels.map(|at| piece(at).into()),
            note: self.note.map(|at| piece(at).into()),
            // An empty one says nothing.
            group: self
                .group
                .map(piece)
                .filter(|group| !group.is_empty())
                .map(Into::into),
            key: self.key.map(piece).filter(|key| !key.is_empty()).map(Into::into),
        })
    }
}

/// Splits one line. A quoted field ends on its line.
fn split(splitter: &mut csv_core::Reader, text: &str) -> Result<(String, Vec<usize>), String> {
    splitter.reset();
    let mut fields = vec![0; text.len() + 1];
    let mut ends = vec![0; text.len() + 2];
    let line = [text.as_bytes(), b"\n"].concat();
    let (result, _, written, count) = splitter.read_record(&line, &mut fields, &mut ends);
    if !matches!(result, csv_core::ReadRecordResult::Record) {
        return Err("a quoted field is not closed on its line".into());
    }
    fields.truncate(written);
    ends.truncate(count);
    let fields = String::from_utf8(fields).map_err(|_| "not UTF-8".to_owned())?;
    Ok((fields, ends))
}

fn pieces<'a>(fields: &'a str, ends: &'a [usize]) -> impl Iterator<Item = &'a str> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    // A cut between quotes may fall inside a character of a damaged line.
    starts
        .zip(ends)
        .map(|(start, end)| fields.get(start..*end).unwrap_or_default())
}
