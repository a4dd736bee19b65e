//! Who gets in where: everything but the webhook and the health checks asks for the token.

use pacer_tests::{
    api::Answer,
    pacer::{TestPacer, WEBHOOK_SECRET},
    wait::{SOON, eventually},
    webhook::JobPayload,
    world::{REPO, World},
};
use reqwest::Method;
use rustix::process::Signal;

const TOKEN: &str = "a-token-of-forty-characters-0123456789ab";

/// Everything that is for people and scripts of the operator.
const CLOSED: [&str; 9] = [
    "/",
    "/jobs",
    "/jobs/1-1",
    "/api/v1/jobs",
    "/api/v1/jobs/1-1",
    "/api/v1/runners",
    "/api/v1/backends",
    "/metrics",
    "/api/v1/no-such-thing",
];

async fn guarded() -> (World, TestPacer) {
    let world = World::start().await;
    let pacer = world.pacer().auth("{ token: \"${PACER_TOKEN}\" }").env("PACER_TOKEN", TOKEN).start().await;
    (world, pacer)
}

/// Whether an answer shows nothing: a program is refused, and a person may be sent to the sign-in form.
fn is_closed(answer: &Answer, may_slow_down: bool) -> bool {
    let to_sign_in = answer.status == 303 && answer.header("location").starts_with("/signin?next=");
    answer.status == 401 || (may_slow_down && answer.status == 429) || (to_sign_in && !may_slow_down)
}

#[tokio::test]
async fn without_the_token_nothing_is_shown() {
    let (_world, pacer) = guarded().await;
    for path in CLOSED {
        let answer = pacer.api.get(path).await;
        assert!(is_closed(&answer, false), "{path}: {} {}", answer.status, answer.text);
        assert!(!answer.text.contains(REPO), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn what_is_almost_the_token_is_wrong_everywhere() {
    let almost =
        [TOKEN[..39].to_owned(), TOKEN.to_uppercase(), format!("{TOKEN}x"), format!("x{TOKEN}"), "wrong".into()];
    // Each on a server of its own: past the first few wrong tries, a server does not say that one was wrong.
    for token in almost {
        let (_world, pacer) = guarded().await;
        let answer = pacer.api.with_token(Some(&token)).get("/api/v1/jobs").await;
        assert_eq!(answer.status, 401, "{token}: {}", answer.text);
        let api = pacer.api.with_token(Some(&token));
        for path in CLOSED {
            let answer = api.get(path).await;
            assert!(is_closed(&answer, true), "{path} with {token}: {} {}", answer.status, answer.text);
        }
        assert_eq!(pacer.api.with_token(Some(TOKEN)).get("/api/v1/jobs").await.status, 200, "the right one goes on");
    }
}

#[tokio::test]
async fn with_the_token_everything_opens() {
    let (_world, pacer) = guarded().await;
    let api = pacer.api.with_token(Some(TOKEN));
    for path in ["/jobs", "/api/v1/jobs", "/api/v1/runners", "/api/v1/backends", "/metrics"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    assert_eq!(api.get("/api/v1/jobs/1-1").await.status, 404);
}

#[tokio::test]
async fn the_webhook_and_the_health_checks_are_public_and_say_little() {
    let (_world, pacer) = guarded().await;
    let answer = JobPayload::queued(1, REPO, &["ubuntu-latest"]).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!(answer.result(), "ignored");
    assert_eq!(pacer.api.get("/healthz").await.status, 200);
    let ready = pacer.api.get("/readyz").await;
    assert_eq!(ready.status, 200);
    for detail in ["sqlite", "simulated", "127.0.0.1", "pacer.db"] {
        assert!(!ready.text.contains(detail), "strangers learn no details: {}", ready.text);
    }
}

#[tokio::test]
async fn guessing_is_slowed_down_for_guessers_only() {
    let (_world, pacer) = guarded().await;
    let guesser = pacer.api.with_token(Some("guess-guess-guess-guess-guess-guess-0000"));
    let mut slowed = false;
    for _ in 0..100 {
        let answer = guesser.get("/api/v1/jobs").await;
        assert!([401, 429].contains(&answer.status.as_u16()));
        if answer.status == 429 {
            assert!(answer.header("retry-after").parse::<u64>().is_ok(), "{:?}", answer.headers);
            slowed = true;
            break;
        }
    }
    assert!(slowed, "a hundred wrong tries in a row were all judged at once");
    let answer = JobPayload::queued(2, REPO, &["ubuntu-latest"]).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    assert_eq!(answer.status, 200, "deliveries go on");
}

#[tokio::test]
async fn pages_carry_strict_headers_and_no_inline_script() {
    let (_world, pacer) = guarded().await;
    let page = pacer.api.with_token(Some(TOKEN)).get("/jobs").await;
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src") && !policy.contains("unsafe-inline"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert!(policy.contains("frame-ancestors") || !page.header("x-frame-options").is_empty());
    assert!(!page.header("referrer-policy").is_empty());
    for script in page.text.match_indices("<script").map(|(at, _)| &page.text[at..]) {
        let tag = &script[..script.find('>').unwrap_or(script.len())];
        assert!(tag.contains("src="), "a script in the page: {tag}");
    }
    assert!(!page.text.contains(" onclick=") && !page.text.contains("javascript:"));
}

#[tokio::test]
async fn neither_open_nor_closed_is_an_error_that_says_what_to_do() {
    let world = World::start().await;
    for (auth, said) in [
        ("{}", "auth"),
        ("{ token: \"too-short\" }", "32"),
        ("{ token: \"${PACER_TOKEN_THAT_IS_NOT_SET}\" }", "PACER_TOKEN_THAT_IS_NOT_SET"),
    ] {
        let pacer = world.pacer().auth(auth).prepare();
        let checked = pacer.command(&["check"]);
        assert_ne!(checked.code, 0, "{auth}: {}", checked.all());
        assert!(checked.all().contains(said), "{auth}: {}", checked.all());
        let served = pacer.command(&["serve"]);
        assert_ne!(served.code, 0, "{auth}: {}", served.all());
        assert!(!served.all().contains("too-short"), "not even a bad secret is repeated: {}", served.all());
    }
}

#[tokio::test]
async fn an_open_door_is_said_loudly() {
    let world = World::start().await;
    let pacer = world.pacer().start().await;
    let log = pacer.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("auth")), "{log}");
    assert_eq!(pacer.api.get("/api/v1/jobs").await.status, 200);
}

#[tokio::test]
async fn a_person_signs_in_once_and_out_again() {
    let (_world, pacer) = guarded().await;
    let form = |token: &str| {
        pacer
            .api
            .request(Method::POST, "/signin")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", &pacer.api.base)
            .body(format!("token={token}"))
    };
    let wrong = pacer.api.send(form("wrong-wrong-wrong-wrong-wrong-wrong-0000")).await.unwrap();
    assert!(wrong.header("set-cookie").is_empty(), "{:?}", wrong.headers);
    let right = pacer.api.send(form(TOKEN)).await.unwrap();
    let cookie = right.header("set-cookie").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{} {cookie}", right.status);
    assert!(!cookie.contains(TOKEN), "the cookie is not the token");
    let value = cookie.split(';').next().unwrap_or_default();
    let page = pacer.api.send(pacer.api.request(Method::GET, "/jobs").header("cookie", value)).await.unwrap();
    assert_eq!(page.status, 200);
    // One digit of the signature changed: a stranger's.
    let mut forged = value.to_owned();
    let last = forged.pop().unwrap_or('0');
    forged.push(if last == 'a' { 'b' } else { 'a' });
    let page = pacer.api.send(pacer.api.request(Method::GET, "/api/v1/jobs").header("cookie", forged)).await.unwrap();
    assert_eq!(page.status, 401);
    let out = pacer.api.request(Method::POST, "/signout").header("cookie", value).header("origin", &pacer.api.base);
    let out = pacer.api.send(out).await.unwrap();
    assert_eq!((out.status.as_u16(), out.header("location")), (303, "/signin"), "{}", out.text);
    let gone = out.header("set-cookie").to_owned();
    let (name, _) = value.split_once('=').unwrap();
    assert!(gone.starts_with(&format!("{name}=;")) && gone.contains("Max-Age=0"), "the browser forgets it: {gone}");
    for path in ["/jobs", "/api/v1/jobs"] {
        let page = pacer.api.send(pacer.api.request(Method::GET, path).header("cookie", value)).await.unwrap();
        assert!(is_closed(&page, false), "a copy of it opens nothing any more: {path} {}", page.status);
    }
}

#[tokio::test]
async fn another_token_and_secret_are_in_force_after_a_hangup_and_a_broken_file_changes_nothing() {
    const NEW: &str = "another-token-of-forty-characters-000000";
    let world = World::start().await;
    let pacer = world.pacer().auth(&format!("{{ token: \"{TOKEN}\" }}")).start().await;
    let old = pacer.api.with_token(Some(TOKEN));

    pacer.edit_config("priority: 100", "prioritty: 100");
    pacer.process().signal(Signal::HUP);
    eventually("the fault is named", SOON, async || pacer.log().contains("is not a known key").then_some(())).await;
    assert_eq!(old.get("/api/v1/jobs").await.status, 200);

    pacer.edit_config("prioritty: 100", "priority: 99");
    pacer.edit_config(TOKEN, NEW);
    pacer.edit_config(WEBHOOK_SECRET, "a-new-webhook-secret-0123456789");
    pacer.process().signal(Signal::HUP);
    let new = pacer.api.with_token(Some(NEW));
    eventually("the new token opens", SOON, async || (new.get("/api/v1/jobs").await.status == 200).then_some(())).await;
    assert_eq!(old.get("/api/v1/jobs").await.status, 401);
    let job = JobPayload::queued(1, REPO, &["self-hosted"]);
    assert_eq!(job.clone().signed(WEBHOOK_SECRET).send(&pacer.api).await.status, 401);
    assert_eq!(job.signed("a-new-webhook-secret-0123456789").send(&pacer.api).await.result(), "enqueued");
    let log = pacer.log();
    let waiting = log.lines().find(|line| line.contains("restart pacer")).unwrap_or_else(|| panic!("{log}"));
    assert!(waiting.ends_with("for what else changed: projects"), "{waiting}");
    assert!(!log.contains(NEW), "a new secret is as secret as the old one");
}
