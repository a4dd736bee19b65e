//! Between columns and the words of the domain.

use jiff::Timestamp;
use sqlx::{Row, sqlite::SqliteRow};

pub fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

pub fn optional_millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(millis)
}

/// A value that this pacer would not have written.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` holds a value of another shape")]
struct Foreign(&'static str);

pub fn foreign(column: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(Foreign(column)))
}

/// Reads the columns of a row one after the other, in the order of the statement.
pub struct Columns<'r> {
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Columns<'r> {
    pub fn new(row: &'r SqliteRow) -> Self {
        Self { row, next: 0 }
    }

    pub fn take<T>(&mut self) -> Result<T, sqlx::Error>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        let index = self.next;
        self.next += 1;
        self.row.try_get(index)
    }

    /// A text that is parsed.
    pub fn parse<T: std::str::FromStr>(&mut self, column: &'static str) -> Result<T, sqlx::Error> {
        self.take::<&str>()?.parse().map_err(|_| foreign(column))
    }

    pub fn parse_optional<T: std::str::FromStr>(&mut self, column: &'static str) -> Result<Option<T>, sqlx::Error> {
        self.take::<Option<&str>>()?.map(|text| text.parse().map_err(|_| foreign(column))).transpose()
    }

    pub fn time(&mut self, column: &'static str) -> Result<Timestamp, sqlx::Error> {
        Timestamp::from_millisecond(self.take()?).map_err(|_| foreign(column))
    }

    pub fn optional_time(&mut self, column: &'static str) -> Result<Option<Timestamp>, sqlx::Error> {
        self.take::<Option<i64>>()?.map(|at| Timestamp::from_millisecond(at).map_err(|_| foreign(column))).transpose()
    }

    pub fn number<T: TryFrom<i64>>(&mut self, column: &'static str) -> Result<T, sqlx::Error> {
        T::try_from(self.take::<i64>()?).map_err(|_| foreign(column))
    }
}
