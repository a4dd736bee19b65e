//! What can go wrong with real machines: the same stories wherever machines come from, with the real server between a
//! simulated GitHub and a real engine. Whether anything is left behind is asked of the engine.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use pacer::plugins::ErrorKind;
use pacer_contract::{
    BootstrapKind, Subject,
    proxy::{Fault, Protocol, Proxy, Rule, Target},
};
use pacer_simulator::faults;
use pacer_tests::{
    pacer::TestPacer,
    wait::eventually,
    world::{REPO, World},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A machine that is emulated in software boots for some seconds, on a busy host for many.
const SOON: Duration = Duration::from_secs(180);
/// Long enough for something to happen to its machine.
const JOB: Duration = Duration::from_secs(6);
const SHORT: Duration = Duration::from_millis(500);
/// Between the pieces of a slow answer of an engine: long enough for what is done meanwhile.
const PAUSE: Duration = Duration::from_millis(400);
/// How long GitHub takes where it is slow.
const SLOW_MS: u64 = 3_000;
/// How often an engine is asked for its list where only what is done for a machine shall be heard.
const SELDOM: &str = "1h";
/// Where machines come from.
pub trait Place {
    /// Its backend, its endpoint, and its engine, asked directly.
    fn subject(&self) -> Subject;

    /// A pool's settings with which machines run the simulator's runner.
    fn pool(&self, world: &World) -> Value;

    /// Ends a machine behind pacer's back.
    fn pull_the_plug(&self, machine: &str) -> anyhow::Result<()>;

    /// Where machines find this host.
    fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// A pool's limits: how many machines at once, and what they take to boot.
    fn limits(&self) -> (usize, &'static str) {
        (4, "20s")
    }

    /// What makes a machine too large for its engine, in the text of the configuration: what is there, and what is instead.
    /// None where an engine says that it is full in answers of its own, which are among its refusals.
    fn too_large(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Whether what has been paid for in advance is kept for the next job.
    fn keeps_what_is_paid(&self) -> bool {
        false
    }

    /// Which of the things that are asked to make a machine have their answers lost.
    fn lost_answers(&self) -> &'static [usize] {
        &[1, 2, 3, 4]
    }
}

/// One story: GitHub, the engine behind a proxy, and the server.
struct Story {
    subject: Subject,
    world: World,
    proxy: Proxy,
    pacer: TestPacer,
    keeps_what_is_paid: bool,
    before: BTreeSet<String>,
    _folder: TempDir,
}

impl Story {
    async fn new(place: &dyn Place) -> Self {
        Self::polling(place, "1s").await
    }

    /// With an engine that hears only what is done for a machine.
    async fn quiet(place: &dyn Place) -> Self {
        Self::polling(place, SELDOM).await
    }

    async fn polling(place: &dyn Place, poll: &str) -> Self {
        let (subject, world) = (place.subject(), World::start().await);
        // A socket's path is short.
        let folder = tempfile::Builder::new().prefix("pacer-story-").tempdir().expect("a folder for the story");
        let endpoint = &subject.endpoint;
        let proxy = Proxy::start(endpoint.target.clone(), endpoint.protocol, folder.path()).await;
        let proxy = proxy.expect("the proxy starts");
        let url = match (proxy.address(), endpoint.protocol) {
            (Target::Unix(path), _) => format!("unix://{}", path.display()),
            (Target::Tcp(address), Protocol::Http) => format!("http://{address}"),
            (Target::Tcp(address), Protocol::Stream) => format!("tcp://{address}"),
        };
        let mut granted = endpoint.more.clone();
        granted["url"] = url.into();
        let plugin = subject.component.file_stem().and_then(|name| name.to_str()).expect("plain names");
        let mut backend = json!({ "plugin": plugin, "poll": poll, "endpoints": { &endpoint.name: granted } });
        if subject.settings != json!({}) {
            backend["settings"] = subject.settings.clone();
        }
        let (max_runners, boot) = place.limits();
        let mut pool = json!({
            "name": "small", "backend": "engine", "default": true, "labels": ["linux", "x64"], "max_runners": max_runners,
            "timeouts": { "create": "60s", "boot": boot, "idle": "5s", "stop": "10s" }, "settings": place.pool(&world),
        });
        if subject.bootstrap != BootstrapKind::JitConfig {
            pool["bootstrap"] = json!({ "kind": "start-script" });
        }
        let project = json!([{ "name": "my-app", "scope": "repo", "repos": [REPO], "pools": [pool] }]);
        let server = world.bare().backends(&json!({ "engine": backend }).to_string()).projects(&project.to_string());
        let mut pacer = server.host_of_machines(place.host()).prepare();
        // What was missed is looked for at once and not in two minutes.
        pacer.edit_config("app_id:", "recovery_interval: 1s, app_id:");
        pacer.start().await;
        world.deliver_to(&pacer);
        let before = tokio::task::block_in_place(|| subject.engine.inventory()).expect("the engine answers");
        Self { subject, world, proxy, pacer, keeps_what_is_paid: place.keeps_what_is_paid(), before, _folder: folder }
    }

    /// What the engine has that it did not have before.
    fn left(&self) -> Vec<String> {
        let now = tokio::task::block_in_place(|| self.subject.engine.inventory()).expect("the engine answers");
        now.difference(&self.before).cloned().collect()
    }

    /// Machines alone.
    fn machines(&self) -> usize {
        let is_machine =
            |one: &&String| ["container ", "instance ", "machine "].iter().any(|kind| one.starts_with(kind));
        self.left().iter().filter(is_machine).count()
    }

    async fn some_machine(&self) {
        eventually("a machine is there", SOON, async || (self.machines() > 0).then_some(())).await;
    }

    /// Every runner that ever was.
    async fn runners(&self) -> Vec<Value> {
        let all = self.pacer.api.get("/api/v1/runners").await.json();
        all["items"].as_array().expect("a list").clone()
    }

    /// The latest runner's name.
    async fn runner(&self) -> String {
        let runners = self.runners().await;
        runners[0]["name"].as_str().expect("it has a name").to_owned()
    }

    /// Waits until the latest job is in one of these phases.
    async fn job_is(&self, phases: &[&str]) {
        let count = self.world.simulator.summary().queued;
        eventually(&format!("the job is {}", phases.join(" or ")), SOON, async || {
            let jobs = self.pacer.api.try_get("/api/v1/jobs").await.ok()?.json();
            let jobs = jobs["items"].as_array()?;
            let latest = jobs.first()?["status"].as_str()?;
            (jobs.len() == count && phases.contains(&latest)).then_some(())
        })
        .await;
    }

    /// Waits until the latest runner is in this state.
    async fn runner_is(&self, state: &str) {
        eventually(&format!("the runner is {state}"), SOON, async || {
            let runners = self.pacer.api.try_get("/api/v1/runners").await.ok()?.json();
            (runners["items"][0]["state"] == state).then_some(())
        })
        .await;
    }

    /// How the jobs ended, as GitHub says.
    fn ends(&self) -> Vec<String> {
        self.world.simulator.github.jobs().into_iter().filter_map(|job| job.conclusion).collect()
    }

    /// None was cut off in the middle.
    fn every_job_succeeded(&self, count: usize) {
        assert_eq!(self.ends(), vec!["success"; count]);
    }

    /// Waits until a runner failed with these words in its error, and no job was served.
    async fn refused_with(&self, words: &str) {
        eventually("the runner says why it has no machine", SOON, async || {
            let says = |one: &Value| one["error"].as_str().is_some_and(|error| error.contains(words));
            let refused = self.runners().await.iter().any(says);
            (refused && self.world.simulator.summary().served == 0).then_some(())
        })
        .await;
    }

    /// What is paid for and idle is kept on purpose, for jobs: it gets them.
    async fn uses_up_what_is_paid(&self) {
        eventually("nothing that is paid for is idle", SOON, async || {
            let waiting = self.world.simulator.summary().open();
            // A job for a machine that went meanwhile has another one made.
            if waiting == 0 && self.left().is_empty() {
                return Some(());
            }
            let idle = self.runners().await.iter().filter(|runner| runner["state"] == "idle").count();
            for _ in waiting..idle {
                self.world.queue(1, SHORT);
            }
            None
        })
        .await;
    }

    async fn is_left_clean(&self) {
        eventually("every job is over", SOON, async || (self.world.simulator.summary().open() == 0).then_some(()))
            .await;
        if self.keeps_what_is_paid {
            self.uses_up_what_is_paid().await;
        }
        eventually("nothing is left at the engine", SOON, async || self.left().is_empty().then_some(())).await;
        eventually("no registration is left at GitHub", SOON, async || {
            self.world.simulator.left().is_empty().then_some(())
        })
        .await;
        assert_eq!(self.world.simulator.audit(), Vec::<String>::new());
    }
}

/// Puts a place through all of it.
pub async fn goes_through_every_scenario(place: &dyn Place) {
    let began = Instant::now();
    let said = |what: &str| eprintln!("{:6.1} s  {what}", began.elapsed().as_secs_f64());
    one_job(place).await;
    said("one job");
    a_burst_within_the_cap(place).await;
    said("a burst within the cap");
    an_early_death(place).await;
    said("an early death");
    answers_that_are_lost(place).await;
    said("answers that are lost");
    a_slow_boot(place).await;
    said("a slow boot");
    a_machine_that_is_taken_in_its_job(place).await;
    said("a machine that is taken in its job");
    a_job_that_is_cancelled_while_its_machine_is_made(place).await;
    said("a job that is cancelled while its machine is made");
    machines_without_a_database(place).await;
    said("machines without a database");
    an_engine_that_is_full(place).await;
    said("an engine that is full for a while");
    a_server_that_is_killed_in_each_phase(place).await;
    said("a server that is killed in each phase");
}

async fn one_job(place: &dyn Place) {
    let story = Story::new(place).await;
    story.world.queue(1, SHORT);
    story.is_left_clean().await;
    story.every_job_succeeded(1);
    assert_eq!(story.runners().await.len(), 1);
}

async fn a_burst_within_the_cap(place: &dyn Place) {
    let story = Story::new(place).await;
    let (cap, _) = place.limits();
    story.world.queue(cap * 2, SHORT);
    eventually("every job is over", SOON, async || {
        let machines = story.machines();
        assert!(machines <= cap, "{machines} machines at once");
        (story.world.simulator.summary().served == cap * 2).then_some(())
    })
    .await;
    story.is_left_clean().await;
    story.every_job_succeeded(cap * 2);
}

async fn an_early_death(place: &dyn Place) {
    let story = Story::new(place).await;
    story.world.simulator.github.faults().next("connect", 1, faults::Fault::Status { status: 503 });
    story.world.queue(1, SHORT);
    story.is_left_clean().await;
    story.every_job_succeeded(1);
    assert_eq!(story.runners().await.len(), 2);
}

async fn answers_that_are_lost(place: &dyn Place) {
    for turn in place.lost_answers() {
        let story = Story::quiet(place).await;
        assert_eq!(story.proxy.turns(), 0, "nobody has asked anything yet");
        story.proxy.arm(Rule::at(*turn, Fault::LoseAnswer));
        story.world.queue(1, SHORT);
        story.is_left_clean().await;
        assert!(story.proxy.turns() >= *turn, "no answer was lost");
        story.every_job_succeeded(1);
    }
}

async fn a_slow_boot(place: &dyn Place) {
    let story = Story::new(place).await;
    story.world.simulator.github.faults().next("connect", 1, faults::Fault::Slow { ms: 6_000 });
    story.world.queue(1, SHORT);
    story.is_left_clean().await;
    story.every_job_succeeded(1);
    assert_eq!(story.runners().await.len(), 1, "it was waited for");
}

async fn a_machine_that_is_taken_in_its_job(place: &dyn Place) {
    let story = Story::new(place).await;
    story.world.queue(1, JOB * 100);
    story.job_is(&["running"]).await;
    let runner = story.runner().await;
    // A runner can be at work before the engine says that its machine runs.
    eventually("the machine is ended", SOON, async || {
        tokio::task::block_in_place(|| place.pull_the_plug(&runner)).ok()
    })
    .await;
    // GitHub takes some time to find out.
    eventually("the job says what became of its machine", SOON, async || {
        let jobs = story.pacer.api.get("/api/v1/jobs").await.json();
        let reason = jobs["items"][0]["reason"].as_str()?;
        (jobs["items"][0]["status"] == "running" && reason.contains("ended: its machine")).then_some(())
    })
    .await;
    story.is_left_clean().await;
    assert_eq!(story.runners().await.len(), 1, "a job that began is not begun again");
    assert_eq!(story.ends(), ["failure"]);
}

async fn a_job_that_is_cancelled_while_its_machine_is_made(place: &dyn Place) {
    let story = Story::new(place).await;
    story.proxy.arm(Rule::always(Fault::Slow(PAUSE)));
    let id = story.world.queue(1, JOB)[0];
    story.runner_is("creating").await;
    story.world.simulator.github.cancel(id);
    assert_eq!(story.runners().await[0]["state"], "creating", "it was cancelled meanwhile");
    story.proxy.disarm();
    story.is_left_clean().await;
    let summary = story.world.simulator.summary();
    // Jobs that used up what is paid for came later.
    assert_eq!((summary.cancelled, summary.served), (1, summary.queued - 1));
}

async fn machines_without_a_database(place: &dyn Place) {
    let mut story = Story::new(place).await;
    story.world.queue(2, JOB);
    story.some_machine().await;
    story.pacer.kill();
    for file in ["pacer.db", "pacer.db-wal", "pacer.db-shm"] {
        // Not all of them are always there.
        let _ = fs::remove_file(story.pacer.folder().join(file));
    }
    story.pacer.start().await;
    story.is_left_clean().await;
}

async fn an_engine_that_is_full(place: &dyn Place) {
    let mut story = Story::new(place).await;
    if let Some((fits, too_large)) = place.too_large() {
        story.pacer.kill();
        story.pacer.edit_config(fits, too_large);
        story.pacer.start().await;
        story.world.queue(1, SHORT);
        story.refused_with("(capacity)").await;
        story.pacer.kill();
        story.pacer.edit_config(too_large, fits);
        story.pacer.start().await;
    } else {
        let refusals = &story.subject.refusals;
        let full = refusals.iter().find(|refusal| refusal.kind == ErrorKind::Capacity);
        // Some have no words for it.
        let refusal = full.or_else(|| refusals.iter().find(|refusal| refusal.kind == ErrorKind::Unavailable));
        let refusal = refusal.expect("an engine that speaks HTTP refuses").clone();
        story.proxy.arm(Rule::always(Fault::Refuse(refusal.answer)));
        story.world.queue(1, SHORT);
        story.refused_with(&format!("({})", refusal.kind)).await;
        story.proxy.disarm();
    }
    story.is_left_clean().await;
    story.every_job_succeeded(1);
}

/// In every state of a runner that has something under way, each made to last.
async fn a_server_that_is_killed_in_each_phase(place: &dyn Place) {
    let mut story = Story::new(place).await;
    let mut states = vec!["registering", "creating", "booting", "busy", "stopping"];
    if story.subject.bootstrap != BootstrapKind::JitConfig {
        // Its machine is made first, and registers when it asks for its configuration.
        states.remove(0);
    }
    for &state in &states {
        let slow = faults::Fault::Slow { ms: SLOW_MS };
        match state {
            "registering" => story.world.simulator.github.faults().next("jit", 1, slow),
            "creating" => story.proxy.arm(Rule::always(Fault::Slow(PAUSE))),
            "booting" => story.world.simulator.github.faults().next("connect", 1, slow),
            _ => {}
        }
        story.world.queue(1, Duration::from_secs(2));
        if state == "stopping" {
            story.runner_is("busy").await;
            story.proxy.arm(Rule::always(Fault::Slow(PAUSE)));
        }
        story.runner_is(state).await;
        story.pacer.kill();
        story.proxy.disarm();
        story.pacer.start().await;
        story.is_left_clean().await;
    }
    story.every_job_succeeded(states.len());
}
