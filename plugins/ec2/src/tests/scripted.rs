//! Against a script: what there is, what becomes of it, and what is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_backend::{Backend, Destruction, ErrorKind, InstanceState, Severity};
use serde_json::json;

use super::{
    pool,
    script::{NONE, Script, described, error, item},
    with,
};
use crate::{Instances, instance::Handle};

fn handle(created_at_ms: u64) -> String {
    Handle { id: Some("i-1".into()), created_at_ms, owner: "app-1".into(), name: "pacer-a".into() }.to_string()
}

fn old_handle() -> String {
    handle(1000)
}

fn young_handle() -> String {
    handle(pacer_backend::time::now())
}

/// Looks at the handle's instance.
fn looked(script: Script, status: u16, body: impl Into<String>) -> Script {
    script.on("DescribeInstances", &["InstanceId.1=i-1"], status, body)
}

#[test]
fn refusals_say_what_ec2_said_and_when_to_come_back() {
    let script = Script::default().on("DescribeInstances", &[], 503, error("RequestLimitExceeded")).retry_after("9");
    let throttled = with(&script, |call| Instances::list(call, "app-1", None)).unwrap_err();
    assert_eq!((throttled.kind, throttled.retry_after_ms), (ErrorKind::RateLimited, Some(9000)));
    assert_eq!(
        throttled.message,
        "EC2 refused `DescribeInstances`: RequestLimitExceeded: because of RequestLimitExceeded"
    );
}

#[test]
fn what_is_no_answer_of_ec2_is_unavailable() {
    for (status, body) in [(200, "<html>"), (200, "<html><body/></html>"), (200, ""), (502, "oops"), (200, "{}")] {
        let script = Script::default().on("DescribeInstances", &[], status, body);
        let error = with(&script, |call| Instances::list(call, "app-1", None)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{status} {body}: {}", error.message);
    }
    for (status, kind) in
        [(401, ErrorKind::Unauthorized), (403, ErrorKind::Unauthorized), (429, ErrorKind::RateLimited)]
    {
        let script = Script::default().on("DescribeInstances", &[], status, "no");
        assert_eq!(with(&script, |call| Instances::list(call, "app-1", None)).unwrap_err().kind, kind);
    }
}

#[test]
fn an_instance_that_is_not_shown_yet_is_not_lost() {
    let unknown = || looked(Script::default(), 400, error("InvalidInstanceID.NotFound"));
    let young = young_handle();
    let found = with(&unknown(), |call| Instances::get(call, &young)).unwrap().unwrap();
    assert!(matches!(found.state, InstanceState::Creating));
    assert_eq!(
        (found.handle.as_str(), found.name.as_str(), found.owner.as_str()),
        (young.as_str(), "pacer-a", "app-1")
    );
    // It is ended as soon as it can be.
    let twice = unknown().on("TerminateInstances", &["InstanceId.1=i-1"], 400, error("InvalidInstanceID.NotFound"));
    assert_eq!(with(&twice, |call| Instances::destroy(call, &young, 0)).unwrap(), Destruction::Stopping);
    twice.done();
    let old = old_handle();
    assert!(with(&unknown(), |call| Instances::get(call, &old)).unwrap().is_none());
    let script = unknown().no_leftovers();
    assert_eq!(with(&script, |call| Instances::destroy(call, &old, 0)).unwrap(), Destruction::Gone);
    script.done();
    for strange in ["", "i-1", "../x", "i-1/x/a/b", "x-1/1/a/b", "i-1/1/a/b/c", "i-1/1//b", "i-1/1/a/%zz"] {
        assert!(with(&Script::default(), |call| Instances::get(call, strange)).unwrap().is_none(), "{strange}");
        assert_eq!(with(&Script::default(), |call| Instances::destroy(call, strange, 0)).unwrap(), Destruction::Gone);
    }
}

#[test]
fn an_instance_of_another_owner_is_left_alone() {
    let theirs = described(&item("i-1", "running", "").replace("app-1", "app-2"));
    let script = looked(Script::default(), 200, theirs.as_str());
    assert!(with(&script, |call| Instances::get(call, &old_handle())).unwrap().is_none());
    let script = looked(Script::default(), 200, theirs).no_leftovers();
    assert_eq!(with(&script, |call| Instances::destroy(call, &old_handle(), 0)).unwrap(), Destruction::Gone);
    script.done();
}

#[test]
fn states_and_their_reasons_are_told() {
    let found = |state: &str, reason: &str| {
        let script = looked(Script::default(), 200, described(&item("i-1", state, reason)));
        with(&script.no_leftovers(), |call| Instances::get(call, &old_handle())).unwrap()
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
fn pages_follow_their_token_and_the_last_one_tells_what_is_left() {
    let filters = [
        "Filter.1.Name=tag:pacer:owner",
        "Filter.1.Value.1=app-1",
        "Filter.2.Name=instance-state-name",
        "Filter.2.Value.1=pending",
        "Filter.2.Value.5=shutting-down",
        "MaxResults=500",
    ];
    let first = described(&item("i-1", "running", ""))
        .replace("</DescribeInstancesResponse>", "<nextToken>more</nextToken></DescribeInstancesResponse>");
    let script = Script::default().on("DescribeInstances", &filters, 200, first);
    let page = with(&script, |call| Instances::list(call, "app-1", None)).unwrap();
    assert_eq!((page.instances.len(), page.next.as_deref()), (1, Some("more")));

    let tags = |name: &str| {
        format!(
            "<tagSet><item><key>pacer:owner</key><value>app-1</value></item>\
             <item><key>pacer:name</key><value>{name}</value></item></tagSet>"
        )
    };
    // One whose instance is there, one whose instance is not, and one of somebody else, should a filter let it through.
    let templates = format!(
        "<DescribeLaunchTemplatesResponse><launchTemplates><item><launchTemplateId>lt-1</launchTemplateId>{}</item>\
         <item><launchTemplateId>lt-2</launchTemplateId>{}</item><item><launchTemplateId>lt-3</launchTemplateId>{}</item>\
         </launchTemplates></DescribeLaunchTemplatesResponse>",
        tags("pacer-a"),
        tags("pacer-b"),
        tags("pacer-d").replace("app-1", "app-2")
    );
    let volumes = format!(
        "<DescribeVolumesResponse><volumeSet><item><volumeId>vol-1</volumeId>{}</item></volumeSet></DescribeVolumesResponse>",
        tags("pacer-c")
    );
    let script = Script::default()
        .on("DescribeInstances", &["NextToken=more", filters[0], filters[1]], 200, NONE)
        .on("DescribeLaunchTemplates", &filters[..2], 200, templates)
        .on(
            "DescribeVolumes",
            &[filters[0], filters[1], "Filter.2.Name=status", "Filter.2.Value.1=available"],
            200,
            volumes,
        )
        .on(
            "DescribeInstances",
            &["Filter.2.Name=tag:pacer:name", "Filter.2.Value.1=pacer-a", "Filter.2.Value.3=pacer-c"],
            200,
            described(&item("i-1", "running", "")),
        );
    let page = with(&script, |call| Instances::list(call, "app-1", page.next.as_deref())).unwrap();
    script.done();
    assert!(page.next.is_none());
    let told: Vec<_> = page.instances.iter().map(|one| (one.name.as_str(), one.handle.as_str())).collect();
    assert_eq!(told, [("pacer-b", "-/0/app-1/pacer-b"), ("pacer-c", "-/0/app-1/pacer-c")]);
    assert!(page.instances.iter().all(|one| matches!(one.state, InstanceState::Stopped)));
}

#[test]
fn a_volume_that_is_held_is_kept() {
    let volume = |id: &str, hold: &str| {
        format!(
            "<item><volumeId>{id}</volumeId><tagSet><item><key>pacer:owner</key><value>app-1</value></item>\
             <item><key>pacer:name</key><value>pacer-a</value></item>{hold}</tagSet></item>"
        )
    };
    let held = volume("vol-1", "<item><key>pacer:hold</key><value></value></item>") + &volume("vol-2", "");
    let volumes = format!("<DescribeVolumesResponse><volumeSet>{held}</volumeSet></DescribeVolumesResponse>");
    let no_templates = "<DescribeLaunchTemplatesResponse><launchTemplates/></DescribeLaunchTemplatesResponse>";
    let script = Script::default()
        .on("DescribeInstances", &[], 200, NONE)
        .on("DescribeLaunchTemplates", &[], 200, no_templates)
        .on("DescribeVolumes", &[], 200, volumes.as_str())
        .on("DescribeInstances", &[], 200, NONE);
    let page = with(&script, |call| Instances::list(call, "app-1", None)).unwrap();
    assert!(page.instances.len() == 1 && page.instances[0].hold, "{:?}", page.instances);
    let script = Script::default()
        .on("DescribeLaunchTemplates", &[], 200, no_templates)
        .on("DescribeVolumes", &[], 200, volumes)
        .on("DeleteVolume", &["VolumeId=vol-2"], 200, "<DeleteVolumeResponse/>");
    let handle = page.instances[0].handle.as_str();
    assert_eq!(with(&script, |call| Instances::destroy(call, handle, 0)).unwrap(), Destruction::Gone);
    script.done();
}

#[test]
fn a_console_is_decoded_and_the_latest_where_there_is_one() {
    let answer = |text: &str| {
        let encoded = STANDARD.encode(text);
        let (start, rest) = encoded.split_at(4);
        format!("<GetConsoleOutputResponse><output>{start}\n{rest}\n</output></GetConsoleOutputResponse>")
    };
    let script =
        Script::default().on("GetConsoleOutput", &["InstanceId=i-1", "Latest=true"], 200, answer("the very end"));
    assert_eq!(with(&script, |call| Instances::console_log(call, &old_handle(), 3)).unwrap(), "end");
    let script = Script::default().on("GetConsoleOutput", &["Latest=true"], 400, error("UnsupportedOperation")).on(
        "GetConsoleOutput",
        &["InstanceId=i-1"],
        200,
        answer("an older one"),
    );
    assert_eq!(with(&script, |call| Instances::console_log(call, &old_handle(), 99)).unwrap(), "an older one");
    assert!(!script.sent(1).contains_key("Latest"));
    let script = Script::default().on("GetConsoleOutput", &[], 200, "<GetConsoleOutputResponse/>");
    assert_eq!(with(&script, |call| Instances::console_log(call, &old_handle(), 99)).unwrap(), "");
}

#[test]
fn a_lease_is_a_tag_of_the_instance() {
    let parameters = ["ResourceId.1=i-1", "Tag.1.Key=pacer:lease-until", "Tag.1.Value=7"];
    let script = Script::default().on("CreateTags", &parameters, 200, "<CreateTagsResponse/>");
    with(&script, |call| Instances::renew_lease(call, &old_handle(), 7)).unwrap();
    script.done();
    let script = Script::default().on("CreateTags", &[], 400, error("ConcurrentTagAccess"));
    let error = with(&script, |call| Instances::renew_lease(call, &old_handle(), 7)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "it passes");
}

#[test]
fn a_quote_is_the_most_that_a_machine_of_the_pool_may_cost() {
    let history = |prices: &[(&str, &str)]| {
        let item = |(kind, price): &(&str, &str)| {
            format!("<item><instanceType>{kind}</instanceType><spotPrice>{price}</spotPrice></item>")
        };
        let items: String = prices.iter().map(item).collect();
        format!(
            "<DescribeSpotPriceHistoryResponse><spotPriceHistorySet>{items}</spotPriceHistorySet></DescribeSpotPriceHistoryResponse>"
        )
    };
    let quoted = |script: &Script, more| {
        let price = with(script, |call| Instances::quote(call, pool(more))).unwrap();
        price.map(|price| (price.micros_per_hour, price.currency))
    };
    let both = json!({ "a": "0.10", "b": "0.20" });
    let of = |market: &str, prices: serde_json::Value| json!({ "instance_types": ["a", "b"], "market": market, "prices": prices });
    let usd = |micros| Some((micros, "USD".to_owned()));
    let asked = ["InstanceType.1=a", "InstanceType.2=b", "ProductDescription.1=Linux/UNIX"];
    let spot = |prices: &[(&str, &str)]| Script::default().on("DescribeSpotPriceHistory", &asked, 200, history(prices));
    let told = [("a", "0.030"), ("b", "0.031"), ("a", "0.033")];
    assert_eq!(quoted(&Script::default(), of("on-demand", both.clone())), usd(200_000));
    assert_eq!(quoted(&Script::default(), of("on-demand", json!({ "a": "0.10" }))), None, "`b` may cost anything");
    assert_eq!(quoted(&spot(&told), of("spot", json!({}))), usd(33_000), "in the dearest zone");
    assert_eq!(quoted(&spot(&told[..1]), of("spot", json!({}))), None);
    assert_eq!(quoted(&spot(&told), of("spot-then-on-demand", both)), usd(200_000));
    assert_eq!(quoted(&spot(&told), of("spot-then-on-demand", json!({}))), None);
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
    for key in ["pacer:owner", "Pacer:Name", "aws:x", "AWS:x", ""] {
        assert_eq!(base("tags", json!({ key: "me" })), [format!("/pool/tags/{key}")]);
    }
    assert_eq!(base("tags", json!({ "team": "x".repeat(257) })), ["/pool/tags/team"]);
    assert_eq!(base("tags", json!({ "Name": "ours" })), [""; 0]);
    assert_eq!(found(json!({ "launch_template": { "id": "lt-1" }, "fleet": true })), ["/pool/launch_template"]);
}
