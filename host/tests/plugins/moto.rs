//! Signatures before a server that checks them: moto, an emulation of AWS, with its checks turned on.

use std::{
    ffi::OsStr,
    fs::OpenOptions,
    io::Write as _,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::support::{World, run};

/// Taken without a signature: the user, its permission and its key.
const SETUP: &str = "3";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/engines/moto.sh");

struct Moto {
    folder: TempDir,
    address: String,
}

impl Moto {
    /// Or why there is none.
    fn start() -> Result<Self, String> {
        let mut moto = Self { folder: tempfile::tempdir().unwrap(), address: String::new() };
        let started = moto.ask_script("start");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        moto.address = said(&started.stdout);
        if started.status.success() { Ok(moto) } else { Err(said(&started.stderr)) }
    }

    fn ask_script(&self, verb: &str) -> Output {
        let command = [OsStr::new(SCRIPT), OsStr::new(verb), self.folder.path().as_os_str()];
        Command::new("bash").args(command).env("INITIAL_NO_AUTH_ACTION_COUNT", SETUP).output().unwrap()
    }

    /// Keys that sign for `service`.
    fn endpoint(&self, service: &str, id: &str, secret: &str) -> String {
        format!(
            "engine: {{ url: \"http://{}\", credential: {{ aws_sigv4: {{ region: eu-west-1, \
             service: {service}, access_key_id: \"{id}\", secret_access_key: \"{secret}\" }} }} }}",
            self.address
        )
    }

    async fn ask(&self, service: &str, id: &str, secret: &str, form: &str) -> String {
        let endpoint = self.endpoint(service, id, secret);
        let world = World::new(&format!("  guest: {{ plugin: guest, endpoints: {{ {endpoint} }} }}"), "");
        let host = world.start().await;
        run(&host, &format!("post-form engine / {form}")).await.unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.ask_script("stop");
    }
}

/// As all tests say that want an engine.
fn not_run(why: &str) {
    #[expect(clippy::disallowed_methods, reason = "the test run is steered by its environment")]
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let line = format!("NOT RUN: {}: {why}\n", module_path!());
    eprint!("{line}");
    assert!(!variable("CI").is_some_and(|value| value == "true" || value == "1"), "CI=true, and {line}");
    if let Some(list) = variable("PACER_NOT_RUN") {
        OpenOptions::new().create(true).append(true).open(list).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

fn element<'x>(xml: &'x str, name: &str) -> &'x str {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split_once('<').unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_checks_signatures_takes_them() {
    let moto = match Moto::start() {
        Ok(moto) => moto,
        Err(why) => return not_run(&why),
    };
    let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%7B%22Effect%22%3A%22Allow%22%2C\
                  %22Action%22%3A%22ec2%3ADescribe%2A%22%2C%22Resource%22%3A%22%2A%22%7D%7D";
    let mut key = String::new();
    for form in [
        "Action=CreateUser&Version=2010-05-08&UserName=pacer".to_owned(),
        format!("Action=PutUserPolicy&Version=2010-05-08&UserName=pacer&PolicyName=look&PolicyDocument={policy}"),
        "Action=CreateAccessKey&Version=2010-05-08&UserName=pacer".to_owned(),
    ] {
        key = moto.ask("iam", "AKIANOBODYYET", "n0body-n0body", &form).await;
        assert!(key.starts_with("200 "), "{key}");
    }
    let (id, secret) = (element(&key, "AccessKeyId"), element(&key, "SecretAccessKey"));

    // No space: moto signs the form as it would write it itself, with a `+`.
    let describe = "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag%3Apacer%2Fowner\
                    &Filter.1.Value.1=a%2Bc~d%C3%A4";
    let answer = moto.ask("ec2", id, secret, describe).await;
    assert!(answer.starts_with("200 ") && answer.contains("<DescribeInstancesResponse"), "{answer}");
    let answer = moto.ask("ec2", id, "an0ther-secret", describe).await;
    assert!(answer.starts_with("401 ") && answer.contains("AuthFailure"), "{answer}");
    let answer = moto.ask("ec2", id, secret, "Action=TerminateInstances&Version=2016-11-15&InstanceId.1=i-1").await;
    assert!(answer.starts_with("403 ") && answer.contains("AccessDenied"), "{answer}");
}
