//! Renders what a machine runs at its first start: a shell script, or a cloud-init document that carries it.
//!
//! Pure. The script is one file, `start.sh`, behind a head of assignments; nothing is put into its middle, so quoting
//! happens in one place. What the script does, and what an image with a start of its own has to do instead, is in
//! `docs/bootstrap.md`.

use std::{fmt::Write as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};

use crate::config::{Arch, RunnerSoftware};

const BODY: &str = include_str!("start.sh");
/// Where GitHub publishes its runner.
const RELEASES: &str = "https://github.com/actions/runner/releases";
/// On a file system in memory; the script removes it.
const PLACE: &str = "/run/pacer-start.sh";

/// What a machine has to know.
#[derive(Debug)]
pub struct Plan {
    /// The runner's name.
    pub name: String,
    pub source: Source,
    /// Runs the job.
    pub user: String,
    /// When the machine powers itself off at the latest.
    pub max_life: Duration,
    pub runner: RunnerSoftware,
}

/// Where the just-in-time configuration comes from.
#[derive(Debug)]
pub enum Source {
    /// pacer, for a one-time token.
    Callback { url: String, token: SecretString },
    /// The script itself.
    Inline { jit_config: SecretString },
}

/// The script, to be run once and as root.
pub fn start_script(plan: &Plan) -> SecretString {
    let runner = &plan.runner;
    let sum = |arch: Arch| runner.sha256.get(&arch).map_or("", String::as_str);
    let max_life = plan.max_life.as_secs().to_string();
    let mut script = "#!/bin/sh\n".to_owned();
    let mut assign = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(script, "{name}={}", quoted(value));
    };
    assign("PACER_NAME", &plan.name);
    match &plan.source {
        Source::Callback { url, token } => {
            assign("PACER_URL", url);
            assign("PACER_TOKEN", token.expose_secret());
        }
        Source::Inline { jit_config } => assign("PACER_JIT_CONFIG", jit_config.expose_secret()),
    }
    assign("PACER_USER", &plan.user);
    assign("PACER_MAX_LIFE", &max_life);
    assign("PACER_DIR", &runner.dir);
    assign("PACER_VERSION", runner.version.as_deref().unwrap_or_default());
    assign("PACER_SHA256_X64", sum(Arch::X64));
    assign("PACER_SHA256_ARM64", sum(Arch::Arm64));
    assign("PACER_RELEASES", runner.mirror.as_deref().unwrap_or(RELEASES));
    script.push_str(BODY);
    script.into()
}

/// The user-data of a machine with cloud-init.
pub fn cloud_init(plan: &Plan) -> SecretString {
    let script = STANDARD.encode(start_script(plan).expose_secret());
    format!(
        "#cloud-config\n\
         write_files:\n\
         - path: {PLACE}\n  permissions: '0700'\n  encoding: b64\n  content: {script}\n\
         runcmd:\n\
         - [ sh, {PLACE} ]\n"
    )
    .into()
}

/// A word of the shell that stands for exactly this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, process::Command};

    use proptest::prelude::*;

    use super::*;
    use crate::config;

    /// What EC2 takes, the least of all.
    const SMALLEST_USER_DATA: usize = 16 * 1024;

    fn plan(source: Source) -> Plan {
        Plan {
            name: "pacer-vm-0123456789abcdef".to_owned(),
            source,
            user: "runner".to_owned(),
            max_life: Duration::from_secs(3600),
            runner: config::Bootstrap::default().runner,
        }
    }

    fn callback() -> Plan {
        plan(Source::Callback { url: "https://pacer.example".to_owned(), token: "pacer-vm-0.0ff".into() })
    }

    #[test]
    fn everything_a_machine_is_told_stands_at_the_head() {
        let mut plan = callback();
        plan.runner = RunnerSoftware {
            version: Some("2.330.0".to_owned()),
            sha256: BTreeMap::from([(Arch::Arm64, "ab".repeat(32))]),
            mirror: Some("https://mirror.example/runner".to_owned()),
            dir: "/srv/runner".to_owned(),
        };
        let script = start_script(&plan);
        let (head, body) = script.expose_secret().split_at(script.expose_secret().len() - BODY.len());
        assert_eq!(body, BODY);
        for line in [
            "PACER_URL='https://pacer.example'",
            "PACER_TOKEN='pacer-vm-0.0ff'",
            "PACER_MAX_LIFE='3600'",
            "PACER_VERSION='2.330.0'",
            "PACER_SHA256_X64=''",
            &format!("PACER_SHA256_ARM64='{}'", "ab".repeat(32)),
            "PACER_RELEASES='https://mirror.example/runner'",
            "PACER_DIR='/srv/runner'",
        ] {
            assert!(head.lines().any(|found| found == line), "{line} is not in {head}");
        }
        let inline = start_script(&self::plan(Source::Inline { jit_config: "eyJ9".into() }));
        assert!(inline.expose_secret().contains("\nPACER_JIT_CONFIG='eyJ9'\n"));
        assert!(!inline.expose_secret().contains("\nPACER_URL="));
    }

    #[test]
    fn every_cloud_takes_it_as_user_data() {
        let document = cloud_init(&callback());
        let document = document.expose_secret();
        assert!(document.len() <= SMALLEST_USER_DATA, "{} bytes", document.len());
        let content = document.lines().find_map(|line| line.strip_prefix("  content: ")).unwrap();
        let script = String::from_utf8(STANDARD.decode(content).unwrap()).unwrap();
        assert_eq!(script, start_script(&callback()).expose_secret());
        // Base64 and the two fixed names need no quotes in YAML.
        assert_eq!(document.matches(PLACE).count(), 2);
    }

    #[test]
    fn the_script_is_a_script() {
        let said = Command::new("sh").args(["-n", "-c", start_script(&callback()).expose_secret()]).output().unwrap();
        assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_survives_its_quotes(text in "[^\\x00]{0,40}") {
            let script = format!("X={}\nprintf %s \"$X\"", quoted(&text));
            let said = Command::new("sh").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(String::from_utf8(said.stdout).unwrap(), text);
        }
    }
}
