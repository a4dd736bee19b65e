//! Builders of the contract's error, one per kind. The kind alone decides what pacer does next, so choose it with
//! care; the message is for a person and never holds a secret.

use std::time::Duration;

use crate::{Error, ErrorKind, Finding, Severity};

/// More than this of a message is of no use to a person.
const MESSAGE_MAX: usize = 1024;

macro_rules! kinds {
    ($($name:ident => $kind:ident),* $(,)?) => {
        impl Error {
            $(
                #[doc = concat!("An error of kind `", stringify!($kind), "`.")]
                pub fn $name(message: impl Into<String>) -> Self { Self::new(ErrorKind::$kind, message) }
            )*
        }
    };
}

kinds! {
    invalid_request => InvalidRequest, invalid_config => InvalidConfig, unauthorized => Unauthorized,
    not_found => NotFound, conflict => Conflict, capacity => Capacity, quota => Quota, rate_limited => RateLimited,
    unavailable => Unavailable, interrupted => Interrupted, unsupported => Unsupported, internal => Internal,
    other => Other,
}

impl Error {
    /// An error of `kind`; long messages are cut.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_MAX));
            message.push('…');
        }
        Self { kind, message, retry_after_ms: None, attributes: Vec::new() }
    }

    /// When trying again makes sense.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

impl Finding {
    /// It will not work.
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, path: path.into(), message: message.into() }
    }

    /// It will work, and probably not as meant.
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, path: path.into(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::MESSAGE_MAX;
    use crate::Error;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = Error::other("ü".repeat(MESSAGE_MAX) + "x").message;
        assert_eq!(message, "ü".repeat(MESSAGE_MAX / 2) + "…");
    }

    #[test]
    fn a_wait_beyond_the_wires_range_is_the_longest_wait() {
        assert_eq!(Error::other("").retry_after(Duration::MAX).retry_after_ms, Some(u64::MAX));
    }
}
