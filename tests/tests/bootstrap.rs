//! The start script as pacer renders it, run for real: in a container that stands for the machine, against the server
//! that rendered it, with the simulator's runner in place of GitHub's.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread,
    time::Duration,
};

use pacer_simulator::{
    cloud::{Conditions, script},
    faults::Fault,
};
use pacer_tests::{
    engine::{self, Engine, RUNNER_IMAGE},
    pacer::TestPacer,
    wait::eventually,
    world::{World, runner_script},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const SOON: Duration = Duration::from_secs(60);

/// A job's view of the machine, then the simulator's runner.
const LOOKS_AROUND: &str = "#!/bin/sh
{ id; env; for f in /proc/[0-9]*/cmdline /run/pacer.*/* /tmp/*/* /tmp/* /start.sh; do echo \"== $f\"; cat \"$f\"; done; } >/out/seen 2>&1
exec sh /runner.sh
";

/// Instead of systemd's: notes it, and ends every process of the machine but the first. (A busybox shell has `poweroff`
/// in itself.)
const POWER_OFF: &str = "#!/bin/sh\necho \"$1\" >>/out/power\nkill -9 -1\n";

/// What a machine is made of.
struct Machine {
    /// `run.sh` of the runner that its image has, if it has one.
    baked: Option<&'static str>,
    /// More arguments of `docker run`.
    arguments: Vec<String>,
    edit: Box<dyn Fn(String) -> String>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { baked: Some(LOOKS_AROUND), arguments: Vec::new(), edit: Box::new(|script| script) }
    }
}

/// What became of it.
struct Ended {
    runner: Value,
    folder: tempfile::TempDir,
    script: String,
}

impl Ended {
    /// What it reported, oldest first, and the whole of the last.
    fn phases(&self) -> (Vec<String>, String) {
        let events = self.runner["events"].as_array().expect("a runner has events");
        let reported = events.iter().filter(|event| event["kind"] == "runner.reported");
        let details: Vec<&str> = reported.filter_map(|event| event["detail"].as_str()).collect();
        let phases = details.iter().map(|detail| detail.split(':').next().unwrap_or_default().to_owned()).collect();
        (phases, details.last().copied().unwrap_or_default().to_owned())
    }

    fn file(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join(name)).unwrap_or_default()).into_owned()
    }
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("the folder of the test is writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a file of the test's own");
}

/// One job, and a machine that never starts by itself: the container is it.
struct Stage {
    world: World,
    pacer: TestPacer,
}

impl Stage {
    async fn new(bootstrap: &str) -> Self {
        let world = World::start().await;
        world.simulator.cloud.set_conditions(Conditions { stuck: 1.0, ..Conditions::default() });
        let pacer = world.pacer_with_scripts().prepare();
        pacer.edit_config("kind: start-script", bootstrap);
        let mut pacer = pacer;
        pacer.start().await;
        world.deliver_to(&pacer);
        world.queue(1, Duration::from_millis(300));
        Self { world, pacer }
    }

    async fn rendered(&self) -> (String, String) {
        eventually("a machine is made", SOON, async || self.world.simulator.cloud.scripts().into_iter().next()).await
    }

    /// Boots the machine and waits until it is off.
    async fn run(&self, engine: &Engine, machine: Machine) -> Ended {
        let (name, rendered) = self.rendered().await;
        let folder = tempfile::tempdir().expect("a folder for the test");
        let at = |path: &str| folder.path().join(path);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("a folder of the test's own");
        // Whatever goes wrong, the container ends.
        let rendered = assigned("PACER_MAX_LIFE", "40")(rendered);
        let script = edited("\npause=2 ", "\npause=0 ")((machine.edit)(rendered));
        fs::write(at("start.sh"), &script).expect("the folder is writable");
        fs::create_dir(at("stub")).expect("the folder is writable");
        executable(&at("stub/systemctl"), POWER_OFF);
        let volume = |from: &str, to: &str| format!("--volume={}:{to}", at(from).display());
        let mut arguments = vec![
            "run".to_owned(),
            format!("--name={name}"),
            "--network=host".to_owned(),
            volume("", "/out"),
            volume("start.sh", "/given.sh"),
            volume("stub", "/stub"),
            "--env=PATH=/stub:/bin".to_owned(),
        ];
        if let Some(run) = machine.baked {
            fs::create_dir(at("baked")).expect("the folder is writable");
            executable(&at("baked/run.sh"), run);
            arguments.push(volume("baked", "/opt/actions-runner"));
        }
        arguments.extend(machine.arguments);
        let start = "cp /given.sh /start.sh; umount /given.sh 2>/dev/null; sh /start.sh; ls /start.sh >/out/left 2>/dev/null; exit 0";
        // A machine that cannot write to its root still runs the script.
        let start = start.replace("/start.sh", "/tmp/start.sh");
        arguments.extend([RUNNER_IMAGE, "sh", "-c", &start].map(str::to_owned));
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = tokio::task::block_in_place(|| engine.docker(&words));
        fs::write(at("console"), said.all()).expect("the folder is writable");
        engine.docker(&["rm", "--force", &name]);
        let runner = eventually("pacer knows its end", SOON, async || {
            let runner = self.pacer.api.get(&format!("/api/v1/runners/{name}")).await.json();
            let is_over = matches!(runner["state"].as_str(), Some("gone" | "failed"));
            is_over.then_some(runner)
        })
        .await;
        Ended { runner, folder, script }
    }
}

/// Files over HTTP, and one redirect, for as long as the test's process lives.
fn serve(files: Vec<(String, Vec<u8>)>, redirect: (&'static str, String)) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let base = format!("http://{}", listener.local_addr().expect("it listens"));
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { continue };
            let mut request = [0; 4096];
            let read = connection.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let (head, body) = match files.iter().find(|(name, _)| name == path) {
                Some((_, body)) => ("200 OK".to_owned(), body.as_slice()),
                None if path == redirect.0 => (format!("302 Found\r\nLocation: {}", redirect.1), &b""[..]),
                None => ("404 Not Found".to_owned(), &b""[..]),
            };
            let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // Who asked may be gone.
            let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body));
        }
    });
    base
}

/// The archive of a runner's release.
fn archive() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder for the test");
    executable(&folder.path().join("run.sh"), LOOKS_AROUND);
    let said = std::process::Command::new("tar").args(["-C"]).arg(folder.path()).args(["-czf", "-", "run.sh"]).output();
    said.expect("tar is everywhere").stdout
}

fn assigned(name: &'static str, value: &str) -> impl Fn(String) -> String + use<> {
    let value = value.to_owned();
    move |text| {
        let old = script::value(&text, name).unwrap_or_else(|| panic!("{name} is not assigned"));
        text.replacen(&format!("{name}='{old}'"), &format!("{name}='{value}'"), 1)
    }
}

fn edited(old: &'static str, new: &'static str) -> impl Fn(String) -> String {
    move |text| {
        assert!(text.contains(old), "the script has no {old:?}");
        text.replacen(old, new, 1)
    }
}

fn with_image(test: &str) -> Option<Engine> {
    if let Some(why) = engine::unavailable() {
        engine::not_run(test, &why);
        return None;
    }
    let engine = Engine::start();
    engine.build_runner_image(&runner_script());
    Some(engine)
}

const CALLBACK: &str = "kind: start-script";

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_becomes_a_runner_does_its_job_and_powers_off() {
    let Some(engine) = with_image("a_machine_becomes_a_runner_does_its_job_and_powers_off") else { return };
    // Programs of this machine instead of busybox's, with the libraries they need.
    let with_program = |program: &str| {
        let path = format!("/usr/bin/{program}");
        fs::metadata(&path).is_ok().then(|| {
            let mut arguments: Vec<String> =
                ["/lib", "/lib64", "/usr/lib", "/etc/ssl"].map(|path| format!("--volume={path}:{path}:ro")).to_vec();
            arguments.extend([format!("--volume={path}:/w/{program}:ro"), "--env=PATH=/stub:/w:/bin".to_owned()]);
            arguments
        })
    };
    let mut machines = vec![("busybox", CALLBACK, Machine::default())];
    for program in ["curl", "wget"] {
        if let Some(arguments) = with_program(program) {
            machines.push((program, CALLBACK, Machine { arguments, ..Machine::default() }));
        }
    }
    machines.push(("inline", "kind: start-script, mode: inline", Machine::default()));

    for (what, bootstrap, machine) in machines {
        let stage = Stage::new(bootstrap).await;
        if what == "busybox" {
            // What GitHub has to be asked again for only takes longer.
            stage.world.simulator.github.faults().next("jit", 2, Fault::Status { status: 503 });
        }
        let ended = stage.run(&engine, machine).await;
        let console = ended.file("console");
        assert_eq!(ended.file("power"), "poweroff\n", "{what}: {console}");
        assert_eq!(ended.file("left"), "", "{what}: the script is still there");
        assert_eq!(stage.world.simulator.summary().served, 1, "{what}: {console}");
        let (phases, _) = ended.phases();
        let seen = ended.file("seen");
        assert!(seen.contains("uid=1001(runner)"), "{what}: {seen}");
        if what == "inline" {
            assert_eq!(phases, Vec::<String>::new());
            continue;
        }
        assert_eq!(phases, ["booted", "runner-ready", "job-done"], "{what}: {console}");
        let token = script::value(&ended.script, "PACER_TOKEN").unwrap();
        let (_, signature) = token.split_once('.').unwrap();
        assert!(seen.contains("/proc/1/cmdline\nsh"), "{what}: it looked around: {seen}");
        assert!(!seen.contains(signature), "{what}: the job sees the token: {seen}");
        let answer = stage.pacer.api.with_token(Some(&token)).post("/api/runner/config").await;
        assert_eq!(answer.status.as_u16(), 410, "{what}: the token is worthless");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_runner_downloads_it_and_checks_it() {
    let Some(engine) = with_image("a_machine_without_a_runner_downloads_it_and_checks_it") else { return };
    let archive = archive();
    let sum = hex::encode(Sha256::digest(&archive));
    let path = "/download/v2.1.0/actions-runner-linux-x64-2.1.0.tar.gz";
    let base = serve(
        vec![(path.to_owned(), archive), ("/tag/v2.1.0".to_owned(), b"a page".to_vec())],
        ("/latest", "/tag/v2.1.0".to_owned()),
    );
    let machine = |version: &'static str, sum: &str| {
        let (releases, sums) = (assigned("PACER_RELEASES", &base), assigned("PACER_SHA256_X64", sum));
        let (version, dir) = (assigned("PACER_VERSION", version), assigned("PACER_DIR", "/srv/runner"));
        Machine { baked: None, edit: Box::new(move |text| dir(version(sums(releases(text))))), ..Machine::default() }
    };

    for (version, sum) in [("2.1.0", sum.as_str()), ("", "")] {
        let stage = Stage::new(CALLBACK).await;
        let ended = stage.run(&engine, machine(version, sum)).await;
        assert_eq!(ended.phases().0, ["booted", "runner-ready", "job-done"], "{}", ended.file("console"));
        assert_eq!((ended.file("power").as_str(), stage.world.simulator.summary().served), ("poweroff\n", 1));
    }
    let wrong = "0".repeat(64);
    for (version, sum, why) in [
        ("2.1.0", wrong.as_str(), "and should be 0000"),
        ("9.9.9", "", "v9.9.9/actions-runner-linux-x64-9.9.9.tar.gz cannot be downloaded"),
    ] {
        let stage = Stage::new(CALLBACK).await;
        let ended = stage.run(&engine, machine(version, sum)).await;
        let (phases, last) = ended.phases();
        assert_eq!(phases, ["booted", "failed"], "{}", ended.file("console"));
        assert!(last.contains(why), "{last}");
        assert_eq!(ended.file("power"), "poweroff\n");
        let error = ended.runner["error"].as_str().unwrap();
        assert!(error.contains("could not become a runner") && error.contains(why), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_fails_says_why_and_powers_off() {
    let Some(engine) = with_image("a_machine_that_fails_says_why_and_powers_off") else { return };
    let baked = |run: &'static str| Machine { baked: Some(run), ..Machine::default() };
    let with = |arguments: &[&str]| arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let cases: Vec<(&str, Machine, &[&str], &str)> = vec![
        (
            "the runner fails",
            baked("#!/bin/sh\necho 'no \"libicu\"'\nexit 7\n"),
            &["booted", "runner-ready", "failed"],
            "the runner ended with 7",
        ),
        (
            "the runner hangs",
            Machine { edit: Box::new(assigned("PACER_MAX_LIFE", "4")), ..baked("#!/bin/sh\nexec sleep 1000\n") },
            &["booted", "runner-ready", "failed"],
            "maximum life of 4 s",
        ),
        (
            "it is told to go in the middle",
            Machine {
                edit: Box::new(edited("\nwait $runner\n", "\nkill -TERM $$\nwait $runner\n")),
                ..baked("#!/bin/sh\nexec sleep 1000\n")
            },
            &["booted", "runner-ready", "failed"],
            "the start script ended with",
        ),
        (
            "another architecture",
            Machine {
                baked: None,
                edit: Box::new(edited("\nset -u", "\nuname() { echo sparc; }\nset -u")),
                ..Machine::default()
            },
            &["booted", "failed"],
            "no runner for the architecture sparc",
        ),
        (
            "not root",
            Machine { arguments: with(&["--user=1001"]), ..Machine::default() },
            &["failed"],
            "has to run as root",
        ),
        (
            "a user that is root",
            Machine { edit: Box::new(assigned("PACER_USER", "root")), ..Machine::default() },
            &["booted", "failed"],
            "is root by another name",
        ),
        (
            "a bug in the script",
            Machine {
                edit: Box::new(edited("\nreport runner-ready", "\n$UNSET_BY_NOBODY")),
                ..Machine::default()
            },
            &["booted", "failed"],
            "the start script ended with",
        ),
    ];
    for (what, machine, expected, why) in cases {
        let stage = Stage::new(CALLBACK).await;
        let ended = stage.run(&engine, machine).await;
        let (phases, last) = ended.phases();
        assert_eq!(phases, expected, "{what}: {}", ended.file("console"));
        assert!(last.contains(why), "{what}: {last}");
        assert_eq!(ended.file("power"), "poweroff\n", "{what}");
    }

    // Somebody was faster with the token: the machine learns nothing and goes.
    let stage = Stage::new(CALLBACK).await;
    let (_, rendered) = stage.rendered().await;
    let token = script::value(&rendered, "PACER_TOKEN").unwrap();
    let stolen = stage.pacer.api.with_token(Some(&token)).post("/api/runner/config").await;
    assert_eq!(stolen.status.as_u16(), 200);
    let ended = stage.run(&engine, Machine::default()).await;
    let console = ended.file("console");
    assert!(console.contains("pacer refused the configuration: 410"), "{console}");
    assert_eq!((ended.file("power").as_str(), ended.file("seen").as_str()), ("poweroff\n", ""));
}
