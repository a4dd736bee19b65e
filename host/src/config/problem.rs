//! What is wrong with a configuration, for the person who wrote it.
//!
//! All problems of a file are found in one go. A message never quotes a value that may be a secret.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::document::Location;

/// One thing that is wrong: which key, what about it, where, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `projects[0].pools[1].backend`; empty for the file as a whole.
    pub key: String,
    pub what: String,
    /// Line and column, from one.
    pub at: Option<(u64, u64)>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(key: impl Into<String>, at: Location, what: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into(), at: Some((at.line, at.column)), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `config invalid: <key> <what>`, the place and the hint on lines of their own.
    fn write(&self, f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
        f.write_str("config invalid: ")?;
        if !self.key.is_empty() {
            write!(f, "{} ", self.key)?;
        }
        f.write_str(&self.what)?;
        match self.at {
            Some((line, column)) => write!(f, "\n  at {}:{line}:{column}", path.display())?,
            None => write!(f, "\n  at {}", path.display())?,
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

/// The file cannot be used. Holds every problem that was found, in the order of the file.
#[derive(Debug, Clone)]
pub struct ConfigError {
    pub path: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn of_file(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        let problem = Problem { key: String::new(), what: what.into(), at: None, hint: Some(hint.into()) };
        Self { path: path.to_owned(), problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.write(f, &self.path)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
