//! The trait a backend implements, and what turns it into the contract's exports.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::{
    Bootstrap, Description, Destruction, Error, Finding, Instance, Page, Price,
    bindings::pacer::backend::model as wire, call::Call, text,
};

/// A runner to bring up, its pool settings parsed. Not `Debug`: the bootstrap is a secret.
pub struct RunnerRequest<P> {
    /// The runner's name, the key of idempotency.
    pub name: String,
    /// The pacer installation the machine belongs to.
    pub owner: String,
    /// What the runner registers with; for information.
    pub labels: Vec<String>,
    /// The pool's settings.
    pub pool: P,
    /// How the machine becomes a runner. A secret.
    pub bootstrap: Bootstrap,
    /// The end of the lease, in milliseconds since the epoch.
    pub lease_until_ms: u64,
    /// More to store with the machine.
    pub tags: Vec<(String, String)>,
}

/// A backend. An operation may be repeated after its answer was lost, and runs concurrently with others.
pub trait Backend {
    /// `backends.<name>.settings`.
    type Settings: DeserializeOwned;
    /// A pool's `settings`.
    type Pool: DeserializeOwned;

    /// Introduces the backend: the same answer at every call.
    fn describe() -> Description;

    /// Judges settings that already have the right types.
    fn validate(_settings: &Self::Settings, _pool: Option<&Self::Pool>) -> Vec<Finding> {
        Vec::new()
    }

    /// Brings up a machine, or returns the one that already has this name and owner.
    fn create(call: &Call<'_, Self::Settings>, request: RunnerRequest<Self::Pool>) -> Result<Instance, Error>;

    /// Looks a machine up.
    fn get(call: &Call<'_, Self::Settings>, handle: &str) -> Result<Option<Instance>, Error>;

    /// Lists machines of `owner` and of nobody else.
    fn list(call: &Call<'_, Self::Settings>, owner: &str, cursor: Option<&str>) -> Result<Page, Error>;

    /// Takes a machine down, gracefully first.
    fn destroy(call: &Call<'_, Self::Settings>, handle: &str, grace_ms: u64) -> Result<Destruction, Error>;

    /// Stores a new end of the lease. Capability `renew-lease`.
    fn renew_lease(_call: &Call<'_, Self::Settings>, _handle: &str, _until_ms: u64) -> Result<(), Error> {
        Err(unsupported("renew-lease"))
    }

    /// The end of the console. Capability `console-log`.
    fn console_log(_call: &Call<'_, Self::Settings>, _handle: &str, _max_bytes: u32) -> Result<String, Error> {
        Err(unsupported("console-log"))
    }

    /// Pauses a machine. Capability `suspend`.
    fn suspend(_call: &Call<'_, Self::Settings>, _handle: &str) -> Result<(), Error> {
        Err(unsupported("suspend"))
    }

    /// Lets it go on. Capability `suspend`.
    fn resume(_call: &Call<'_, Self::Settings>, _handle: &str) -> Result<Instance, Error> {
        Err(unsupported("suspend"))
    }

    /// What a machine would cost now. Capability `quote`.
    fn quote(_call: &Call<'_, Self::Settings>, _pool: Self::Pool) -> Result<Option<Price>, Error> {
        Err(unsupported("quote"))
    }
}

fn unsupported(operation: &str) -> Error {
    Error::unsupported(format!("this backend does not do `{operation}`"))
}

/// Parses settings; an empty text is an empty object. The error says the place and what was expected there, and never
/// what was found: a value may be a secret.
pub fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    serde_json::from_str(text).map_err(|e| {
        let (line, column) = (e.line(), e.column());
        let wanted = expected(&e.to_string()).map_or_else(String::new, |wanted| format!(": {wanted}"));
        Error::invalid_config(format!("{what} do not fit their schema, line {line} column {column}{wanted}"))
    })
}

/// The part of serde's own messages that comes from the type. A type's own message is left out: it may quote.
fn expected(message: &str) -> Option<String> {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let quoting = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant `", "unknown field `"];
    if message.starts_with("missing field `") {
        return Some(message.to_owned());
    }
    // The last one: a value may hold the words as well.
    let (_, wanted) = message.rsplit_once(", expected ").filter(|_| quoting.iter().any(|q| message.starts_with(q)))?;
    Some(format!("expected {wanted}"))
}

/// The contract's exports, implemented by a [`Backend`]. Named by [`crate::export!`] only.
pub struct Exported<B>(PhantomData<B>);

impl<B: Backend> Exported<B> {
    /// What the export `validate` does: settings that do not parse are a finding, not a trap.
    pub fn validate(settings: &str, pool: Option<&str>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let settings = parse::<B::Settings>("the backend's settings", settings)
            .map_err(|e| findings.push(Finding::error("/settings", e.message)));
        let pool = pool.map(|text| {
            parse::<B::Pool>("the pool's settings", text).map_err(|e| findings.push(Finding::error("/pool", e.message)))
        });
        if let (Ok(settings), None | Some(Ok(_))) = (&settings, &pool) {
            findings.extend(B::validate(settings, pool.as_ref().and_then(|p| p.as_ref().ok())));
        }
        findings
    }

    /// Types a request, for the export `create` and for tests.
    pub fn request(request: wire::RunnerRequest) -> Result<RunnerRequest<B::Pool>, Error> {
        let wire::RunnerRequest { name, owner, labels, settings, bootstrap, lease_until_ms, tags } = request;
        let pool = parse("the pool's settings", &settings)?;
        Ok(RunnerRequest { name, owner, labels, pool, bootstrap, lease_until_ms, tags })
    }

    /// What the export `create` does: no error of it repeats the bootstrap.
    pub fn create(call: &Call<'_, B::Settings>, request: RunnerRequest<B::Pool>) -> Result<Instance, Error> {
        let (Bootstrap::JitConfig(secret) | Bootstrap::StartScript(secret) | Bootstrap::CloudInit(secret)) =
            request.bootstrap.clone();
        B::create(call, request).map_err(|error| text::without(&secret, error))
    }
}

#[cfg(target_family = "wasm")]
impl<B: Backend> crate::bindings::exports::pacer::backend::provisioner::Guest for Exported<B> {
    fn describe() -> Description {
        B::describe()
    }

    fn validate(settings: String, pool_settings: Option<String>) -> Vec<Finding> {
        Self::validate(&settings, pool_settings.as_deref())
    }

    fn create(context: wire::Context, request: wire::RunnerRequest) -> Result<Instance, Error> {
        Self::create(&Call::from_host(context)?, Self::request(request)?)
    }

    fn get(context: wire::Context, handle: String) -> Result<Option<Instance>, Error> {
        B::get(&Call::from_host(context)?, &handle)
    }

    fn list(context: wire::Context, owner: String, cursor: Option<String>) -> Result<Page, Error> {
        B::list(&Call::from_host(context)?, &owner, cursor.as_deref())
    }

    fn destroy(context: wire::Context, handle: String, grace_ms: u64) -> Result<Destruction, Error> {
        B::destroy(&Call::from_host(context)?, &handle, grace_ms)
    }

    fn renew_lease(context: wire::Context, handle: String, until_ms: u64) -> Result<(), Error> {
        B::renew_lease(&Call::from_host(context)?, &handle, until_ms)
    }

    fn console_log(context: wire::Context, handle: String, max_bytes: u32) -> Result<String, Error> {
        B::console_log(&Call::from_host(context)?, &handle, max_bytes)
    }

    fn suspend(context: wire::Context, handle: String) -> Result<(), Error> {
        B::suspend(&Call::from_host(context)?, &handle)
    }

    fn resume(context: wire::Context, handle: String) -> Result<Instance, Error> {
        B::resume(&Call::from_host(context)?, &handle)
    }

    fn quote(context: wire::Context, pool_settings: String) -> Result<Option<Price>, Error> {
        B::quote(&Call::from_host(context)?, parse("the pool's settings", &pool_settings)?)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::parse;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(rename = "size")]
        _size: u8,
        #[serde(default, rename = "mode")]
        _mode: Option<Mode>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
    }

    #[test]
    fn errors_say_what_was_expected_and_quote_no_value() {
        for (text, wanted) in [
            (r#"{"size":"hunter2"}"#, "expected u8"),
            (r#"{"size":"x, expected hunter2"}"#, "expected u8"),
            (r#"{"size":"x at line hunter2"}"#, "expected u8"),
            (r#"{"size":1,"mode":"hunter2"}"#, "expected `fast`"),
            (r#"{"size":1,"hunter2":1}"#, "expected `size` or `mode`"),
            ("", "missing field `size`"),
        ] {
            let message = parse::<Sample>("the settings", text).unwrap_err().message;
            assert!(message.contains(wanted) && !message.contains("hunter2"), "{message}");
        }
    }
}
