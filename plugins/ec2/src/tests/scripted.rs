//! Against a script, for what no server can be made to do.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_backend::{
    Backend, Bootstrap, Destruction, ErrorKind, InstanceState, Severity,
    testing::{Memory, Script},
};
use serde_json::json;

use super::{pool, remembering, request, with};
use crate::{Instances, fault::kind, instance::Handle, launch::USER_DATA_MAX};

const NONE: &str = "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";

/// An instance as the API describes it; its state's reason, if any, is `CODE: MESSAGE`.
fn item(id: &str, state: &str, reason: &str) -> String {
    let reason = match reason.split_once(": ") {
        Some((code, _)) => format!("<stateReason><code>{code}</code><message>{reason}</message></stateReason>"),
        None => String::new(),
    };
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><code>0</code><name>{state}</name></instanceState>{reason}\
         <instanceType>t3.small</instanceType><launchTime>2026-11-23T10:00:00.000Z</launchTime>\
         <privateIpAddress>10.0.0.7</privateIpAddress><tagSet>\
         <item><key>pacer:owner</key><value>app-1</value></item><item><key>pacer:name</key><value>pacer-a</value></item>\
         <item><key>pacer:lease-until</key><value>7</value></item><item><key>pacer:tag:project</key><value>app</value></item>\
         </tagSet></item>"
    )
}

fn described(item: &str) -> String {
    format!(
        "<DescribeInstancesResponse><reservationSet><item><instancesSet>{item}</instancesSet></item></reservationSet></DescribeInstancesResponse>"
    )
}

fn launched(item: &str) -> String {
    format!("<RunInstancesResponse><instancesSet>{item}</instancesSet></RunInstancesResponse>")
}

fn error(code: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>because of {code}.</Message></Error></Errors></Response>"
    )
}

fn old_handle(id: &str) -> String {
    Handle { id: id.into(), created_at_ms: 1000, has_template: false, owner: "app-1".into(), name: "pacer-a".into() }
        .to_string()
}

fn young_handle(id: &str) -> String {
    let created_at_ms = pacer_backend::time::now();
    Handle { id: id.into(), created_at_ms, has_template: false, owner: "app-1".into(), name: "pacer-a".into() }
        .to_string()
}

/// What was sent, one parameter in each line and decoded.
fn sent(script: &Script, index: usize) -> String {
    let body = script.sent.borrow()[index].clone();
    let decoded: Vec<String> = body
        .split('&')
        .map(|pair| {
            let mut bytes = Vec::new();
            let mut rest = pair.bytes();
            while let Some(b) = rest.next() {
                if b == b'%' {
                    let hex = [rest.next().unwrap(), rest.next().unwrap()];
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
                } else {
                    bytes.push(b);
                }
            }
            String::from_utf8(bytes).unwrap()
        })
        .collect();
    decoded.join("\n") + "\n"
}

#[test]
fn a_launch_says_everything_about_the_machine() {
    let script = Script::default().on("POST /", 200, NONE).on("POST /", 200, launched(&item("i-1", "pending", "")));
    let pool = pool(json!({
        "subnets": ["subnet-1"], "security_groups": ["sg-1", "sg-2"], "key_name": "key", "iam_instance_profile": "role",
        "root_volume": { "size": 40 }, "tags": { "team": "ci" }, "market": "spot", "max_price": "0.01",
    }));
    let made = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool))).unwrap();
    script.done();
    assert_eq!((made.name.as_str(), made.owner.as_str(), made.lease_until_ms), ("pacer-a", "app-1", Some(7)));
    assert!(matches!(made.state, InstanceState::Creating) && made.created_at_ms == Some(1_795_428_000_000));
    assert!(made.attributes.contains(&("project".into(), "app".into())), "{:?}", made.attributes);
    let asked = sent(&script, 1);
    for line in [
        "Action=RunInstances",
        "Version=2016-11-15",
        "MinCount=1",
        "MaxCount=1",
        "ImageId=ami-12c6146b",
        "InstanceType=t3.small",
        "SubnetId=subnet-1",
        "SecurityGroupId.1=sg-1",
        "SecurityGroupId.2=sg-2",
        "KeyName=key",
        "IamInstanceProfile.Name=role",
        "InstanceInitiatedShutdownBehavior=terminate",
        "MetadataOptions.HttpTokens=required",
        "MetadataOptions.HttpPutResponseHopLimit=1",
        "BlockDeviceMapping.1.Ebs.VolumeSize=40",
        "BlockDeviceMapping.1.Ebs.DeleteOnTermination=true",
        "InstanceMarketOptions.MarketType=spot",
        "InstanceMarketOptions.SpotOptions.MaxPrice=0.01",
        "TagSpecification.1.ResourceType=instance",
        "TagSpecification.1.Tag.2.Key=pacer:owner",
        "TagSpecification.1.Tag.2.Value=app-1",
        "TagSpecification.2.ResourceType=volume",
    ] {
        assert!(asked.contains(&format!("{line}\n")), "{line} is not in\n{asked}");
    }
    assert!(asked.contains("Value=ci\n") && asked.contains("Key=pacer:tag:project\n"));
    let data = asked.lines().find_map(|line| line.strip_prefix("UserData=")).unwrap();
    assert_eq!(STANDARD.decode(data).unwrap(), b"#!/bin/sh\necho the-bootstrap");
}

#[test]
fn a_name_is_launched_once() {
    let script = Script::default().on("POST /", 200, described(&item("i-1", "running", "")));
    let made = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool(json!({}))))).unwrap();
    script.done();
    assert!(made.handle.starts_with("i-1/"));
    let over = described(&item("i-1", "terminated", "Client.InstanceInitiatedShutdown: it shut down"));
    let script = Script::default().on("POST /", 200, over);
    let made = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool(json!({}))))).unwrap();
    assert!(matches!(made.state, InstanceState::Stopped), "its work is done: {:?}", made.state);
}

#[test]
fn a_token_that_was_used_leads_to_its_instance() {
    let script = Script::default()
        .on("POST /", 200, NONE)
        .on("POST /", 400, error("IdempotentParameterMismatch"))
        .on("POST /", 200, NONE)
        .on("POST /", 200, described(&item("i-9", "pending", "")));
    let made = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool(json!({}))))).unwrap();
    script.done();
    assert!(made.handle.starts_with("i-9/"));
    assert!(sent(&script, 2).contains("Filter.1.Name=client-token\n"));
}

#[test]
fn types_networks_and_markets_are_tried_in_order_and_a_cut_off_call_goes_on() {
    let more = json!({ "instance_types": ["a", "b"], "subnets": ["x", "y"], "market": "spot-then-on-demand" });
    let full = error("InsufficientInstanceCapacity");
    let mut script = Script::default().on("POST /", 200, NONE);
    for code in ["InsufficientInstanceCapacity", "Unsupported", "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow"] {
        script = script.on("POST /", 400, error(code));
    }
    let script = script.on("POST /", 503, "<html>");
    let memory = Memory::default();
    let lost =
        remembering(&script, &memory, |call| Instances::create(call, request("pacer-a", "app-1", pool(more.clone()))));
    assert_eq!(lost.unwrap_err().kind, ErrorKind::Unavailable);
    script.done();
    let tokens: Vec<String> = (1..6)
        .map(|index| {
            sent(&script, index).lines().find_map(|line| line.strip_prefix("ClientToken=")).unwrap().to_owned()
        })
        .collect();
    assert_eq!(tokens.iter().collect::<std::collections::HashSet<_>>().len(), 5, "{tokens:?}");

    // What the lost call asked for last is asked for first, with the same token.
    let script = Script::default().on("POST /", 200, NONE).on("POST /", 500, full.as_str()).on(
        "POST /",
        200,
        launched(&item("i-2", "pending", "")),
    );
    let made =
        remembering(&script, &memory, |call| Instances::create(call, request("pacer-a", "app-1", pool(more.clone()))))
            .unwrap();
    script.done();
    assert!(made.handle.starts_with("i-2/"));
    assert!(sent(&script, 1).contains(&format!("ClientToken={}\n", tokens[4])));
    assert!(!sent(&script, 1).contains("MarketType") && sent(&script, 2).contains("SubnetId=y\n"));
}

#[test]
fn no_room_anywhere_says_what_was_tried() {
    let script = Script::default().on("POST /", 200, NONE).on("POST /", 500, error("InsufficientInstanceCapacity")).on(
        "POST /",
        400,
        error("VcpuLimitExceeded"),
    );
    let pool = pool(json!({ "instance_types": ["a", "b"] }));
    let full = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool))).unwrap_err();
    assert_eq!(full.kind, ErrorKind::Quota);
    assert!(full.message.contains("a InsufficientInstanceCapacity; b VcpuLimitExceeded"), "{}", full.message);
}

#[test]
fn refusals_are_of_a_kind_and_say_when_to_come_back() {
    for (codes, expected) in [
        (
            &["InsufficientInstanceCapacity", "InsufficientFreeAddressesInSubnet", "SpotMaxPriceTooLow"][..],
            ErrorKind::Capacity,
        ),
        (
            &["VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "AddressLimitExceeded"],
            ErrorKind::Quota,
        ),
        (&["RequestLimitExceeded", "Throttling", "EC2ThrottledException"], ErrorKind::RateLimited),
        (
            &["UnauthorizedOperation", "AuthFailure", "ExpiredToken", "OptInRequired", "PendingVerification"],
            ErrorKind::Unauthorized,
        ),
        (
            &[
                "InvalidAMIID.NotFound",
                "InvalidSubnetID.NotFound",
                "InvalidAMIID.Unavailable",
                "InvalidKeyPair.NotFound",
            ],
            ErrorKind::NotFound,
        ),
        (
            &["InvalidParameterValue", "InvalidAMIID.Malformed", "MissingParameter", "InvalidParameterCombination"],
            ErrorKind::InvalidConfig,
        ),
        (&["IdempotentParameterMismatch", "IncorrectInstanceState"], ErrorKind::Conflict),
        (&["InternalError", "Unavailable", "ServiceUnavailable"], ErrorKind::Unavailable),
        (&["SomethingNew"], ErrorKind::Other),
    ] {
        for code in codes {
            assert_eq!(kind(code, 400), expected, "{code}");
        }
    }
    assert_eq!(kind("SomethingNew", 503), ErrorKind::Unavailable);
    let script = Script::default().on("POST /", 503, error("RequestLimitExceeded")).with("Retry-After", "9");
    let throttled = with(&script, |call| Instances::list(call, "app-1", None)).unwrap_err();
    assert_eq!((throttled.kind, throttled.retry_after_ms), (ErrorKind::RateLimited, Some(9000)));
    assert!(
        throttled.message.contains("`DescribeInstances`: RequestLimitExceeded: because of"),
        "{}",
        throttled.message
    );
}

#[test]
fn what_is_no_answer_of_ec2_is_unavailable() {
    for (status, body) in [(200, "<html>"), (200, "<html><body/></html>"), (200, ""), (502, "oops"), (200, "{}")] {
        let script = Script::default().on("POST /", status, body);
        let error = with(&script, |call| Instances::list(call, "app-1", None)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{status} {body}: {}", error.message);
    }
    for (status, kind) in
        [(401, ErrorKind::Unauthorized), (403, ErrorKind::Unauthorized), (429, ErrorKind::RateLimited)]
    {
        let script = Script::default().on("POST /", status, "no");
        assert_eq!(with(&script, |call| Instances::list(call, "app-1", None)).unwrap_err().kind, kind);
    }
}

#[test]
fn an_instance_that_is_not_shown_yet_is_not_lost() {
    let unknown = || Script::default().on("POST /", 400, error("InvalidInstanceID.NotFound"));
    let young = young_handle("i-1");
    let found = with(&unknown(), |call| Instances::get(call, &young)).unwrap().unwrap();
    assert!(matches!(found.state, InstanceState::Creating));
    assert_eq!(
        (found.handle.as_str(), found.name.as_str(), found.owner.as_str()),
        (young.as_str(), "pacer-a", "app-1")
    );
    let twice = unknown().on("POST /", 400, error("InvalidInstanceID.NotFound"));
    assert_eq!(with(&twice, |call| Instances::destroy(call, &young, 0)).unwrap(), Destruction::Stopping);
    assert!(sent(&twice, 1).contains("Action=TerminateInstances\n"), "it is ended as soon as it can be");
    let old = old_handle("i-1");
    assert!(with(&unknown(), |call| Instances::get(call, &old)).unwrap().is_none());
    assert_eq!(with(&unknown(), |call| Instances::destroy(call, &old, 0)).unwrap(), Destruction::Gone);
    for strange in ["", "i-1", "../x", "i-1/x/i/a/b", "i-1/1/z/a/b", "x-1/1/i/a/b", "i-1/1/i/a/b/c"] {
        assert!(with(&Script::default(), |call| Instances::get(call, strange)).unwrap().is_none(), "{strange}");
        assert_eq!(with(&Script::default(), |call| Instances::destroy(call, strange, 0)).unwrap(), Destruction::Gone);
    }
}

#[test]
fn states_and_their_reasons_are_told() {
    let found = |state: &str, reason: &str| {
        let script = Script::default().on("POST /", 200, described(&item("i-1", state, reason)));
        with(&script, |call| Instances::get(call, &old_handle("i-1"))).unwrap()
    };
    let told = |state: &str, reason: &str| found(state, reason).unwrap().state;
    assert!(matches!(told("pending", ""), InstanceState::Creating));
    assert!(matches!(told("running", ""), InstanceState::Running));
    assert!(matches!(told("shutting-down", ""), InstanceState::Stopping));
    assert!(matches!(told("stopped", ""), InstanceState::Stopped));
    for reason in ["Client.InstanceInitiatedShutdown: x", ""] {
        assert!(found("terminated", reason).is_none(), "EC2 shows it, and there is nothing left of it");
    }
    let taken = told("terminated", "Server.SpotInstanceTermination: Spot instance termination");
    assert!(matches!(taken, InstanceState::Interrupted(why) if why.contains("Spot instance termination")));
    let failed = told("terminated", "Client.VolumeLimitExceeded: Volume limit exceeded");
    assert!(matches!(failed, InstanceState::Failed(why) if why.contains("Volume limit")));
    assert!(matches!(told("dancing", ""), InstanceState::Failed(_)));
}

#[test]
fn pages_follow_their_token() {
    let first = described(&item("i-1", "running", ""))
        .replace("</DescribeInstancesResponse>", "<nextToken>more</nextToken></DescribeInstancesResponse>");
    let script = Script::default().on("POST /", 200, first);
    let page = with(&script, |call| Instances::list(call, "app-1", None)).unwrap();
    assert_eq!((page.instances.len(), page.next.as_deref()), (1, Some("more")));
    let script = Script::default().on("POST /", 200, NONE);
    let page = with(&script, |call| Instances::list(call, "app-1", page.next.as_deref())).unwrap();
    assert!(page.instances.is_empty() && page.next.is_none());
    assert!(sent(&script, 0).contains("NextToken=more\n"));
}

#[test]
fn user_data_that_is_too_long_is_refused_before_anything_is_sent() {
    let mut long = request("pacer-a", "app-1", pool(json!({})));
    long.bootstrap = Bootstrap::CloudInit("x".repeat(USER_DATA_MAX + 1));
    let refused = with(&Script::default(), |call| Instances::create(call, long)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidRequest);
    let mut direct = request("pacer-a", "app-1", pool(json!({})));
    direct.bootstrap = Bootstrap::JitConfig("c2VjcmV0".into());
    let refused = with(&Script::default(), |call| Instances::create(call, direct)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unsupported);
}

#[test]
fn an_instant_fleet_has_a_template_of_its_own_that_goes() {
    let fleet = "<CreateFleetResponse><fleetInstanceSet><item><instanceIds><item>i-7</item></instanceIds></item></fleetInstanceSet></CreateFleetResponse>";
    let shown = item("i-7", "pending", "")
        .replace("</tagSet>", "<item><key>pacer:template</key><value>pacer-pacer-a</value></item></tagSet>");
    let script = Script::default()
        .on("POST /", 200, NONE)
        .on("POST /", 200, "<CreateLaunchTemplateResponse/>")
        .on("POST /", 200, "<CreateFleetResponse><errorSet><item><errorCode>InsufficientInstanceCapacity</errorCode></item></errorSet></CreateFleetResponse>")
        .on("POST /", 200, fleet)
        .on("POST /", 200, described(&shown))
        .on("POST /", 200, "<DescribeLaunchTemplatesResponse><launchTemplates><item><launchTemplateId>lt-1</launchTemplateId></item></launchTemplates></DescribeLaunchTemplatesResponse>")
        .on("POST /", 200, "<DeleteLaunchTemplateResponse/>");
    let pool =
        pool(json!({ "fleet": true, "market": "spot-then-on-demand", "instance_types": ["a", "b"], "subnets": ["x"] }));
    let made = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool))).unwrap();
    script.done();
    assert!(made.handle.starts_with("i-7/") && made.handle.contains("/t/"), "{}", made.handle);
    assert!(sent(&script, 1).contains("LaunchTemplateData.UserData="));
    assert!(
        sent(&script, 2).contains("DefaultTargetCapacityType=spot\n")
            && sent(&script, 2).contains("Overrides.2.InstanceType=b\n")
    );
    assert!(sent(&script, 3).contains("DefaultTargetCapacityType=on-demand\n"));
    assert!(sent(&script, 5).contains("Filter.1.Value.1=pacer-pacer-a\n"));
    assert!(sent(&script, 6).contains("LaunchTemplateId=lt-1\n"));

    let gone = described(&item("i-7", "terminated", ""));
    let script = Script::default().on("POST /", 200, gone).on(
        "POST /",
        200,
        "<DescribeLaunchTemplatesResponse><launchTemplates/></DescribeLaunchTemplatesResponse>",
    );
    assert_eq!(with(&script, |call| Instances::destroy(call, &made.handle, 0)).unwrap(), Destruction::Gone);
    script.done();
}

#[test]
fn settings_that_cannot_work_are_found() {
    let found = |more: serde_json::Value| -> Vec<String> {
        let pool: crate::settings::Pool = serde_json::from_value(more).unwrap();
        pool.findings().iter().filter(|f| f.severity == Severity::Error).map(|f| f.path.clone()).collect()
    };
    assert_eq!(found(json!({})), ["/pool/ami", "/pool/instance_types"]);
    assert_eq!(found(json!({ "launch_template": { "id": "lt-1" } })), [""; 0]);
    assert_eq!(found(json!({ "launch_template": {} })), ["/pool/launch_template"]);
    let base = |key: &str, value: serde_json::Value| found(json!({ "ami": "a", "instance_types": ["t"], key: value }));
    assert_eq!(base("public_ip", true.into()), ["/pool/public_ip"]);
    assert_eq!(base("max_price", "0.1".into()), ["/pool/max_price"]);
    assert_eq!(base("prices", json!({ "t": "cheap" })), ["/pool/prices/t"]);
    assert_eq!(base("tags", json!({ "pacer:owner": "me" })), ["/pool/tags/pacer:owner"]);
    assert_eq!(found(json!({ "launch_template": { "id": "lt-1" }, "fleet": true })), ["/pool/launch_template"]);
}
