//! What a machine does where an engine only keeps records of machines: as its start script would, then the simulator's
//! runner, until that ends or the machine is taken away.

use std::{
    collections::BTreeSet,
    fmt::Display,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use pacer_simulator::cloud::script;
use pacer_tests::world::runner_script;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How often a machine looks whether it is still there, and whoever starts them for new ones.
const LOOK: Duration = Duration::from_millis(200);

/// An engine's records of machines.
pub trait Records: Send + Sync {
    type Id: Clone + Ord + Display + Send + Sync;

    /// Those that exist, with pacer's mark.
    fn ids(&self) -> anyhow::Result<Vec<Self::Id>>;

    /// The script that was given to a machine.
    fn user_data(&self, id: &Self::Id) -> anyhow::Result<String>;

    /// Whether it runs, or will.
    fn runs(&self, id: &Self::Id) -> anyhow::Result<bool>;

    /// It powered itself off.
    fn is_off(&self, id: &Self::Id);
}

/// Machines, each a thread; they end with this value.
pub struct Instances {
    ending: CancellationToken,
    watch: Option<JoinHandle<()>>,
}

impl Instances {
    pub fn start<R: Records + 'static>(records: R) -> Self {
        let (runtime, ending) = (Handle::current(), CancellationToken::new());
        let watching = ending.clone();
        let watch = thread::spawn(move || {
            let (records, runtime, watching) = (&records, &runtime, &watching);
            let mut known = BTreeSet::new();
            thread::scope(|scope| {
                while !watching.is_cancelled() {
                    // What cannot be asked now is asked again.
                    for id in records.ids().unwrap_or_default() {
                        if known.insert(id.clone()) {
                            scope.spawn(move || {
                                if let Err(error) = lives(records, &id, runtime, watching) {
                                    eprintln!("machine {id}: {error:#}");
                                }
                                records.is_off(&id);
                            });
                        }
                    }
                    thread::sleep(LOOK);
                }
            });
        });
        Self { ending, watch: Some(watch) }
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        self.ending.cancel();
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

fn lives<R: Records>(records: &R, id: &R::Id, runtime: &Handle, ending: &CancellationToken) -> anyhow::Result<()> {
    let (config, reporter) = runtime.block_on(script::run(&records.user_data(id)?)).map_err(anyhow::Error::msg)?;
    let mut runner = Command::new("busybox")
        .arg("sh")
        .arg(runner_script())
        .env("ACTIONS_RUNNER_INPUT_JITCONFIG", config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    while runner.try_wait()?.is_none() {
        if ending.is_cancelled() || !records.runs(id)? {
            runner.kill()?;
            runner.wait()?;
            return Ok(());
        }
        thread::sleep(LOOK);
    }
    if let Some(reporter) = reporter {
        runtime.block_on(reporter.report("job-done"));
    }
    Ok(())
}
