//! Each operation by itself, on an engine that does as it should.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use pacer::{
    clock::{Clock as _, SystemClock},
    plugins::{BackendError, Backends as _, Destruction, ErrorKind, Instance, InstanceState},
};

use super::{Ground, Verdict};
use crate::{BootstrapKind, stage::Wanted};

/// How far an engine's clock may be off.
const CLOCKS: Duration = Duration::from_secs(300);
/// Of a handle, in bytes.
const HANDLE: usize = 1024;
/// Of a machine that does not listen: some seconds, because engines count whole ones.
const GRACE: Duration = Duration::from_secs(2);
/// A log's end that every machine's log is longer than.
const SHORT_LOG: u32 = 8;

/// What an instance must say of the machine that was asked for.
pub(super) fn is_it(instance: &Instance, wanted: &Wanted) -> anyhow::Result<()> {
    ensure!(!instance.handle.is_empty(), "its handle is empty");
    ensure!(instance.handle.len() <= HANDLE, "its handle has {} bytes, more than {HANDLE}", instance.handle.len());
    ensure!(instance.name == wanted.name, "its name is `{}`, not `{}`", instance.name, wanted.name);
    ensure!(instance.owner == wanted.owner, "its owner is `{}`, not `{}`", instance.owner, wanted.owner);
    ensure!(
        instance.lease_until == Some(wanted.lease_until),
        "its lease ends at {:?}, not at {}",
        instance.lease_until,
        wanted.lease_until
    );
    for tag in &wanted.tags {
        ensure!(
            instance.attributes.contains(tag),
            "its attributes lack the tag `{}` = `{}`: {:?}",
            tag.0,
            tag.1,
            instance.attributes
        );
    }
    if let Some(created) = instance.created_at {
        let off = SystemClock.now().duration_since(created).unsigned_abs();
        ensure!(off < CLOCKS, "it says that it was created at {created}, which is {off:?} from now");
    }
    Ok(())
}

pub(super) async fn one_machine(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let (wanted, made) = ground.machine().await?;
    is_it(&made, &wanted).context("as created")?;
    ensure!(!made.hold, "it is held, and nobody asked for that");
    ensure!(
        matches!(made.state, InstanceState::Creating | InstanceState::Running),
        "after its creation it is {:?}",
        made.state
    );
    ground.only(&wanted)?;
    let found = stage.get(&made.handle).await?.context("`get` does not find what was created")?;
    is_it(&found, &wanted).context("as found")?;
    let listed = stage.list(&wanted.owner).await?;
    ensure!(listed.len() == 1, "{} machines are listed instead of one", listed.len());
    is_it(&listed[0], &wanted).context("as listed")?;
    ensure!(
        made.handle == found.handle && made.handle == listed[0].handle,
        "its handle is `{}` as created, `{}` as found, `{}` as listed",
        made.handle,
        found.handle,
        listed[0].handle
    );
    if stage.subject.runs {
        stage
            .until("that the machine runs", async || {
                let now = stage.get(&made.handle).await?.context("it disappeared while it booted")?;
                Ok((now.state == InstanceState::Running).then_some(()))
            })
            .await?;
    }
    stage.destroy(&made.handle).await?;
    let found = stage.get(&made.handle).await?;
    ensure!(found.is_none(), "`destroy` said gone, and `get` finds {found:?}");
    let listed = stage.list(&wanted.owner).await?;
    ensure!(listed.is_empty(), "`destroy` said gone, and `list` gives {listed:?}");
    let there = stage.at_the_engine(&wanted.owner)?;
    ensure!(there.is_empty(), "`destroy` said gone, and the engine has {there:?}");
    Ok(None)
}

/// The handle of a machine that is no more.
async fn stale(ground: &Ground<'_>) -> anyhow::Result<String> {
    let (_, made) = ground.machine().await?;
    ground.stage.destroy(&made.handle).await?;
    Ok(made.handle)
}

pub(super) async fn get_unknown(ground: &Ground<'_>) -> Verdict {
    let handle = stale(ground).await?;
    let found = ground.stage.get(&handle).await?;
    ensure!(found.is_none(), "it gives {found:?}");
    Ok(None)
}

pub(super) async fn destroy_unknown(ground: &Ground<'_>) -> Verdict {
    let handle = stale(ground).await?;
    for grace in [Duration::ZERO, Duration::from_secs(5)] {
        let outcome =
            ground.stage.host.destroy(&ground.stage.backend, &handle, grace, ground.stage.subject.patience).await?;
        ensure!(outcome == Destruction::Gone, "it is {outcome:?}");
    }
    Ok(None)
}

pub(super) async fn destroy_twice(ground: &Ground<'_>) -> Verdict {
    let (_, made) = ground.machine().await?;
    let stage = ground.stage;
    let once = || stage.host.destroy(&stage.backend, &made.handle, Duration::ZERO, stage.subject.patience);
    // Both at the same time; each may find the other's at work.
    let (first, second) = tokio::join!(once(), once());
    first.context("the first")?;
    second.context("the second, at the same time")?;
    stage.destroy(&made.handle).await?;
    let again = once().await.context("once it was gone")?;
    ensure!(again == Destruction::Gone, "once it was gone it is {again:?}");
    Ok(None)
}

/// What no backend has given out, and what would lead elsewhere if it were put into a path.
pub(super) async fn malformed_handles(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let (wanted, made) = ground.machine().await?;
    let long = "h".repeat(HANDLE);
    let crooked = [
        "../../etc/passwd",
        "a/b?c=d&e#f",
        "%2e%2e%2f",
        "'\"<&>\\",
        "no such handle",
        "ünïcödé",
        "\n\0",
        long.as_str(),
    ];
    for handle in crooked {
        let said = |error: &BackendError| {
            ensure!(
                matches!(error.kind, ErrorKind::NotFound | ErrorKind::InvalidRequest),
                "`{handle:.40}` makes it answer {error}"
            );
            Ok(())
        };
        match stage.get(handle).await {
            Ok(found) => ensure!(found.is_none(), "`get` of `{handle:.40}` gives {found:?}"),
            Err(error) => said(&error).context("`get`")?,
        }
        match stage.destroy_once(handle, stage.subject.patience).await {
            Ok(outcome) => ensure!(outcome == Destruction::Gone, "`destroy` of `{handle:.40}` is {outcome:?}"),
            Err(error) => said(&error).context("`destroy`")?,
        }
    }
    let found = stage.get(&made.handle).await?.context("one of them took another machine down")?;
    is_it(&found, &wanted)?;
    Ok(None)
}

/// A machine that listens is asked and waited for, and one that does not is ended by force once it has had its grace.
pub(super) async fn graceful_then_forced(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let Some(grace) = &stage.subject.grace else {
        return Ok(Some("no machine of this run can be made to listen".to_owned()));
    };
    let patience = stage.subject.patience;
    let boot = async |pool| {
        let wanted = ground.wanted();
        stage.create_with(&wanted, pool, stage.subject.bootstrap, patience).await
    };
    let took = async |handle: &str, grace| {
        let began = Instant::now();
        let outcome = stage.host.destroy(&stage.backend, handle, grace, patience * 2).await?;
        ensure!(outcome == Destruction::Gone, "it is {outcome:?}");
        Ok(began.elapsed())
    };
    let listening = boot(&grace.listens).await?;
    stage
        .until("that the machine listens", async || {
            let log = stage.host.console_log(&stage.backend, &listening.handle, 64 << 10, patience).await;
            Ok(log.is_ok_and(|log| log.contains(&grace.ready)).then_some(()))
        })
        .await?;
    let asked = took(&listening.handle, patience).await.context("one that listens")?;
    ensure!(
        asked < patience,
        "one that listens was not asked, or not looked at, before its grace of {patience:?} was over"
    );
    let deaf = boot(&grace.deaf).await?;
    let forced = took(&deaf.handle, GRACE).await.context("one that does not listen")?;
    ensure!(forced >= GRACE, "one that does not listen was ended after {forced:?} of its grace of {GRACE:?}");
    Ok(None)
}

pub(super) async fn hold(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let (mut wanted, mut made) = ground.machine().await?;
    let held = tokio::task::block_in_place(|| stage.subject.engine.hold(&wanted.name)).context("holding it")?;
    if !held {
        wanted = ground.wanted();
        wanted.tags.push(("hold".to_owned(), "true".to_owned()));
        made = stage.create(&wanted).await?;
    }
    let found = stage.get(&made.handle).await?.context("`get` does not find it")?;
    ensure!(found.hold, "`get` does not tell the hold");
    let listed = stage.list(&wanted.owner).await?;
    ensure!(listed.iter().all(|one| one.hold) && listed.len() == 1, "`list` does not tell the hold: {listed:?}");
    Ok(None)
}

/// Handles, reasons and attributes are stored and shown.
pub(super) async fn no_secret(ground: &Ground<'_>) -> Verdict {
    let (wanted, made) = ground.machine().await?;
    let found = ground.stage.get(&made.handle).await?;
    let listed = ground.stage.list(&wanted.owner).await?;
    let said = format!("{made:?} {found:?} {listed:?}");
    ensure!(!ground.stage.tells_secret(&said), "it is in what is told of the machine");
    Ok(None)
}

pub(super) async fn renew_lease(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let (wanted, made) = ground.machine().await?;
    let until = wanted.lease_until.checked_add(Duration::from_secs(1800))?;
    let renewed = stage.host.renew_lease(&stage.backend, &made.handle, until, stage.subject.patience).await;
    if !stage.can("renew-lease") {
        return unsupported(renewed.map_err(|error| error.kind), "renew-lease");
    }
    renewed?;
    let found = stage.get(&made.handle).await?.context("`get` does not find it")?;
    ensure!(found.lease_until == Some(until), "`get` says {:?}, renewed until {until}", found.lease_until);
    let listed = stage.list(&wanted.owner).await?;
    ensure!(
        listed.iter().map(|one| one.lease_until).eq([Some(until)]),
        "`list` says {listed:?}, renewed until {until}"
    );
    ground.only(&wanted)?;
    stage.destroy(&made.handle).await?;
    match stage.host.renew_lease(&stage.backend, &made.handle, until, stage.subject.patience).await {
        // An engine may keep records of the dead, and take notes on them.
        Ok(()) => Ok(None),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => anyhow::bail!("of a machine that is gone it is {error}, not `not-found`"),
    }
}

pub(super) async fn console_log(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let (_, made) = ground.machine().await?;
    let log = |bytes| stage.host.console_log(&stage.backend, &made.handle, bytes, stage.subject.patience);
    if !stage.can("console-log") {
        return unsupported(log(1024).await.map_err(|error| error.kind), "console-log");
    }
    for bytes in [0, 1, SHORT_LOG, 64 << 10] {
        let text = log(bytes).await?;
        ensure!(text.len() <= bytes as usize, "{} bytes were given where {bytes} were asked for", text.len());
    }
    stage.destroy(&made.handle).await?;
    match log(1024).await {
        // A log may outlive its machine.
        Ok(text) => ensure!(text.len() <= 1024, "{} bytes were given where 1024 were asked for", text.len()),
        Err(error) => ensure!(error.kind == ErrorKind::NotFound, "of a machine that is gone: {error}"),
    }
    Ok(None)
}

pub(super) async fn suspend(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let (wanted, made) = ground.machine().await?;
    let (backend, patience) = (&stage.backend, stage.subject.patience);
    if !stage.can("suspend") {
        let resumed = stage.host.resume(backend, &made.handle, patience).await;
        unsupported(resumed.map_err(|error| error.kind), "resume")?;
        let suspended = stage.host.suspend(backend, &made.handle, patience).await;
        return unsupported(suspended.map_err(|error| error.kind), "suspend");
    }
    // Each twice: an answer may have been lost.
    for _ in 0..2 {
        stage.host.suspend(backend, &made.handle, patience).await.context("suspend")?;
    }
    stage.get(&made.handle).await?.context("a suspended machine is not found")?;
    for _ in 0..2 {
        let resumed = stage.host.resume(backend, &made.handle, patience).await.context("resume")?;
        is_it(&resumed, &wanted).context("as resumed")?;
    }
    ground.only(&wanted)?;
    Ok(None)
}

pub(super) async fn quote(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let quoted = stage.host.quote(&stage.backend, &stage.subject.pool, stage.subject.patience).await;
    if !stage.can("quote") {
        return unsupported(quoted.map_err(|error| error.kind), "quote");
    }
    let Some(price) = quoted? else { return Ok(Some("it knows no price of this pool".to_owned())) };
    let upper = price.currency.len() == 3 && price.currency.bytes().all(|byte| byte.is_ascii_uppercase());
    ensure!(upper, "`{}` is no currency of ISO 4217", price.currency);
    Ok(None)
}

pub(super) async fn foreign_bootstrap(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let foreign = [BootstrapKind::JitConfig, BootstrapKind::StartScript, BootstrapKind::CloudInit]
        .into_iter()
        .find(|kind| stage.description.bootstraps.iter().all(|taken| taken != kind.as_str()));
    let Some(kind) = foreign else { return Ok(Some("it takes every bootstrap".to_owned())) };
    let wanted = ground.wanted();
    match stage.create_with(&wanted, &stage.subject.pool, kind, stage.subject.patience).await {
        Err(error) if error.kind == ErrorKind::Unsupported => {}
        other => anyhow::bail!("with `{}` it answers {other:?}, not `unsupported`", kind.as_str()),
    }
    let there = stage.at_the_engine(&wanted.owner)?;
    ensure!(there.is_empty(), "it refused, and made {there:?}");
    Ok(None)
}

/// An operation that is not among the capabilities says so.
fn unsupported<T: std::fmt::Debug>(answered: Result<T, ErrorKind>, operation: &str) -> Verdict {
    match answered {
        Err(ErrorKind::Unsupported) => Ok(Some("unsupported, and it says so".to_owned())),
        other => anyhow::bail!(
            "`{operation}` is not among its capabilities, and answers {other:?} instead of the error `unsupported`"
        ),
    }
}
