//! Opening SQLite files, and saying in people's words what SQLite complains about.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a statement waits for another process. GitHub waits ten seconds for its answer, and gets a 503 well before.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Prepared statements per connection: seven sizes of each bulk statement, and the rest.
const STATEMENTS: usize = 160;

/// Pages of write-ahead log before it is copied back, 16 MiB: a page that many commits touch is copied once.
const CHECKPOINT_PAGES: &str = "4000";

/// A database file.
#[derive(Debug, Clone)]
pub struct Location {
    pub url: String,
    pub path: PathBuf,
}

impl Location {
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        match url.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() && !path.contains(":memory:") => {
                Ok(Self { url: url.to_owned(), path: path.strip_prefix("//").unwrap_or(path).into() })
            }
            Some(_) | None => Err(StoreError::Open {
                url: url.chars().take(200).collect(),
                reason: "expected `sqlite:` and the path of a file, for instance `sqlite:pacer.db`".to_owned(),
            }),
        }
    }

    pub fn open_error(&self, reason: impl ToString) -> StoreError {
        StoreError::Open { url: self.url.clone(), reason: reason.to_string() }
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(STATEMENTS)
            .foreign_keys(true)
            .disable_statement_logging()
    }

    pub fn reader(&self) -> SqliteConnectOptions {
        self.options().read_only(true)
    }

    /// The one connection that writes. Every commit is on disk when it returns.
    pub async fn writer(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.options()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .connect()
            .await
    }

    /// Makes the file if there is none, for the owner only. SQLite gives its side files the mode of the file.
    pub async fn create(&self) -> Result<(), StoreError> {
        let opened = tokio::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path).await;
        opened.map(drop).map_err(|error| {
            let path = self.path.display();
            self.open_error(format!(
                "`{path}`: {error}; its directory must exist and be writable by the user pacer runs as"
            ))
        })
    }

    /// Brings the schema up to date, or refuses one from the future.
    pub async fn migrate(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        self.check_version(connection).await?;
        MIGRATIONS.run_direct(None, connection, false).await.map_err(|error| self.open_error(error))
    }

    /// For those who may not migrate: the schema must be the one we know.
    pub async fn check_migrated(&self) -> Result<(), StoreError> {
        let mut connection =
            self.reader().connect().await.map_err(|error| self.open_error(explain(&self.path, &error)))?;
        let found = self.check_version(&mut connection).await?;
        if found < known_version() {
            return Err(
                self.open_error("its schema is older than this pacer; start `pacer serve` once to bring it up to date")
            );
        }
        connection.close().await.map_err(|error| self.open_error(error))
    }

    pub async fn check_version(&self, connection: &mut SqliteConnection) -> Result<i64, StoreError> {
        let failed = |error: sqlx::Error| self.open_error(explain(&self.path, &error));
        let tables: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'")
                .fetch_one(&mut *connection)
                .await
                .map_err(failed)?;
        if tables == 0 {
            return Ok(0);
        }
        let found: Option<i64> = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        let (found, known) = (found.unwrap_or(0), known_version());
        if found > known {
            return Err(StoreError::Newer { url: self.url.clone(), found, known });
        }
        Ok(found)
    }
}

pub fn known_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// SQLite's primary result codes that an operator can do something about.
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READ_ONLY: i32 = 8;
const IO_ERROR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANNOT_OPEN: i32 = 14;
const NOT_A_DATABASE: i32 = 26;

/// The primary result code; the bits above are SQLite's extended one.
fn code_of(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// Whether the data of one caller may be at fault, and not the file, the disk or the connection.
pub fn may_be_one_callers_fault(error: &sqlx::Error) -> bool {
    let environment = [BUSY, LOCKED, READ_ONLY, IO_ERROR, CORRUPT, FULL, CANNOT_OPEN, NOT_A_DATABASE];
    match code_of(error) {
        Some(code) => !environment.contains(&code),
        None => matches!(error, sqlx::Error::Encode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)),
    }
}

/// What happened, to which file, and what to do.
pub fn explain(path: &Path, error: &sqlx::Error) -> String {
    let path = path.display();
    match code_of(error) {
        Some(BUSY | LOCKED) => format!(
            "another process holds the lock of `{path}` for longer than {} s ({error}); end what works on the file (`fuser {path}`)",
            BUSY_TIMEOUT.as_secs()
        ),
        Some(FULL) => {
            format!("no space left for `{path}` ({error}); free space on its file system, pacer goes on by itself")
        }
        Some(READ_ONLY) => {
            format!("`{path}` is read-only ({error}); the user pacer runs as needs to write the file and its directory")
        }
        Some(IO_ERROR) => format!("reading or writing `{path}` fails ({error}); look at the disk and the kernel's log"),
        Some(CORRUPT | NOT_A_DATABASE) => {
            format!(
                "`{path}` is damaged or no SQLite database ({error}); restore it from a backup, or name another file in `database.url`"
            )
        }
        Some(CANNOT_OPEN) => {
            format!("`{path}` cannot be opened ({error}); check the path, its directory and their permissions")
        }
        Some(_) | None => format!("`{path}`: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{clock::SystemClock, fleet::runner::RunnerState, store::Store};

    #[tokio::test]
    async fn a_database_of_any_older_schema_is_brought_up_to_date_with_what_is_in_it() {
        for version in 1..known_version() {
            let directory = tempfile::tempdir().unwrap();
            let location = Location::parse(&format!("sqlite:{}/pacer.db", directory.path().display())).unwrap();
            location.create().await.unwrap();
            let mut connection = location.writer().await.unwrap();
            let older: Vec<_> = MIGRATIONS.iter().filter(|known| known.version <= version).cloned().collect();
            Migrator { migrations: older.into(), ..Migrator::DEFAULT }.run(&mut connection).await.unwrap();
            sqlx::query(
                "INSERT INTO runners (name, state, project, pool, backend, target, created_at, state_at, deadline) \
                 VALUES ('pacer-a', 'failed', 'my-app', 'small', 'engine', 'octocat/hello-world', 1, 1, 1)",
            )
            .execute(&mut connection)
            .await
            .unwrap();
            connection.close().await.unwrap();

            let store = Store::open(&location.url, Arc::new(SystemClock)).await.unwrap();
            let counts = store.runner_counts().await.unwrap();
            assert!(counts.contains(&(RunnerState::Failed, 1)), "from version {version}: {counts:?}");
            store.close().await;
        }
    }
}
