//! From the file to [`Config`].

use std::path::Path;

use super::{
    Config, ConfigError, Environment, Outline, document, github,
    problem::Problem,
    projects,
    reader::{Reader, Section},
    sections,
};

/// A configuration of a thousand projects is well below it.
const LARGEST_CONFIG: u64 = 8 << 20;

/// Reads and checks a configuration file, and everything that it refers to.
///
/// What is wrong is collected and reported together; what is doubtful ends up in [`Config::warnings`].
pub fn load(path: &Path, env: &dyn Environment) -> Result<Config, ConfigError> {
    const HINT: &str =
        "give another file with `--config FILE` or `PACER_CONFIG`; `config.example.yaml` is one to start from";
    let unreadable = |error: std::io::Error| {
        ConfigError::of_file(path, format!("`{}` cannot be read: {error}", path.display()), HINT)
    };
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let metadata = std::fs::metadata(&absolute).map_err(unreadable)?;
    if metadata.len() > LARGEST_CONFIG {
        return Err(ConfigError::of_file(path, format!("the file has more than {LARGEST_CONFIG} bytes"), HINT));
    }
    let content = std::fs::read(&absolute).map_err(unreadable)?;
    let text = String::from_utf8(content)
        .map_err(|_| ConfigError::of_file(path, "the file is not UTF-8 text", "save it as UTF-8"))?;
    parse(&text, path, &absolute, env)
}

fn parse(text: &str, path: &Path, absolute: &Path, env: &dyn Environment) -> Result<Config, ConfigError> {
    let failed = |problems| ConfigError { path: path.to_owned(), problems };
    let tree = document::parse(text).map_err(|error| {
        let problem = Problem::new("", error.at, format!("the file is not YAML: {}", error.message));
        failed(vec![problem.hint("YAML goes by indentation, by spaces, and wants quotes around special characters")])
    })?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    let reader = Reader::new(base, env);
    let root = Section::root(&reader, &tree, sections::ROOT);

    let github = github::github(&root, &reader);
    let server = sections::server(&root, &reader, github.as_ref().map(|github| github.app_id));
    let database = sections::database(&root, &reader);
    let plugins = sections::plugins(&root, &reader);
    let backends = projects::backends(&root, &reader, plugins.as_ref());
    let projects = projects::projects(&root, &reader, &backends);
    let auth = sections::auth(&root);
    let retention = sections::retention(&root);
    let telemetry = sections::telemetry(&root);

    let (problems, warnings) = reader.finish();
    if !problems.is_empty() {
        return Err(failed(problems));
    }
    let config = || {
        Some(Config {
            path: absolute.to_owned(),
            server: server?,
            github: github?,
            database: database?,
            plugins: plugins?,
            backends: backends.read,
            projects,
            auth: auth?,
            retention: retention?,
            telemetry: telemetry?,
            warnings,
            outline: Outline::of(&tree),
        })
    };
    // A section that cannot be read has said why; this is the net under it.
    config().ok_or_else(|| ConfigError::of_file(path, "a section cannot be read", "please report this, with the file"))
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
