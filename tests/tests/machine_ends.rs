//! The start script told to go, with a step broken, and on a machine that boots again: it says so, and the machine ends.
//! The rest of what it does is in `start_script.rs`.

use pacer_tests::machine::{Callback, Ended, Machine, Manners, OFF, System, Told, archive_of, powers_off};

use super::start_script::{BROKE_DOWN, DONE, NEVER_READY, NOBODY, case, check, running, with};

/// What a test inserts at a place of the script: the signal, and once more while that is being dealt with.
const SIGNALLED: [(&str, &str, &[&str], &str); 4] = [
    ("in the download", "\nfetch() {\n", NEVER_READY, "the start script ended with 1"),
    ("in the exchange", "\n        status=$(post ", NEVER_READY, "the start script ended with 1"),
    ("while its job runs", "\nwait $runner\n", BROKE_DOWN, "the start script ended with 1"),
    ("in its last report", "\nsay \"the runner is done\"\n", DONE, ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_signal_leaves_a_machine_on() {
    let mut cases = Vec::new();
    for system in [System::Busybox, System::Dash, System::Bash, System::Host] {
        for signal in ["HUP", "INT", "TERM"] {
            for (what, place, phases, why) in SIGNALLED {
                let system = with(system, &["curl"]);
                let kill = format!("kill -{signal} $$\n");
                cases.push(case(what, phases, why, move |machine| {
                    let at = if place.ends_with('\n') { format!("{place}{kill}") } else { format!("\n{kill}{place}") };
                    let machine = system(machine).edited(place, &at);
                    // Again while it says so, and while it powers off.
                    let machine = machine.edited("\nfailed() {\n", &format!("\nfailed() {{\n{kill}"));
                    let sync = "    bounded \"$settle\" sync\n";
                    let machine = machine.edited(sync, &format!("{kill}{sync}{kill}"));
                    if what != "in the download" {
                        return running("#!/bin/sh\nsleep 1\n")(machine);
                    }
                    let machine = machine.assigned("PACER_RELEASES", &format!("http://{NOBODY}"));
                    Machine { baked: None, ..machine.assigned("PACER_VERSION", "2.1.0") }
                }));
            }
        }
    }
    check("no_signal_leaves_a_machine_on", cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_breaks_is_told_of() {
    const PATH: &str = "/download/v2.1.0/actions-runner-linux-x64-2.1.0.tar.gz";
    let releases = |archive: Vec<u8>| {
        Callback::start(Manners { files: vec![(PATH.to_owned(), archive)], ..Manners::default() }).url()
    };
    let downloading = |url: String| {
        move |machine: Machine| {
            let machine = machine.assigned("PACER_RELEASES", &url).assigned("PACER_VERSION", "2.1.0");
            Machine { baked: None, ..machine }
        }
    };
    let breaks = |name: &'static str| {
        move |machine: Machine| {
            let mut machine = with(System::Dash, &["curl"])(machine);
            machine.stubs.push((name, "#!/bin/sh\nexit 1\n".to_owned()));
            machine
        }
    };
    let never = |_: &Ended, told: &Told| assert!(told.exchanges.is_empty());
    let run = "#!/bin/sh\necho >/out/ran\n";
    let dependencies = "#!/bin/sh\numask >/out/umask\nexit 1\n";
    let lacking = releases(archive_of(&[("run.sh", run), ("bin/installdependencies.sh", dependencies)]));
    let cases = vec![
        case(
            "the archive is none",
            NEVER_READY,
            "cannot be unpacked in",
            downloading(releases(b"no archive".to_vec())),
        )
        .and(never),
        case(
            "the archive is of something else",
            NEVER_READY,
            "has no run.sh",
            downloading(releases(archive_of(&[("README", "")]))),
        )
        .and(never),
        case("the runner cannot be given away", NEVER_READY, "cannot be given to runner", breaks("chown")).and(never),
        case("no pipe can be made", BROKE_DOWN, "no pipe can be made in", breaks("mkfifo")),
        case("what the runner depends on cannot be had", DONE, "", downloading(lacking)).and(|ended, _| {
            assert_eq!((ended.file("umask").as_str(), ended.file("ran").as_str()), ("0022\n", "\n"));
            assert!(ended.console.contains("what the runner depends on could not be installed"), "{}", ended.console);
        }),
    ];
    check("a_step_that_breaks_is_told_of", cases).await;
}

/// The machine of the test has every way to run something at a boot; what a boot runs is run twice afterwards, the second
/// time as if it were another boot.
const BOOTS: (&str, &str) = (
    "mkdir -p /etc/systemd/system /etc/cron.d /etc/local.d\nprintf '#!/bin/sh\\nexit 0\\n' >/etc/rc.local",
    "cd /etc\nboots() {\n\
     sh rc.local; sh local.d/pacer-once.start; sh -c \"$(sed -n 's/@reboot root //p' cron.d/pacer-once)\"\n\
     sh -c \"$(sed -n 's/ExecStart=//p' systemd/system/sysinit.target.wants/pacer-once.service)\"\n}\n\
     : >/out/power; boots; cp /out/power /out/same\n\
     sed -i 's/ = [0-9a-f-]* ]/ = another ]/' pacer-once local.d/pacer-once.start\n: >/out/power; boots",
);

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_boots_again_powers_off_at_once() {
    let boots = |machine: Machine| {
        let stubs = vec![("systemctl", powers_off(&format!("[ \"$2\" = -ff ] || {OFF}")))];
        Machine { prelude: BOOTS.0.to_owned(), epilogue: BOOTS.1.to_owned(), stubs, ..machine }
    };
    let cases = [System::Busybox, System::Dash, System::Bash].into_iter().map(|system| {
        let system = with(system, &["curl"]);
        case("a second boot", DONE, "", move |machine| boots(system(machine))).and(|ended, _| {
            assert_eq!(ended.file("same"), "", "it goes on in its own boot");
            assert_eq!(ended.file("power"), "systemctl poweroff -ff\n".repeat(4), "{}", ended.console);
        })
    });
    let cloud_init = |machine: Machine| {
        let prelude =
            format!("{}\nmkdir -p /var/lib/cloud/instance\n: >/var/lib/cloud/instance/pacer-started", BOOTS.0);
        Machine { prelude, epilogue: "ls /etc/pacer-once >/out/once".to_owned(), ..machine }
    };
    let cloud_init = case("cloud-init guards by itself", DONE, "", cloud_init)
        .and(|ended, _| assert_eq!(ended.file("once"), "", "an image of this machine would not boot"));
    check("a_machine_that_boots_again_powers_off_at_once", cases.chain([cloud_init]).collect()).await;
}
