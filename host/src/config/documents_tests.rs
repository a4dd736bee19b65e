//! What the documentation shows is what the reader takes.

use std::{fs, path::Path};

use super::*;

/// The README, and every page below `docs`.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// Pages show pieces of a configuration; each is put where it belongs. None for what is another program's.
fn whole(yaml: &str) -> Option<String> {
    let indented = |by: usize| yaml.replace('\n', &format!("\n{}", " ".repeat(by)));
    let project = "  - name: app\n    scope: repo\n    repos: [acme/app]\n    ";
    let endpoints = "backends:\n  b:\n    plugin: d\n    endpoints:\n      ";
    let rest = match yaml.split_once(':').unwrap().0 {
        "server" => return Some(yaml.to_owned()),
        // A workflow of GitHub's.
        "jobs" => return None,
        "backends" => yaml.to_owned(),
        "pools" => {
            let named = yaml.lines().filter_map(|line| line.trim().strip_prefix("backend: "));
            let backends: String = named.map(|name| format!("  {name}: {{ plugin: d }}\n")).collect();
            format!("backends:\n{backends}projects:\n{project}{}\n", indented(4))
        }
        "engine" => format!("{endpoints}{}\n", indented(6)),
        "credential" | "proxy" => format!("{endpoints}e:\n        url: 'https://x'\n        {}\n", indented(8)),
        // Anything else is a key of a pool.
        _ => format!(
            "backends:\n  b: {{ plugin: d }}\nprojects:\n{project}pools:\n      - name: vm\n        backend: b\n        {}\n",
            indented(8)
        ),
    };
    Some(format!("{GITHUB}auth: {{ disabled: true }}\n{rest}"))
}

#[test]
fn every_configuration_that_the_documentation_shows_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = vec![root.join("README.md")];
    pages(&root.join("docs"), &mut all);
    let mut fixture = Fixture::new();
    for variable in ["CLOUD_TOKEN", "CLIENT_SECRET", "PROXY_PASSWORD", "PACER_WEBHOOK_SECRET", "PACER_TOKEN"] {
        fixture.env.insert(variable.to_owned(), "s3cret".repeat(6));
    }
    for file in ["api.token", "api.key", "password", "hetzner.token"] {
        fixture.write(file, "s3cret", 0o400);
    }
    let certified = rcgen::generate_simple_self_signed(["pacer".to_owned()]).unwrap();
    for file in ["api-ca.pem", "engine-ca.pem", "engine-client.pem"] {
        fixture.write(file, &certified.cert.pem(), 0o400);
    }
    fixture.write("engine-client-key.pem", &certified.signing_key.serialize_pem(), 0o400);
    fixture.write("gh-app.pem", RSA, 0o400);
    let mut loaded = 0;
    for page in all {
        let text = fs::read_to_string(&page).unwrap();
        for shown in text.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0) {
            // A digest that is left out is left to the reader of the page.
            let Some(yaml) = whole(&shown.replace('…', &"0".repeat(64))) else { continue };
            let config = fixture.load(&yaml);
            assert!(config.is_ok(), "{}: {}\n{yaml}", page.display(), config.unwrap_err());
            loaded += 1;
        }
    }
    assert!(loaded > 15, "{loaded} were found");
}
