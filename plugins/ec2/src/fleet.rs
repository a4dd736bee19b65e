//! One instant fleet over all types and subnets. A fleet takes user-data from a launch template only, so there is one for
//! this instance alone; it goes when the fleet has answered. One that is left is a leftover.

use pacer_backend::{Error, RunnerRequest, log};
use roxmltree::Node;

use crate::{
    api::{Ec2, Form, items, text},
    attempt::{Attempt, attempts},
    fault::{Fault, Refusal, together},
    instance::Seen,
    launch::{made_for, shown},
    leftover::{self, tagged},
    machine::{client_token, machine, ownership, tagging, tags},
    settings::Pool,
};

/// What EC2 takes of overrides in any kind of fleet.
const OVERRIDES_MAX: usize = 300;
const NAME_IS_TAKEN: &str = "InvalidLaunchTemplateName.AlreadyExistsException";
const NAME_IS_GONE: &str = "InvalidLaunchTemplateName.NotFoundException";

pub fn fleet(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>, user_data: &str) -> Result<Seen, Fault> {
    let template = format!("pacer-{}", request.name);
    make_template(ec2, request, &template, user_data)?;
    let asked = instant(ec2, request, &template);
    // Its volumes are not looked at here: before one is attached it looks like one that is left.
    let removal = Form::new("DeleteLaunchTemplate").set("LaunchTemplateName", template.as_str());
    match (asked, leftover::delete(ec2, &removal)) {
        (Ok(launched), Err(fault)) => {
            // What is made is not to be lost over what is left: that goes with the instance.
            let why = Error::from(fault).message;
            log!(Warn, "the launch template `{}` is left for now: {}", template, why; "instance" => launched.id);
            Ok(launched)
        }
        (asked, _) => asked,
    }
}

fn make_template(
    ec2: &Ec2<'_, '_>,
    request: &RunnerRequest<Pool>,
    template: &str,
    user_data: &str,
) -> Result<(), Fault> {
    let pool = Pool { subnets: Vec::new(), ..request.pool.clone() };
    let form = Form::new("CreateLaunchTemplate").set("LaunchTemplateName", template);
    let form = machine(form, "LaunchTemplateData.", &pool, None, user_data);
    let form = tagging(form, "LaunchTemplateData.", &["instance", "volume"], &tags(request, None));
    let form = tagging(form, "", &["launch-template"], &ownership(request));
    let is_taken =
        |made: &Result<(), Fault>| matches!(made, Err(Fault::Refused(refusal)) if refusal.code == NAME_IS_TAKEN);
    let made = ec2.ask_patiently(&form, |_| ());
    if !is_taken(&made) {
        return made;
    }
    // Left by a call that was cut off, with the bootstrap of that call.
    leftover::remove(ec2, leftover::templates(ec2, &request.owner, &[&request.name])?)?;
    let made = ec2.ask_patiently(&form, |_| ());
    if is_taken(&made) {
        let message = format!("EC2 has a launch template `{template}` of somebody else; delete it");
        return Err(Error::conflict(message).into());
    }
    made
}

fn instant(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>, template: &str) -> Result<Seen, Fault> {
    let all = attempts(&request.pool, &request.tags);
    let mut refused = Vec::new();
    for (round, spot) in [true, false].into_iter().enumerate() {
        let overrides: Vec<_> = all.iter().filter(|attempt| attempt.spot == spot).take(OVERRIDES_MAX).collect();
        if overrides.is_empty() {
            continue;
        }
        let answer = ec2.ask_patiently(&ask_for(request, template, round, spot, &overrides), |root| {
            let launched = items(root, "fleetInstanceSet").into_iter().find_map(launched);
            let refusals: Vec<_> = items(root, "errorSet").into_iter().filter_map(refusal).collect();
            (launched, refusals)
        });
        match answer {
            Ok((Some(id), _)) => {
                // As EC2 shows it: its handle is then the one that a listing gives. Until it does, the call is made again.
                let form = Form::new("DescribeInstances").set("InstanceId.1", id.as_str());
                let mut found = made_for(request, shown(ec2, &request.name, &form, |seen| seen.id == id)?);
                // Its market is what was asked for, whatever a description says, or does not say yet.
                found.is_spot = spot;
                return Ok(found);
            }
            Ok((None, refusals)) => refused.extend(refusals),
            // The same token with other tags: the first try had its instance.
            Err(Fault::Refused(refusal)) if refusal.is_of_used_token() => {
                let form = tagged("DescribeInstances", &request.owner, &[&request.name]);
                return Ok(made_for(request, shown(ec2, &request.name, &form, |_| true)?));
            }
            Err(Fault::Refused(refusal)) if refusal.is_worth_another() => {
                refused.push((if spot { "on spot" } else { "on demand" }.to_owned(), refusal));
            }
            Err(Fault::Refused(refusal)) if refusal.code == NAME_IS_GONE => {
                let name = &request.name;
                let message =
                    format!("EC2 has the launch template of `{name}` no more: another call for it is under way");
                return Err(Error::unavailable(message).into());
            }
            Err(fault) => return Err(fault),
        }
    }
    Err(together(&request.name, &refused, 0).into())
}

fn ask_for(
    request: &RunnerRequest<Pool>,
    template: &str,
    round: usize,
    spot: bool,
    overrides: &[&Attempt<'_>],
) -> Form {
    let config = "LaunchTemplateConfigs.1";
    let mut form = Form::new("CreateFleet")
        .set("Type", "instant")
        .set("ClientToken", client_token(&request.owner, &request.name, round))
        .set(format!("{config}.LaunchTemplateSpecification.LaunchTemplateName"), template)
        .set(format!("{config}.LaunchTemplateSpecification.Version"), "$Latest")
        .set("TargetCapacitySpecification.TotalTargetCapacity", "1")
        .set("TargetCapacitySpecification.DefaultTargetCapacityType", if spot { "spot" } else { "on-demand" });
    form = if spot {
        form.set("SpotOptions.AllocationStrategy", "price-capacity-optimized")
            .maybe("SpotOptions.MaxTotalPrice", request.pool.max_price.as_deref())
    } else {
        form.set("OnDemandOptions.AllocationStrategy", "prioritized")
    };
    for (index, attempt) in overrides.iter().enumerate() {
        let prefix = format!("{config}.Overrides.{}", index + 1);
        form = form
            .maybe(&format!("{prefix}.InstanceType"), attempt.instance_type)
            .maybe(&format!("{prefix}.SubnetId"), attempt.subnet)
            .set(format!("{prefix}.Priority"), index.to_string());
    }
    form
}

/// The id of what a fleet has launched.
fn launched(set: Node<'_, '_>) -> Option<String> {
    items(set, "instanceIds").iter().find_map(|id| id.text()).map(|id| id.trim().to_owned())
}

/// What a fleet says of one of its overrides.
fn refusal(error: Node<'_, '_>) -> Option<(String, Refusal)> {
    let of = error.children().find(|child| child.has_tag_name("launchTemplateAndOverrides"));
    let of = of.and_then(|of| of.children().find(|child| child.has_tag_name("overrides")));
    let place = |key: &str| of.and_then(|of| text(of, key));
    let places: Vec<String> = [place("instanceType"), place("subnetId")].into_iter().flatten().collect();
    let said = text(error, "errorMessage").unwrap_or_default();
    Some((places.join(" in "), Refusal::new("CreateFleet", text(error, "errorCode")?, &said, 400)))
}
