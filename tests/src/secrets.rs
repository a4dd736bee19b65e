//! Searching for secrets where none may be.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A secret and what it is, for the message when it is found.
#[derive(Debug, Clone)]
pub struct Secret {
    pub what: String,
    pub value: String,
}

impl Secret {
    pub fn new(what: impl Into<String>, value: impl Into<String>) -> Self {
        Self { what: what.into(), value: value.into() }
    }

    /// The lines of a key that carry it, without the frame that every key has.
    pub fn of_pem(what: &str, pem: &str) -> Vec<Self> {
        let body = pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 32);
        body.map(|line| Self::new(what, line)).collect()
    }
}

/// Which of the secrets stand in `text`, as it is or in a usual disguise (base64, JSON, URL escapes leave these alone
/// or are looked for as well).
pub fn found_in(text: &[u8], secrets: &[Secret]) -> Vec<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
    // Secrets are ASCII, so what is not text may become anything; a search in a `str` is a fast one.
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    for secret in secrets {
        assert!(secret.value.len() >= 6, "`{}` is too short to search for", secret.value);
        // Within more, at each of the three places in a group: without what also holds bits of its neighbours.
        let encoded = |before: usize| {
            let bytes = [&vec![0; before], secret.value.as_bytes()].concat();
            STANDARD_NO_PAD.encode(&bytes)[(before * 8).div_ceil(6)..bytes.len() * 8 / 6].to_owned()
        };
        if text.contains(&secret.value) || (0..3).any(|before| text.contains(&encoded(before))) {
            found.push(secret.what.clone());
        }
    }
    found
}

/// Searches every file under `folder` but those `except` names; answers with what was found where.
pub fn found_under(folder: &Path, except: &[PathBuf], secrets: &[Secret]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be listed").flatten() {
            let path = entry.path();
            if except.contains(&path) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(content) = fs::read(&path) {
                let here = found_in(&content, secrets);
                found.extend(here.into_iter().map(|what| format!("{what} in {}", path.display())));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_as_it_is_and_in_base64() {
        let secrets = [Secret::new("the token", "correct-horse-battery")];
        assert_eq!(found_in(b"x correct-horse-battery y", &secrets), ["the token"]);
        assert_eq!(found_in(b"Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5", &secrets), ["the token"]);
        // `Bearer correct-horse-battery.`
        assert_eq!(found_in(b"QmVhcmVyIGNvcnJlY3QtaG9yc2UtYmF0dGVyeS4=", &secrets), ["the token"]);
        assert!(found_in(b"correct horse battery", &secrets).is_empty());
    }
}
