//! What went wrong: EC2's error codes, and the kinds of the contract.
//!
//! Codes are from the page "Error codes for the Amazon EC2 API" of its documentation, by class where they have one.

use std::time::Duration;

use pacer_backend::{Error, ErrorKind, http};
use roxmltree::Document;

/// Characters of a message that are passed on. An authorisation failure may carry kilobytes of encoded detail.
const MESSAGE_MAX: usize = 300;

/// What EC2 refused.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub kind: ErrorKind,
    error: Error,
}

impl Refusal {
    pub fn is_unknown_instance(&self) -> bool {
        matches!(self.code.as_str(), "InvalidInstanceID.NotFound" | "InvalidInstanceID.Malformed")
    }

    pub fn is_unsupported(&self) -> bool {
        matches!(self.code.as_str(), "UnsupportedOperation" | "InvalidParameterValue" | "InvalidParameterCombination")
    }

    pub fn is_another_request(&self) -> bool {
        self.code == "IdempotentParameterMismatch"
    }

    /// Whether another type, network or market may have what this one has not.
    pub fn is_worth_another(&self) -> bool {
        matches!(self.kind, ErrorKind::Capacity | ErrorKind::Quota) || self.code == "Unsupported"
    }
}

/// A request came to nothing.
#[derive(Debug)]
pub enum Fault {
    Refused(Refusal),
    /// The endpoint, or the request.
    Other(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(refusal) => refusal.error,
            Fault::Other(error) => error,
        }
    }
}

/// An answer that says no. Without a code of EC2's the status has to do.
pub fn refusal(action: &str, status: u16, text: &str, retry_after: Option<u64>) -> Fault {
    let document = Document::parse(text).ok();
    let find = |name: &str| {
        let node = document.as_ref()?.descendants().find(|node| node.has_tag_name(name))?;
        Some(node.text()?.trim().to_owned())
    };
    let wait = |error: Error| match retry_after {
        Some(seconds) => error.retry_after(Duration::from_secs(seconds)),
        None => error,
    };
    let Some(code) = find("Code") else {
        let error = Error::new(http::kind_of(status), format!("`{action}` was answered with status {status}"));
        return Fault::Other(wait(error));
    };
    let kind = kind(&code, status);
    let said: String =
        find("Message").unwrap_or_default().chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect();
    let error = wait(Error::new(kind, format!("EC2 refused `{action}`: {code}: {}", said.trim_end_matches('.'))));
    Fault::Refused(Refusal { code, kind, error })
}

/// What a code means for the host.
pub fn kind(code: &str, status: u16) -> ErrorKind {
    match code {
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientCapacityOnHost"
        | "InsufficientFreeAddressesInSubnet"
        | "InsufficientAddressCapacity"
        | "InsufficientVolumeCapacity"
        | "UnfulfillableCapacity"
        | "SpotMaxPriceTooLow" => ErrorKind::Capacity,
        "MaxSpotInstanceCountExceeded" | "MaxSpotFleetRequestCountExceeded" | "ConcurrentTagAccess" => ErrorKind::Quota,
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "SlowDown"
        | "EC2ThrottledException"
        | "BandwidthLimitExceeded" => ErrorKind::RateLimited,
        "UnauthorizedOperation"
        | "AuthFailure"
        | "AccessDenied"
        | "AccessDeniedException"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "UnrecognizedClientException"
        | "ExpiredToken"
        | "RequestExpired"
        | "OptInRequired"
        | "Blocked"
        | "PendingVerification"
        | "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => ErrorKind::Unauthorized,
        "IdempotentParameterMismatch" | "IncorrectInstanceState" | "IncorrectState" | "ResourceAlreadyAssociated" => {
            ErrorKind::Conflict
        }
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" | "Server.InternalError" => {
            ErrorKind::Unavailable
        }
        "Unsupported"
        | "UnsupportedOperation"
        | "VPCIdNotSpecified"
        | "MissingParameter"
        | "UnknownParameter"
        | "InvalidInput"
        | "DefaultVpcDoesNotExist"
        | "MissingInput"
        | "OperationNotPermitted" => ErrorKind::InvalidConfig,
        _ if code.ends_with("LimitExceeded") || code.ends_with("CountExceeded") => ErrorKind::Quota,
        _ if code.ends_with(".NotFound") || code.ends_with(".Unavailable") || code.ends_with("NotFoundException") => {
            ErrorKind::NotFound
        }
        _ if code.ends_with(".AlreadyExistsException") || code.ends_with(".Duplicate") => ErrorKind::Conflict,
        _ if code.starts_with("Invalid") || code.ends_with(".Malformed") => ErrorKind::InvalidConfig,
        _ if status >= 500 => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    }
}
