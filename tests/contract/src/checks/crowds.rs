//! Listings: whose machines, all of them, in pages.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Ground, Verdict};

/// Machines that are made at the same time.
const TOGETHER: usize = 8;
/// Pages of a listing; more is one that does not end.
const PAGES: usize = 100;

pub(super) async fn list_by_owner(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let stranger = stage.name();
    tokio::task::block_in_place(|| stage.subject.engine.make_stranger(&stranger)).context("making a stranger")?;
    let verdict = beside(ground, &stranger).await;
    tokio::task::block_in_place(|| stage.subject.engine.remove_stranger(&stranger)).context("removing the stranger")?;
    verdict
}

async fn beside(ground: &Ground<'_>, stranger: &str) -> Verdict {
    let stage = ground.stage;
    let (first, _) = ground.machine().await?;
    let (second, _) = ground.machine().await?;
    // What an owner's name begins with is another owner's.
    let part = &first.owner[..first.owner.len() - 1];
    for (owner, expected) in [(first.owner.as_str(), 1), (second.owner.as_str(), 1), ("nobody-at-all", 0), (part, 0)] {
        let (page, _) = stage.host.list_page(&stage.backend, owner, None, stage.subject.patience).await?;
        for one in &page {
            ensure!(one.owner == owner, "the list of `{owner}` has `{}` of `{}` in it", one.name, one.owner);
            ensure!(one.name != stranger, "the list of `{owner}` has a machine in it that is nobody's");
        }
        ensure!(page.len() == expected, "the list of `{owner}` has {} machines instead of {expected}", page.len());
    }
    Ok(None)
}

pub(super) async fn list_pages(ground: &Ground<'_>) -> Verdict {
    let stage = ground.stage;
    let owner = ground.owner();
    let wanted: Vec<_> = (0..stage.subject.crowd).map(|_| stage.wanted(&owner)).collect();
    let made: Vec<String> = stream::iter(&wanted)
        .map(|one| async { stage.create(one).await.map(|made| made.handle) })
        .buffer_unordered(TOGETHER)
        .try_collect()
        .await?;
    let made: BTreeSet<String> = made.into_iter().collect();
    ensure!(made.len() == wanted.len(), "{} handles for {} machines", made.len(), wanted.len());
    for _ in 0..2 {
        let (mut listed, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let (page, next) = stage.host.list_page(&stage.backend, &owner, cursor, stage.subject.patience).await?;
            listed.extend(page.into_iter().map(|one| one.handle));
            pages += 1;
            ensure!(pages < PAGES, "the listing does not end");
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        ensure!(pages > 1 || !stage.subject.pages, "{} machines came on one page, and should not fit", listed.len());
        let count = listed.len();
        let listed: BTreeSet<String> = listed.into_iter().collect();
        ensure!(count == listed.len(), "{} machines are listed twice, in {pages} pages", count - listed.len());
        ensure!(listed == made, "{} of {} machines are listed, in {pages} pages", listed.len(), made.len());
    }
    Ok(None)
}
