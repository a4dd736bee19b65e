//! The command line. What a command prints is for people, or with `--json` for scripts.
//!
//! Exit codes: 0 fine, 1 a problem was found, 2 the command was not understood.

mod check;
mod job;
mod matching;
mod plugin;
mod serve;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::{
    clock::{Clock as _, SystemClock},
    config::{self, Config, ProcessEnvironment},
    plugins::Compiler,
    routing::RepoName,
};

const EXAMPLES: &str = "Examples:
  pacer check --config config.yaml
  pacer serve --config config.yaml
  pacer match --repo octocat/hello-world --labels self-hosted,linux
  pacer explain 52483921877";

/// Turns GitHub workflow jobs into short-lived self-hosted runners on sandboxed backends.
#[derive(Debug, Parser)]
#[command(name = "pacer", version, after_help = EXAMPLES, max_term_width = 120)]
pub struct Cli {
    /// The configuration file. Paths in it are relative to it.
    #[arg(long, short, global = true, value_name = "FILE", env = "PACER_CONFIG", default_value = "config.yaml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until it is told to stop (SIGINT, SIGTERM).
    Serve,
    /// Say what is wrong with the configuration, its key, its database and its backends.
    #[command(after_help = "Examples:\n  pacer check\n  pacer check --online --json")]
    Check(CheckArgs),
    /// Say which pool a job would get, and why not the others.
    #[command(after_help = "Examples:\n  pacer match --repo octocat/hello-world --labels self-hosted,linux,x64\n  \
                            pacer match --repo octocat/hello-world --labels self-hosted --json")]
    Match(MatchArgs),
    /// Say why a job is where it is, and what would unblock it.
    #[command(after_help = "Examples:\n  pacer explain 52483921877\n  pacer explain 52483921877-2 --json\n  \
                            pacer explain https://github.com/octocat/hello-world/actions/runs/16/job/52483921877")]
    Explain(ExplainArgs),
    /// Look at backends.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Print the version.
    Version,
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  pacer completions bash > /etc/bash_completion.d/pacer")]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
    /// Ask GitHub and the backends' endpoints too.
    #[arg(long)]
    online: bool,
}

#[derive(Debug, Args)]
struct MatchArgs {
    /// The repository, `owner/name`.
    #[arg(long, value_name = "OWNER/NAME")]
    repo: RepoName,
    /// What `runs-on` asks for, separated by commas.
    #[arg(long, value_name = "LABELS", value_delimiter = ',', required = true, value_parser = trimmed)]
    labels: Vec<String>,
    /// Print the reason tree as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// GitHub's job id, for its latest attempt; id and attempt, `52483921877-2`; or the address of the job's page.
    #[arg(value_name = "JOB")]
    job: job::JobReference,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// List the backends of the configuration, and the files that none of them uses.
    List {
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a component says of itself: version, settings, wanted endpoints, digest.
    Inspect {
        /// A `.wasm` file, or the name of one in `plugins.dir`.
        file: PathBuf,
        /// Print the description as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compile the component on standard input into a file, within limits. The server runs this by itself.
    #[command(hide = true)]
    Compile {
        /// Where the compiled code goes.
        output: PathBuf,
    },
}

/// Whether a command found everything in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Fine,
    Problem,
}

/// People write a space after a comma.
fn trimmed(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.trim().to_owned())
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are "errors" that clap prints to standard output and that exit with 0.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli, &mut io::stdout().lock()) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Problem) => ExitCode::FAILURE,
        // Whoever reads has had enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}", message(&error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = || cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or_else(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

/// The chain in a line; a configuration's problems speak for themselves.
fn message(error: &anyhow::Error) -> String {
    match error.downcast_ref::<config::ConfigError>() {
        Some(error) => error.to_string(),
        None => format!("pacer: {error:#}"),
    }
}

fn run(cli: Cli, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let load = || -> anyhow::Result<Arc<Config>> { Ok(Arc::new(config::load(&cli.config, &ProcessEnvironment)?)) };
    match cli.command {
        Command::Serve => serve::run(load()?),
        Command::Check(args) => check::run(config::load(&cli.config, &ProcessEnvironment), &args, tools()?, out),
        Command::Match(args) => matching::run(&*load()?, &args, out),
        Command::Explain(args) => job::run(&*load()?, &args, SystemClock.now(), out),
        Command::Plugin(command) => plugin::run(load, &command, tools, out),
        Command::Version => {
            writeln!(out, "pacer {}", env!("CARGO_PKG_VERSION"))?;
            Ok(Outcome::Fine)
        }
        Command::Completions { shell } => {
            // Generated into memory: the generator panics when it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pacer", &mut script);
            out.write_all(&script)?;
            Ok(Outcome::Fine)
        }
    }
}

/// Of this process: components are compiled in a child that is this very program.
fn tools() -> anyhow::Result<check::Tools> {
    Ok(check::Tools { compiler: Compiler::current()?, clock: Arc::new(SystemClock) })
}

/// Runs what waits, for commands that have no server.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_understood() {
        let check = |line: &str| {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        };
        check("pacer serve");
        check("pacer serve --config x.yaml");
        check("pacer --config x.yaml check --json --online");
        check("pacer match --repo a/b --labels self-hosted,x --json");
        let spaced = ["pacer", "match", "--repo", "a/b", "--labels", "self-hosted, linux ,x64"];
        let Command::Match(args) = Cli::try_parse_from(spaced).unwrap().command else { unreachable!("it is a match") };
        assert_eq!(args.labels, ["self-hosted", "linux", "x64"]);
        check("pacer explain 123-1 --config x.yaml");
        check("pacer explain 123");
        check("pacer plugin list");
        check("pacer plugin inspect x.wasm --json");
        check("pacer plugin compile y");
        check("pacer completions zsh");
        check("pacer version");
    }

    #[test]
    fn what_is_not_understood_exits_with_two_and_help_with_none() {
        let code = |line: &str| Cli::try_parse_from(line.split(' ')).expect_err(line).exit_code();
        assert_eq!(code("pacer sevre"), 2);
        assert_eq!(code("pacer match --repo nope --labels a"), 2);
        assert_eq!(code("pacer match --repo a/b"), 2);
        assert_eq!(code("pacer explain build"), 2);
        assert_eq!(code("pacer --help"), 0);
        assert_eq!(code("pacer check --help"), 0);
    }

    #[test]
    fn every_command_and_option_has_help() {
        fn visit(command: &clap::Command) {
            assert!(command.get_about().is_some(), "`{}` has no help", command.get_name());
            for argument in command.get_arguments() {
                let known = argument.get_help().is_some() || argument.get_id() == "shell";
                assert!(known, "`{}` of `{}` has no help", argument.get_id(), command.get_name());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }

    #[test]
    fn version_and_completions_are_printed() {
        let print = |line: &str| {
            let mut out = Vec::new();
            run(Cli::try_parse_from(line.split(' ')).unwrap(), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(print("pacer version"), format!("pacer {}\n", env!("CARGO_PKG_VERSION")));
        assert!(print("pacer completions bash").contains("_pacer"));
    }

    #[test]
    fn a_reader_that_leaves_is_no_problem() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert!(is_broken_pipe(&error));
        assert!(is_broken_pipe(&serde_json::to_writer(Gone, "x").unwrap_err().into()));
        assert!(!is_broken_pipe(&anyhow::anyhow!("something else")));
    }

    #[test]
    fn a_missing_configuration_is_told_without_a_prefix() {
        let cli = Cli::try_parse_from(["pacer", "serve", "--config", "/nonexistent/config.yaml"]).unwrap();
        let error = run(cli, &mut Vec::new()).unwrap_err();
        let said = message(&error);
        assert!(said.starts_with("config invalid: ") && said.contains("/nonexistent/config.yaml"), "{said}");
    }
}
