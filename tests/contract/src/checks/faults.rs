//! Faults of the endpoint: the kind of error each becomes, what it says, and that the backend works again after it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use pacer::plugins::{BackendError, Backends as _, Destruction, ErrorKind, Instance};

use super::{Ground, Outcome, Report, Stage, Verdict, check, life::is_it};
use crate::{
    logs,
    proxy::{Fault, Protocol, Rule},
    stage::BLANK,
    subject::Refusal,
};

/// The deadline of calls that run into a fault. The backend gives up a little before it.
const HURRY: Duration = Duration::from_secs(2);
/// Between the pieces of an answer that is slow, and still arrives in time.
const SLOW: Duration = Duration::from_millis(15);
/// Of a message for a person, in bytes.
const MESSAGE: usize = 2048;

/// What an operation answered.
#[derive(Debug)]
enum Answered {
    /// It found or did what was asked for.
    Done,
    /// There is no such machine.
    Absent,
    /// It made something up.
    Wrong(String),
}

impl Answered {
    fn done(is_right: bool, what: impl FnOnce() -> String) -> Self {
        if is_right { Self::Done } else { Self::Wrong(what()) }
    }
}

/// The operations that reach the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Create,
    Get,
    List,
    Destroy,
    RenewLease,
    ConsoleLog,
    Quote,
}

impl Operation {
    /// The one that may end the machine that the others ask about is last.
    const ALL: [Self; 7] =
        [Self::Create, Self::Get, Self::List, Self::RenewLease, Self::ConsoleLog, Self::Quote, Self::Destroy];

    fn capability(self) -> Option<&'static str> {
        match self {
            Self::Create | Self::Get | Self::List | Self::Destroy => None,
            Self::RenewLease => Some("renew-lease"),
            Self::ConsoleLog => Some("console-log"),
            Self::Quote => Some("quote"),
        }
    }
}

/// The operations of this backend, called with an endpoint that fails.
struct Scene<'g> {
    ground: &'g Ground<'g>,
    handle: String,
    owner: String,
    lease_until: jiff::Timestamp,
}

impl<'g> Scene<'g> {
    /// With one machine that is there, so that there is something to ask about.
    async fn set(ground: &'g Ground<'g>) -> anyhow::Result<Self> {
        let (wanted, made) = ground.machine().await?;
        Ok(Self { ground, handle: made.handle, owner: wanted.owner, lease_until: wanted.lease_until })
    }

    fn operations(&self) -> impl Iterator<Item = Operation> {
        let can = |operation: &Operation| operation.capability().is_none_or(|word| self.ground.stage.can(word));
        Operation::ALL.into_iter().filter(can)
    }

    async fn call(&self, operation: Operation, deadline: Duration) -> Result<Answered, BackendError> {
        let stage = self.ground.stage;
        let (host, backend) = (&stage.host, &stage.backend);
        match operation {
            Operation::Create => {
                let wanted = stage.wanted(&self.owner);
                let made = stage.create_within(&wanted, deadline).await?;
                Ok(is_it(&made, &wanted).map_or_else(|error| Answered::Wrong(error.to_string()), |()| Answered::Done))
            }
            Operation::Get => {
                let found = host.get(backend, &self.handle, deadline).await?;
                let is_right = |found: Instance| Answered::done(found.handle == self.handle, || format!("{found:?}"));
                Ok(found.map_or(Answered::Absent, is_right))
            }
            Operation::List => {
                let listed = host.list(backend, &self.owner, deadline).await?;
                let is_there = listed.iter().any(|one| one.handle == self.handle);
                Ok(Answered::done(is_there, || format!("`{}` is not listed: {listed:?}", self.handle)))
            }
            Operation::Destroy => stage.destroy_once(&self.handle, deadline).await.map(|outcome| match outcome {
                Destruction::Gone => Answered::Absent,
                Destruction::Stopping => Answered::Done,
            }),
            Operation::RenewLease => {
                host.renew_lease(backend, &self.handle, self.lease_until, deadline).await.map(|()| Answered::Done)
            }
            Operation::ConsoleLog => {
                host.console_log(backend, &self.handle, 1024, deadline).await.map(|_| Answered::Done)
            }
            Operation::Quote => host.quote(backend, &stage.subject.pool, deadline).await.map(|_| Answered::Done),
        }
    }

    /// Has every operation run into the fault, and judges what each answers.
    async fn provoke(
        &self,
        fault: &Fault,
        deadline: Duration,
        judge: impl Fn(Operation, Result<Answered, BackendError>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let stage = self.ground.stage;
        let mut wrong = Vec::new();
        for operation in self.operations() {
            stage.proxy.arm(Rule::always(fault.clone()));
            let began = Instant::now();
            let mut answered = self.call(operation, deadline).await;
            let (took, turns) = (began.elapsed(), stage.proxy.turns());
            stage.proxy.disarm();
            // An engine that refuses may say itself that it is gone; otherwise it has to be.
            if (operation, matches!(fault, Fault::Refuse(_))) == (Operation::Destroy, false)
                && matches!(answered, Ok(Answered::Absent))
                && let Some(left) = stage.get(&self.handle).await?
            {
                answered = Ok(Answered::Wrong(format!("it says gone, and there is {left:?}")));
            }
            let judged = match &answered {
                // A price may be known from the settings.
                Ok(_) if turns == 0 && operation == Operation::Quote => continue,
                _ if turns == 0 => Err(anyhow::anyhow!("it did not ask the endpoint, and answers {answered:?}")),
                Err(error) => wording(stage, error, &self.handle),
                Ok(_) => Ok(()),
            };
            if let Err(error) = judged.and_then(|()| judge(operation, answered)) {
                wrong.push(format!("{operation:?} (after {} ms, {turns} turns): {error:#}", took.as_millis()));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        // Once the endpoint is well again, so is the backend.
        let (wanted, made) = self.ground.machine().await.context("once the endpoint was well again")?;
        is_it(&made, &wanted)
    }
}

/// What must hold of every error.
fn wording(stage: &Stage, error: &BackendError, handle: &str) -> anyhow::Result<()> {
    let message = &error.message;
    ensure!(error.kind != ErrorKind::Internal, "a fault of the endpoint is reported as one of the backend: {error}");
    let endpoint = &stage.subject.endpoint.name;
    // That a machine is gone is no fault of its endpoint.
    let named = message.to_lowercase().contains(endpoint.as_str())
        || error.kind == ErrorKind::NotFound && message.contains(handle);
    ensure!(named, "the message does not name the endpoint `{endpoint}`: {error}");
    ensure!(message.len() <= MESSAGE, "the message has {} bytes", message.len());
    ensure!(!message.trim_end().ends_with('.'), "the message ends with a stop: {error}");
    ensure!(!stage.tells_secret(message), "the message holds the secret: {error}");
    Ok(())
}

fn unavailable(_: Operation, answered: Result<Answered, BackendError>) -> anyhow::Result<()> {
    match answered {
        Err(error) if error.kind == ErrorKind::Unavailable => Ok(()),
        other => anyhow::bail!("it answers {other:?}, not `unavailable`"),
    }
}

/// Makes the checks of every fault that this endpoint can have.
pub(super) async fn all(stage: &Stage, report: &mut Report) {
    check!(stage, report, "fault: no answer", stall);
    check!(stage, report, "fault: connection reset", reset);
    check!(stage, report, "fault: garbage", garbage);
    check!(stage, report, "fault: half an answer", truncated);
    check!(stage, report, "fault: slow answer", slow);
    if stage.subject.endpoint.protocol == Protocol::Http {
        check!(stage, report, "fault: 200 that is not the API", not_the_api);
        check!(stage, report, "fault: refusal that repeats the request", echo);
    }
    for refusal in &stage.subject.refusals {
        let check = async |ground: &Ground<'_>| refused(ground, refusal).await;
        check!(stage, report, &format!("fault: {} is {}", refusal.name, refusal.kind), check);
    }
}

async fn stall(ground: &Ground<'_>) -> Verdict {
    Scene::set(ground).await?.provoke(&Fault::Stall, HURRY, unavailable).await?;
    Ok(None)
}

async fn reset(ground: &Ground<'_>) -> Verdict {
    Scene::set(ground).await?.provoke(&Fault::Reset, ground.stage.subject.patience, unavailable).await?;
    Ok(None)
}

async fn garbage(ground: &Ground<'_>) -> Verdict {
    Scene::set(ground).await?.provoke(&Fault::Garbage, ground.stage.subject.patience, unavailable).await?;
    Ok(None)
}

/// An operation may do without what it misses, so what counts is that nothing is made up.
async fn truncated(ground: &Ground<'_>) -> Verdict {
    let judge = |operation, answered| match answered {
        Ok(Answered::Absent) if operation == Operation::Get => anyhow::bail!("half an answer is taken for none"),
        Ok(Answered::Wrong(what)) => anyhow::bail!("half an answer is taken for another: {what}"),
        Ok(Answered::Done | Answered::Absent) => Ok(()),
        Err(error) => unavailable(operation, Err(error)),
    };
    Scene::set(ground).await?.provoke(&Fault::Truncate, ground.stage.subject.patience, judge).await?;
    Ok(None)
}

async fn slow(ground: &Ground<'_>) -> Verdict {
    let judge = |operation, answered: Result<Answered, BackendError>| match answered {
        Ok(Answered::Done) => Ok(()),
        Ok(Answered::Absent) if operation == Operation::Destroy => Ok(()),
        Ok(other) => anyhow::bail!("an answer that is only slow becomes {other:?}"),
        Err(error) => anyhow::bail!("an answer that is only slow becomes {error}"),
    };
    Scene::set(ground).await?.provoke(&Fault::Slow(SLOW), ground.stage.subject.patience, judge).await?;
    Ok(None)
}

async fn not_the_api(ground: &Ground<'_>) -> Verdict {
    let page = "<html><head><title>Welcome</title></head><body>It works!</body></html>";
    let answer = crate::proxy::Answer::new(200, page).header("content-type", "text/html");
    let judge = |operation, answered| match (operation, answered) {
        // Any text is a log, and an answer to these may be empty. It is no word that a machine is gone.
        (Operation::ConsoleLog | Operation::RenewLease | Operation::Destroy, Ok(Answered::Done)) => Ok(()),
        (operation, answered) => unavailable(operation, answered),
    };
    Scene::set(ground).await?.provoke(&Fault::Refuse(answer), HURRY, judge).await?;
    Ok(None)
}

/// An engine that quotes what it was sent gives the backend a chance to repeat a secret.
async fn echo(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    stage.proxy.arm(Rule::always(Fault::Echo(400)));
    let answered = stage.create_within(&ground.wanted(), HURRY).await;
    stage.proxy.disarm();
    let error = match answered {
        Err(error) => error,
        Ok(made) => anyhow::bail!("`create` was refused by the engine, and answers {made:?}"),
    };
    ensure!(!stage.tells_secret(&error.message), "the message holds the secret: {error}");
    ensure!(error.kind != ErrorKind::Internal, "a refusal is reported as a fault of the backend: {error}");
    Ok(None)
}

async fn refused(ground: &Ground<'_>, refusal: &Refusal) -> Verdict {
    let judge = |operation, answered: Result<Answered, BackendError>| {
        let error = match (operation, answered) {
            (Operation::Get | Operation::Destroy, Ok(Answered::Absent)) if refusal.absent => return Ok(()),
            // What is there no more has no log.
            (Operation::ConsoleLog, Ok(Answered::Done)) if refusal.absent => return Ok(()),
            (_, Err(error)) => error,
            (_, Ok(answered)) => anyhow::bail!("it was refused and answers {answered:?}"),
        };
        ensure!(error.kind == refusal.kind, "it is {error}, not `{}`", refusal.kind);
        ensure!(
            error.retry_after == refusal.retry_after,
            "it says to try again after {:?}, the endpoint after {:?}",
            error.retry_after,
            refusal.retry_after
        );
        Ok(())
    };
    let fault = Fault::Refuse(refusal.answer.clone());
    // A refusal needs no patience, but a backend may look again before it believes one.
    Scene::set(ground).await?.provoke(&fault, ground.stage.subject.patience, judge).await?;
    Ok(None)
}

/// After everything that was done and provoked.
pub(super) async fn no_secret_in_the_log(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    if logs::lines(|_| true).is_empty() {
        return Ok(Some("something else takes the log of this program".to_owned()));
    }
    let found = logs::lines(|line| stage.holds_secret(line));
    ensure!(found.is_empty(), "the log has it {} times, first: {}", found.len(), found[0]);
    // The host blanks it out, but the component must not try.
    let its_own = format!(" backend.name={} ", stage.backend.as_str());
    let tried = logs::lines(|line| line.contains(&its_own) && line.contains(BLANK));
    ensure!(tried.is_empty(), "the component logged it: {}", tried[0]);
    Ok(None)
}
