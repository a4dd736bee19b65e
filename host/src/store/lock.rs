//! One process writes a database: two would make every machine twice.

use std::{fs::File, path::PathBuf};

use super::{StoreError, sqlite::Location};

/// A file beside the database that a writing process holds locked. The system lets go of it when the process ends,
/// however it ends; the file stays, and says nothing by being there.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for as long as it lives")] File);

impl Lock {
    pub async fn take(location: &Location) -> Result<Self, StoreError> {
        let mut path = location.path.clone().into_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        let shown = path.display();
        let opened = tokio::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).await;
        let file = opened.map_err(|error| {
            location.open_error(format!("`{shown}`: {error}; the user pacer runs as needs to write its directory"))
        })?;
        let file = file.into_std().await;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(location.open_error(format!(
                "another `pacer serve` works on it and holds `{shown}` locked; end that one first (`fuser {shown}`), or \
                 name another file in `database.url`"
            ))),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(location.open_error(format!("`{shown}` cannot be locked: {error}; keep the database on a local disk")))
            }
        }
    }
}
