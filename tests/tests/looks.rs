//! What a person sees, in a real browser.

use std::time::Duration;

use pacer_tests::{
    browser::{self, Browser},
    engine,
    world::World,
};

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
    let state =
        |word: &str| format!("document.querySelector('#live')?.innerText.includes('{word}') && window.sameDocument");
    browser.wait_for("the job appears and runs", &state("running")).await.unwrap();
    world.settled().await;
    browser
        .wait_for(
            "the job is over",
            "document.querySelector('.row .pill')?.textContent === 'completed' && window.sameDocument",
        )
        .await
        .unwrap();

    browser.click(".row a.title, .row .title a").await.unwrap();
    browser
        .wait_for(
            "the job's page",
            "location.pathname.startsWith('/jobs/') && document.body.innerText.includes('Timeline')",
        )
        .await
        .unwrap();
    let text = browser.evaluate("document.body.innerText").await.unwrap();
    for word in ["queued", "claimed", "starting", "running", "completed", "pacer-small-", "Explanation"] {
        assert!(text.as_str().unwrap().contains(word), "`{word}` is not on the page:\n{text}");
    }

    browser.be_a_phone().await.unwrap();
    browser.open(&pacer.url("/jobs")).await.unwrap();
    let wide = browser.evaluate("document.documentElement.scrollWidth - window.innerWidth").await.unwrap();
    assert!(wide.as_i64().unwrap() <= 0, "a phone has to scroll sideways by {wide} pixels");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
