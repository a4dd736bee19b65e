//! The start script on machines of many kinds and with each of its steps broken: what it tells pacer, what the job can
//! find, and that the machine always ends.

use std::thread;

use pacer_tests::{
    engine::{self, Engine},
    machine::{
        Answer, Callback, Ended, JIT_CONFIG, Machine, Manners, OFF, PHASE_TOKEN, System, TOKEN, Told, archive,
        powers_off, rendered,
    },
    world::runner_script,
};
use sha2::{Digest as _, Sha256};

/// Machines that boot at the same time: each is a handful of processes.
const AT_ONCE: usize = 6;

pub(super) const DONE: &[&str] = &["booted", "runner-ready", "job-done"];
pub(super) const BROKE_DOWN: &[&str] = &["booted", "runner-ready", "failed"];
pub(super) const NEVER_READY: &[&str] = &["booted", "failed"];

/// A job that takes in whatever it can read, and what it is told of processes.
const LOOKS_AROUND: &str = r#"#!/bin/sh
id >/out/id
env >/out/env
find / -xdev -type f ! -path '/proc/*' ! -path '/sys/*' ! -path '/bin/*' ! -path '/lib*' ! -path '/usr/*' -exec cat {} + >/out/files 2>/dev/null
for process in /proc/[0-9]*; do
    echo "== $process"
    for file in "$process"/cmdline "$process"/fd/*; do timeout 1 cat "$file"; done
    [ "$(stat -c %U "$process")" = "$(id -un)" ] || cat "$process"/environ
done >/out/processes 2>/dev/null
"#;

type Making = Box<dyn Fn(Machine) -> Machine + Send + Sync>;
type Checking = Box<dyn Fn(&Ended, &Told) + Send + Sync>;

/// One machine, and what it should come to.
pub(super) struct Case {
    what: &'static str,
    manners: Manners,
    machine: Making,
    phases: &'static [&'static str],
    /// In the last report, or where there is none on the console.
    why: &'static str,
    /// Who powers it off.
    by: &'static str,
    more: Checking,
}

pub(super) fn case(
    what: &'static str,
    phases: &'static [&'static str],
    why: &'static str,
    machine: impl Fn(Machine) -> Machine + Send + Sync + 'static,
) -> Case {
    let more = Box::new(|_: &Ended, _: &Told| {});
    Case { what, manners: Manners::default(), machine: Box::new(machine), phases, why, by: "script\n", more }
}

impl Case {
    pub(super) fn answered(mut self, answers: &[Answer]) -> Self {
        self.manners.answers = answers.to_vec();
        self
    }

    pub(super) fn silenced(mut self) -> Self {
        self.manners.falls_silent = true;
        self
    }

    pub(super) fn by_the_switch(mut self) -> Self {
        self.by = "switch\n";
        self
    }

    pub(super) fn and(mut self, more: impl Fn(&Ended, &Told) + Send + Sync + 'static) -> Self {
        self.more = Box::new(more);
        self
    }

    fn check(&self, engine: &Engine, script: &str, number: usize) {
        let callback = Callback::start(self.manners.clone());
        let mut machine = Machine::new(script).calling(&callback);
        machine.baked = Some("#!/bin/sh\necho at work\n".to_owned());
        let machine = (self.machine)(machine);
        let system = machine.system;
        let ended = machine.run(engine, &format!("start-script-{number}"));
        let (told, console) = (callback.told(), &ended.console);
        let what = format!("{} ({system:?})", self.what);
        assert_eq!(told.nonsense, Vec::<String>::new(), "{what}: {console}");
        assert_eq!(told.phases(), self.phases, "{what} after {:?}: {console}", ended.took);
        let said = if self.phases.is_empty() { console.as_str() } else { told.last() };
        assert!(said.contains(self.why), "{what}: {said}\n{console}");
        assert_ne!(ended.file("power"), "", "{what}: it is still on: {console}");
        assert_eq!(ended.file("by"), self.by, "{what}: {console}");
        for secret in [TOKEN, PHASE_TOKEN, JIT_CONFIG] {
            assert!(!console.contains(secret), "{what}: a secret is on the console: {console}");
            assert!(!told.reports.iter().any(|(_, log, _)| log.contains(secret)), "{what}: a secret is in a report");
        }
        (self.more)(&ended, &told);
    }
}

pub(super) async fn check(test: &str, cases: Vec<Case>) {
    if let Some(why) = engine::unavailable() {
        return engine::not_run(test, &why);
    }
    let lacking: Vec<String> = SYSTEMS.iter().flat_map(|(_, system, programs)| system.lacks(programs)).collect();
    if !lacking.is_empty() {
        return engine::not_run(test, &format!("this host has no {}", lacking.join(", ")));
    }
    let engine = Engine::start();
    engine.build_runner_image(&runner_script());
    let script = rendered().await;
    let cases: Vec<(usize, Case)> = cases.into_iter().enumerate().collect();
    for some in cases.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for (number, case) in some {
                let (engine, script) = (&engine, &script);
                scope.spawn(move || case.check(engine, script, *number));
            }
        });
    }
    assert!(engine.containers().is_empty(), "a container is left");
}

pub(super) fn with(
    system: System,
    programs: &'static [&'static str],
) -> impl Fn(Machine) -> Machine + Send + Sync + Clone {
    move |machine| {
        // A Debian has both clients.
        let without = if system == System::Host { CLIENTS } else { &[] };
        let without = without.iter().copied().filter(|client| !programs.contains(client)).collect();
        Machine { system, programs: programs.to_vec(), without, ..machine }
    }
}

pub(super) fn running(run: &'static str) -> impl Fn(Machine) -> Machine + Send + Sync {
    move |machine| Machine { baked: Some(run.to_owned()), ..machine }
}

const CLIENTS: &[&str] = &["curl", "wget"];

/// Every shell that is `sh` somewhere, with every client.
const SYSTEMS: &[(&str, System, &[&str])] = &[
    ("busybox", System::Busybox, &[]),
    ("busybox with curl", System::Busybox, &["curl"]),
    ("dash", System::Dash, &[]),
    ("dash with wget", System::Dash, &["wget"]),
    ("bash with curl", System::Bash, &["curl"]),
    ("bash with wget", System::Bash, &["wget"]),
    ("this host with curl", System::Host, &["curl"]),
    ("this host with wget", System::Host, &["wget"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_job_finds_no_token_on_any_system() {
    /// Where cloud-init leaves the script, as readable as can be.
    const CLOUD_INIT: &str = "
        mkdir -p /var/lib/cloud/instances/i-1/scripts /var/lib/cloud/seed/nocloud /run/cloud-init
        ln -s instances/i-1 /var/lib/cloud/instance
        for file in instances/i-1/user-data.txt instances/i-1/user-data.txt.i instances/i-1/cloud-config.txt \
            instances/i-1/obj.pkl instances/i-1/scripts/runcmd instances/i-1/scripts/part-001 seed/nocloud/user-data; do
            cat /tmp/start.sh >/var/lib/cloud/$file
        done
        for file in instance-data-sensitive.json combined-cloud-config.json; do
            cat /tmp/start.sh >/run/cloud-init/$file
        done
        cat /tmp/start.sh >/run/pacer-start.sh";
    let cases = SYSTEMS.iter().map(|(what, system, programs)| {
        let system = with(*system, programs);
        let machine = move |machine| Machine {
            prelude: CLOUD_INIT.to_owned(),
            baked: Some(LOOKS_AROUND.to_owned()),
            ..system(machine)
        };
        case(what, DONE, "", machine).and(|ended, told| {
            let tokens: Vec<&str> = told.reports.iter().map(|(_, _, token)| token.as_str()).collect();
            assert_eq!(tokens, [TOKEN, PHASE_TOKEN, PHASE_TOKEN]);
            assert_eq!(told.exchanges, [TOKEN]);
            assert_eq!(ended.file("power"), "systemctl poweroff\n");
            assert_eq!(ended.file("left"), "", "the script is still there");
            assert!(ended.file("id").starts_with("uid=1001(runner)"), "{}", ended.file("id"));
            // The search looked where it should.
            assert!(ended.file("files").contains("root:x:0:0"), "{}", ended.console);
            assert!(ended.file("processes").contains("/tmp/start.sh"), "{}", ended.console);
            assert!(ended.file("env").contains(&format!("ACTIONS_RUNNER_INPUT_JITCONFIG={JIT_CONFIG}\n")));
            for file in ["files", "processes", "env"] {
                let seen = ended.file(file);
                assert!(!seen.contains(TOKEN) && !seen.contains(PHASE_TOKEN), "a token is in {file}: {seen}");
                assert!(file == "env" || !seen.contains(JIT_CONFIG), "the configuration is in {file}: {seen}");
            }
            assert!(!ended.file("env").contains("PACER_"), "{}", ended.file("env"));
        })
    });
    check("a_job_finds_no_token_on_any_system", cases.collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_is_downloaded_and_checked_by_every_client() {
    const PATH: &str = "/download/v2.1.0/actions-runner-linux-x64-2.1.0.tar.gz";
    // It is found by its whole path.
    let archive = archive("#!/bin/sh\nid -un >/out/id\n[ -r /srv/ci/runner/run.sh ]\n");
    let sum = hex::encode(Sha256::digest(&archive));
    let releases = Callback::start(Manners {
        files: vec![("/moved".to_owned(), archive), ("/tag/v2.1.0".to_owned(), b"a page".to_vec())],
        redirects: vec![(PATH.to_owned(), "/moved".to_owned()), ("/latest".to_owned(), "/tag/v2.1.0".to_owned())],
        ..Manners::default()
    });
    let mut cases = Vec::new();
    for (what, system, programs) in SYSTEMS {
        // busybox's programs make no user here.
        let new = if *system == System::Host { "builder" } else { "runner" };
        for (user, version, sum, phases, why) in [
            ("runner", "2.1.0", sum.clone(), DONE, ""),
            (new, "", String::new(), DONE, ""),
            ("runner", "2.1.0", "0".repeat(64), NEVER_READY, "and should be 0000"),
        ] {
            let (system, url) = (with(*system, programs), releases.url());
            let machine = move |machine| {
                let machine = Machine { baked: None, ..system(machine) };
                let machine = machine.assigned("PACER_RELEASES", &url).assigned("PACER_DIR", "/srv/ci/runner");
                machine
                    .assigned("PACER_VERSION", version)
                    .assigned("PACER_SHA256_X64", &sum)
                    .assigned("PACER_USER", user)
            };
            cases.push(case(what, phases, why, machine).and(move |ended, told| {
                let expected = if phases == DONE { format!("{user}\n") } else { String::new() };
                assert_eq!(ended.file("id"), expected, "{}", ended.console);
                assert_eq!(told.exchanges.len(), usize::from(phases == DONE), "a token is kept for who can use it");
            }));
        }
    }
    check("a_runner_is_downloaded_and_checked_by_every_client", cases).await;
}

/// Where nobody listens, and nobody ever did.
pub(super) const NOBODY: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_become_a_runner_says_why_and_ends() {
    use Answer::{Config, Garbage, Later, Nothing, Status};
    let as_it_is = |machine: Machine| machine;
    let soon = |machine: Machine| machine.edited(" exchange=600 ", " exchange=2 ").edited("\npause=0 ", "\npause=1 ");
    let unbaked = |machine: Machine| Machine { baked: None, ..machine };
    let asked = |times: usize| move |_: &Ended, told: &Told| assert_eq!(told.exchanges.len(), times);
    let never = |_: &Ended, told: &Told| assert!(told.exchanges.is_empty());
    let mut cases = vec![
        case("pacer has trouble at first", DONE, "", as_it_is)
            .answered(&[Status(500), Nothing, Status(503), Status(429), Config])
            .and(asked(5)),
        case("pacer says when to come again", DONE, "", |machine| {
            let mut machine = with(System::Dash, &["curl"])(machine);
            let sleep = "#!/bin/sh\n[ \"$1\" = 77 ] || exec /bin/sleep \"$@\"\necho \"$1\" >>/out/slept\n";
            machine.stubs.push(("sleep", sleep.to_owned()));
            machine
        })
        .answered(&[Later(77), Config])
        .and(|ended, _| assert_eq!(ended.file("slept"), "77\n")),
        case("the token is wrong", NEVER_READY, "refused the configuration: 401", as_it_is)
            .answered(&[Status(401)])
            .and(asked(1)),
        case("the token was used", NEVER_READY, "refused the configuration: 410", as_it_is)
            .answered(&[Status(410)])
            .and(asked(1)),
        case("pacer has trouble for ever", NEVER_READY, "pacer had no configuration for 2 s", soon)
            .answered(&[Status(500)]),
        case("pacer gives something else", NEVER_READY, "pacer gave no configuration", as_it_is)
            .answered(&[Garbage])
            .and(asked(1)),
        case("pacer is gone", &[], "pacer had no configuration for 2 s", move |machine| {
            soon(machine).assigned("PACER_URL", &format!("http://{NOBODY}"))
        }),
        case("no runner and no network", NEVER_READY, "cannot be downloaded", move |machine| {
            unbaked(machine).assigned("PACER_RELEASES", &format!("http://{NOBODY}")).assigned("PACER_VERSION", "2.1.0")
        })
        .and(never),
        case("no runner and nobody to say which", NEVER_READY, "the latest version cannot be learnt", move |machine| {
            unbaked(machine).assigned("PACER_RELEASES", &format!("http://{NOBODY}")).assigned("PACER_VERSION", "")
        })
        .and(never),
        case("nothing can be written", NEVER_READY, "/srv/runner cannot be written", move |machine| {
            let arguments = vec!["--read-only", "--tmpfs=/tmp", "--tmpfs=/run"];
            let machine = Machine { arguments, ..unbaked(machine) };
            let machine = machine.assigned("PACER_RELEASES", &format!("http://{NOBODY}"));
            machine.assigned("PACER_DIR", "/srv/runner").assigned("PACER_VERSION", "2.1.0")
        })
        .and(never),
        case("it is not root", &["failed"], "has to run as root", |machine| Machine {
            arguments: vec!["--user=1001"],
            ..machine
        })
        .and(never),
        case("the user is root", NEVER_READY, "the user root is root by another name", |machine| {
            machine.assigned("PACER_USER", "root")
        })
        .and(never),
        case("nothing makes users", NEVER_READY, "the user builder cannot be made", |machine| {
            machine.assigned("PACER_USER", "builder")
        })
        .and(never),
        case("a user is made without useradd", DONE, "", |mut machine| {
            let adduser = "#!/bin/sh\n[ \"$1\" = -D ] && echo \"$2:x:1002:1002::/tmp:/bin/sh\" >>/etc/passwd\n";
            machine.stubs.push(("adduser", adduser.to_owned()));
            running("#!/bin/sh\nid -un >/out/id\n")(machine).assigned("PACER_USER", "builder")
        })
        .and(|ended, _| assert_eq!(ended.file("id"), "builder\n")),
        case("nothing changes users", NEVER_READY, "neither runuser nor su is here", |machine| Machine {
            without: vec!["su"],
            ..with(System::Dash, &[])(machine)
        })
        .and(never),
        case("nothing speaks HTTP", &[], "there is nothing here to speak to http://", |machine| Machine {
            without: vec!["wget"],
            ..with(System::Dash, &[])(machine)
        }),
        case(
            "nobody would check the certificate",
            &[],
            "install curl, or a wget that checks certificates",
            |machine| machine.assigned("PACER_URL", &format!("https://{NOBODY}")),
        ),
        case("nobody would check the runner", NEVER_READY, "or pin its checksum", move |machine| {
            unbaked(machine).assigned("PACER_RELEASES", &format!("https://{NOBODY}"))
        })
        .and(never),
    ];
    cases.push(
        case("anybody on the way could replace the runner", NEVER_READY, "pin its checksum", move |machine| {
            unbaked(machine).assigned("PACER_RELEASES", "http://192.0.2.1").assigned("PACER_VERSION", "2.1.0")
        })
        .and(never),
    );
    for (what, machine) in [("x64", "x86_64"), ("arm64", "aarch64"), ("another architecture", "riscv64")] {
        let why = match what {
            "x64" => "actions-runner-linux-x64-2.1.0.tar.gz cannot be downloaded",
            "arm64" => "actions-runner-linux-arm64-2.1.0.tar.gz cannot be downloaded",
            _ => "there is no runner for the architecture riscv64",
        };
        cases.push(case(what, NEVER_READY, why, move |it| {
            let it = it.edited("\nset -u\n", &format!("\nset -u\nuname() {{ echo {machine}; }}\n"));
            let it = it.assigned("PACER_RELEASES", &format!("http://{NOBODY}")).assigned("PACER_VERSION", "2.1.0");
            unbaked(it)
        }));
    }
    check("a_machine_that_cannot_become_a_runner_says_why_and_ends", cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_ends_whatever_becomes_of_its_runner_and_its_script() {
    let mut cases = Vec::new();
    for system in [System::Busybox, System::Dash, System::Bash, System::Host] {
        let system = with(system, &["curl"]);
        let dies = |at: &'static str| {
            let system = system.clone();
            move |machine: Machine| system(machine).edited(at, &format!("{at}kill -9 $$\n"))
        };
        let told_to_go = system.clone();
        cases.extend([
            case("the script is killed", NEVER_READY, "the start script was killed", dies("\nreport booted\n"))
                .by_the_switch(),
            case("what is bounded ends at once", DONE, "", {
                let system = system.clone();
                let often = "\nfor _ in $(seq 200); do bounded 5 :; done\nreport booted\n";
                move |machine| system(machine).edited("\nreport booted\n", often)
            }),
            case("a variable is not set", BROKE_DOWN, "the start script ended with", {
                let system = system.clone();
                move |machine| system(machine).edited("\nmkfifo ", "\n$UNSET_BY_NOBODY\nmkfifo ")
            }),
            case("it is told to go", BROKE_DOWN, "the start script ended with 1", move |machine| {
                let machine = told_to_go(machine).edited("\nwait $runner\n", "\nkill -TERM $$\nwait $runner\n");
                running("#!/bin/sh\nexec sleep 1000\n")(machine)
            }),
            case("the script is killed and the job goes on", BROKE_DOWN, "the start script was killed", {
                let dies = dies("\necho $runner >\"$work/runner\"\n");
                move |machine| running("#!/bin/sh\nsleep 8\necho >/out/finished\n")(dies(machine))
            })
            .by_the_switch()
            .and(|ended, _| assert_eq!(ended.file("finished"), "\n", "its job was cut off")),
        ]);
    }
    cases.extend([
        case(
            "the runner fails",
            BROKE_DOWN,
            "the runner ended with 7",
            running("#!/bin/sh\nprintf 'a \"quoted\"\\tback\\\\slash \\033[31m\\303\\244\\001\\nno newline'\nexit 7\n"),
        )
        .and(|_, told| {
            assert!(told.last().contains("\na \"quoted\" back\\slash [31m\nno newline"), "{:?}", told.last());
        }),
        case(
            "the runner says a lot",
            BROKE_DOWN,
            "the runner ended with 9",
            running("#!/bin/sh\ni=0; while [ $i -lt 300 ]; do echo \"$i \\\"$(id)\\\"\"; i=$((i + 1)); done\nexit 9\n"),
        )
        .and(|_, told| assert!(told.last().contains("\n299 \"uid") && told.last().len() <= 3000, "{}", told.last())),
        case("the runner leaves something behind", DONE, "", running("#!/bin/sh\nsleep 1000 &\n")),
        case("the runner hangs and pacer falls silent", &["booted"], "", |machine| {
            let machine = machine.assigned("PACER_MAX_LIFE", "8").edited(" request=10 tell=10 ", " request=1 tell=1 ");
            running("#!/bin/sh\nexec sleep 1000\n")(machine)
        })
        .silenced()
        .by_the_switch()
        .and(|ended, _| assert!(ended.console.contains("maximum life of 8 s"), "{}", ended.console)),
    ]);
    check("a_machine_ends_whatever_becomes_of_its_runner_and_its_script", cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_finds_a_way_to_power_off_and_shuts_the_metadata_service() {
    // In dash: a busybox shell has all of them in itself.
    let ways = move |machine: Machine, systemctl: &str, shutdown: &str, poweroff: &str| {
        let machine = with(System::Dash, &["curl"])(machine).edited(" settle=30\n", " settle=1\n");
        let stubs = [("systemctl", systemctl), ("shutdown", shutdown), ("poweroff", poweroff)];
        let stubs = stubs.map(|(name, then)| (name, powers_off(then))).into();
        Machine { stubs, ..machine }
    };
    let power = |expected: &'static str| move |ended: &Ended, _: &Told| assert_eq!(ended.file("power"), expected);
    let iptables = |code: u8| {
        move |machine: Machine| {
            let mut machine = machine;
            let filter = format!("#!/bin/sh\necho \"$@\" >>\"/out/${{0##*/}}\"\nexit {code}\n");
            machine.stubs.extend([("iptables", filter.clone()), ("ip6tables", filter)]);
            machine
        }
    };
    let inline = |machine: Machine| {
        let machine = machine.edited("PACER_URL=", "PACER_NOT_URL=").edited("PACER_TOKEN=", "PACER_JIT_CONFIG=");
        let run = "#!/bin/sh\nip route >/out/routes\nenv >/out/env\n";
        Machine { baked: Some(run.to_owned()), arguments: vec!["--network=none", "--cap-add=NET_ADMIN"], ..machine }
    };
    let open = "the metadata service at 169.254.169.254 ";
    let cases = vec![
        case("the first way works", DONE, "", move |it| ways(it, OFF, "", ""))
            .and(power("shutdown -P +3\nsystemctl poweroff\n")),
        case("all but one hang or do nothing", DONE, "", move |it| {
            ways(it, "exec sleep 1000", "exit 0", "[ \"$1\" != -f ] || kill -9 -1")
        })
        .and(power("shutdown -P +3\nsystemctl poweroff\nshutdown -P now\npoweroff \npoweroff -f\n")),
        case("a packet filter", DONE, "", iptables(0)).and(|ended, told| {
            let expected = "-w -I OUTPUT -d 169.254.169.254 -m owner --uid-owner runner -j REJECT\n";
            assert_eq!((ended.file("iptables").as_str(), told.reports[1].1.as_str()), (expected, ""));
        }),
        case("a packet filter that filters nothing", DONE, "", iptables(1)).and(move |_, told| {
            let said = &told.reports[1].1;
            assert!(said.starts_with(open) && said.ends_with("could not be kept from the job"), "{said}");
        }),
        case("a route, and no way back to pacer", &[], "the runner is done", inline).and(|ended, _| {
            assert!(ended.file("routes").contains("blackhole 169.254.169.254"), "{}", ended.file("routes"));
            assert!(ended.file("env").contains(&format!("ACTIONS_RUNNER_INPUT_JITCONFIG={TOKEN}\n")));
        }),
    ];
    check("a_machine_finds_a_way_to_power_off_and_shuts_the_metadata_service", cases).await;
}
