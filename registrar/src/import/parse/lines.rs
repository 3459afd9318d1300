//! Cuts the input into lines, whatever it holds.

use std::io::{self, BufRead, Read};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One line of the input, or why it is none.
pub(super) enum Line<'a> {
    Text(&'a str),
    Bad(String),
}

/// Calls `each` with every line that is not empty and its number, until it returns `false`. A line that is too long is
/// skipped, never held.
pub(super) fn lines(
    mut input: impl BufRead,
    limit: usize,
    mut each: impl FnMut(u64, Line<'_>) -> bool,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        if input
            .by_ref()
            .take(limit as u64 + 2)
            .read_until(b'\n', &mut bytes)?
            == 0
        {
            return Ok(());
        }
        let ended = bytes.ends_with(b"\n");
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let text = if number == 1 {
            text.strip_prefix(BOM).unwrap_or(text)
        } else {
            text
        };
        let line = if text.len() > limit {
            if !ended {
                input.skip_until(b'\n')?;
            }
            Line::Bad(format!("the line is longer than {limit} bytes"))
        } else {
            match std::str::from_utf8(text) {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => Line::Text(text),
                Err(error) => Line::Bad(format!("not UTF-8 at byte {}", error.valid_up_to() + 1)),
            }
        };
        if !each(number, line) {
            return Ok(());
        }
    }
    Ok(())
}
