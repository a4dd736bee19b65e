//! Credentials and proxies of endpoints, as they are written.

use std::sync::Arc;

use super::*;
use crate::config::{AwsRole, AwsSigV4, AwsSource, Endpoint};

/// A backend with one endpoint `e`.
fn at(url: &str, more: &str) -> String {
    let endpoint = format!("{{ url: '{url}', {more} }}");
    format!("{GITHUB}auth: {{ disabled: true }}\nbackends: {{ b: {{ plugin: d, endpoints: {{ e: {endpoint} }} }} }}\n")
}

fn with(credential: &str) -> String {
    at("https://x", &format!("credential: {{ {credential} }}"))
}

fn endpoint(config: &Config) -> &Endpoint {
    &config.backends[&"b".parse().unwrap()].endpoints[&"e".parse().unwrap()]
}

/// Of a credential that signs.
#[track_caller]
fn aws(keys: &str) -> AwsSource {
    let mut config = good(&with(&format!("aws_sigv4: {{ region: eu-west-1, service: ec2, {keys} }}")));
    let mut backend = Arc::into_inner(config.backends.remove(&"b".parse().unwrap()).unwrap()).unwrap();
    let endpoint = backend.endpoints.remove(&"e".parse().unwrap()).unwrap();
    let Some(Credential::AwsSigV4(AwsSigV4 { region, service, source })) = endpoint.credential else { panic!() };
    assert_eq!((region.as_str(), service.as_str()), ("eu-west-1", "ec2"));
    source
}

#[test]
fn sources_of_keys() {
    let keys = aws("access_key_id: AKIA, secret_access_key: 'file:secret', session_token: t0ken");
    let AwsSource::Keys { access_key_id, secret_access_key, session_token } = keys else { panic!("{keys:?}") };
    assert_eq!(access_key_id, "AKIA");
    assert_eq!(secret_access_key.expose_secret(), "from a file");
    assert_eq!(session_token.unwrap().expose_secret(), "t0ken");
    assert!(matches!(aws("profile: at work"), AwsSource::Profile(name) if name == "at work"));
    assert!(matches!(aws("role: container"), AwsSource::Role(AwsRole::Container)));
    assert!(matches!(aws("role: instance"), AwsSource::Role(AwsRole::Instance)));

    let refused = |keys: &str, expected: &str| {
        check(&with(&format!("aws_sigv4: {{ region: eu-west-1, service: ec2, {keys} }}")), expected);
    };
    let one = "credential.aws_sigv4 must have exactly one source of keys";
    refused("", one);
    refused("profile: p, role: container", one);
    refused("access_key_id: AKIA, secret_access_key: s3cret, role: instance", one);
    refused("access_key_id: AKIA", "aws_sigv4.secret_access_key required");
    refused("secret_access_key: s3cret", "aws_sigv4.access_key_id required");
    refused("profile: ' '", "aws_sigv4.profile is empty");
    refused("role: insance", "instance");
    check(&with("aws_sigv4: { role: instance }"), "aws_sigv4.region required");
    check(
        &with("aws_sigv4: { region: 'eu/west', service: ec2, role: instance }"),
        "is `eu/west`, not a name that AWS signs with",
    );
}

#[test]
fn tokens_names_and_passwords() {
    let oauth = |url: &str| {
        with(&format!("oauth2: {{ token_url: '{url}', client_id: pacer, client_secret: 'file:secret', scope: 'a b' }}"))
    };
    let config = good(&oauth("https://login.example.com/token"));
    let Some(Credential::OAuth2(given)) = &endpoint(&config).credential else { panic!() };
    assert_eq!(given.token_url.uri(), "https://login.example.com/token");
    assert_eq!((given.client_id.as_str(), given.scope.as_deref()), ("pacer", Some("a b")));
    assert_eq!(given.client_secret.expose_secret(), "from a file");
    good(&oauth("http://127.0.0.1:1/token"));
    check(&oauth("http://login.example.com/token"), "the client's secret would cross the network unencrypted");
    check(&oauth("https://u:hidden@login.example.com"), "a name or password does not go into it");
    let message = Fixture::new().message(&oauth("https://u:hidden@login.example.com"));
    assert!(!message.contains("u:hidden"), "{message}");

    check(&with("basic: { username: 'a:b', password: s3cret }"), "basic.username must not hold a colon");
    check(&with("bearer: '${NOT_SET}'"), "refers to the environment variable `NOT_SET`, which is not set");
    check(&with("bearer: t0ken, basic: { username: u, password: s3cret }"), "must have exactly one way");
    check(&with("berer: t0ken"), "did you mean `bearer`?");
    check(&at("tcp://x:1", "credential: { bearer: t0ken }"), "credential needs HTTP");
    let warned = good(&at("http://192.0.2.1", "credential: { bearer: t0ken }"));
    assert!(warned.warnings[0].contains("its credential crosses the network unencrypted"), "{:?}", warned.warnings);
    let local = good(&at("http://localhost:1", "credential: { bearer: t0ken }"));
    assert!(!local.warnings.iter().any(|warning| warning.contains("unencrypted")), "{:?}", local.warnings);
}

#[test]
fn proxies() {
    let config = good(&at("https://x", "proxy: 'http://p:3128'"));
    let proxy = endpoint(&config).proxy.as_ref().unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port, proxy.login.is_none()), ("p", 3128, true));
    let config = good(&at("tls://x:1", "proxy: { url: 'http://localhost:1', username: u, password: 'file:secret' }"));
    let (username, password) = endpoint(&config).proxy.as_ref().unwrap().login.as_ref().unwrap();
    assert_eq!((username.as_str(), password.expose_secret()), ("u", "from a file"));
    let warned = good(&at("https://x", "proxy: { url: 'http://p:1', username: u, password: s3cret }"));
    assert!(warned.warnings[0].contains("its password crosses the network to the proxy unencrypted"));

    check(&at("https://x", "proxy: 'http://p'"), "endpoints.e.proxy is not a proxy: it has no port");
    check(&at("https://x", "proxy: 'https://p:1'"), "`https` is not a scheme it can have");
    check(&at("https://x", "proxy: 'http://u:hidden@p:1'"), "a name or password does not go into it");
    check(&at("https://x", "proxy: { url: 'http://p:1', username: u }"), "proxy.password required");
    check(&at("unix:///s", "proxy: 'http://p:1'"), "proxy needs an endpoint on the network");
}

#[test]
fn secrets_are_all_that_must_be_seen_nowhere() {
    let secrets = |endpoint: &Endpoint| -> Vec<String> {
        endpoint.secrets().iter().map(|secret| secret.expose_secret().to_owned()).collect()
    };
    let of = |credential: &str| secrets(endpoint(&good(&with(credential))));
    assert_eq!(of("bearer: t0ken"), ["t0ken"]);
    assert_eq!(of("header: { name: x-key, value: k3y }"), ["k3y"]);
    assert_eq!(of("basic: { username: u, password: s3cret }"), ["s3cret", "dTpzM2NyZXQ="]);
    assert_eq!(
        of("aws_sigv4: { region: r, service: s, access_key_id: AKIA, secret_access_key: k3y, session_token: t0ken }"),
        ["k3y", "t0ken"]
    );
    assert_eq!(
        of("oauth2: { token_url: 'https://x', client_id: u, client_secret: 's/t' }"),
        // `u:s/t`, and `u:s%2Ft` as it is sent.
        ["s/t", "dTpzL3Q=", "dTpzJTJGdA=="]
    );
    let proxied = good(&at("https://x", "proxy: { url: 'http://localhost:1', username: u, password: s3cret }"));
    assert_eq!(secrets(endpoint(&proxied)), ["s3cret", "dTpzM2NyZXQ="]);
    let debug = format!("{:?}", proxied.backends);
    assert!(!debug.contains("s3cret"), "{debug}");
}
