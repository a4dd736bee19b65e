//! Against a script: what a launch says, and what comes of refusals.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_backend::{Backend, Bootstrap, ErrorKind, InstanceState};
use serde_json::json;

use super::{
    Memory, create, pool, request,
    script::{NONE, Script, Sent, described, error, item, launched},
    with,
};
use crate::{Instances, launch::USER_DATA_MAX};

/// The pairs of a tag specification.
fn tags(sent: &Sent, specification: &str) -> Vec<(String, String)> {
    let number = |index: usize| format!("{specification}.Tag.{index}");
    (1..)
        .map_while(|index| {
            let key = sent.get(&format!("{}.Key", number(index)))?;
            Some((key.clone(), sent[&format!("{}.Value", number(index))].clone()))
        })
        .collect()
}

#[test]
fn a_launch_says_everything_about_the_machine() {
    let pool = pool(json!({
        "subnets": ["subnet-1"], "security_groups": ["sg-1", "sg-2"], "key_name": "key", "iam_instance_profile": "role",
        "root_volume": { "size": 40, "iops": 4000, "throughput": 250 }, "market": "spot", "max_price": "0.01",
        "tags": { "team": "ci", "Name": "our-runners" },
    }));
    let has = [
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
        "MetadataOptions.HttpEndpoint=enabled",
        "MetadataOptions.HttpTokens=required",
        "MetadataOptions.HttpPutResponseHopLimit=1",
        "BlockDeviceMapping.1.DeviceName=/dev/xvda",
        "BlockDeviceMapping.1.Ebs.VolumeSize=40",
        "BlockDeviceMapping.1.Ebs.VolumeType=gp3",
        "BlockDeviceMapping.1.Ebs.Iops=4000",
        "BlockDeviceMapping.1.Ebs.Throughput=250",
        "BlockDeviceMapping.1.Ebs.DeleteOnTermination=true",
        "InstanceMarketOptions.MarketType=spot",
        "InstanceMarketOptions.SpotOptions.SpotInstanceType=one-time",
        "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior=terminate",
        "InstanceMarketOptions.SpotOptions.MaxPrice=0.01",
        "TagSpecification.1.ResourceType=instance",
        "TagSpecification.2.ResourceType=volume",
    ];
    let spot =
        item("i-1", "pending", "").replace("<launchTime>", "<instanceLifecycle>spot</instanceLifecycle><launchTime>");
    let prices = "<DescribeSpotPriceHistoryResponse><spotPriceHistorySet><item><instanceType>t3.small</instanceType>\
                  <spotPrice>0.0062</spotPrice></item></spotPriceHistorySet></DescribeSpotPriceHistoryResponse>";
    let script = Script::default().no_instance().on("RunInstances", &has, 200, launched(&spot)).on(
        "DescribeSpotPriceHistory",
        &["InstanceType.1=t3.small", "AvailabilityZone=eu-west-1a"],
        200,
        prices,
    );
    let made = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool))).unwrap();
    script.done();
    assert!(made.handle.starts_with("i-1/") && made.attributes.contains(&("market".into(), "spot".into())));
    assert_eq!(made.price.map(|price| price.micros_per_hour), Some(6_200), "of its own market, type and zone");
    let sent = script.sent(1);
    let owned = [
        ("Name", "our-runners"),
        ("pacer:lease-until", "1900000000123"),
        ("pacer:name", "pacer-a"),
        ("pacer:owner", "app-1"),
        ("pacer:tag:project", "app"),
        ("team", "ci"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(tags(&sent, "TagSpecification.1"), owned, "each key once");
    assert_eq!(tags(&sent, "TagSpecification.2"), owned);
    assert_eq!(STANDARD.decode(&sent["UserData"]).unwrap(), b"#!/bin/sh\necho the-bootstrap");
    assert!(!sent.values().any(|value| value.contains("the-bootstrap")), "it is nowhere else");
}

#[test]
fn a_public_address_is_a_matter_of_the_interface() {
    let has = [
        "NetworkInterface.1.DeviceIndex=0",
        "NetworkInterface.1.AssociatePublicIpAddress=false",
        "NetworkInterface.1.DeleteOnTermination=true",
        "NetworkInterface.1.SubnetId=subnet-1",
        "NetworkInterface.1.SecurityGroupId.1=sg-1",
    ];
    let script = Script::default().no_instance().on("RunInstances", &has, 200, launched(&item("i-1", "pending", "")));
    let more = json!({ "public_ip": false, "subnets": ["subnet-1"], "security_groups": ["sg-1"] });
    create(&script, &Memory::default(), more).unwrap();
    let sent = script.sent(1);
    assert!(!sent.contains_key("SubnetId") && !sent.keys().any(|key| key.starts_with("SecurityGroupId")), "{sent:?}");
}

#[test]
fn a_launch_template_is_asked_for_by_its_version() {
    let has = ["LaunchTemplate.LaunchTemplateName=runners", "LaunchTemplate.Version=7"];
    let answer = launched(&item("i-1", "pending", ""));
    let script = Script::default().no_instance().on("RunInstances", &has, 200, answer);
    let pool = serde_json::from_value(json!({ "launch_template": { "name": "runners", "version": "7" } })).unwrap();
    let made = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool))).unwrap();
    assert!(made.price.is_none(), "nobody said what its type costs");
    let sent = script.sent(1);
    assert!(!sent.contains_key("InstanceType") && !sent.contains_key("ImageId"), "what is not set is the template's");
    assert_eq!(sent["InstanceInitiatedShutdownBehavior"], "terminate");
}

#[test]
fn a_name_is_launched_once() {
    let running = described(&item("i-1", "running", ""));
    let find = ["Filter.1.Value.1=app-1", "Filter.2.Value.1=pacer-a"];
    let script = Script::default().on("DescribeInstances", &find, 200, running);
    let made = create(&script, &Memory::default(), json!({})).unwrap();
    script.done();
    assert!(made.handle.starts_with("i-1/"));
    assert_eq!(made.price.map(|price| price.micros_per_hour), Some(20_800));
    let over = described(&item("i-1", "terminated", "Client.InstanceInitiatedShutdown: it shut down"));
    let script = Script::default().on("DescribeInstances", &find, 200, over);
    let made = create(&script, &Memory::default(), json!({})).unwrap();
    assert!(matches!(made.state, InstanceState::Stopped), "its work is done: {:?}", made.state);
}

#[test]
fn a_token_that_was_used_leads_to_its_instance() {
    for code in ["IdempotentParameterMismatch", "IdempotentInstanceTerminated"] {
        let look = ["Filter.1.Name=client-token"];
        let script = Script::default()
            .no_instance()
            .on("RunInstances", &[], 400, error(code))
            .on("DescribeInstances", &look, 200, NONE)
            .on("DescribeInstances", &look, 200, described(&item("i-9", "pending", "")));
        let made = create(&script, &Memory::default(), json!({})).unwrap();
        script.done();
        assert!(made.handle.starts_with("i-9/"));
        assert_eq!(script.sent(2)["Filter.1.Value.1"], script.sent(1)["ClientToken"]);
    }
}

#[test]
fn types_networks_and_markets_are_tried_in_order_and_a_cut_off_call_goes_on() {
    let more = json!({ "instance_types": ["a", "b"], "subnets": ["x", "y"], "market": "spot-then-on-demand" });
    let run = |script: Script, place: [&str; 2], status, body: String| script.on("RunInstances", &place, status, body);
    let (ax, ay) = (["InstanceType=a", "SubnetId=x"], ["InstanceType=a", "SubnetId=y"]);
    let (bx, by) = (["InstanceType=b", "SubnetId=x"], ["InstanceType=b", "SubnetId=y"]);
    let mut script = Script::default().no_instance();
    script = run(script, ax, 500, error("InsufficientInstanceCapacity"));
    script = run(script, ay, 400, error("Unsupported"));
    script = run(script, bx, 400, error("MaxSpotInstanceCountExceeded"));
    script = run(script, by, 400, error("SpotMaxPriceTooLow"));
    script = run(script, ax, 503, "<html>".into());
    let memory = Memory::default();
    assert_eq!(create(&script, &memory, more.clone()).unwrap_err().kind, ErrorKind::Unavailable);
    script.done();
    let tokens: Vec<_> = (1..6).map(|index| script.sent(index)["ClientToken"].clone()).collect();
    assert_eq!(tokens.iter().collect::<std::collections::HashSet<_>>().len(), 5, "{tokens:?}");

    // What the lost call asked for last is asked for first, with the same token; what was refused is left out, and what
    // was no shortage is not remembered.
    let mut again = Script::default().no_instance();
    again = run(again, ax, 500, error("InsufficientInstanceCapacity"));
    again = run(again, ay, 400, error("Unsupported"));
    again = run(again, ay, 200, launched(&item("i-2", "pending", "")));
    let made = create(&again, &memory, more).unwrap();
    again.done();
    assert!(made.handle.starts_with("i-2/"));
    assert_eq!(again.sent(1)["ClientToken"], tokens[4]);
    let market = |index: usize| again.sent(index).contains_key("InstanceMarketOptions.MarketType");
    assert_eq!([1, 2, 3].map(market), [false, true, false]);
}

#[test]
fn no_room_anywhere_says_what_was_tried_in_ec2s_words() {
    let refused = |codes: [&str; 2]| {
        let mut script = Script::default().no_instance();
        for code in codes {
            script = script.on("RunInstances", &[], 400, error(code));
        }
        let error = create(&script, &Memory::default(), json!({ "instance_types": ["a", "b"] })).unwrap_err();
        script.done();
        (error.kind, error.message)
    };
    let (kind, message) = refused(["VcpuLimitExceeded", "InsufficientInstanceCapacity"]);
    assert_eq!(kind, ErrorKind::Capacity, "what passes sooner");
    assert_eq!(
        message,
        "EC2 launches no `pacer-a`: InsufficientInstanceCapacity (b): because of InsufficientInstanceCapacity; \
         VcpuLimitExceeded (a): because of VcpuLimitExceeded"
    );
    let (kind, message) = refused(["Unsupported", "VcpuLimitExceeded"]);
    assert_eq!(kind, ErrorKind::Quota, "{message}");
    let (kind, message) = refused(["Unsupported", "Unsupported"]);
    assert_eq!(kind, ErrorKind::InvalidConfig, "no room was asked for: {message}");
    assert!(message.ends_with("Unsupported (a, b): because of Unsupported"), "{message}");
}

#[test]
fn user_data_that_is_too_long_is_refused_before_anything_is_sent() {
    let with_data = |bootstrap| {
        let mut asked = request("pacer-a", "app-1", pool(json!({})));
        asked.bootstrap = bootstrap;
        asked
    };
    let long = with_data(Bootstrap::CloudInit("x".repeat(USER_DATA_MAX + 1)));
    let refused = with(&Script::default(), |call| Instances::create(call, long)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidRequest);
    let direct = with_data(Bootstrap::JitConfig("c2VjcmV0".into()));
    let refused = with(&Script::default(), |call| Instances::create(call, direct)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    let answer = launched(&item("i-1", "pending", ""));
    let script = Script::default().no_instance().on("RunInstances", &[], 200, answer);
    let fits = with_data(Bootstrap::CloudInit("x".repeat(USER_DATA_MAX)));
    with(&script, |call| Instances::create(call, fits)).unwrap();
}
