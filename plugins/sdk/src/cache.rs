//! A little memory across calls. The host bounds it and may forget anything at any time; never a secret.

/// What remembers.
pub trait Cache {
    /// What was set for `key`, if it is still known.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Remembers `value`, if there is room.
    fn set(&self, key: &str, value: &[u8]);
    /// Forgets `key`.
    fn delete(&self, key: &str);
}
