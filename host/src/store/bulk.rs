//! Many rows of several tables in one trip to the database.
//!
//! A connection of SQLite lives in a thread of its own, and on a busy machine the trip there and back costs more than
//! most statements. So statements travel together in a [`Script`].
//!
//! Its text has few forms, so that each is prepared once and found again: lists of rows come in sizes of powers of
//! two, filled up with rows of NULLs that no statement here takes. Placeholders are the bare `?`: SQLite looks named
//! ones up by walking a list, which for a thousand of them costs more than the insert.

use std::{fmt::Write as _, sync::OnceLock};

use sqlx::{
    Arguments, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type,
    sqlite::{SqliteArguments, SqliteRow},
};

/// Lists of 1, 2, 4 … 64 rows.
const SIZES: usize = 7;

/// Rows of the longest list. What 64 connections can have waiting; times 25 columns well below SQLite's 32766 parameters.
pub const MAX_ROWS: usize = 1 << (SIZES - 1);

/// A statement with a list of rows in the middle.
pub struct Bulk {
    head: &'static str,
    columns: usize,
    tail: &'static str,
    texts: [OnceLock<String>; SIZES],
}

impl Bulk {
    /// `head` and `tail` enclose the rows; together they have to pass over a row that begins with NULL.
    pub const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self { head, columns, tail, texts: [const { OnceLock::new() }; SIZES] }
    }

    fn text(&'static self, size: Size) -> &'static str {
        self.texts[size.exponent].get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(", "));
            let rows = vec![row.as_str(); size.rows()].join(", ");
            let mut text = String::with_capacity(self.head.len() + rows.len() + self.tail.len() + 2);
            // Writing to a string cannot fail.
            let _ = write!(text, "{} {} {}", self.head, rows, self.tail);
            text
        })
    }
}

/// The start of an insert of many rows; goes with [`insert_tail!`].
macro_rules! insert_head {
    ($table:literal, $columns:expr) => {
        concat!("INSERT INTO ", $table, " (", $columns, ") SELECT * FROM (VALUES")
    };
}
/// The end of an insert of many rows: no table has NULL in the column that is named first.
macro_rules! insert_tail {
    () => {
        ") WHERE column1 IS NOT NULL"
    };
    ($conflict:expr) => {
        concat!(") WHERE column1 IS NOT NULL ", $conflict)
    };
}
pub(super) use {insert_head, insert_tail};

/// How long the lists of a script are: one size for all of them, or there would be a text for every mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    exponent: usize,
}

impl Size {
    /// The smallest that so many rows fit in, at most [`MAX_ROWS`].
    pub fn of(rows: usize) -> Self {
        let rows = rows.clamp(1, MAX_ROWS).next_power_of_two();
        Self { exponent: rows.trailing_zeros() as usize }
    }

    fn rows(self) -> usize {
        1 << self.exponent
    }
}

/// Of a long list, what goes into this round, the first being 0.
pub fn part<T>(rows: &[T], round: usize) -> &[T] {
    rows.chunks(MAX_ROWS).nth(round).unwrap_or_default()
}

/// Statements and their values, sent together and run in order until one fails.
#[derive(Default)]
pub struct Script {
    text: String,
    values: Values,
}

/// The values of a script, in order.
#[derive(Default)]
pub struct Values {
    arguments: SqliteArguments,
    failed: Option<sqlx::Error>,
}

impl Values {
    pub fn add<'v, T: Encode<'v, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.fail(sqlx::Error::Encode(error));
        }
        self
    }

    /// Keeps the script from being sent.
    pub fn fail(&mut self, error: sqlx::Error) {
        self.failed.get_or_insert(error);
    }
}

impl Script {
    /// A statement without values.
    pub fn statement(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push(';');
    }

    /// A statement over at most as many rows as the size has; nothing if there are none.
    pub fn rows<T>(&mut self, bulk: &'static Bulk, size: Size, rows: &[T], bind: impl Fn(&T, &mut Values)) {
        if rows.is_empty() {
            return;
        }
        self.statement(bulk.text(size));
        let missing = size.rows().saturating_sub(rows.len());
        self.values.arguments.reserve(size.rows() * bulk.columns, 0);
        for row in rows {
            bind(row, &mut self.values);
        }
        for _ in 0..missing * bulk.columns {
            self.values.add(None::<i64>);
        }
    }

    /// Runs it for what it changes.
    pub async fn execute(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if let Some(error) = self.values.failed {
            return Err(error);
        }
        sqlx::query_with(AssertSqlSafe(self.text), self.values.arguments).execute(connection).await.map(drop)
    }

    /// Runs it for the rows of all its statements, which have to tell themselves apart.
    pub async fn fetch(self, connection: &mut SqliteConnection) -> Result<Vec<SqliteRow>, sqlx::Error> {
        if let Some(error) = self.values.failed {
            return Err(error);
        }
        sqlx::query_with(AssertSqlSafe(self.text), self.values.arguments).fetch_all(connection).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BULK: Bulk = Bulk::new("VALUES", 2, "");

    fn script(rows: &[i64], size: Size) -> Script {
        let mut script = Script::default();
        script.rows(&BULK, size, rows, |row, values| {
            values.add(*row).add(*row);
        });
        script
    }

    #[test]
    fn sizes_are_few_and_hold_what_they_are_for() {
        let of = |rows| Size::of(rows).rows();
        assert_eq!([0, 1, 2, 3, 5, 33, 64, 203].map(of), [1, 1, 2, 4, 8, 64, 64, 64]);
    }

    #[test]
    fn no_row_is_left_out() {
        let rows: Vec<usize> = (0..203).collect();
        let rounds: Vec<&[usize]> = (0..5).map(|round| part(&rows, round)).collect();
        assert_eq!(rounds.iter().map(|round| round.len()).collect::<Vec<_>>(), [64, 64, 64, 11, 0]);
        assert_eq!(rounds.concat(), rows);
    }

    #[test]
    fn a_list_is_filled_up_to_its_size() {
        let filled = script(&[1, 2, 3], Size::of(3));
        assert_eq!(filled.text, "VALUES (?, ?), (?, ?), (?, ?), (?, ?) ;");
        assert_eq!(filled.values.arguments.len(), 8);
        assert_eq!(script(&[], Size::of(3)).text, "");
    }
}
