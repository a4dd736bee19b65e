//! Settings: the schema they fit, and what is found wrong with them.

use serde_json::{Value, json};

use crate::{Error, Finding, Severity};

/// A closed JSON Schema of an object with these properties.
pub fn schema(properties: Value, required: &[&str]) -> String {
    json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
        "additionalProperties": false, "required": required, "properties": properties })
    .to_string()
}

/// The JSON pointer that leads through these keys.
pub fn pointer(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect()
}

/// Fails with the first finding that is an error: what `pacer check` would have said, for an operation that is asked
/// to work with such settings all the same.
pub fn refuse(findings: &[Finding]) -> Result<(), Error> {
    match findings.iter().find(|finding| finding.severity == Severity::Error) {
        Some(bad) => Err(Error::invalid_config(format!("`{}`: {}", bad.path, bad.message))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{pointer, refuse};
    use crate::{ErrorKind, Finding};

    #[test]
    fn pointers_escape_their_keys() {
        assert_eq!(pointer(&["pool", "env", "a/b~c"]), "/pool/env/a~1b~0c");
        assert_eq!(pointer(&[]), "");
    }

    #[test]
    fn only_errors_refuse() {
        assert!(refuse(&[Finding::warning("/pool/a", "odd")]).is_ok());
        let refused = refuse(&[Finding::warning("/pool/a", "odd"), Finding::error("/pool/b", "bad")]).unwrap_err();
        assert_eq!((refused.kind, refused.message.as_str()), (ErrorKind::InvalidConfig, "`/pool/b`: bad"));
    }
}
