//! The database: what a start would find and make of it. Looks without touching.

use std::path::Path;

use rustix::fs::{Access, access};

use super::{Finding, Level, finding};
use crate::store::{DatabaseState, FOREIGN, Store};

const SUBJECT: &str = "database";

pub(super) async fn look(url: &str) -> Vec<Finding> {
    let error = |message: String| vec![finding(Level::Error, SUBJECT, message)];
    let path = match Store::file(url) {
        Ok(path) => path,
        Err(reason) => return error(reason.to_string()),
    };
    let state = match Store::look(url).await {
        Ok(state) => state,
        Err(reason) => return error(reason.to_string()),
    };
    let shown = path.display();
    let (level, message) = match state {
        DatabaseState::Absent => (Level::Ok, format!("`{shown}` does not exist yet: it will be created")),
        DatabaseState::Current => (Level::Ok, format!("`{shown}` is there and up to date")),
        DatabaseState::Older { found: 0, .. } => (Level::Ok, format!("`{shown}` is empty: it will be filled")),
        DatabaseState::Older { found, known } => (
            Level::Warning,
            format!(
                "`{shown}` has the schema {found}, this pacer's is {known}: the next `pacer serve` migrates it, and an \
                 older pacer cannot read it from then on; keep a copy of the file until you are sure"
            ),
        ),
        DatabaseState::Foreign => (Level::Error, format!("`{shown}`: {FOREIGN}")),
    };
    let mut findings = vec![finding(level, SUBJECT, message)];
    findings.extend(writable(&path, state).map(|message| finding(Level::Error, SUBJECT, message)));
    findings
}

/// What keeps this user from writing the file. SQLite makes files of its own beside it, so the directory counts too.
fn writable(path: &Path, state: DatabaseState) -> Option<String> {
    let shown = path.display();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let beside = directory.display();
    if let Err(reason) = access(directory, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(match reason {
            rustix::io::Errno::NOENT => {
                format!(
                    "`{shown}` cannot be created, its directory does not exist: create `{beside}`, or change `database.url`"
                )
            }
            _ => format!(
                "the directory `{beside}` cannot be written ({reason}): let pacer's user write it, or change `database.url`"
            ),
        });
    }
    if state == DatabaseState::Absent {
        return None;
    }
    let reason = access(path, Access::READ_OK | Access::WRITE_OK).err()?;
    Some(format!("`{shown}` cannot be written ({reason}): let pacer's user write it"))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    use super::*;
    use crate::clock::SystemClock;

    fn url(path: &Path) -> String {
        format!("sqlite:{}", path.display())
    }

    async fn check(path: &Path, expected: &[(Level, &str)]) {
        let found = look(&url(path)).await;
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (level, part)) in found.iter().zip(expected) {
            assert_eq!(found.level, *level, "{found:?}");
            assert!(found.message.contains(part), "`{part}` is not in: {}", found.message);
        }
    }

    #[tokio::test]
    async fn what_a_start_would_make_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pacer.db");
        check(&path, &[(Level::Ok, "it will be created")]).await;
        std::fs::write(&path, "").unwrap();
        check(&path, &[(Level::Ok, "it will be filled")]).await;
        let store = Store::open(&url(&path), Arc::new(SystemClock)).await.unwrap();
        check(&path, &[(Level::Ok, "up to date")]).await;
        store.close().await;
        check(&path, &[(Level::Ok, "up to date")]).await;
    }

    #[tokio::test]
    async fn what_is_no_database_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("text");
        std::fs::write(&text, "x".repeat(4096)).unwrap();
        check(&text, &[(Level::Error, "no SQLite database")]).await;
        check(directory.path(), &[(Level::Error, "is not a file")]).await;
        check(&text.join("below"), &[(Level::Error, "Not a directory")]).await;
        assert_eq!(look("postgres://x").await[0].level, Level::Error);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there() {
        let expected = (Level::Error, "create `/nonexistent`, or change `database.url`");
        check(Path::new("/nonexistent/pacer.db"), &[(Level::Ok, "does not exist yet"), expected]).await;
    }

    #[tokio::test]
    async fn what_this_user_may_not_write() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
        let path = directory.path().join("pacer.db");
        // Root may write everywhere, and then there is nothing to warn of.
        let denied = !rustix::process::geteuid().is_root();
        let found = look(&url(&path)).await;
        assert_eq!(found.iter().any(|finding| finding.level == Level::Error), denied, "{found:?}");
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}
