//! The machine a figure was measured on, as far as it matters to read the figure.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use crate::figures::quantile_ms;

/// Enough for a stable median, few enough to take under a second on a slow disk.
const SYNCS: usize = 100;

/// Processor, memory, kernel, load, and what one durable write costs in this folder.
pub fn describe(folder: &Path) -> anyhow::Result<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("unknown", |(_, value)| value).trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let busy = load.parse::<f64>().is_ok_and(|load| load > cores as f64 / 4.0);
    let sync = sync_cost(folder)?;
    Ok(format!(
        "machine   {} x {}, memory {}\nkernel    {}\nload      {load} before the run{}\ndisk      one durable write of 4 KiB takes {:.2} ms (median)\nversion   {}\n",
        cores,
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        if busy { ", BUSY: the figures below are those of a shared machine" } else { "" },
        quantile_ms(&sync, 0.5),
        env!("CARGO_PKG_VERSION"),
    ))
}

fn sync_cost(folder: &Path) -> anyhow::Result<Vec<Duration>> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut taken = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        taken.push(started.elapsed());
    }
    fs::remove_file(path)?;
    taken.sort();
    Ok(taken)
}
