//! What a person sees, in a real browser.

use std::time::Duration;

use pacer_tests::{
    browser::{self, Browser},
    engine,
    pacer::TestPacer,
    world::World,
};
use serde_json::json;

#[tokio::test]
async fn a_person_watches_a_job_come_and_go_and_opens_it() {
    if browser::installed().is_none() {
        let why = "no Chromium is installed (on Debian: apt-get install chromium)";
        return engine::not_run("a_person_watches_a_job_come_and_go_and_opens_it", why);
    }
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    world.deliver_to(&pacer);
    let mut browser = Browser::start().await.unwrap();
    browser.open(&pacer.url("/jobs")).await.unwrap();
    // What is loaded again loses this mark: the page is to change without that.
    browser.evaluate("window.sameDocument = true").await.unwrap();
    browser
        .wait_for("the stream is open", "document.querySelector('.connection')?.dataset.state === 'on'")
        .await
        .unwrap();

    world.queue(1, Duration::from_secs(4));
    for state in ["running", "completed"] {
        let shown = format!("document.querySelector('.row .pill')?.textContent === '{state}' && window.sameDocument");
        browser.wait_for(&format!("the job is {state}"), &shown).await.unwrap();
    }
    world.settled().await;

    browser.click(".row a.title").await.unwrap();
    browser
        .wait_for("the job's page", "location.pathname.startsWith('/jobs/') && !!document.querySelector('.timeline')")
        .await
        .unwrap();
    let steps =
        browser.evaluate("[...document.querySelectorAll('.timeline b')].map((b) => b.textContent)").await.unwrap();
    assert_eq!(steps, json!(["queued", "claimed", "starting", "running", "completed"]));
    let text = browser.evaluate("document.body.innerText").await.unwrap();
    for word in ["pacer-small-", "Explanation"] {
        assert!(text.as_str().unwrap().contains(word), "`{word}` is not on the page:\n{text}");
    }
    let page = browser.evaluate("location.href").await.unwrap();
    looks_right(
        &mut browser,
        &[&pacer.url("/jobs"), page.as_str().unwrap(), &pacer.url("/runners"), &pacer.url("/backends")],
    )
    .await
    .unwrap();
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// By how much a page is wider than the phone. A phone would zoom out, so its own word for its width does not count.
async fn too_wide(browser: &mut Browser, width: u32) -> anyhow::Result<i64> {
    let wide = browser.evaluate("document.documentElement.scrollWidth").await?;
    Ok(wide.as_i64().unwrap_or(i64::MAX) - i64::from(width))
}

/// Nobody has to scroll sideways on a phone, and dark is dark with text that stands out from it.
async fn looks_right(browser: &mut Browser, pages: &[&str]) -> anyhow::Result<()> {
    // How bright a colour is, by the formula of WCAG's contrast.
    const CONTRAST: &str = "(() => {
        const bright = (colour) => { const [r, g, b] = colour.match(/[0-9.]+/g).map((c) => { const x = c / 255;
            return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const style = getComputedStyle(document.body);
        return { back: bright(style.backgroundColor), text: bright(style.color) }; })()";
    for page in pages {
        for (scheme, dark) in [("light", false), ("dark", true)] {
            browser.prefer(scheme).await?;
            for width in [320, 360, 390] {
                browser.be_a_phone(width).await?;
                browser.open(page).await?;
                browser.wait_for("the page follows", "!document.querySelector('#live') || document.querySelector('.connection').textContent === 'live'").await?;
                let wide = too_wide(browser, width).await?;
                assert!(wide <= 0, "{page}: a phone of {width} pixels has to scroll sideways by {wide}");
            }
            let light = browser.evaluate(CONTRAST).await?;
            let shade = |of: &str| light[of].as_f64().unwrap_or_default();
            let (back, text) = (shade("back"), shade("text"));
            assert_eq!(back < text, dark, "{page} in {scheme}: {light}");
            assert!((back.max(text) + 0.05) / (back.min(text) + 0.05) >= 7.0, "{page} in {scheme}: {light}");
        }
    }
    Ok(())
}

/// A server with a closed door, and a person who came in.
async fn signed_in(test: &str) -> anyhow::Result<Option<(World, TestPacer, Browser)>> {
    if browser::installed().is_none() {
        engine::not_run(test, "no Chromium is installed (on Debian: apt-get install chromium)");
        return Ok(None);
    }
    let world = World::start().await;
    let pacer = world.pacer().auth(&format!("{{ token: \"{TOKEN}\" }}")).start().await;
    world.deliver_to(&pacer);
    let mut browser = Browser::start().await?;
    browser.run_first(RECORD_STREAMS).await?;
    browser.open(&pacer.url("/jobs")).await?;
    browser.wait_for("the form has the focus", "document.activeElement?.name === 'token'").await?;
    browser.type_text(TOKEN).await?;
    browser.click("button").await?;
    browser.wait_for("the page is live", "document.querySelector('.connection')?.textContent === 'live'").await?;
    Ok(Some((world, pacer, browser)))
}

const TOKEN: &str = "a-token-of-forty-characters-0123456789ab";

const RECORD_STREAMS: &str = "window.streams = []; window.EventSource = class extends EventSource {
    constructor(url) { super(url); streams.push(this); } };";

#[tokio::test]
async fn a_signed_in_person_has_room_on_a_phone() {
    let Some((_world, pacer, mut browser)) = signed_in("a_signed_in_person_has_room_on_a_phone").await.unwrap() else {
        return;
    };
    looks_right(&mut browser, &[&pacer.url("/jobs"), &pacer.url("/signin")]).await.unwrap();
    // The longest that the connection may be said to be.
    browser.be_a_phone(320).await.unwrap();
    browser.open(&pacer.url("/jobs")).await.unwrap();
    browser.evaluate("document.querySelector('.connection').textContent = 'reconnecting…'").await.unwrap();
    let wide = too_wide(&mut browser, 320).await.unwrap();
    assert!(wide <= 0, "by {wide} pixels");
}

#[tokio::test]
async fn a_page_that_nobody_looks_at_holds_no_connection_and_is_fresh_when_somebody_does() {
    let test = "a_page_that_nobody_looks_at_holds_no_connection_and_is_fresh_when_somebody_does";
    let Some((world, _pacer, mut browser)) = signed_in(test).await.unwrap() else { return };
    let look = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
             document.dispatchEvent(new Event('visibilitychange'))"
        )
    };
    browser.evaluate("window.sameDocument = true").await.unwrap();
    browser.evaluate(&look(true)).await.unwrap();
    let open =
        browser.evaluate("streams.filter((stream) => stream.readyState !== EventSource.CLOSED).length").await.unwrap();
    assert_eq!(open, 0);
    world.queue(1, Duration::from_millis(300));
    world.settled().await;
    assert_eq!(browser.evaluate("document.querySelectorAll('.row').length").await.unwrap(), 0);
    browser.evaluate(&look(false)).await.unwrap();
    let row = "document.querySelector('.row .pill')?.textContent === 'completed' && window.sameDocument";
    browser.wait_for("what happened meanwhile", row).await.unwrap();
    assert_eq!(
        browser.evaluate("streams.filter((stream) => stream.readyState === EventSource.OPEN).length").await.unwrap(),
        1
    );
}

#[tokio::test]
async fn a_selected_text_stays_until_it_is_let_go() {
    let Some((world, _pacer, mut browser)) = signed_in("a_selected_text_stays_until_it_is_let_go").await.unwrap()
    else {
        return;
    };
    world.queue(1, Duration::from_millis(300));
    world.settled().await;
    let rows = |count: usize| format!("document.querySelectorAll('.row').length === {count}");
    browser.wait_for("a job", &rows(1)).await.unwrap();
    browser.wait_for("it is over", "document.querySelector('.row .pill')?.textContent === 'completed'").await.unwrap();
    browser.evaluate("getSelection().selectAllChildren(document.querySelector('.row a.title'))").await.unwrap();
    // Long enough for many renewals.
    world.queue(1, Duration::from_secs(3));
    world.settled().await;
    let kept =
        browser.evaluate("getSelection().anchorNode.isConnected && getSelection().toString() !== ''").await.unwrap();
    assert_eq!(kept, true);
    browser.evaluate("getSelection().removeAllRanges()").await.unwrap();
    browser.wait_for("both jobs", &rows(2)).await.unwrap();
}

#[tokio::test]
async fn a_session_that_is_over_leads_to_the_sign_in_form() {
    let test = "a_session_that_is_over_leads_to_the_sign_in_form";
    let Some((_world, mut pacer, mut browser)) = signed_in(test).await.unwrap() else { return };
    pacer.stop(Duration::from_secs(60)).await;
    browser.wait_for("the page says so", "document.querySelector('.connection').textContent !== 'live'").await.unwrap();
    pacer.edit_config(TOKEN, "another-token-of-forty-characters-000000");
    pacer.start().await;
    browser
        .wait_for("the form", "location.pathname === '/signin' && location.search === '?next=%2Fjobs'")
        .await
        .unwrap();
}
