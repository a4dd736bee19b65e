//! Between the contract's types and the host's; answers are checked on their way in.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use crate::routing::{shown, shown_up_to};

use super::{
    bindings::pacer::backend::model as wire,
    model::{
        BackendError, Billing, Bootstrap, Description, Destruction, EndpointRequest, ErrorKind, Instance,
        InstanceState, Price, RunnerRequest,
    },
    schema::Schema,
};

/// Of a handle, as the contract says.
const HANDLE: usize = 1_024;
/// Of a message, in characters; more is no help to anybody.
const MESSAGE: usize = 2_000;
/// Of every list of an answer but the machines of a page.
const LIST: usize = 64;
/// Of what names a machine, an address, or an attribute, in bytes.
const NAME: usize = 256;
/// Of an attribute, in bytes.
const VALUE: usize = 4 << 10;
/// Of a word in a description, in bytes.
const WORD: usize = 64;
/// Of a sentence in a description, in bytes.
const LINE: usize = 1_000;
/// Machines of a page.
pub(super) const PAGE: usize = 1_000;
/// Of what names the next page, in bytes.
const CURSOR: usize = 4 << 10;

impl From<ErrorKind> for wire::ErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidRequest => Self::InvalidRequest,
            ErrorKind::InvalidConfig => Self::InvalidConfig,
            ErrorKind::Unauthorized => Self::Unauthorized,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Capacity => Self::Capacity,
            ErrorKind::Quota => Self::Quota,
            ErrorKind::RateLimited => Self::RateLimited,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Internal => Self::Internal,
            ErrorKind::Other => Self::Other,
        }
    }
}

impl From<wire::ErrorKind> for ErrorKind {
    fn from(kind: wire::ErrorKind) -> Self {
        match kind {
            wire::ErrorKind::InvalidRequest => Self::InvalidRequest,
            wire::ErrorKind::InvalidConfig => Self::InvalidConfig,
            wire::ErrorKind::Unauthorized => Self::Unauthorized,
            wire::ErrorKind::NotFound => Self::NotFound,
            wire::ErrorKind::Conflict => Self::Conflict,
            wire::ErrorKind::Capacity => Self::Capacity,
            wire::ErrorKind::Quota => Self::Quota,
            wire::ErrorKind::RateLimited => Self::RateLimited,
            wire::ErrorKind::Unavailable => Self::Unavailable,
            wire::ErrorKind::Interrupted => Self::Interrupted,
            wire::ErrorKind::Unsupported => Self::Unsupported,
            wire::ErrorKind::Internal => Self::Internal,
            wire::ErrorKind::Other => Self::Other,
        }
    }
}

/// Blanks the secrets of the call out of so many bytes of a text.
pub(super) type Redact<'a> = &'a dyn Fn(&str, usize) -> String;

/// A component's error, with the secrets of the call blanked out of its message.
pub(super) fn error(backend: &str, error: &wire::Error, redact: Redact<'_>) -> BackendError {
    BackendError {
        kind: error.kind.into(),
        message: format!("backend `{backend}`: {}", told(&error.message, redact)),
        retry_after: error.retry_after_ms.map(Duration::from_millis),
        asked: true,
    }
}

/// A text for people.
fn told(text: &str, redact: Redact<'_>) -> String {
    // A character has four bytes at most.
    shown_up_to(&redact(text, 4 * MESSAGE), MESSAGE)
}

pub(super) fn request(request: &RunnerRequest) -> wire::RunnerRequest {
    wire::RunnerRequest {
        name: request.name.to_string(),
        owner: request.owner.clone(),
        labels: request.labels.clone(),
        settings: request.settings.to_string(),
        bootstrap: match &request.bootstrap {
            Bootstrap::JitConfig(secret) => wire::Bootstrap::JitConfig(secret.expose_secret().to_owned()),
            Bootstrap::StartScript(secret) => wire::Bootstrap::StartScript(secret.expose_secret().to_owned()),
            Bootstrap::CloudInit(secret) => wire::Bootstrap::CloudInit(secret.expose_secret().to_owned()),
        },
        lease_until_ms: millis(request.lease_until),
        tags: request.tags.clone(),
    }
}

pub(super) fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

fn timestamp(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

pub(super) fn price(price: &wire::Price) -> Result<Price, String> {
    // It is one of the names that figures are kept by.
    let currency = price.currency.as_str();
    if currency.len() != 3 || !currency.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return Err(format!("the currency of a price is `{}`, not three capital letters of ISO 4217", shown(currency)));
    }
    Ok(Price { micros_per_hour: price.micros_per_hour, currency: currency.to_owned() })
}

/// A text that names something: of no use when it is cut or changed.
fn name(what: &str, text: String, longest: usize, redact: Redact<'_>) -> Result<String, String> {
    if text.is_empty() || text.len() > longest {
        return Err(format!("{what} has {} bytes, 1 to {longest} are allowed", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} holds a control character"));
    }
    if redact(&text, longest) != text {
        return Err(format!("{what} holds a secret"));
    }
    Ok(text)
}

/// An instance, or what is wrong with it. It is stored and shown, so it must not hold a secret of the call.
pub(super) fn instance(instance: wire::Instance, redact: Redact<'_>) -> Result<Instance, String> {
    Ok(Instance {
        handle: name("the handle of a machine", instance.handle, HANDLE, redact)?,
        name: name("the name of a machine", instance.name, NAME, redact)?,
        owner: name("the owner of a machine", instance.owner, NAME, redact)?,
        state: match instance.state {
            wire::InstanceState::Creating => InstanceState::Creating,
            wire::InstanceState::Running => InstanceState::Running,
            wire::InstanceState::Stopping => InstanceState::Stopping,
            wire::InstanceState::Stopped => InstanceState::Stopped,
            wire::InstanceState::Failed(why) => InstanceState::Failed(told(&why, redact)),
            wire::InstanceState::Interrupted(why) => InstanceState::Interrupted(told(&why, redact)),
        },
        addresses: instance.addresses.iter().take(LIST).map(|address| redact(address, NAME)).collect(),
        created_at: instance.created_at_ms.and_then(timestamp),
        lease_until: instance.lease_until_ms.and_then(timestamp),
        hold: instance.hold,
        price: instance.price.as_ref().map(price).transpose()?,
        attributes: attributes(&instance.attributes, redact),
    })
}

fn attributes(attributes: &wire::Attributes, redact: Redact<'_>) -> Vec<(String, String)> {
    attributes.iter().take(LIST).map(|(key, value)| (redact(key, NAME), redact(value, VALUE))).collect()
}

/// A page of a listing, or what is wrong with it.
pub(super) fn page(page: wire::Page, redact: Redact<'_>) -> Result<(Vec<Instance>, Option<String>), String> {
    if page.instances.len() > PAGE {
        return Err(format!("a page has {} machines, {PAGE} are allowed", page.instances.len()));
    }
    if page.next.as_ref().is_some_and(|next| next.len() > CURSOR) {
        return Err(format!("the cursor of the next page has more than {CURSOR} bytes"));
    }
    let instances: Result<_, _> = page.instances.into_iter().map(|found| instance(found, redact)).collect();
    Ok((instances?, page.next))
}

pub(super) fn destruction(destruction: wire::Destruction) -> Destruction {
    match destruction {
        wire::Destruction::Gone => Destruction::Gone,
        wire::Destruction::Stopping => Destruction::Stopping,
    }
}

/// A description, or what is wrong with it.
pub(super) fn description(description: wire::Description, redact: Redact<'_>) -> Result<Description, String> {
    let word = |what: &str, text: String| name(what, text, WORD, redact);
    let words = |what: &str, list: Vec<String>| -> Result<Vec<String>, String> {
        bounded(what, list.len())?;
        list.into_iter().map(|text| word(&format!("one of {what}"), text)).collect()
    };
    let line = |what: &str, text: &str| -> Result<String, String> {
        if text.len() > LINE || text.chars().any(char::is_control) {
            return Err(format!("{what} is more than one line of {LINE} bytes"));
        }
        Ok(redact(text, LINE))
    };
    bounded("its endpoints", description.endpoints.len())?;
    let endpoints = description.endpoints.into_iter().map(|endpoint| {
        Ok(EndpointRequest {
            name: word("the name of an endpoint", endpoint.name)?,
            purpose: line("the purpose of an endpoint", &endpoint.purpose)?,
            required: endpoint.required,
            example: line("the example of an endpoint", &endpoint.example)?,
        })
    });
    Ok(Description {
        settings_schema: Schema::new(&description.settings_schema, redact)
            .map_err(|reason| format!("its settings-schema {reason}"))?,
        pool_schema: Schema::new(&description.pool_schema, redact)
            .map_err(|reason| format!("its pool-schema {reason}"))?,
        name: word("its name", description.name)?,
        version: word("its version", description.version)?,
        summary: line("its summary", &description.summary)?,
        endpoints: endpoints.collect::<Result<_, String>>()?,
        capabilities: words("its capabilities", description.capabilities)?,
        bootstraps: words("its bootstraps", description.bootstraps)?,
        billing: Billing {
            granularity_seconds: description.billing.granularity_seconds,
            minimum_seconds: description.billing.minimum_seconds,
        },
        attributes: attributes(&description.attributes, redact),
    })
}

fn bounded(what: &str, count: usize) -> Result<(), String> {
    if count > LIST { Err(format!("{what} are {count}, {LIST} are allowed")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str, longest: usize) -> String {
        text[..text.floor_char_boundary(longest)].to_owned()
    }

    fn machine() -> wire::Instance {
        wire::Instance {
            handle: "h".to_owned(),
            name: "n".to_owned(),
            owner: "o".to_owned(),
            state: wire::InstanceState::Running,
            addresses: Vec::new(),
            created_at_ms: None,
            lease_until_ms: None,
            hold: false,
            price: None,
            attributes: Vec::new(),
        }
    }

    #[test]
    fn nothing_of_an_answer_is_longer_than_it_may_be() {
        let long = || "x".repeat(100_000);
        let given = wire::Instance {
            state: wire::InstanceState::Failed(long()),
            addresses: vec![long(); 100],
            attributes: vec![(long(), long()); 100],
            ..machine()
        };
        let taken = instance(given, &plain).unwrap();
        let InstanceState::Failed(why) = &taken.state else { panic!("{:?}", taken.state) };
        assert_eq!(why.chars().count(), MESSAGE + 1);
        assert_eq!((taken.addresses.len(), taken.addresses[0].len()), (LIST, NAME));
        assert_eq!((taken.attributes[0].0.len(), taken.attributes[0].1.len()), (NAME, VALUE));
        for wrong in [
            wire::Instance { handle: "h".repeat(HANDLE + 1), ..machine() },
            wire::Instance { name: "n".repeat(NAME + 1), ..machine() },
            wire::Instance { owner: "o\n".to_owned(), ..machine() },
            wire::Instance { owner: String::new(), ..machine() },
        ] {
            assert!(instance(wrong, &plain).is_err());
        }
        let whole = wire::Page { instances: vec![machine(); PAGE + 1], next: None };
        assert!(page(whole, &plain).unwrap_err().contains("1001 machines"));
        let whole = wire::Page { instances: Vec::new(), next: Some("c".repeat(CURSOR + 1)) };
        assert!(page(whole, &plain).unwrap_err().contains("4096 bytes"));
    }

    #[test]
    fn a_currency_is_three_capital_letters() {
        let of = |currency: &str| price(&wire::Price { micros_per_hour: 1, currency: currency.to_owned() });
        assert_eq!(of("EUR").unwrap().currency, "EUR");
        for wrong in ["", "eur", "EURO", "E\n1", "€€€", "EU\u{7}"] {
            let reason = of(wrong).unwrap_err();
            assert!(reason.contains("ISO 4217") && !reason.contains('\n'), "{reason}");
        }
    }

    #[test]
    fn a_description_is_of_words_and_lines() {
        let given = || wire::Description {
            name: "shed".to_owned(),
            version: "1.0.0".to_owned(),
            summary: "one line".to_owned(),
            settings_schema: "{}".to_owned(),
            pool_schema: "{}".to_owned(),
            endpoints: Vec::new(),
            capabilities: Vec::new(),
            bootstraps: vec!["jit-config".to_owned()],
            billing: wire::Billing { granularity_seconds: 0, minimum_seconds: 0 },
            attributes: Vec::new(),
        };
        description(given(), &plain).unwrap();
        for wrong in [
            wire::Description { name: String::new(), ..given() },
            wire::Description { name: "two\nlines".to_owned(), ..given() },
            wire::Description { version: "v".repeat(WORD + 1), ..given() },
            wire::Description { summary: "\u{1b}[2J".to_owned(), ..given() },
            wire::Description { summary: "s".repeat(LINE + 1), ..given() },
            wire::Description { capabilities: vec!["c".to_owned(); LIST + 1], ..given() },
            wire::Description { settings_schema: "[".to_owned(), ..given() },
        ] {
            assert!(description(wrong, &plain).is_err());
        }
    }
}
