//! Statements over many rows, in few texts, so that each is prepared once and found again.
//!
//! Rows are written in chunks of powers of two, so a table has [`SIZES`] texts and no more. Placeholders are the
//! bare `?`: SQLite looks named ones up by walking a list, which for a thousand of them costs more than the insert.

use std::{fmt::Write, sync::OnceLock};

/// Chunks of 1, 2, 4 … 64 rows.
const SIZES: usize = 7;

/// Rows of the largest chunk. What 64 connections can have waiting; times 24 columns well below SQLite's 32766 parameters.
pub const MAX_ROWS: usize = 1 << (SIZES - 1);

/// A statement with a list of rows in the middle.
pub struct Bulk {
    head: &'static str,
    columns: usize,
    tail: &'static str,
    texts: [OnceLock<String>; SIZES],
}

impl Bulk {
    pub const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self { head, columns, tail, texts: [const { OnceLock::new() }; SIZES] }
    }

    /// For inserts: the rows cut into chunks, each with its text.
    pub fn chunks<'a, T>(
        &'static self,
        mut rows: &'a [T],
    ) -> impl Iterator<Item = (&'static str, &'a [T])> + use<'a, T> {
        std::iter::from_fn(move || {
            let exponent = (rows.len().min(MAX_ROWS)).checked_ilog2()? as usize;
            let (chunk, rest) = rows.split_at(1 << exponent);
            rows = rest;
            Some((self.text(exponent), chunk))
        })
    }

    /// For look-ups: chunks filled up to their size by repeating the last row, which finds nothing new.
    pub fn padded<'a, T>(
        &'static self,
        rows: &'a [T],
    ) -> impl Iterator<Item = (&'static str, impl Iterator<Item = &'a T> + use<'a, T>)> + use<'a, T> {
        rows.chunks(MAX_ROWS).filter_map(move |chunk| {
            let last = chunk.last()?;
            let size = chunk.len().next_power_of_two();
            let rows = chunk.iter().chain(std::iter::repeat_n(last, size - chunk.len()));
            Some((self.text(size.ilog2() as usize), rows))
        })
    }

    fn text(&'static self, exponent: usize) -> &'static str {
        self.texts[exponent].get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(", "));
            let rows = vec![row.as_str(); 1 << exponent].join(", ");
            let mut text = String::with_capacity(self.head.len() + rows.len() + self.tail.len() + 2);
            // Writing to a string cannot fail.
            let _ = write!(text, "{} {} {}", self.head, rows, self.tail);
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_few_sizes_and_none_is_left_out() {
        static BULK: Bulk = Bulk::new("VALUES", 2, "");
        let rows: Vec<usize> = (0..203).collect();
        let sizes: Vec<usize> = BULK.chunks(&rows).map(|(_, chunk)| chunk.len()).collect();
        assert_eq!(sizes, [64, 64, 64, 8, 2, 1]);
        assert_eq!(BULK.chunks(&rows[..2]).next().unwrap().0, "VALUES (?, ?), (?, ?) ");
        let padded: Vec<Vec<usize>> = BULK.padded(&rows[..67]).map(|(_, rows)| rows.copied().collect()).collect();
        assert_eq!((padded[0].len(), padded[1].as_slice()), (64, [64, 65, 66, 66].as_slice()));
        assert_eq!(BULK.padded(&rows[..0]).count(), 0);
    }
}
