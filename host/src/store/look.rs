//! Looking at a database file without touching it, for whoever wants to know what a start would find.

use std::path::PathBuf;

use sqlx::{ConnectOptions as _, Connection as _};

use super::{
    Store, StoreError,
    sqlite::{self, Location, known_version},
};

/// What is wrong with [`DatabaseState::Foreign`], and what to do.
pub const FOREIGN: &str = "the file is the database of another program; name another file in `database.url`";

/// What is at the place of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseState {
    /// No file: it would be made.
    Absent,
    /// Of this pacer's schema.
    Current,
    /// Of an older schema, or empty: it would be brought up to date.
    Older { found: i64, known: i64 },
    /// A database that something else than pacer made.
    Foreign,
}

impl Store {
    /// Where the database of a URL is.
    pub fn file(url: &str) -> Result<PathBuf, StoreError> {
        Ok(Location::parse(url)?.path)
    }

    /// Looks at a database that a server may be working on. One of a newer pacer is [`StoreError::Newer`], and what
    /// is no database [`StoreError::Open`].
    pub async fn look(url: &str) -> Result<DatabaseState, StoreError> {
        let location = Location::parse(url)?;
        match tokio::fs::metadata(&location.path).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(DatabaseState::Absent),
            Err(error) => return Err(location.open_error(format!("`{}`: {error}", location.path.display()))),
            Ok(metadata) if !metadata.is_file() => {
                let path = location.path.display();
                return Err(location.open_error(format!("`{path}` is not a file; name one in `database.url`")));
            }
            Ok(_) => {}
        }
        let failed = |error: sqlx::Error| location.open_error(sqlite::explain(&location.path, &error));
        let mut connection = location.reader().connect().await.map_err(failed)?;
        let found = location.check_version(&mut connection).await?;
        let tables: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'")
            .fetch_one(&mut connection)
            .await
            .map_err(failed)?;
        connection.close().await.map_err(failed)?;
        let known = known_version();
        Ok(match found {
            0 if tables > 0 => DatabaseState::Foreign,
            found if found < known => DatabaseState::Older { found, known },
            _ => DatabaseState::Current,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::clock::SystemClock;

    fn url(path: &Path) -> String {
        format!("sqlite:{}", path.display())
    }

    async fn execute(path: &Path, sql: &'static str) {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    #[tokio::test]
    async fn every_state_is_told_apart_and_nothing_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pacer.db");
        assert_eq!(Store::look(&url(&path)).await.unwrap(), DatabaseState::Absent);
        assert!(!path.exists());

        std::fs::write(&path, "").unwrap();
        let known = known_version();
        assert_eq!(Store::look(&url(&path)).await.unwrap(), DatabaseState::Older { found: 0, known });

        let store = Store::open(&url(&path), Arc::new(SystemClock)).await.unwrap();
        assert_eq!(Store::look(&url(&path)).await.unwrap(), DatabaseState::Current, "beside a writer");
        store.close().await;
        assert_eq!(Store::look(&url(&path)).await.unwrap(), DatabaseState::Current);

        execute(&path, "UPDATE _sqlx_migrations SET version = 99999999999999 WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)").await;
        assert!(matches!(Store::look(&url(&path)).await, Err(StoreError::Newer { .. })));
        let other = directory.path().join("other.db");
        execute(&other, "CREATE TABLE theirs (a)").await;
        assert_eq!(Store::look(&url(&other)).await.unwrap(), DatabaseState::Foreign);
        let before = std::fs::read(&other).unwrap();
        let refused = Store::open(&url(&other), Arc::new(SystemClock)).await.unwrap_err().to_string();
        assert!(refused.contains("other.db") && refused.contains("another program"), "{refused}");
        assert_eq!(std::fs::read(&other).unwrap(), before, "it is left as it was");
    }

    #[tokio::test]
    async fn what_is_no_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("text");
        std::fs::write(&text, "x".repeat(4096)).unwrap();
        let look = async |path: &Path| Store::look(&url(path)).await.unwrap_err().to_string();
        assert!(look(&text).await.contains("no SQLite database"));
        assert!(look(directory.path()).await.contains("is not a file"));
        assert!(look(&text.join("below")).await.contains("Not a directory"));
        assert!(Store::look("postgres:x").await.is_err());
    }
}
