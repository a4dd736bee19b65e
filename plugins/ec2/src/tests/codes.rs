//! The table of codes: against the codes that EC2's documentation has for the actions used here, and against our own.

use std::{collections::BTreeSet, fs};

use pacer_backend::ErrorKind::{self, *};

use crate::fault::{BEGINNINGS, CODES, ENDINGS, kind};

/// Codes of "Error codes for the Amazon EC2 API": the common ones, those of servers, and those that launching, looking,
/// tagging and removing meet; and what each is to the host.
const PUBLISHED: [(ErrorKind, &str); 10] = [
    (
        Capacity,
        "IncompatibleHostRequirements InsufficientAddressCapacity InsufficientCapacity InsufficientCapacityOnHost \
         InsufficientFreeAddressesInSubnet InsufficientHostCapacity InsufficientInstanceCapacity \
         InsufficientReservedInstanceCapacity InsufficientReservedInstancesCapacity InsufficientVolumeCapacity \
         InvalidCapacityReservationState.PendingActivation ReservationCapacityExceeded ReservedInstancesUnavailable \
         ScheduledInstanceSlotUnavailable SpotMaxPriceTooLow UnavailableHostRequirements UnfulfillableCapacity",
    ),
    (
        Quota,
        "AddressLimitExceeded HostLimitExceeded InstanceLimitExceeded MaxIOPSLimitExceeded \
         MaxScheduledInstanceCapacityExceeded MaxSpotFleetRequestCountExceeded MaxSpotInstanceCountExceeded \
         MaxTemplateLimitExceeded MaxTemplateVersionLimitExceeded NetworkInterfaceLimitExceeded \
         PlacementGroupLimitExceeded RequestResourceCountExceeded ReservedInstancesCountExceeded \
         ReservedInstancesLimitExceeded ResourceCountExceeded ResourceCountLimitExceeded ResourceLimitExceeded \
         SecurityGroupLimitExceeded SnapshotLimitExceeded VcpuLimitExceeded VolumeIOPSLimit VolumeLimitExceeded",
    ),
    (RateLimited, "RequestLimitExceeded SnapshotCreationPerVolumeRateExceeded"),
    (
        Unauthorized,
        "AccountDisabled AuthFailure Blocked CustomerKeyHasBeenRevoked IncompleteSignature InvalidClientTokenId \
         InvalidSecurity.RequestHasExpired MissingAuthenticationToken OptInRequired PendingVerification RequestExpired \
         SignatureDoesNotMatch UnauthorizedOperation",
    ),
    (
        NotFound,
        "InvalidAMIID.NotFound InvalidAMIID.Unavailable InvalidCapacityReservationId.NotFound InvalidGroup.NotFound \
         InvalidHostID.NotFound InvalidInstanceID.NotFound InvalidKeyPair.NotFound InvalidLaunchTemplateId.NotFound \
         InvalidLaunchTemplateId.VersionNotFound InvalidLaunchTemplateName.NotFoundException \
         InvalidNetworkInterface.NotFound InvalidNetworkInterfaceID.NotFound InvalidPlacementGroup.Unknown \
         InvalidSecurityGroupID.NotFound InvalidSnapshot.NotFound InvalidSubnetID.NotFound InvalidVolume.NotFound \
         InvalidVpcID.NotFound InvalidZone.NotFound",
    ),
    (
        Conflict,
        "DependencyViolation IdempotentInstanceTerminated IdempotentParameterMismatch IncorrectInstanceState \
         IncorrectModificationState IncorrectSpotRequestState IncorrectState InvalidAMIName.Duplicate \
         InvalidIPAddress.InUse InvalidInstanceState InvalidLaunchTemplateName.AlreadyExistsException \
         InvalidNetworkInterface.InUse InvalidState InvalidVolumeID.Duplicate Resource.AlreadyAssigned \
         Resource.AlreadyAssociated VolumeInUse",
    ),
    (
        Unavailable,
        "BandwidthLimitExceeded ConcurrentTagAccess CreditSpecificationUpdateInProgress InternalError InternalFailure \
         RetryableError ServerInternal ServiceUnavailable Unavailable",
    ),
    (InvalidRequest, "FilterLimitExceeded MalformedQueryString NoSuchVersion ValidationError"),
    (
        InvalidConfig,
        "AttachmentLimitExceeded BootForVolumeTypeUnsupported ClientInvalidParameterValue DefaultVpcDoesNotExist \
         EncryptedVolumesNotSupported InstanceCreditSpecification.NotSupported InvalidAMIID.Malformed InvalidAction \
         InvalidAvailabilityZone InvalidBlockDeviceMapping InvalidCharacter InvalidClientToken InvalidFilter \
         InvalidGroupId.Malformed InvalidIamInstanceProfileArn.Malformed InvalidID InvalidInput \
         InvalidInstanceID.Malformed InvalidInstanceType InvalidInterface.IpAddressLimitExceeded InvalidKey.Format \
         InvalidLaunchTemplateId.Malformed InvalidLaunchTemplateName.MalformedException InvalidMaxResults \
         InvalidNextToken InvalidPaginationToken InvalidParameter InvalidParameterCombination InvalidParameterDependency \
         InvalidParameterValue InvalidQueryParameter InvalidRequest InvalidSnapshotID.Malformed InvalidSubnet \
         InvalidSubnetID.Malformed InvalidTagKey.Malformed InvalidTenancy InvalidUserID.Malformed \
         InvalidVolume.ZoneMismatch InvalidVolumeID.Malformed MissingAction MissingInput MissingParameter NonEBSInstance \
         OperationNotPermitted PrivateIpAddressLimitExceeded SecurityGroupsPerInstanceLimitExceeded \
         SecurityGroupsPerInterfaceLimitExceeded TagLimitExceeded TagPolicyViolation UnknownParameter UnknownVolumeType \
         Unsupported UnsupportedException UnsupportedHibernationConfiguration UnsupportedHostConfiguration \
         UnsupportedInstanceAttribute UnsupportedInstanceTypeOnHost UnsupportedOperation UnsupportedProtocol \
         UnsupportedTenancy VPCIdNotSpecified VPCResourceNotSpecified VolumeTypeNotAvailableInZone ZonesMismatched",
    ),
    (Other, "LimitPriceExceeded SomethingNew"),
];

#[test]
fn every_code_of_the_documentation_is_of_a_kind() {
    for (expected, codes) in PUBLISHED {
        for code in codes.split_whitespace() {
            assert_eq!(kind(code, 400), expected, "{code}");
        }
    }
    assert_eq!(kind("SomethingNew", 503), Unavailable);
}

#[test]
fn a_code_is_in_the_table_once_and_only_where_its_ends_do_not_say_it() {
    let mut seen = BTreeSet::new();
    for (of, codes) in CODES {
        assert!(codes.is_sorted(), "{of:?}");
        for code in codes {
            assert!(seen.insert(code), "{code} is there twice");
            let end = ENDINGS.iter().find(|(end, _)| code.ends_with(end)).map(|(_, kind)| *kind);
            let start = BEGINNINGS.iter().find(|(start, _)| code.starts_with(start)).map(|(_, kind)| *kind);
            assert_ne!(end.or(start), Some(of), "{code} needs no entry");
        }
    }
}

#[test]
fn the_documentation_has_the_same_table() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/backends/ec2.md")).unwrap();
    let name = |kind: ErrorKind| match kind {
        Capacity => "capacity",
        Quota => "quota",
        RateLimited => "rate-limited",
        Unauthorized => "unauthorized",
        NotFound => "not-found",
        Conflict => "conflict",
        Unavailable => "unavailable",
        InvalidRequest => "invalid-request",
        InvalidConfig => "invalid-config",
        Interrupted | Unsupported | Internal | Other => panic!("no code is of the kind {kind:?}"),
    };
    let row = |of: ErrorKind| {
        let exact = CODES.iter().filter(|(kind, _)| *kind == of).flat_map(|(_, codes)| codes.iter());
        let starts = BEGINNINGS.iter().filter(|(_, kind)| *kind == of).map(|(start, _)| format!("`{start}…`"));
        let ends = ENDINGS.iter().filter(|(_, kind)| *kind == of).map(|(end, _)| format!("`…{end}`"));
        let all: Vec<String> = exact.map(|code| format!("`{code}`")).chain(ends).chain(starts).collect();
        format!("| `{}` | {} |\n", name(of), all.join(", "))
    };
    let kinds =
        [Capacity, Quota, RateLimited, Unauthorized, NotFound, Conflict, Unavailable, InvalidRequest, InvalidConfig];
    let table: String = kinds.into_iter().map(row).collect();
    assert!(page.contains(&table), "docs/backends/ec2.md should have:\n{table}");
}
