//! One call of a component in a fresh store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pacer::{
    clock::{Clock as _, SystemClock},
    config::{self, ProcessEnvironment},
    plugins::{Backends as _, Compiler, ErrorKind, Host},
};
use pacer_tests::{binaries, world::World};
use tokio::runtime;

use crate::figures::{Figures, Target, quantile_ms};

const CALLS: usize = 5_000;
const DEADLINE: Duration = Duration::from_secs(10);

/// The docker backend does not renew leases: it says so at once, without reaching an endpoint, so that this is the
/// price of a call and of nothing else.
pub fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let world = World::start().await;
        let prepared = world.pacer().backends("  engine: { plugin: docker }").projects("[]").prepare();
        let config = Arc::new(config::load(&prepared.config_path(), &ProcessEnvironment)?);
        let host = Host::start_with(&config, Arc::new(SystemClock), Compiler::Child(binaries::pacer())).await?;
        host.settled().await;
        let backend = "engine".parse()?;
        let mut took = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let began = Instant::now();
            let answer = host.renew_lease(&backend, "c", SystemClock.now(), DEADLINE).await;
            took.push(began.elapsed());
            let unsupported = answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Unsupported);
            anyhow::ensure!(unsupported, "the component was not called: {answer:?}");
        }
        took.sort_unstable();
        figures.add("one sandboxed call, fresh store, p50", quantile_ms(&took, 0.5) * 1e3, "us", Target::AtMost(150.0));
        figures.add("one sandboxed call, fresh store, p99", quantile_ms(&took, 0.99) * 1e3, "us", Target::None);
        Ok(())
    })
}
