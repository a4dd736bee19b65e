//! What a component says of itself, and of settings.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{Ground, Verdict};

pub(super) async fn describe_is_pure(ground: &Ground<'_>) -> Verdict {
    let (first, second) = (ground.stage.inspect().await?, ground.stage.inspect().await?);
    for inspection in [&first, &second] {
        if let Some(why) = &inspection.refused {
            anyhow::bail!("without a grant it does not introduce itself: {why}");
        }
    }
    ensure!(first.not_offered.is_empty(), "it imports what no host offers: {}", first.not_offered.join(", "));
    let spelt = |description: &_| serde_json::to_string(description);
    let granted = spelt(&*ground.stage.description)?;
    let first = spelt(&first.description.context("it has no description")?)?;
    let second = spelt(&second.description.context("it has no description")?)?;
    ensure!(first == second, "two answers differ: {first} and {second}");
    ensure!(first == granted, "with its endpoints granted it describes itself as {granted}, without as {first}");
    Ok(None)
}

pub(super) async fn describe_is_fit(ground: &Ground<'_>) -> Verdict {
    let description = &ground.stage.description;
    let numbers = description.version.split(['-', '+']).next().unwrap_or_default().split('.');
    ensure!(
        numbers.clone().count() == 3 && numbers.clone().all(|number| number.parse::<u32>().is_ok()),
        "its version `{}` is none of semver, such as `0.1.0`",
        description.version
    );
    let summary = &description.summary;
    ensure!(!summary.is_empty() && !summary.contains('\n'), "its summary is not one line for people: `{summary}`");
    for (which, schema) in
        [("settings-schema", description.settings_schema.json()), ("pool-schema", description.pool_schema.json())]
    {
        ensure!(schema["type"] == "object", "its {which} is of no object");
    }
    let takes = &description.bootstraps;
    let kind = ground.stage.subject.bootstrap.as_str();
    ensure!(takes.iter().any(|one| one == kind), "it takes the bootstraps {takes:?}, and this run gives `{kind}`");
    let name = &ground.stage.subject.endpoint.name;
    let asked = description.endpoints.iter().find(|endpoint| endpoint.name == *name);
    let asked = asked.with_context(|| format!("it does not ask for the endpoint `{name}` that this run grants"))?;
    ensure!(!asked.purpose.is_empty(), "it does not say what it wants the endpoint `{name}` for");
    ensure!(asked.example.contains("://"), "its example for the endpoint `{name}` is no URL: `{}`", asked.example);
    Ok(None)
}

pub(super) async fn settings_fit(ground: &Ground<'_>) -> Verdict {
    let config = ground.stage.config(&ground.stage.subject.pool)?;
    let findings = ground.stage.host.validate(&config).await;
    let errors: Vec<String> = findings.iter().filter(|one| one.is_error()).map(ToString::to_string).collect();
    ensure!(errors.is_empty(), "the settings of this run are refused: {}", errors.join("; "));
    Ok(None)
}

pub(super) async fn unknown_settings_are_found(ground: &Ground<'_>) -> Verdict {
    let mut pool = ground.stage.subject.pool.clone();
    pool["no-such-setting-of-any-backend"] = json!(true);
    let findings = ground.stage.host.validate(&ground.stage.config(&pool)?).await;
    ensure!(
        findings.iter().any(|one| one.is_error() && one.to_string().contains("no-such-setting")),
        "a pool's setting that does not exist is not refused; close the schema with `additionalProperties: false`"
    );
    Ok(None)
}
