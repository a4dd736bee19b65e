//! `pacer match`: the reason tree of a job that need not exist.

use std::io::Write;

use serde_json::json;

use super::{MatchArgs, Outcome};
use crate::{
    config::Config,
    routing::{self, Decision},
};

pub(super) fn run(config: &Config, args: &MatchArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let decision = routing::route(config, &args.repo, &args.labels);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &as_json(&decision))?;
        writeln!(out)?;
    } else {
        if let Some(tree) = decision.tree() {
            writeln!(out, "{}", routing::render(tree))?;
        }
        match &decision {
            Decision::NotOurs => {
                writeln!(out, "not ours: the labels do not have `self-hosted`, so GitHub's machines take the job")?
            }
            Decision::Unbound { reason } => writeln!(out, "not bound: {reason}")?,
            Decision::Matched { project, pool, .. } => writeln!(out, "matched: pool `{pool}` of project `{project}`")?,
            Decision::Unmatched { reason, .. } => writeln!(out, "no match: {reason}")?,
        }
    }
    Ok(match decision {
        Decision::Matched { .. } => Outcome::Fine,
        Decision::NotOurs | Decision::Unbound { .. } | Decision::Unmatched { .. } => Outcome::Problem,
    })
}

fn as_json(decision: &Decision) -> serde_json::Value {
    match decision {
        Decision::NotOurs => json!({"result": "not-ours", "reason": "not self-hosted"}),
        Decision::Unbound { reason } => json!({"result": "unbound", "reason": reason}),
        Decision::Matched { project, pool, tree } => {
            json!({"result": "matched", "project": project, "pool": pool, "tree": tree})
        }
        Decision::Unmatched { project, nearest, missing, reason, tree } => json!({
            "result": "unmatched", "project": project, "nearest": nearest, "missing": missing, "reason": reason, "tree": tree
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    fn print(labels: &[&str], json: bool) -> (String, Outcome) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let args = MatchArgs { repo: "a/b".parse().unwrap(), labels, json };
        let mut out = Vec::new();
        let outcome = run(&fixture(Vec::new()), &args, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), outcome)
    }

    #[test]
    fn what_does_not_match_says_why_and_exits_with_one() {
        let (text, outcome) = print(&["ubuntu-latest"], false);
        assert!(text.starts_with("not ours: "), "{text}");
        assert_eq!(outcome, Outcome::Problem);
        let (text, _) = print(&["self-hosted"], true);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["result"], "unbound");
    }
}
