//! `docs/reference.md` names all there is: every route, every metric, every word of the audit.

use std::{collections::BTreeSet, fs, path::Path};

use super::routes;

const REFERENCE: &str = include_str!("../../../docs/reference.md");

/// The words in backticks in the first column of the tables of a section.
fn listed(section: &str) -> BTreeSet<String> {
    let (_, text) = REFERENCE.split_once(&format!("\n## {section}\n")).unwrap();
    let text = text.split("\n## ").next().unwrap();
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    cells.flat_map(|cell| cell.split('`').step_by(2)).map(str::to_owned).collect()
}

/// The string literals in the sources that begin like this and are plain names.
fn in_sources(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            in_sources(&path, prefix, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let begins = format!("\"{prefix}");
            let names = text.match_indices(&begins).filter_map(|(at, _)| text[at + 1..].split('"').next());
            let plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte));
            found.extend(names.filter(plain).filter(|name| name.len() > prefix.len()).map(str::to_owned));
        }
    }
}

#[test]
fn every_route_is_described() {
    let described: BTreeSet<_> = ["HTTP API", "Health", "Pages"].iter().flat_map(|section| listed(section)).collect();
    let described: BTreeSet<_> = described.into_iter().filter(|word| word.starts_with('/')).collect();
    let there: BTreeSet<_> = routes().into_iter().map(|route| route.path.to_owned()).collect();
    assert_eq!(described, there);
    for path in [crate::callback::CONFIG_PATH, crate::callback::PHASE_PATH, "/api/webhook"] {
        assert!(REFERENCE.contains(&format!("`POST {path}`")), "{path}");
    }
}

#[test]
fn every_metric_and_every_word_of_the_audit_is_described() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (section, prefix) in [("Metrics", "pacer_"), ("Audit", "audit.")] {
        let mut there = BTreeSet::new();
        in_sources(&sources, prefix, &mut there);
        // The name of the cookie.
        there.remove("pacer_session");
        assert_eq!(listed(section), there, "{section}");
    }
}
