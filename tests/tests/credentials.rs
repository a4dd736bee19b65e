//! Backends whose cloud wants to know who asks: each way of proving it serves a job, and is told by nobody.

use std::{fs, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_tests::{
    guard::{self, Guard},
    pacer::Builder,
    secrets::{Secret, found_in, found_under},
    wait::{SOON, eventually},
    world::World,
};

const API_TOKEN: &str = "a-token-of-the-tests-that-is-long-enough-0123";
/// As they stand in a configuration.
const GIVEN: &str = "canary-in-the-configuration-0123456789abcdef";
const OWN_KEY: &str = "canary-own-aws-secret-0123456789abcdef";

/// A way to prove who asks.
struct Way {
    /// In the endpoint, as YAML; `GUARD` is where the guard is.
    credential: &'static str,
    /// How people are told of it.
    kind: &'static str,
    /// What the cloud has to see.
    proof: Vec<(&'static str, String)>,
    /// What nobody may see.
    secrets: &'static [&'static str],
    /// What the server finds around it: variables, and a file of AWS's tools.
    environment: &'static [(&'static str, &'static str)],
    profile: Option<String>,
}

impl Way {
    fn new(credential: &'static str, kind: &'static str, proof: &[(&'static str, &str)]) -> Self {
        let proof = proof.iter().map(|&(name, part)| (name, part.to_owned())).collect();
        Self { credential, kind, proof, secrets: &[], environment: &[], profile: None }
    }

    /// Signed with the keys that the guard gives out.
    fn given_keys(
        credential: &'static str,
        kind: &'static str,
        environment: &'static [(&'static str, &'static str)],
    ) -> Self {
        let scope = format!("AWS4-HMAC-SHA256 Credential={}/", guard::ACCESS_KEY_ID);
        let proof = [("authorization", scope.as_str()), ("x-amz-security-token", guard::SESSION_TOKEN)];
        Self {
            secrets: &[
                guard::SECRET_ACCESS_KEY,
                guard::SESSION_TOKEN,
                guard::METADATA_TOKEN,
                guard::CONTAINER,
                guard::WEB_IDENTITY,
                guard::BASE_SECRET,
            ],
            environment,
            ..Self::new(credential, kind, &proof)
        }
    }
}

/// A job is served, then the cloud tells all it was sent, and everything is searched.
async fn story(way: Way) {
    let world = World::start().await;
    // What opens the door to keys is not for the cloud, which cannot tell it.
    let sent = |secret: &&str| {
        ![guard::METADATA_TOKEN, guard::CONTAINER, guard::WEB_IDENTITY, guard::BASE_SECRET].contains(secret)
    };
    let knows: Vec<String> = way.secrets.iter().copied().filter(sent).map(str::to_owned).collect();
    let guard = Guard::start(&world.simulator.cloud_url, &way.proof, &knows).await;
    let endpoint = format!("{{ url: \"{}\", credential: {} }}", guard.url, way.credential.replace("GUARD", &guard.url));
    let backend = format!("  sim: {{ plugin: simulated, endpoints: {{ cloud: {endpoint} }}, poll: 1s }}");
    let mut builder: Builder = world
        .pacer()
        .backends(&backend)
        .auth("{ token: \"${PACER_TOKEN}\" }")
        .env("PACER_TOKEN", API_TOKEN)
        .section("telemetry: { log: \"trace,hyper=debug,h2=info\" }");
    let aws = tempfile::tempdir().expect("a folder for AWS's files");
    let files = aws.path().to_str().expect("temporary folders have plain names");
    fs::write(aws.path().join("web-identity"), guard::WEB_IDENTITY).expect("the file can be written");
    for (name, value) in way.environment {
        builder = builder.env(name, &value.replace("GUARD", &guard.url).replace("FILES", files));
    }
    for (name, text) in [("AWS_CONFIG_FILE", ""), ("AWS_SHARED_CREDENTIALS_FILE", way.profile.as_deref().unwrap_or(""))]
    {
        let path = aws.path().join(name);
        fs::write(&path, text).expect("the file can be written");
        builder = builder.env(name, path.to_str().expect("temporary folders have plain names"));
    }
    let pacer = builder.start().await;
    world.deliver_to(&pacer);
    world.queue(2, Duration::from_millis(200));
    world.settled().await;
    assert_eq!(guard.refused(), Vec::<String>::new());

    guard.gossip();
    world.queue(1, Duration::from_millis(200));
    let api = pacer.api.with_token(Some(API_TOKEN));
    eventually("what the cloud said is shown, without secrets", SOON, async || {
        api.get("/api/v1/runners").await.text.contains("[secret]").then_some(())
    })
    .await;

    let mut said = String::new();
    for path in ["jobs", "runners", "backends", "pools", "deliveries", "audit"] {
        said.push_str(&api.get(&format!("/api/v1/{path}")).await.text);
    }
    let page = api.get("/backends").await.text;
    assert!(page.contains(&format!("with {}", way.kind)), "{page}");
    for path in ["/metrics", "/jobs", "/runners", "/readyz"] {
        said.push_str(&api.get(path).await.text);
    }
    let check = pacer.command(&["check"]).all();
    assert!(check.contains(&format!("with {}", way.kind)), "{check}");
    let commands: [&[&str]; 3] =
        [&["plugin", "inspect", "simulated"], &["plugin", "inspect", "simulated", "--json"], &["plugin", "list"]];
    for command in commands {
        let told = pacer.command(command).all();
        assert!(told.contains(way.kind), "{command:?}: {told}");
        said.push_str(&told);
    }
    said.extend([page, check]);
    let mut secrets: Vec<_> = way.secrets.iter().map(|&secret| Secret::new(way.kind, secret)).collect();
    // Also within the header it travels in.
    secrets.push(Secret::new("a pair", STANDARD.encode(format!("pacer:{GIVEN}"))));
    assert_eq!(found_in(said.as_bytes(), &secrets), Vec::<String>::new());
    let own = ["config.yaml", "gh-app.pem"].map(|name| pacer.folder().join(name));
    assert_eq!(found_under(pacer.folder(), &own, &secrets), Vec::<String>::new());
}

#[tokio::test]
async fn a_bearer_token() {
    let credential = "{ bearer: canary-in-the-configuration-0123456789abcdef }";
    let way = Way::new(credential, "bearer token", &[("authorization", GIVEN)]);
    story(Way { secrets: &[GIVEN], ..way }).await;
}

#[tokio::test]
async fn a_name_and_a_password() {
    let credential = "{ basic: { username: pacer, password: canary-in-the-configuration-0123456789abcdef } }";
    let pair = STANDARD.encode(format!("pacer:{GIVEN}"));
    let way = Way::new(credential, "name and password", &[("authorization", &pair)]);
    story(Way { secrets: &[GIVEN], ..way }).await;
}

#[tokio::test]
async fn a_token_of_a_token_service() {
    let credential = "{ oauth2: { token_url: \"GUARD/token\", client_id: pacer, \
                      client_secret: canary-client-secret-0123456789abcdef } }";
    let way = Way::new(credential, "OAuth 2.0 token", &[("authorization", guard::TOKEN)]);
    story(Way { secrets: &[guard::TOKEN, guard::CLIENT], ..way }).await;
}

#[tokio::test]
async fn keys_of_aws() {
    let credential = "{ aws_sigv4: { region: eu-west-1, service: ec2, access_key_id: AKIDOWN, \
                      secret_access_key: canary-own-aws-secret-0123456789abcdef } }";
    let proof = [("authorization", "AWS4-HMAC-SHA256 Credential=AKIDOWN/")];
    let way = Way::new(credential, "AWS signature, with keys", &proof);
    story(Way { secrets: &[OWN_KEY], ..way }).await;
}

#[tokio::test]
async fn a_profile_of_aws() {
    let credential = "{ aws_sigv4: { region: eu-west-1, service: ec2, profile: at-work } }";
    let profile = format!(
        "[at-work]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {}\n",
        guard::ACCESS_KEY_ID,
        guard::SECRET_ACCESS_KEY,
        guard::SESSION_TOKEN
    );
    let way = Way::given_keys(credential, "AWS signature, as a profile", &[]);
    story(Way { profile: Some(profile), ..way }).await;
}

#[tokio::test]
async fn a_role_that_a_profile_of_aws_takes() {
    let credential = "{ aws_sigv4: { region: eu-west-1, service: ec2, profile: at-work } }";
    let profile = format!(
        "[at-work]\nrole_arn = arn:aws:iam::123456789012:role/the-role\nsource_profile = base\n\
         [base]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        guard::BASE_ACCESS_KEY_ID,
        guard::BASE_SECRET
    );
    let environment = &[("AWS_ENDPOINT_URL_STS", "GUARD")];
    let way = Way::given_keys(credential, "AWS signature, as a profile", environment);
    story(Way { profile: Some(profile), ..way }).await;
}

#[tokio::test]
async fn the_web_identity_of_a_container() {
    let credential = "{ aws_sigv4: { region: eu-west-1, service: ec2, role: container } }";
    let environment = &[
        ("AWS_ENDPOINT_URL_STS", "GUARD"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "FILES/web-identity"),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/the-role"),
    ];
    story(Way::given_keys(credential, "AWS signature, as the container's role", environment)).await;
}

#[tokio::test]
async fn the_role_of_a_container_at_aws() {
    let credential = "{ aws_sigv4: { region: eu-west-1, service: ec2, role: container } }";
    let environment = &[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "GUARD/container"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", guard::CONTAINER),
    ];
    story(Way::given_keys(credential, "AWS signature, as the container's role", environment)).await;
}

#[tokio::test]
async fn the_role_of_an_instance_at_aws() {
    let credential = "{ aws_sigv4: { region: eu-west-1, service: ec2, role: instance } }";
    let environment = &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "GUARD")];
    story(Way::given_keys(credential, "AWS signature, as the instance's role", environment)).await;
}
