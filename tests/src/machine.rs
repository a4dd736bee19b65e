//! A container that stands for a machine at its first boot, and whom its start script speaks to.
//!
//! The script is the one that the server rendered. pacer's side of the callbacks is played by [`Callback`], which answers as
//! a test tells it to and remembers every word. The container has the host's network and may not change it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use pacer_simulator::cloud::{Conditions, script};
use serde_json::Value;

use crate::{
    engine::{Engine, RUNNER_IMAGE},
    wait::{SOON, eventually},
    world::World,
};

/// The secrets of a machine: none of them is a word that occurs by itself.
pub const TOKEN: &str = "pacer-small-0.0ne71me70ken";
pub const PHASE_TOKEN: &str = "pacer-small-0.fa5e70ken";
pub const JIT_CONFIG: &str = "eyJqaXQiOiJjb25maWd1cmF0aW9uIn0=";

/// A machine that is not off by then is stuck.
const STUCK: &str = "100";

/// What pacer answers to a request for the configuration.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    Config,
    Status(u16),
    /// Not now; again after this many seconds.
    Later(u16),
    /// A body that is no configuration.
    Garbage,
    /// The connection ends without a word.
    Nothing,
}

/// What a machine told pacer.
#[derive(Debug, Default, Clone)]
pub struct Told {
    /// Phase, log and token of each report.
    pub reports: Vec<(String, String, String)>,
    /// The tokens that it asked for a configuration with.
    pub exchanges: Vec<String>,
    /// What was not understood.
    pub nonsense: Vec<String>,
}

impl Told {
    pub fn phases(&self) -> Vec<&str> {
        self.reports.iter().map(|(phase, ..)| phase.as_str()).collect()
    }

    /// The text of the last report.
    pub fn last(&self) -> &str {
        self.reports.last().map_or("", |(_, log, _)| log)
    }
}

/// pacer's side of the callbacks, and a server of releases.
#[derive(Debug)]
pub struct Callback {
    pub address: SocketAddr,
    told: Arc<Mutex<Told>>,
}

/// What a [`Callback`] does; the last answer is repeated.
#[derive(Debug, Clone)]
pub struct Manners {
    pub answers: Vec<Answer>,
    /// After the exchange it takes connections and says nothing any more.
    pub falls_silent: bool,
    /// Path and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// From and to.
    pub redirects: Vec<(String, String)>,
}

impl Default for Manners {
    fn default() -> Self {
        Self { answers: vec![Answer::Config], falls_silent: false, files: Vec::new(), redirects: Vec::new() }
    }
}

impl Callback {
    pub fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let told: Arc<Mutex<Told>> = Arc::default();
        let shared = told.clone();
        // It serves for as long as the test's process lives.
        thread::spawn(move || {
            let mut held = Vec::new();
            for mut connection in listener.incoming().flatten() {
                let silent =
                    manners.falls_silent && !shared.lock().unwrap_or_else(PoisonError::into_inner).exchanges.is_empty();
                if silent {
                    held.push(connection);
                } else if let Some(answer) = answer(&mut connection, &manners, &shared) {
                    // Who asked may be gone.
                    let _ = connection.write_all(&answer);
                }
            }
        });
        Self { address, told }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let mut all =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()).into_bytes();
    all.extend(body);
    all
}

fn answer(connection: &mut TcpStream, manners: &Manners, told: &Mutex<Told>) -> Option<Vec<u8>> {
    connection.set_read_timeout(Some(SOON)).ok()?;
    let mut reader = BufReader::new(connection);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let (mut length, mut authorization) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => value.trim().clone_into(&mut authorization),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default().to_owned();
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    match (method, path) {
        ("POST", "/api/runner/phase") => {
            let said: Value = serde_json::from_slice(&body).unwrap_or_default();
            match (said["phase"].as_str(), said["log"].as_str()) {
                (Some(phase), log) => {
                    told.reports.push((phase.to_owned(), log.unwrap_or_default().to_owned(), token));
                    Some(response("204 No Content", b""))
                }
                _ => {
                    told.nonsense.push(String::from_utf8_lossy(&body).into_owned());
                    Some(response("400 Bad Request", b""))
                }
            }
        }
        ("POST", "/api/runner/config") => {
            let answer = manners.answers[told.exchanges.len().min(manners.answers.len() - 1)];
            told.exchanges.push(token);
            match answer {
                Answer::Config => {
                    let body = format!(r#"{{"jit_config":"{JIT_CONFIG}","phase_token":"{PHASE_TOKEN}"}}"#);
                    Some(response("200 OK", body.as_bytes()))
                }
                Answer::Status(status) => Some(response(&format!("{status} So"), b"{}")),
                Answer::Later(seconds) => Some(response(&format!("503 Later\r\nRetry-After: {seconds}"), b"{}")),
                Answer::Garbage => Some(response("200 OK", b"<html>come in</html>")),
                Answer::Nothing => None,
            }
        }
        _ => {
            if let Some((_, body)) = manners.files.iter().find(|(name, _)| name == path) {
                return Some(response("200 OK", if method == "HEAD" { b"" } else { body }));
            }
            match manners.redirects.iter().find(|(from, _)| from == path) {
                Some((_, to)) => Some(response(&format!("302 Found\r\nLocation: {to}"), b"")),
                None => Some(response("404 Not Found", b"")),
            }
        }
    }
}

/// The start script of a machine that fetches its configuration, as the server renders it.
pub async fn rendered() -> String {
    let world = World::start().await;
    world.simulator.cloud.set_conditions(Conditions { stuck: 1.0, ..Conditions::default() });
    let pacer = world.pacer_with_scripts().start().await;
    world.deliver_to(&pacer);
    world.queue(1, Duration::from_secs(1));
    let scripts = || world.simulator.cloud.scripts();
    eventually("a machine is made", SOON, async || scripts().into_iter().next()).await.1
}

/// What runs the script. A busybox shell and busybox's `env` take every program of busybox from themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Busybox,
    /// This shell, with busybox's programs.
    Dash,
    Bash,
    /// The programs of this host, which is a Debian or much like one.
    Host,
}

impl System {
    /// What is mounted, read-only: from and to.
    fn volumes(self, programs: &[&str]) -> Vec<(String, String)> {
        let same = |path: &str| (path.to_owned(), path.to_owned());
        let shell = match self {
            Self::Busybox => None,
            Self::Dash => Some("dash"),
            Self::Bash => Some("bash"),
            Self::Host => {
                let mut all: Vec<_> =
                    ["/usr", "/lib", "/lib64", "/etc/pam.d", "/etc/security", "/etc/login.defs"].map(same).into();
                all.extend([("/usr/bin", "/bin"), ("/usr/sbin", "/sbin")].map(|(from, to)| (from.into(), to.into())));
                return all;
            }
        };
        let programs: Vec<&str> = programs.iter().copied().chain(shell).collect();
        let mut all: Vec<_> = programs.iter().map(|name| (format!("/usr/bin/{name}"), format!("/w/{name}"))).collect();
        if !all.is_empty() {
            all.extend(["/lib", "/lib64", "/usr/lib"].map(same));
        }
        all
    }

    /// What this host lacks to be such a machine with these programs.
    pub fn lacks(self, programs: &[&str]) -> Vec<String> {
        let mut wanted: Vec<String> = self.volumes(programs).into_iter().map(|(from, _)| from).collect();
        if self == Self::Host {
            wanted.extend(["bin/curl", "bin/wget", "sbin/runuser", "sbin/useradd"].map(|name| format!("/usr/{name}")));
        }
        wanted.retain(|path| !Path::new(path).exists());
        wanted
    }
}

/// A machine before its first boot.
#[derive(Debug)]
pub struct Machine {
    pub script: String,
    pub system: System,
    /// Programs of this host to have instead of busybox's.
    pub programs: Vec<&'static str>,
    /// Programs to be without. Not for a busybox shell.
    pub without: Vec<&'static str>,
    /// Programs of the test's own: name and text.
    pub stubs: Vec<(&'static str, String)>,
    /// Runs before the script does.
    pub prelude: String,
    /// Runs after everything else of the machine was ended.
    pub epilogue: String,
    /// `run.sh` of the runner that is in the image, if there is one.
    pub baked: Option<String>,
    /// More arguments of `docker run`.
    pub arguments: Vec<&'static str>,
}

/// A way to power off: notes how it was called and by whom, then does this.
pub fn powers_off(then: &str) -> String {
    format!("#!/bin/sh\necho \"${{0##*/}} $*\" >>/out/power\necho \"${{BY:-script}}\" >/out/by\n{then}\n")
}

/// Ends every process of the machine but the first.
pub const OFF: &str = "kill -9 -1";

impl Machine {
    /// As pacer rendered it, in a hurry.
    pub fn new(script: &str) -> Self {
        let machine = Self {
            script: script.to_owned(),
            system: System::Busybox,
            programs: Vec::new(),
            without: Vec::new(),
            stubs: vec![("systemctl", powers_off(OFF))],
            prelude: String::new(),
            epilogue: String::new(),
            baked: None,
            arguments: Vec::new(),
        };
        let machine = machine.edited("\npause=2 request=30 ", "\npause=0 request=10 ").assigned("PACER_MAX_LIFE", "60");
        // So that it is seen who powers off: the script, or the switch that watches over it.
        machine.edited("\n    tries=1\n    end=", "\n    tries=1 BY=switch\n    export BY\n    end=")
    }

    /// With a [`Callback`] for pacer.
    pub fn calling(self, callback: &Callback) -> Self {
        self.assigned("PACER_URL", &callback.url()).assigned("PACER_TOKEN", TOKEN)
    }

    /// With another value at the head of its script.
    pub fn assigned(self, name: &str, value: &str) -> Self {
        let old = script::value(&self.script, name).unwrap_or_else(|| panic!("{name} is not assigned"));
        self.edited(&format!("\n{name}='{old}'\n"), &format!("\n{name}='{value}'\n"))
    }

    /// With a change in its script.
    pub fn edited(mut self, old: &str, new: &str) -> Self {
        assert!(self.script.contains(old), "the script has no {old:?}");
        self.script = self.script.replacen(old, new, 1);
        self
    }

    /// Boots it and waits until it is off.
    pub fn run(&self, engine: &Engine, name: &str) -> Ended {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let at = |path: &str| folder.path().join(path);
        for path in ["out", "stub", "baked"] {
            fs::create_dir(at(path)).expect("the folder is writable");
        }
        fs::set_permissions(at("out"), fs::Permissions::from_mode(0o777)).expect("a folder of the test's own");
        for (stub, text) in &self.stubs {
            executable(&at("stub").join(stub), text);
        }
        let volume = |from: &str, to: &str| format!("--volume={}:{to}", at(from).display());
        let mut arguments: Vec<String> =
            ["run", "--rm", "--interactive", "--env=PATH=/stub:/w:/bin"].map(str::to_owned).to_vec();
        if !self.arguments.iter().any(|word| word.starts_with("--network=")) {
            arguments.push("--network=host".to_owned());
        }
        arguments.extend([format!("--name={name}"), volume("out", "/out"), volume("stub", "/stub:ro")]);
        if let Some(run) = &self.baked {
            executable(&at("baked/run.sh"), run);
            arguments.push(volume("baked", "/opt/actions-runner"));
        }
        let volumes = self.system.volumes(&self.programs);
        arguments.extend(volumes.into_iter().map(|(from, to)| format!("--volume={from}:{to}:ro")));
        let shell = match self.system {
            System::Busybox | System::Host => "sh",
            System::Dash => "dash",
            System::Bash => "bash",
        };
        let mut gone = String::new();
        for name in &self.without {
            if self.system == System::Host {
                arguments.extend(["/bin", "/usr/bin"].map(|bin| format!("--volume=/dev/null:{bin}/{name}")));
            } else {
                gone.push_str(&format!("rm /bin/{name}\n"));
            }
        }
        arguments.extend(self.arguments.iter().map(|word| (*word).to_owned()));
        let start = format!(
            "umask 077; cat >/tmp/start.sh; umask 022\n{}\n{gone}timeout -s KILL {STUCK} {shell} /tmp/start.sh\n\
             for _ in $(seq {STUCK}); do [ ! -s /out/power ] || break; sleep 1; done\n\
             [ ! -e /tmp/start.sh ] || echo >/out/left\n{}\nexit 0",
            self.prelude, self.epilogue
        );
        arguments.extend([RUNNER_IMAGE.to_owned(), "sh".to_owned(), "-c".to_owned(), start]);
        let began = Instant::now();
        let mut docker = Command::new("docker");
        docker.arg("--host").arg(engine.endpoint()).args(&arguments);
        let mut docker = docker.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut input = docker.as_mut().expect("docker starts").stdin.take().expect("it is piped");
        input.write_all(self.script.as_bytes()).expect("the container takes its script");
        drop(input);
        let said = docker.and_then(|docker| docker.wait_with_output()).expect("docker ends");
        let console = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        Ended { console, took: began.elapsed(), folder }
    }
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("the folder of the test is writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a file of the test's own");
}

/// The archive of a runner's release with this `run.sh`.
pub fn archive(run: &str) -> Vec<u8> {
    archive_of(&[("run.sh", run)])
}

/// An archive of programs.
pub fn archive_of(files: &[(&str, &str)]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder for the test");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).expect("the folder of the test is writable");
        executable(&path, text);
    }
    let said = Command::new("tar").arg("-C").arg(folder.path()).args(["-czf", "-", "."]).output();
    said.expect("tar is everywhere").stdout
}

/// A machine that is off.
#[derive(Debug)]
pub struct Ended {
    pub console: String,
    pub took: Duration,
    folder: tempfile::TempDir,
}

impl Ended {
    /// What it left in `/out`.
    pub fn file(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("out").join(name)).unwrap_or_default()).into_owned()
    }
}
