//! AWS Signature Version 4: what a request is signed with, and where the keys come from.
//!
//! A component has no part in it: whatever it says for a signature is dropped before. Keys that somebody else gives
//! out are found by AWS's own library, which asks through [`Outside`].

use std::time::{Duration, SystemTime};

use aws_config::{
    ecs::EcsCredentialsProvider, imds, imds::credentials::ImdsCredentialsProvider,
    meta::credentials::CredentialsProviderChain, profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig, web_identity_token::WebIdentityTokenCredentialsProvider,
};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError},
};
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use aws_smithy_async::{rt::sleep::TokioSleep, time::TimeSource};
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::{body::SdkBody, error::display::DisplayErrorContext};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;
use wasmtime_wasi_http::Error as Code;

use super::{
    call::{Call, Class, Failure},
    fresh::{Fetched, Fresh, Missing},
    outside::Outside,
};
use crate::{
    clock::SharedClock,
    config::{AwsRole, AwsSigV4, AwsSource},
};

/// Of one request for keys, when the library has no opinion.
const CONNECT: Duration = Duration::from_secs(2);
const READ: Duration = Duration::from_secs(5);
/// What a component may say to AWS about the request itself; every other field of that family is part of a signature.
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const FAMILY: &str = "x-amz-";
/// The one service whose paths and bodies are signed in another way.
const S3: &str = "s3";

/// Signs the requests to one endpoint.
pub(super) struct Signer {
    region: String,
    service: String,
    keys: Keys,
    clock: SharedClock,
}

enum Keys {
    Given(Credentials),
    Provided(Fresh<Credentials>),
}

impl Signer {
    pub fn new(
        config: &AwsSigV4,
        clock: SharedClock,
        fresh: impl FnOnce(
            Box<dyn Fn() -> BoxFuture<'static, Result<Fetched<Credentials>, Missing>> + Send + Sync>,
        ) -> Fresh<Credentials>,
        outside: Outside,
    ) -> Self {
        let provided = |find: Find| {
            let surroundings = surroundings(outside, clock.clone(), &config.region);
            Keys::Provided(fresh(Box::new(move || fetch(find.clone(), surroundings.clone()).boxed())))
        };
        let keys = match &config.source {
            AwsSource::Keys { access_key_id, secret_access_key, session_token } => Keys::Given(Credentials::new(
                access_key_id,
                secret_access_key.expose_secret(),
                session_token.as_ref().map(|token| token.expose_secret().to_owned()),
                None,
                "configuration",
            )),
            AwsSource::Profile(name) => provided(Find::Profile(name.clone())),
            AwsSource::Role(AwsRole::Container) => provided(Find::Container),
            AwsSource::Role(AwsRole::Instance) => provided(Find::Instance),
        };
        Self { region: config.region.clone(), service: config.service.clone(), keys, clock }
    }

    /// Puts a signature over the request into its headers.
    pub async fn sign(&self, parts: &mut Parts, body: &Bytes, call: &Call) -> Result<(), Failure> {
        let keys = match &self.keys {
            Keys::Given(keys) => keys.clone(),
            Keys::Provided(fresh) => {
                let keys = fresh.get(call.deadline).await.map_err(Failure::from)?;
                // A server may repeat what it was sent.
                secrets(&keys).for_each(|secret| call.hide(secret));
                Credentials::clone(&keys)
            }
        };
        self.sign_with(keys, self.clock.now(), parts, body)
            .map_err(|reason| Failure::denied(format!("the request cannot be signed: {reason}")))
    }

    /// The secrets that were fetched.
    pub fn known(&self) -> Vec<SecretString> {
        match &self.keys {
            Keys::Given(_) => Vec::new(),
            Keys::Provided(fresh) => fresh.known().iter().flat_map(|keys| secrets(keys).collect::<Vec<_>>()).collect(),
        }
    }

    fn sign_with(&self, keys: Credentials, now: Timestamp, parts: &mut Parts, body: &[u8]) -> Result<(), String> {
        strip(&mut parts.headers);
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let uri = format!("https://{host}{}", parts.uri.path_and_query().map_or("/", |path| path.as_str()));
        let identity = keys.into();
        let mut settings = SigningSettings::default();
        if self.service == S3 {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(SystemTime::from(now))
            .settings(settings)
            .build()
            .map_err(|error| error.to_string())?
            .into();
        // No more than has to be: what is signed must arrive as it was sent.
        let signed =
            parts.headers.iter().filter(|(name, _)| [header::HOST, header::CONTENT_TYPE, TARGET].contains(name));
        let signed = signed.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let request = SignableRequest::new(parts.method.as_str(), uri, signed, SignableBody::Bytes(body))
            .map_err(|error| error.to_string())?;
        let (instructions, _) = sign(request, &params).map_err(|error| error.to_string())?.into_parts();
        let (headers, _) = instructions.into_parts();
        for field in headers {
            let mut value = HeaderValue::try_from(field.value()).map_err(|_| "its keys fit into no header")?;
            value.set_sensitive(true);
            parts.headers.insert(HeaderName::from_static(field.name()), value);
        }
        Ok(())
    }
}

fn secrets(keys: &Credentials) -> impl Iterator<Item = SecretString> {
    std::iter::once(keys.secret_access_key()).chain(keys.session_token()).map(SecretString::from)
}

/// Takes out whatever could be taken for a signature.
fn strip(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let family = |name: &&HeaderName| name.as_str().starts_with(FAMILY) && **name != TARGET;
    let family: Vec<HeaderName> = headers.keys().filter(family).cloned().collect();
    for name in family {
        headers.remove(name);
    }
}

impl From<Missing> for Failure {
    /// Told in the log already, where it was missed.
    fn from(missing: Missing) -> Self {
        let code = if missing.denied { Code::HttpRequestDenied } else { Code::DestinationUnavailable };
        let reason = format!("there is no credential for it: {missing}");
        Self { code, class: Class::Unreachable, reason }
    }
}

/// Where keys are looked for.
#[derive(Clone)]
enum Find {
    Profile(String),
    Container,
    Instance,
}

/// A provider of its own for every search, so that a file that changed is read again.
async fn fetch(find: Find, surroundings: ProviderConfig) -> Result<Fetched<Credentials>, Missing> {
    let (what, found) = match find {
        Find::Profile(name) => {
            let provider =
                ProfileFileCredentialsProvider::builder().configure(&surroundings).profile_name(&name).build();
            (format!("the profile `{name}`"), provider.provide_credentials().await)
        }
        Find::Container => {
            let metadata = EcsCredentialsProvider::builder().configure(&surroundings).build();
            let token = WebIdentityTokenCredentialsProvider::builder().configure(&surroundings).build();
            let either = CredentialsProviderChain::first_try("container", metadata).or_else("web identity", token);
            ("the container's role".to_owned(), either.provide_credentials().await)
        }
        Find::Instance => ("the instance's role".to_owned(), instance(&surroundings).provide_credentials().await),
    };
    let keys = found.map_err(|error| missing(&what, &error))?;
    let until = keys.expiry().map(Timestamp::try_from).transpose();
    let until = until.map_err(|error| Missing::unavailable(format!("{what} ends at no time there is: {error}")))?;
    Ok(Fetched { value: keys, until })
}

fn instance(surroundings: &ProviderConfig) -> ImdsCredentialsProvider {
    let client =
        imds::Client::builder().configure(surroundings).max_attempts(2).connect_timeout(CONNECT).read_timeout(CONNECT);
    ImdsCredentialsProvider::builder().configure(surroundings).imds_client(client.build()).build()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows; what is not known may pass by itself")]
fn missing(what: &str, error: &CredentialsError) -> Missing {
    let chain = DisplayErrorContext(error);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => Missing::denied(format!(
            "{what} gives no keys: {chain}; see that it exists where pacer runs, and that pacer's user may read it"
        )),
        CredentialsError::InvalidConfiguration(_) => Missing::denied(format!("{what} is not set up right: {chain}")),
        _ => Missing::unavailable(format!("{what} cannot be asked: {chain}")),
    }
}

/// What AWS's library is given of the world.
fn surroundings(outside: Outside, clock: SharedClock, region: &str) -> ProviderConfig {
    ProviderConfig::empty()
        .with_http_client(Client(outside))
        .with_time_source(Time(clock))
        .with_sleep_impl(TokioSleep::new())
        .with_region(Some(aws_config::Region::new(region.to_owned())))
        .with_behavior_version(Some(aws_config::BehaviorVersion::latest()))
}

#[derive(Debug)]
struct Time(SharedClock);

impl TimeSource for Time {
    fn now(&self) -> SystemTime {
        SystemTime::from(self.0.now())
    }
}

#[derive(Debug)]
struct Client(Outside);

impl HttpClient for Client {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let time = settings.connect_timeout().unwrap_or(CONNECT) + settings.read_timeout().unwrap_or(READ);
        SharedHttpConnector::new(Connector { outside: self.0.clone(), time })
    }
}

#[derive(Debug)]
struct Connector {
    outside: Outside,
    time: Duration,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (outside, until) = (self.outside.clone(), Instant::now() + self.time);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request = request.map(|body| body.bytes().map(Bytes::copy_from_slice).unwrap_or_default());
            let answer = outside.exchange(request, until).await.map_err(|failure| match failure.class {
                Class::Unreachable => ConnectorError::io(failure.into()),
                Class::Denied | Class::Limit => ConnectorError::user(failure.into()),
            })?;
            HttpResponse::try_from(answer.map(SdkBody::from)).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::clock::SystemClock;

    /// What AWS's documentation and its suite of examples sign with.
    const ID: &str = "AKIDEXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn signature(service: &str, token: Option<&str>, request: Request<&str>) -> String {
        let keys = Credentials::new(ID, SECRET, token.map(str::to_owned), None, "test");
        signed_at("2015-08-30T12:36:00Z", keys, service, request)
    }

    fn signed_at(now: &str, keys: Credentials, service: &str, request: Request<&str>) -> String {
        let signer = Signer {
            region: "us-east-1".to_owned(),
            service: service.to_owned(),
            keys: Keys::Given(Credentials::new("unused", "unused", None, None, "test")),
            clock: std::sync::Arc::new(SystemClock),
        };
        let (mut parts, body) = request.into_parts();
        signer.sign_with(keys, now.parse().unwrap(), &mut parts, body.as_bytes()).unwrap();
        parts.headers[header::AUTHORIZATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_documentation() {
        let request = Request::get("/").header("host", "example.amazonaws.com").body("").unwrap();
        assert_eq!(
            signature("service", None, request),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        let request = Request::get("/?Action=ListUsers&Version=2010-05-08")
            .header("host", "iam.amazonaws.com")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .body("")
            .unwrap();
        assert_eq!(
            signature("iam", None, request),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
        let request = Request::post("/")
            .header("host", "example.amazonaws.com")
            .header("content-type", "application/x-www-form-urlencoded")
            .body("Param1=value1")
            .unwrap();
        assert!(
            signature("service", None, request)
                .ends_with("Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a")
        );
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let request = Request::post("/").header("host", "example.amazonaws.com").body("").unwrap();
        assert!(
            signature("service", Some(token), request)
                .ends_with("Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead")
        );
    }

    #[test]
    fn signatures_are_those_of_the_suite() {
        let letters = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let (all, query) = (format!("/{letters}"), format!("/?{letters}={letters}"));
        for (method, path, expected) in [
            (
                "GET",
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            ("GET", &query, "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"),
            ("GET", &all, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
            ("GET", "//example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
            ("GET", "/example/..", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "/?Param1=value1", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"),
        ] {
            let request = Request::builder().method(method).uri(path).header("host", "example.amazonaws.com");
            let signed = signature("service", None, request.body("").unwrap());
            assert!(signed.ends_with(expected), "{method} {path}: {signed}");
        }
    }

    #[test]
    fn signatures_are_those_of_s3() {
        for (query, expected) in [
            ("lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let keys = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
            let keys = Credentials::new("AKIAIOSFODNN7EXAMPLE", keys, None, None, "test");
            let request = Request::get(format!("/?{query}")).header("host", "examplebucket.s3.amazonaws.com");
            let signed = signed_at("2013-05-24T00:00:00Z", keys, "s3", request.body("").unwrap());
            assert!(signed.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date, "), "{signed}");
            assert!(signed.ends_with(expected), "{query}: {signed}");
        }
    }
}
