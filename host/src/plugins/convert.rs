//! Between the contract's types and the host's; answers are checked on their way in.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use crate::routing::shown_up_to;

use super::{
    bindings::pacer::backend::model as wire,
    model::{
        BackendError, Billing, Bootstrap, Description, Destruction, EndpointRequest, ErrorKind, Instance,
        InstanceState, Price, RunnerRequest,
    },
};

/// Of a handle, as the contract says.
const HANDLE: usize = 1_024;
/// Of a message, in characters; more is no help to anybody.
const MESSAGE: usize = 2_000;
/// Of an answer's lists of addresses and attributes.
const LIST: usize = 64;

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

/// A component's error, with the secrets of the call blanked out of its message.
pub(super) fn error(backend: &str, error: wire::Error, redact: impl Fn(&str) -> String) -> BackendError {
    let message: String = redact(&error.message).chars().take(MESSAGE).collect();
    BackendError {
        kind: error.kind.into(),
        message: format!("backend `{backend}`: {}", shown_up_to(&message, MESSAGE)),
        retry_after: error.retry_after_ms.map(Duration::from_millis),
        asked: true,
    }
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

pub(super) fn price(price: &wire::Price, redact: impl Fn(&str) -> String) -> Price {
    Price { micros_per_hour: price.micros_per_hour, currency: redact(&price.currency) }
}

/// An instance, or what is wrong with it. It is stored and shown, so it must not hold a secret of the call.
pub(super) fn instance(instance: wire::Instance, redact: impl Fn(&str) -> String) -> Result<Instance, String> {
    if instance.handle.is_empty() || instance.handle.len() > HANDLE {
        return Err(format!("the handle of a machine has {} bytes, 1 to {HANDLE} are allowed", instance.handle.len()));
    }
    // What names a machine is of no use when it is changed.
    for (what, text) in [("handle", &instance.handle), ("name", &instance.name), ("owner", &instance.owner)] {
        if redact(text) != *text {
            return Err(format!("the {what} of a machine holds a secret"));
        }
    }
    let reason = |reason: &str| shown_up_to(&redact(reason), MESSAGE);
    Ok(Instance {
        handle: instance.handle,
        name: instance.name,
        owner: instance.owner,
        state: match instance.state {
            wire::InstanceState::Creating => InstanceState::Creating,
            wire::InstanceState::Running => InstanceState::Running,
            wire::InstanceState::Stopping => InstanceState::Stopping,
            wire::InstanceState::Stopped => InstanceState::Stopped,
            wire::InstanceState::Failed(why) => InstanceState::Failed(reason(&why)),
            wire::InstanceState::Interrupted(why) => InstanceState::Interrupted(reason(&why)),
        },
        addresses: instance.addresses.iter().take(LIST).map(|address| redact(address)).collect(),
        created_at: instance.created_at_ms.and_then(timestamp),
        lease_until: instance.lease_until_ms.and_then(timestamp),
        hold: instance.hold,
        price: instance.price.map(|price| self::price(&price, &redact)),
        attributes: instance.attributes.iter().take(LIST).map(|(key, value)| (redact(key), redact(value))).collect(),
    })
}

pub(super) fn destruction(destruction: wire::Destruction) -> Destruction {
    match destruction {
        wire::Destruction::Gone => Destruction::Gone,
        wire::Destruction::Stopping => Destruction::Stopping,
    }
}

/// A description, or what is wrong with it.
pub(super) fn description(
    description: wire::Description,
    redact: impl Fn(&str) -> String,
) -> Result<Description, String> {
    let schema = |text: &str, which: &str| -> Result<serde_json::Value, String> {
        let schema: serde_json::Value =
            serde_json::from_str(&redact(text)).map_err(|error| format!("its {which} is not JSON: {error}"))?;
        jsonschema::validator_for(&schema).map_err(|error| format!("its {which} is not a JSON Schema: {error}"))?;
        Ok(schema)
    };
    if description.name.is_empty() {
        return Err("its name is empty".to_owned());
    }
    Ok(Description {
        settings_schema: schema(&description.settings_schema, "settings-schema")?,
        pool_schema: schema(&description.pool_schema, "pool-schema")?,
        name: redact(&description.name),
        version: redact(&description.version),
        summary: redact(&description.summary),
        endpoints: description
            .endpoints
            .into_iter()
            .map(|endpoint| EndpointRequest {
                name: redact(&endpoint.name),
                purpose: redact(&endpoint.purpose),
                required: endpoint.required,
                example: redact(&endpoint.example),
            })
            .collect(),
        capabilities: description.capabilities.iter().map(|capability| redact(capability)).collect(),
        bootstraps: description.bootstraps.iter().map(|kind| redact(kind)).collect(),
        billing: Billing {
            granularity_seconds: description.billing.granularity_seconds,
            minimum_seconds: description.billing.minimum_seconds,
        },
        attributes: description.attributes.iter().map(|(key, value)| (redact(key), redact(value))).collect(),
    })
}
