//! Renders what a machine runs at its first start: a shell script, or a cloud-init document that carries it.
//!
//! Pure. The script is one file, `start.sh`, behind a head of assignments; nothing is put into its middle, so quoting
//! happens in one place. What the script does, and what an image with a start of its own has to do instead, is in
//! `docs/bootstrap.md`.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::config::{Arch, RunnerSoftware};

const BODY: &str = include_str!("start.sh");
/// Where GitHub publishes its runner.
const RELEASES: &str = "https://github.com/actions/runner/releases";
/// On a file system in memory; the script removes it.
const PLACE: &str = "/run/pacer-start.sh";
/// Says that the script was started on this machine. It belongs to the instance, so that an image made of it boots.
const STARTED: &str = "/var/lib/cloud/instance/pacer-started";

/// How much later than the script's own switch, which says why, the one before it powers off.
const BEHIND: Duration = Duration::from_secs(180);

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
///
/// JSON, which is YAML with nothing left to guess. The script is packed: with a configuration in it, it would be more
/// than some clouds take.
pub fn cloud_init(plan: &Plan) -> SecretString {
    let script = STANDARD.encode(packed(start_script(plan).expose_secret().as_bytes()));
    let switch = (plan.max_life + BEHIND).as_secs();
    let document = json!({
        // Runs at every boot, and before anything that might hang; the rest runs at the first one only.
        "bootcmd": [["sh", "-c", format!(
            "if [ -e {STARTED} ]; then poweroff -f; fi; {{ sleep {switch} && poweroff -f; }} </dev/null >/dev/null 2>&1 &"
        )]],
        "write_files": [{ "path": PLACE, "permissions": "0700", "encoding": "gz+b64", "content": script }],
        "runcmd": [["sh", "-c", format!(": >{STARTED}")], ["sh", PLACE]],
    });
    format!("#cloud-config\n{document}\n").into()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(bytes).and_then(|()| gz.finish()).expect("writing to memory does not fail")
}

/// A word of the shell that stands for exactly this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _, process::Command};

    use flate2::read::GzDecoder;
    use proptest::prelude::*;
    use serde_json::Value;
    use sha2::{Digest as _, Sha256};

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

    /// As long as what GitHub gives, and as random.
    fn jit_config() -> SecretString {
        const LENGTH: usize = 6 * 1024;
        let mut bytes = Vec::new();
        while bytes.len() < LENGTH / 4 * 3 {
            bytes.extend(Sha256::digest(bytes.len().to_be_bytes()));
        }
        STANDARD.encode(bytes).into()
    }

    fn unpacked(document: &SecretString) -> (Value, String) {
        let document = document.expose_secret().strip_prefix("#cloud-config\n").expect("its kind comes first");
        let document: Value = serde_json::from_str(document).unwrap();
        let packed = STANDARD.decode(document["write_files"][0]["content"].as_str().unwrap()).unwrap();
        let mut script = String::new();
        GzDecoder::new(packed.as_slice()).read_to_string(&mut script).unwrap();
        (document, script)
    }

    #[test]
    fn every_cloud_takes_it_as_user_data() {
        for plan in [callback(), plan(Source::Inline { jit_config: jit_config() })] {
            let rendered = cloud_init(&plan);
            assert!(rendered.expose_secret().len() <= SMALLEST_USER_DATA, "{} bytes", rendered.expose_secret().len());
            let (document, script) = unpacked(&rendered);
            assert_eq!(script, start_script(&plan).expose_secret());
            assert_eq!(document["runcmd"][1], json!(["sh", document["write_files"][0]["path"]]));
        }
        assert!(start_script(&callback()).expose_secret().len() <= SMALLEST_USER_DATA);
    }

    #[test]
    fn a_machine_that_boots_again_powers_off() {
        let folder = tempfile::tempdir().unwrap();
        let (document, _) = unpacked(&cloud_init(&callback()));
        // `poweroff` and `sleep` are functions here; the marker is this test's own.
        let run = |command: &Value, slept: bool| {
            assert_eq!((&command[0], &command[1]), (&json!("sh"), &json!("-c")));
            let out = folder.path().to_str().unwrap();
            let text = command[2].as_str().unwrap().replace("/var/lib/cloud/instance", out);
            let sleep = format!("sleep() {{ echo \"sleep $*\" >>{out}/said; {slept}; }}");
            let text = format!("poweroff() {{ echo \"poweroff $*\" >>{out}/said; }}\n{sleep}\n{text}\nwait");
            assert!(Command::new("sh").args(["-c", &text]).status().unwrap().success());
            let said = std::fs::read_to_string(folder.path().join("said")).unwrap_or_default();
            let _ = std::fs::remove_file(folder.path().join("said"));
            said
        };
        let boot = |slept: bool| run(&document["bootcmd"][0], slept);
        assert_eq!(boot(false), "sleep 3780\n", "the first time");
        assert_eq!(boot(true), "sleep 3780\npoweroff -f\n", "it was not started, and its life is over");
        run(&document["runcmd"][0], false);
        assert!(boot(false).starts_with("poweroff -f\n"), "the second time");
    }

    #[test]
    fn the_script_is_a_script() {
        let said = Command::new("sh").args(["-n", "-c", start_script(&callback()).expose_secret()]).output().unwrap();
        assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_what_was_written_whatever_it_is(
            texts in proptest::collection::vec("[^\\x00]{0,40}", 8),
            seconds in 0_u32..,
            inline: bool,
        ) {
            let [name, secret, url, user, dir, version, sha256, mirror] = texts.try_into().unwrap();
            let source = if inline {
                Source::Inline { jit_config: secret.clone().into() }
            } else {
                Source::Callback { url: url.clone(), token: secret.clone().into() }
            };
            let plan = Plan {
                name: name.clone(),
                source,
                user: user.clone(),
                max_life: Duration::from_secs(seconds.into()),
                runner: RunnerSoftware {
                    version: Some(version.clone()),
                    sha256: BTreeMap::from([(Arch::X64, sha256.clone())]),
                    mirror: Some(mirror.clone()),
                    dir: dir.clone(),
                },
            };
            let script = start_script(&plan);
            let head = script.expose_secret().strip_suffix(BODY).unwrap();
            let names = "NAME URL TOKEN JIT_CONFIG USER MAX_LIFE DIR VERSION SHA256_X64 SHA256_ARM64 RELEASES";
            let mut said = head.to_owned();
            for name in names.split(' ') {
                let _ = writeln!(said, "printf '%s\\0' \"${{PACER_{name}-not set}}\"");
            }
            let said = Command::new("sh").args(["-c", &said]).output().unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            let seconds = seconds.to_string();
            let (url, token, jit) = if inline {
                ("not set", "not set", secret.as_str())
            } else {
                (url.as_str(), secret.as_str(), "not set")
            };
            let expected = [&name, url, token, jit, &user, &seconds, &dir, &version, &sha256, "", &mirror].join("\0");
            prop_assert_eq!(said, expected + "\0");
        }
    }
}
