//! Every operation may be called again after an answer was lost, and concurrently with others.

use anyhow::{Context as _, ensure};
use futures::future::join_all;
use pacer::plugins::{BackendError, ErrorKind, InstanceState};

use super::{Ground, Verdict, life::is_it};
use crate::proxy::{Fault, Rule};

/// Turns that a call may take at most; a backend that polls takes many.
const TURNS: usize = 60;

pub(super) async fn create_twice(ground: &Ground<'_>) -> Verdict {
    let (wanted, made) = ground.machine().await?;
    let again = ground.stage.create(&wanted).await.context("the second time")?;
    is_it(&again, &wanted)?;
    ensure!(made.handle == again.handle, "the second is `{}`, the first was `{}`", again.handle, made.handle);
    ground.only(&wanted)?;
    Ok(None)
}

pub(super) async fn create_at_once(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let wanted = ground.wanted();
    let all = join_all((0..stage.subject.at_once).map(|_| stage.create(&wanted))).await;
    let after = stage.create(&wanted).await.context("once more, after them")?;
    for one in all {
        match one {
            Ok(made) => ensure!(made.handle == after.handle, "one made `{}`, another `{}`", made.handle, after.handle),
            // Who is refused for a moment calls again.
            Err(error) => ensure!(
                matches!(error.kind, ErrorKind::Conflict | ErrorKind::Unavailable),
                "one of them failed for good: {error}"
            ),
        }
    }
    ground.only(&wanted)?;
    Ok(None)
}

pub(super) async fn create_of_anothers(ground: &Ground<'_>) -> Verdict {
    let (wanted, made) = ground.machine().await?;
    let mut other = ground.wanted();
    other.name.clone_from(&wanted.name);
    match ground.stage.create(&other).await {
        // Some engines keep owners apart.
        Ok(second) => ensure!(second.handle != made.handle, "another owner was given the machine"),
        Err(error) => ensure!(error.kind == ErrorKind::Conflict, "it answers {error}, not `conflict`"),
    }
    let found = ground.stage.get(&made.handle).await?.context("the first owner's machine is gone")?;
    is_it(&found, &wanted)?;
    Ok(None)
}

/// One turn after the other goes wrong, until a call takes fewer turns than that.
async fn create_with(ground: &Ground<'_>, fault: Fault) -> Verdict {
    let stage = ground.stage;
    for turn in 1..=TURNS {
        let wanted = ground.wanted();
        stage.proxy.arm(Rule::at(turn, fault.clone()));
        let first = stage.create(&wanted).await;
        let reached = stage.proxy.turns() >= turn;
        stage.proxy.disarm();
        if let Err(error) = &first {
            harmless(error).with_context(|| format!("turn {turn}"))?;
        }
        let again = stage.create(&wanted).await.with_context(|| format!("again, after {fault:?} in turn {turn}"))?;
        let what = || format!("after {fault:?} in turn {turn}");
        if stage.subject.uses_up_names && matches!(again.state, InstanceState::Stopped) {
            // The first call ended for good what it had begun. Then it is listed, to be taken down.
            ensure!(again.name == wanted.name && again.owner == wanted.owner, "{}: {again:?}", what());
            let listed = stage.list(&wanted.owner).await?;
            ensure!(listed.iter().map(|one| &one.handle).eq([&again.handle]), "{}, listed: {listed:?}", what());
            let there = stage.at_the_engine(&wanted.owner)?;
            ensure!(there.len() <= 1, "{} the engine has {there:?}", what());
        } else {
            is_it(&again, &wanted).with_context(what)?;
            ensure!(
                matches!(again.state, InstanceState::Creating | InstanceState::Running),
                "{} it is {:?}",
                what(),
                again.state
            );
            ground.only(&wanted).with_context(what)?;
        }
        if let Ok(first) = first {
            ensure!(first.handle == again.handle, "turn {turn}: `{}`, then `{}`", first.handle, again.handle);
        }
        ground.leave().await?;
        if !reached {
            return Ok(None);
        }
    }
    anyhow::bail!("a call took more than {TURNS} turns; not all of them were put to the test")
}

pub(super) async fn create_after_lost_answer(ground: &Ground<'_>) -> Verdict {
    create_with(ground, Fault::LoseAnswer).await
}

pub(super) async fn create_after_cut(ground: &Ground<'_>) -> Verdict {
    create_with(ground, Fault::Reset).await
}

pub(super) async fn destroy_after_lost_answer(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    for turn in 1..=TURNS {
        let (wanted, made) = ground.machine().await?;
        stage.proxy.arm(Rule::at(turn, Fault::LoseAnswer));
        let first = stage.destroy_once(&made.handle, stage.subject.patience).await;
        let reached = stage.proxy.turns() >= turn;
        stage.proxy.disarm();
        if let Err(error) = &first {
            harmless(error).with_context(|| format!("turn {turn}"))?;
        }
        stage.destroy(&made.handle).await.with_context(|| format!("again, after turn {turn} was lost"))?;
        let there = stage.at_the_engine(&wanted.owner)?;
        ensure!(there.is_empty(), "turn {turn}: `destroy` said gone, and the engine has {there:?}");
        if !reached {
            return Ok(None);
        }
    }
    anyhow::bail!("a call took more than {TURNS} turns; not all of them were put to the test")
}

/// A connection that breaks is the endpoint's fault, which passes.
fn harmless(error: &BackendError) -> anyhow::Result<()> {
    ensure!(error.kind == ErrorKind::Unavailable, "a broken connection is reported as {error}");
    Ok(())
}
