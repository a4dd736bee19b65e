//! What went wrong: EC2's error codes, and the kinds of the contract.

use std::time::Duration;

use pacer_backend::{Error, ErrorKind, http};
use roxmltree::Document;

/// Characters of a message that are passed on. An authorisation failure may carry kilobytes of encoded detail.
const MESSAGE_MAX: usize = 300;

/// Codes of the page "Error codes for the Amazon EC2 API" of EC2's documentation, and those that every API of AWS has, where
/// neither their ending nor their beginning says what they mean. `docs/backends/ec2.md` has the same table.
pub const CODES: [(ErrorKind, &[&str]); 8] = [
    (
        ErrorKind::Capacity,
        &[
            "IncompatibleHostRequirements",
            "InvalidCapacityReservationState.PendingActivation",
            "ReservationCapacityExceeded",
            "ReservedInstancesUnavailable",
            "ScheduledInstanceSlotUnavailable",
            "SpotMaxPriceTooLow",
            "UnavailableHostRequirements",
            "UnfulfillableCapacity",
        ],
    ),
    (ErrorKind::Quota, &["MaxScheduledInstanceCapacityExceeded", "VolumeIOPSLimit"]),
    (
        ErrorKind::RateLimited,
        &[
            "EC2ThrottledException",
            "RequestLimitExceeded",
            "SlowDown",
            "SnapshotCreationPerVolumeRateExceeded",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
        ],
    ),
    (
        ErrorKind::Unauthorized,
        &[
            "AccessDenied",
            "AccessDeniedException",
            "AccountDisabled",
            "AuthFailure",
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
            "Blocked",
            "CustomerKeyHasBeenRevoked",
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "InvalidClientTokenId",
            "InvalidSecurity.RequestHasExpired",
            "MissingAuthenticationToken",
            "OptInRequired",
            "PendingVerification",
            "RequestExpired",
            "SignatureDoesNotMatch",
            "UnauthorizedOperation",
            "UnrecognizedClientException",
        ],
    ),
    (
        ErrorKind::Conflict,
        &[
            "DependencyViolation",
            "IdempotentInstanceTerminated",
            "IdempotentParameterMismatch",
            "InvalidInstanceState",
            "InvalidState",
            "InvalidStateTransition",
            "Resource.AlreadyAssigned",
            "Resource.AlreadyAssociated",
            "VolumeInUse",
        ],
    ),
    (
        ErrorKind::Unavailable,
        &[
            "BandwidthLimitExceeded",
            "ConcurrentTagAccess",
            "CreditSpecificationUpdateInProgress",
            "InternalError",
            "InternalFailure",
            "RetryableError",
            "ServerInternal",
            "ServiceUnavailable",
            "Unavailable",
        ],
    ),
    (ErrorKind::InvalidRequest, &["FilterLimitExceeded", "MalformedQueryString", "NoSuchVersion", "ValidationError"]),
    (
        ErrorKind::InvalidConfig,
        &[
            "AttachmentLimitExceeded",
            "BootForVolumeTypeUnsupported",
            "ClientInvalidParameterValue",
            "DefaultVpcDoesNotExist",
            "EncryptedVolumesNotSupported",
            "InstanceCreditSpecification.NotSupported",
            "InvalidInterface.IpAddressLimitExceeded",
            "NonEBSInstance",
            "OperationNotPermitted",
            "PrivateIpAddressLimitExceeded",
            "SecurityGroupsPerInstanceLimitExceeded",
            "SecurityGroupsPerInterfaceLimitExceeded",
            "TagLimitExceeded",
            "TagPolicyViolation",
            "VPCIdNotSpecified",
            "VPCResourceNotSpecified",
            "VolumeTypeNotAvailableInZone",
            "ZonesMismatched",
        ],
    ),
];

/// What the end of any other code says.
pub const ENDINGS: [(&str, ErrorKind); 12] = [
    ("LimitExceeded", ErrorKind::Quota),
    ("LimitExceededException", ErrorKind::Quota),
    ("CountExceeded", ErrorKind::Quota),
    ("NotFound", ErrorKind::NotFound),
    ("NotFoundException", ErrorKind::NotFound),
    (".Unavailable", ErrorKind::NotFound),
    (".Unknown", ErrorKind::NotFound),
    ("AlreadyExists", ErrorKind::Conflict),
    ("AlreadyExistsException", ErrorKind::Conflict),
    (".Duplicate", ErrorKind::Conflict),
    (".InUse", ErrorKind::Conflict),
    (".Malformed", ErrorKind::InvalidConfig),
];

/// What the beginning of any other code says.
pub const BEGINNINGS: [(&str, ErrorKind); 6] = [
    ("Insufficient", ErrorKind::Capacity),
    ("Incorrect", ErrorKind::Conflict),
    ("Invalid", ErrorKind::InvalidConfig),
    ("Missing", ErrorKind::InvalidConfig),
    ("Unknown", ErrorKind::InvalidConfig),
    ("Unsupported", ErrorKind::InvalidConfig),
];

/// What a code means for the host; where nothing is known of it, what its status means.
pub fn kind(code: &str, status: u16) -> ErrorKind {
    let whole = CODES.iter().find(|(_, codes)| codes.contains(&code)).map(|(kind, _)| *kind);
    let end = || ENDINGS.iter().find(|(end, _)| code.ends_with(end)).map(|(_, kind)| *kind);
    let start = || BEGINNINGS.iter().find(|(start, _)| code.starts_with(start)).map(|(_, kind)| *kind);
    let unknown = if status >= 500 { ErrorKind::Unavailable } else { ErrorKind::Other };
    whole.or_else(end).or_else(start).unwrap_or(unknown)
}

/// What EC2 refused.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub kind: ErrorKind,
    /// EC2's own sentence.
    pub said: String,
    retry_after: Option<Duration>,
    action: String,
}

impl Refusal {
    pub fn new(action: &str, code: String, said: &str, status: u16) -> Self {
        let kind = kind(&code, status);
        let said: String = said.trim().chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect();
        let said = said.trim_end_matches('.').to_owned();
        Self { code, kind, said, retry_after: None, action: action.to_owned() }
    }

    pub fn is_unknown_instance(&self) -> bool {
        matches!(self.code.as_str(), "InvalidInstanceID.NotFound" | "InvalidInstanceID.Malformed")
    }

    pub fn is_unsupported(&self) -> bool {
        matches!(self.code.as_str(), "UnsupportedOperation" | "InvalidParameterValue" | "InvalidParameterCombination")
    }

    /// Whether its client token stands for an instance already.
    pub fn is_of_used_token(&self) -> bool {
        matches!(self.code.as_str(), "IdempotentParameterMismatch" | "IdempotentInstanceTerminated")
    }

    /// Whether there was no room, or no more is allowed: both pass.
    pub fn is_shortage(&self) -> bool {
        matches!(self.kind, ErrorKind::Capacity | ErrorKind::Quota)
    }

    /// Whether another type, network or market may have what this one has not.
    pub fn is_worth_another(&self) -> bool {
        self.is_shortage() || matches!(self.code.as_str(), "Unsupported" | "VolumeTypeNotAvailableInZone")
    }
}

/// A request came to nothing.
#[derive(Debug)]
pub enum Fault {
    Refused(Refusal),
    /// The endpoint, or the request.
    Other(Error),
}

impl Fault {
    /// When to ask again, where there were too many requests: what EC2 says, if it says anything.
    pub fn throttled(&self) -> Option<Option<Duration>> {
        match self {
            Self::Refused(refusal) if refusal.kind == ErrorKind::RateLimited => Some(refusal.retry_after),
            Self::Refused(_) => None,
            Self::Other(error) if error.kind == ErrorKind::RateLimited => {
                Some(error.retry_after_ms.map(Duration::from_millis))
            }
            Self::Other(_) => None,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(Refusal { code, kind, said, retry_after, action }) => {
                later(Error::new(kind, format!("EC2 refused `{action}`: {code}: {said}")), retry_after)
            }
            Fault::Other(error) => error,
        }
    }
}

fn later(error: Error, retry_after: Option<Duration>) -> Error {
    match retry_after {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

/// An answer that says no. Without a code of EC2's the status has to do.
pub fn refusal(action: &str, status: u16, document: Option<&Document<'_>>, retry_after: Option<Duration>) -> Fault {
    let find = |name: &str| {
        let node = document?.descendants().find(|node| node.has_tag_name(name))?;
        Some(node.text()?.trim().to_owned())
    };
    let Some(code) = find("Code") else {
        let error = Error::new(http::kind_of(status), format!("EC2 answered `{action}` with status {status}"));
        return Fault::Other(later(error, retry_after));
    };
    let refusal = Refusal::new(action, code, &find("Message").unwrap_or_default(), status);
    Fault::Refused(Refusal { retry_after, ..refusal })
}

/// What several refusals of one launch come to: a shortage passes, and of two shortages that of capacity passes sooner.
/// Where there was none, the first one says what is wrong.
pub fn together(name: &str, refused: &[(String, Refusal)], not_asked: usize) -> Error {
    let of = |kind| refused.iter().find(|(_, refusal)| refusal.kind == kind);
    let Some((_, first)) = of(ErrorKind::Capacity).or_else(|| of(ErrorKind::Quota)).or_else(|| refused.first()) else {
        return Error::unavailable(format!("there was no time to ask EC2 for `{name}`"));
    };
    // By code, the one that decides first, each with EC2's sentence once.
    let mut codes = vec![first.code.as_str()];
    for (_, refusal) in refused {
        if !codes.contains(&refusal.code.as_str()) {
            codes.push(&refusal.code);
        }
    }
    let told = codes.into_iter().map(|code| {
        let all: Vec<_> = refused.iter().filter(|(_, refusal)| refusal.code == code).collect();
        let mut places: Vec<&str> = all.iter().map(|(place, _)| place.as_str()).collect();
        let more = places.split_off(places.len().min(PLACES_MAX)).len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let said = all.first().map_or("", |(_, refusal)| refusal.said.as_str());
        format!("{code} ({}{more}): {said}", places.join(", "))
    });
    let told: Vec<String> = told.collect();
    let rest = if not_asked > 0 { format!("; {not_asked} more are left for the next try") } else { String::new() };
    Error::new(first.kind, format!("EC2 launches no `{name}`: {}{rest}", told.join("; ")))
}

/// Places that are named of those that one code refused.
const PLACES_MAX: usize = 4;
