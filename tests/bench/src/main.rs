//! Measures the promised figures and prints them with the machine they were measured on.
//!
//! What can be a ratio is one, taken in one run against a peer on the same machine. A target that is missed is printed
//! as missed; with `--strict` the exit code says so too. Neighbours on the machine are a bigger effect than most
//! changes of the code, so the load before the run is printed as well.

mod dispatch;
mod figures;
mod ingest;
mod load;
mod machine;
mod overhead;
mod sandbox;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

use crate::figures::Figures;

/// Measures the promised figures.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fail when a target is missed, or an engine is not here to measure it.
    #[arg(long)]
    strict: bool,
    /// How long each measurement of a rate takes.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u64,
    /// Where databases are put; on a disk, or durability costs nothing.
    #[arg(long, value_name = "FOLDER", default_value = "target")]
    folder: PathBuf,
    /// Only the measurements whose name contains this.
    only: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let folder = tempfile::Builder::new().prefix("pacer-bench-").tempdir_in(&arguments.folder)?;
    let mut figures = Figures::default();
    let period = Duration::from_secs(arguments.seconds);
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| name.contains(only));

    say(&machine::describe(folder.path())?);
    if wanted("ingest") {
        ingest::measure(folder.path(), period, &mut figures)?;
    }
    if wanted("sandbox") {
        sandbox::measure(&mut figures)?;
    }
    if wanted("dispatch") {
        dispatch::measure(period * 2, &mut figures)?;
    }
    if wanted("overhead") {
        overhead::measure(&mut figures)?;
    }
    say(&figures.to_string());
    let missed = figures.missed();
    Ok(if arguments.strict && missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn say(text: &str) {
    #[expect(clippy::print_stdout, reason = "the report is this program's output")]
    {
        println!("{text}");
    }
}
