//! Against a script: instant fleets.

use pacer_backend::{Backend, Destruction, ErrorKind, InstanceState};
use serde_json::json;

use super::{
    Memory, create, request,
    script::{NONE, Script, described, error, item},
    with,
};
use crate::Instances;

const MADE: &str = "<CreateLaunchTemplateResponse/>";
const DELETED: &str = "<DeleteLaunchTemplateResponse/>";

fn settings() -> serde_json::Value {
    json!({ "fleet": true, "market": "spot-then-on-demand", "instance_types": ["a", "b"], "subnets": ["x"],
        "prices": { "a": "0.10", "b": "0.20" } })
}

fn launched(kind: &str) -> String {
    format!(
        "<CreateFleetResponse><fleetInstanceSet><item><instanceIds><item>i-7</item></instanceIds>\
         <instanceType>{kind}</instanceType></item></fleetInstanceSet></CreateFleetResponse>"
    )
}

fn refused(errors: &[(&str, &str)]) -> String {
    let item = |(kind, code): &(&str, &str)| {
        format!(
            "<item><errorCode>{code}</errorCode><errorMessage>because of {code}.</errorMessage>\
             <launchTemplateAndOverrides><overrides><instanceType>{kind}</instanceType><subnetId>x</subnetId></overrides>\
             </launchTemplateAndOverrides></item>"
        )
    };
    let items: String = errors.iter().map(item).collect();
    format!("<CreateFleetResponse><errorSet>{items}</errorSet></CreateFleetResponse>")
}

fn with_template() -> Script {
    Script::default().no_instance().on("CreateLaunchTemplate", &["LaunchTemplateName=pacer-pacer-a"], 200, MADE)
}

fn with_removal(script: Script) -> Script {
    script.on("DeleteLaunchTemplate", &["LaunchTemplateName=pacer-pacer-a"], 200, DELETED)
}

#[test]
fn an_instant_fleet_has_a_template_of_its_own_that_goes() {
    let data = "LaunchTemplateData";
    let template = [
        "LaunchTemplateName=pacer-pacer-a",
        "TagSpecification.1.ResourceType=launch-template",
        "TagSpecification.1.Tag.1.Key=pacer:name",
        "TagSpecification.1.Tag.2.Key=pacer:owner",
        &format!("{data}.TagSpecification.1.ResourceType=instance"),
        &format!("{data}.TagSpecification.1.Tag.4.Key=pacer:owner"),
        &format!("{data}.TagSpecification.2.ResourceType=volume"),
        &format!("{data}.TagSpecification.2.Tag.4.Key=pacer:owner"),
        &format!("{data}.InstanceInitiatedShutdownBehavior=terminate"),
        &format!("{data}.MetadataOptions.HttpTokens=required"),
    ];
    let fleet = [
        "Type=instant",
        "LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateName=pacer-pacer-a",
        "TargetCapacitySpecification.TotalTargetCapacity=1",
        "LaunchTemplateConfigs.1.Overrides.2.InstanceType=b",
        "LaunchTemplateConfigs.1.Overrides.2.SubnetId=x",
    ];
    let spot = [&fleet[..], &["TargetCapacitySpecification.DefaultTargetCapacityType=spot"]].concat();
    let stays = [&fleet[..], &["TargetCapacitySpecification.DefaultTargetCapacityType=on-demand"]].concat();
    let shown = item("i-7", "pending", "").replace("t3.small", "b");
    let script = Script::default()
        .no_instance()
        .on("CreateLaunchTemplate", &template, 200, MADE)
        .on("CreateFleet", &spot, 200, refused(&[("a", "InsufficientInstanceCapacity")]))
        .on("CreateFleet", &stays, 200, launched("b"))
        .on("DescribeInstances", &["InstanceId.1=i-7"], 200, described(&shown));
    let script = with_removal(script);
    let made = create(&script, &Memory::default(), settings()).unwrap();
    script.done();
    assert!(script.sent(1).contains_key("LaunchTemplateData.UserData"));
    assert_ne!(script.sent(2)["ClientToken"], script.sent(3)["ClientToken"]);
    assert!(made.handle.starts_with("i-7/"), "{}", made.handle);
    assert_eq!(made.price.map(|price| price.micros_per_hour), Some(200_000), "of what was launched, not of the first");
    assert!(!made.attributes.iter().any(|(key, _)| key == "market"), "{:?}", made.attributes);
}

#[test]
fn a_template_that_cannot_be_removed_hides_no_instance_and_is_found_later() {
    let script = with_template()
        .on("CreateFleet", &[], 200, launched("a"))
        .on("DescribeInstances", &[], 200, described(&item("i-7", "pending", "")))
        .on("DeleteLaunchTemplate", &[], 500, error("InternalError"))
        .on("DescribeSpotPriceHistory", &[], 503, "");
    let made = create(&script, &Memory::default(), settings()).unwrap();
    assert!(made.handle.starts_with("i-7/"));

    let left = "<DescribeLaunchTemplatesResponse><launchTemplates><item><launchTemplateId>lt-1</launchTemplateId><tagSet>\
                <item><key>pacer:owner</key><value>app-1</value></item><item><key>pacer:name</key><value>pacer-a</value></item>\
                </tagSet></item></launchTemplates></DescribeLaunchTemplatesResponse>";
    let none = "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>";
    let gone = || {
        Script::default()
            .on("DescribeInstances", &["InstanceId.1=i-7"], 200, described(&item("i-7", "terminated", "")))
            .on("DescribeLaunchTemplates", &["Filter.1.Value.1=app-1", "Filter.2.Value.1=pacer-a"], 200, left)
            .on("DescribeVolumes", &["Filter.1.Value.1=app-1", "Filter.2.Value.1=pacer-a"], 200, none)
    };
    let found = with(&gone(), |call| Instances::get(call, &made.handle)).unwrap().unwrap();
    assert!(matches!(found.state, InstanceState::Stopped), "there is something to take down");
    let script = gone().on("DeleteLaunchTemplate", &["LaunchTemplateId=lt-1"], 200, DELETED);
    assert_eq!(with(&script, |call| Instances::destroy(call, &made.handle, 0)).unwrap(), Destruction::Gone);
    script.done();
    let script =
        Script::default().on("DescribeInstances", &[], 200, described(&item("i-7", "terminated", ""))).no_leftovers();
    assert!(with(&script, |call| Instances::get(call, &made.handle)).unwrap().is_none(), "though EC2 shows it");
}

#[test]
fn a_template_of_an_earlier_call_is_made_anew_and_one_of_a_stranger_is_not_used() {
    let taken = || error("InvalidLaunchTemplateName.AlreadyExistsException");
    let ours = "<DescribeLaunchTemplatesResponse><launchTemplates><item><launchTemplateId>lt-1</launchTemplateId><tagSet>\
                <item><key>pacer:owner</key><value>app-1</value></item><item><key>pacer:name</key><value>pacer-a</value></item>\
                </tagSet></item></launchTemplates></DescribeLaunchTemplatesResponse>";
    let none = "<DescribeLaunchTemplatesResponse><launchTemplates/></DescribeLaunchTemplatesResponse>";
    let more = json!({ "fleet": true, "instance_types": ["a"] });
    let mine = ["Filter.1.Name=tag:pacer:owner", "Filter.1.Value.1=app-1", "Filter.2.Value.1=pacer-a"];
    let script = Script::default()
        .no_instance()
        .on("CreateLaunchTemplate", &[], 400, taken())
        .on("DescribeLaunchTemplates", &mine, 200, ours)
        .on("DeleteLaunchTemplate", &["LaunchTemplateId=lt-1"], 200, DELETED)
        .on("CreateLaunchTemplate", &[], 200, MADE)
        .on("CreateFleet", &[], 200, launched("a"))
        .on("DescribeInstances", &[], 200, described(&item("i-7", "pending", "")));
    let script = with_removal(script);
    create(&script, &Memory::default(), more.clone()).unwrap();
    script.done();
    let script = Script::default()
        .no_instance()
        .on("CreateLaunchTemplate", &[], 400, taken())
        .on("DescribeLaunchTemplates", &mine, 200, none)
        .on("CreateLaunchTemplate", &[], 400, taken());
    let error = create(&script, &Memory::default(), more).unwrap_err();
    script.done();
    assert_eq!(error.kind, ErrorKind::Conflict, "{}", error.message);
}

#[test]
fn an_instance_that_cannot_be_looked_at_yet_is_asked_for_again() {
    let script = with_template().on("CreateFleet", &[], 200, launched("a")).on("DescribeInstances", &[], 503, "");
    let script = with_removal(script);
    let error = create(&script, &Memory::default(), settings()).unwrap_err();
    script.done();
    assert_eq!(error.kind, ErrorKind::Unavailable, "a handle of another time would be another handle");
}

#[test]
fn what_a_fleet_refuses_is_of_its_kind() {
    let only_spot = |answers: Vec<(u16, String)>| {
        let mut script = with_template();
        for (status, body) in answers {
            script = script.on("CreateFleet", &[], status, body);
        }
        let script = with_removal(script);
        let error = create(&script, &Memory::default(), settings()).unwrap_err();
        script.done();
        (error.kind, error.message)
    };
    let full = || (200, refused(&[("a", "InsufficientInstanceCapacity"), ("b", "InsufficientInstanceCapacity")]));
    let (kind, message) = only_spot(vec![full(), (400, error("VcpuLimitExceeded"))]);
    assert_eq!(kind, ErrorKind::Capacity);
    assert_eq!(
        message,
        "EC2 launches no `pacer-a`: InsufficientInstanceCapacity (a in x, b in x): because of \
         InsufficientInstanceCapacity; VcpuLimitExceeded (on demand): because of VcpuLimitExceeded"
    );
    let quota = || (400, error("MaxSpotInstanceCountExceeded"));
    let (kind, message) = only_spot(vec![quota(), (200, refused(&[("a", "Unsupported")]))]);
    assert_eq!(kind, ErrorKind::Quota, "{message}");
    let wrong = || (200, refused(&[("a", "InvalidParameterValue"), ("b", "UnauthorizedOperation")]));
    let (kind, message) = only_spot(vec![wrong(), wrong()]);
    assert_eq!(kind, ErrorKind::InvalidConfig, "the first one's: {message}");
    assert!(message.contains("because of UnauthorizedOperation"), "{message}");
}

#[test]
fn a_fleet_that_was_asked_for_before_has_its_instance() {
    let script = with_template()
        .on("CreateFleet", &[], 400, error("IdempotentParameterMismatch"))
        .on("DescribeInstances", &["Filter.1.Value.1=app-1", "Filter.2.Value.1=pacer-a"], 200, NONE)
        .on("DescribeInstances", &["Filter.2.Value.1=pacer-a"], 200, described(&item("i-7", "pending", "")));
    let script = with_removal(script);
    let pool = super::pool(json!({ "fleet": true }));
    let made = with(&script, |call| Instances::create(call, request("pacer-a", "app-1", pool))).unwrap();
    script.done();
    assert!(made.handle.starts_with("i-7/"));
}
