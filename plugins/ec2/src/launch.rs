//! Launching: one attempt after the other until EC2 has room, and never two instances for one name.

use std::{
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_backend::{Bootstrap, Error, ErrorKind, Instance, InstanceState, RunnerRequest, time};

use crate::{
    api::{Ec2, Form, items, text},
    fault::Fault,
    instance::{Handle, LEASE, NAME, OWNER, PRICE, Seen, TAG, TEMPLATE, seen},
    settings::{Market, Pool},
};

/// What EC2 takes as user-data, before it is encoded.
pub const USER_DATA_MAX: usize = 16 * 1024;
/// Attempts of one call: the first types and subnets of a long list; what is left waits for the next call.
const ATTEMPTS_MAX: usize = 40;
/// How long an instance that EC2 says it has made is looked for.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(500);

/// One thing to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempt<'p> {
    instance_type: Option<&'p str>,
    subnet: Option<&'p str>,
    spot: bool,
}

/// In the order in which they are tried: a market with all types and subnets, then the next market.
fn attempts<'p>(pool: &'p Pool, tags: &[(String, String)]) -> Vec<Attempt<'p>> {
    // The host asks for this where a spot instance was taken away.
    let must_stay = tags.iter().any(|(key, value)| key == "market" && value == "on-demand");
    let markets: &[bool] = match pool.market {
        _ if must_stay => &[false],
        Market::OnDemand => &[false],
        Market::Spot => &[true],
        Market::SpotThenOnDemand => &[true, false],
    };
    let options = |list: &'p [String]| -> Vec<Option<&'p str>> {
        if list.is_empty() { vec![None] } else { list.iter().map(|item| Some(item.as_str())).collect() }
    };
    let (types, subnets) = (options(&pool.instance_types), options(&pool.subnets));
    let mut all = Vec::new();
    for spot in markets {
        for instance_type in &types {
            all.extend(subnets.iter().map(|subnet| Attempt {
                instance_type: *instance_type,
                subnet: *subnet,
                spot: *spot,
            }));
        }
    }
    all.truncate(ATTEMPTS_MAX);
    all
}

pub fn create(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>) -> Result<Instance, Error> {
    let user_data = user_data(&request.bootstrap)?;
    if let Some(found) = by_name(ec2, request)? {
        return Ok(found.into_instance());
    }
    let outcome =
        if request.pool.fleet { fleet(ec2, request, &user_data) } else { one_by_one(ec2, request, &user_data) };
    Ok(outcome?)
}

fn user_data(bootstrap: &Bootstrap) -> Result<String, Error> {
    let text = match bootstrap {
        Bootstrap::CloudInit(text) => text.clone(),
        Bootstrap::StartScript(script) if script.starts_with("#!") => script.clone(),
        Bootstrap::StartScript(script) => format!("#!/bin/sh\n{script}"),
        Bootstrap::JitConfig(_) => {
            return Err(Error::unsupported("an instance takes `cloud-init` or `start-script`"));
        }
    };
    if text.len() > USER_DATA_MAX {
        return Err(Error::invalid_request(format!(
            "the user-data has {} bytes and EC2 takes {USER_DATA_MAX}",
            text.len()
        )));
    }
    Ok(STANDARD.encode(text))
}

/// The instance of this name, if there ever was one as far as EC2 remembers: a name is used once.
fn by_name(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>) -> Result<Option<Seen>, Fault> {
    let form = Form::new("DescribeInstances").filter(1, &format!("tag:{OWNER}"), &[&request.owner]).filter(
        2,
        &format!("tag:{NAME}"),
        &[&request.name],
    );
    let answer = ec2.ask(form)?;
    let found = seen(&answer.document()?);
    let mut mine: Vec<Seen> =
        found.into_iter().filter(|seen| seen.owner == request.owner && seen.name == request.name).collect();
    mine.sort_by_key(|seen| !seen.is_alive());
    Ok(mine.into_iter().next())
}

fn one_by_one(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>, user_data: &str) -> Result<Instance, Fault> {
    let attempts = attempts(&request.pool, &request.tags);
    // A call that was cut off goes on where it was: an attempt that was refused then may have room now.
    let key = format!("attempt/{}", request.name);
    let began = ec2.0.cache.get(&key).and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok()).unwrap_or(0);
    let mut refused = Vec::new();
    let mut worst = ErrorKind::Capacity;
    for (index, attempt) in attempts.iter().enumerate().skip(if began < attempts.len() { began } else { 0 }) {
        ec2.0.cache.set(&key, index.to_string().as_bytes());
        let token = client_token(&request.owner, &request.name, index);
        match ec2.ask(run(request, attempt, user_data, &token)) {
            Ok(answer) => {
                ec2.0.cache.delete(&key);
                let launched = seen(&answer.document()?).into_iter().next();
                return launched.map(|seen| launched_as(seen, request)).ok_or_else(|| {
                    Fault::Other(Error::unavailable(
                        "EC2 launched an instance and did not say which; it is looked for by its tags",
                    ))
                });
            }
            // The same token with another lease: the first try had its instance.
            Err(Fault::Refused(refusal)) if refusal.is_another_request() => return by_token(ec2, request, &token),
            Err(Fault::Refused(refusal)) if refusal.is_worth_another() => {
                if refusal.kind == ErrorKind::Quota {
                    worst = ErrorKind::Quota;
                }
                refused.push(format!("{} {}", described(attempt), refusal.code));
            }
            Err(fault) => return Err(fault),
        }
    }
    ec2.0.cache.delete(&key);
    Err(Fault::Other(Error::new(worst, format!("EC2 has no room for `{}`: {}", request.name, refused.join("; ")))))
}

fn described(attempt: &Attempt<'_>) -> String {
    let kind = attempt.instance_type.unwrap_or("the template's type");
    let subnet = attempt.subnet.map(|subnet| format!(" in {subnet}")).unwrap_or_default();
    format!("{kind}{subnet}{}", if attempt.spot { " (spot)" } else { "" })
}

/// Tags may come later than the instance; what was asked for is known.
fn launched_as(mut seen: Seen, request: &RunnerRequest<Pool>) -> Instance {
    seen.owner.clone_from(&request.owner);
    seen.name.clone_from(&request.name);
    seen.into_instance()
}

/// The instance that a token stands for.
fn by_token(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>, token: &str) -> Result<Instance, Fault> {
    let until = Instant::now() + SHOWN_WITHIN.min(ec2.0.remaining() / 2);
    loop {
        let answer = ec2.ask(Form::new("DescribeInstances").filter(1, "client-token", &[token]))?;
        if let Some(found) = seen(&answer.document()?).into_iter().next() {
            return Ok(launched_as(found, request));
        }
        if Instant::now() >= until {
            return Err(Fault::Other(Error::unavailable(format!(
                "EC2 does not show the instance of `{}` yet",
                request.name
            ))));
        }
        thread::sleep(POLL);
    }
}

/// At most 64 characters; another owner, name or attempt has another.
pub fn client_token(owner: &str, name: &str, attempt: usize) -> String {
    // FNV-1a over the owner, which may be long: two installations in one account differ in it.
    let hash =
        owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let tail: String = name.chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect();
    format!("{hash:016x}-{tail}-{attempt}")
}

fn tags(request: &RunnerRequest<Pool>, price: Option<u64>) -> Vec<(String, String)> {
    let mut tags = vec![
        ("Name".to_owned(), request.name.clone()),
        (OWNER.to_owned(), request.owner.clone()),
        (NAME.to_owned(), request.name.clone()),
        (LEASE.to_owned(), request.lease_until_ms.to_string()),
    ];
    tags.extend(price.map(|micros| (PRICE.to_owned(), micros.to_string())));
    tags.extend(request.tags.iter().map(|(key, value)| (format!("{TAG}{key}"), value.clone())));
    tags.extend(request.pool.tags.iter().map(|(key, value)| (key.clone(), value.clone())));
    tags
}

fn with_tags(mut form: Form, number: usize, kind: &str, tags: &[(String, String)]) -> Form {
    form = form.set(format!("TagSpecification.{number}.ResourceType"), kind);
    for (index, (key, value)) in tags.iter().enumerate() {
        let prefix = format!("TagSpecification.{number}.Tag.{}", index + 1);
        form = form.set(format!("{prefix}.Key"), key).set(format!("{prefix}.Value"), value);
    }
    form
}

fn run(request: &RunnerRequest<Pool>, attempt: &Attempt<'_>, user_data: &str, token: &str) -> Form {
    let pool = &request.pool;
    let mut form = Form::new("RunInstances")
        .set("MinCount", "1")
        .set("MaxCount", "1")
        .set("ClientToken", token)
        .maybe("InstanceType", attempt.instance_type);
    if let Some(template) = &pool.launch_template {
        form = form
            .maybe("LaunchTemplate.LaunchTemplateId", template.id.as_deref())
            .maybe("LaunchTemplate.LaunchTemplateName", template.name.as_deref())
            .set("LaunchTemplate.Version", template.version.as_str());
    }
    form = machine(form, "", pool, attempt.subnet, user_data);
    if attempt.spot {
        form = form
            .set("InstanceMarketOptions.MarketType", "spot")
            .set("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time")
            .set("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate")
            .maybe("InstanceMarketOptions.SpotOptions.MaxPrice", pool.max_price.as_deref());
    }
    let price = attempt.instance_type.filter(|_| !attempt.spot).and_then(|kind| pool.price_of(kind));
    let tags = tags(request, price.map(|price| price.micros_per_hour));
    with_tags(with_tags(form, 1, "instance", &tags), 2, "volume", &tags)
}

/// What a machine is made of, for a launch (no prefix) or for a template's data.
fn machine(form: Form, prefix: &str, pool: &Pool, subnet: Option<&str>, user_data: &str) -> Form {
    let at = |key: &str| format!("{prefix}{key}");
    let mut form = form
        .set(at("UserData"), user_data)
        // The machine ends itself, and nothing of it is left.
        .set(at("InstanceInitiatedShutdownBehavior"), "terminate")
        .set(at("MetadataOptions.HttpTokens"), "required")
        .set(at("MetadataOptions.HttpEndpoint"), "enabled")
        // A container of a job is one hop away already.
        .set(at("MetadataOptions.HttpPutResponseHopLimit"), "1")
        .maybe(&at("ImageId"), pool.ami.as_deref())
        .maybe(&at("KeyName"), pool.key_name.as_deref())
        .maybe(&at("IamInstanceProfile.Name"), pool.iam_instance_profile.as_deref());
    // An address is a matter of the interface, and then subnet and groups are as well.
    let interface = pool.public_ip.map(|public| (public, at("NetworkInterface.1.")));
    if let Some((public, interface)) = &interface {
        form = form
            .set(format!("{interface}DeviceIndex"), "0")
            .set(format!("{interface}AssociatePublicIpAddress"), public.to_string())
            .set(format!("{interface}DeleteOnTermination"), "true")
            .maybe(&format!("{interface}SubnetId"), subnet);
    } else {
        form = form.maybe(&at("SubnetId"), subnet);
    }
    for (index, group) in pool.security_groups.iter().enumerate() {
        form = match &interface {
            Some((_, interface)) => form.set(format!("{interface}SecurityGroupId.{}", index + 1), group),
            None => form.set(at(&format!("SecurityGroupId.{}", index + 1)), group),
        };
    }
    if let Some(volume) = &pool.root_volume {
        form = form
            .set(at("BlockDeviceMapping.1.DeviceName"), volume.device.as_str())
            .set(at("BlockDeviceMapping.1.Ebs.VolumeSize"), volume.size.to_string())
            .set(at("BlockDeviceMapping.1.Ebs.VolumeType"), volume.r#type.as_str())
            .set(at("BlockDeviceMapping.1.Ebs.DeleteOnTermination"), "true")
            .maybe(&at("BlockDeviceMapping.1.Ebs.Iops"), volume.iops.map(|iops| iops.to_string()))
            .maybe(&at("BlockDeviceMapping.1.Ebs.Throughput"), volume.throughput.map(|mib| mib.to_string()));
    }
    form
}

/// One instant fleet over all types and subnets. A fleet takes user-data from a launch template only, so there is one
/// for this instance alone; it goes when the fleet has answered, or with the instance.
fn fleet(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>, user_data: &str) -> Result<Instance, Fault> {
    let template = template_name(&request.name);
    let data = machine(
        Form::new("CreateLaunchTemplate").set("LaunchTemplateName", template.as_str()),
        "LaunchTemplateData.",
        &Pool { subnets: Vec::new(), ..request.pool.clone() },
        None,
        user_data,
    );
    let data = with_tags(
        data,
        1,
        "launch-template",
        &[(OWNER.to_owned(), request.owner.clone()), (NAME.to_owned(), request.name.clone())],
    );
    match ec2.ask(data) {
        Ok(_) => {}
        // Left by a call that was cut off.
        Err(Fault::Refused(refusal)) if refusal.code == "InvalidLaunchTemplateName.AlreadyExistsException" => {}
        Err(fault) => return Err(fault),
    }
    let asked = instant(ec2, request, &template);
    forget_template(ec2, &request.name)?;
    asked
}

fn instant(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>, template: &str) -> Result<Instance, Fault> {
    let attempts = attempts(&request.pool, &request.tags);
    let mut errors = Vec::new();
    for (round, spot) in [true, false].into_iter().enumerate() {
        let overrides: Vec<&Attempt<'_>> = attempts.iter().filter(|attempt| attempt.spot == spot).collect();
        if overrides.is_empty() {
            continue;
        }
        let mut form = Form::new("CreateFleet")
            .set("Type", "instant")
            .set("ClientToken", client_token(&request.owner, &request.name, round))
            .set("LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateName", template)
            .set("LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version", "$Latest")
            .set("TargetCapacitySpecification.TotalTargetCapacity", "1")
            .set("TargetCapacitySpecification.DefaultTargetCapacityType", if spot { "spot" } else { "on-demand" });
        form = if spot {
            form.set("SpotOptions.AllocationStrategy", "price-capacity-optimized")
                .maybe("SpotOptions.MaxTotalPrice", request.pool.max_price.as_deref())
        } else {
            form.set("OnDemandOptions.AllocationStrategy", "prioritized")
        };
        for (index, attempt) in overrides.iter().enumerate() {
            let prefix = format!("LaunchTemplateConfigs.1.Overrides.{}", index + 1);
            form = form
                .maybe(&format!("{prefix}.InstanceType"), attempt.instance_type)
                .maybe(&format!("{prefix}.SubnetId"), attempt.subnet)
                .set(format!("{prefix}.Priority"), index.to_string());
        }
        let mut tags = tags(request, None);
        tags.push((TEMPLATE.to_owned(), template.to_owned()));
        let answer = match ec2.ask(with_tags(form, 1, "instance", &tags)) {
            Ok(answer) => answer,
            Err(Fault::Refused(refusal)) if refusal.is_worth_another() => {
                errors.push(refusal.code);
                continue;
            }
            Err(fault) => return Err(fault),
        };
        let document = answer.document()?;
        let root = document.root_element();
        let launched = items(root, "fleetInstanceSet");
        let id = launched.iter().flat_map(|set| items(*set, "instanceIds")).find_map(|id| id.text());
        if let Some(id) = id {
            let handle = Handle {
                id: id.trim().to_owned(),
                created_at_ms: time::now(),
                has_template: true,
                owner: request.owner.clone(),
                name: request.name.clone(),
            };
            return Ok(shown(ec2, &handle)?.unwrap_or_else(|| handle.not_shown_yet(InstanceState::Creating)));
        }
        errors.extend(items(root, "errorSet").iter().filter_map(|error| text(*error, "errorCode")));
    }
    errors.sort_unstable();
    errors.dedup();
    Err(Fault::Other(Error::capacity(format!("EC2 has no room for `{}`: {}", request.name, errors.join(", ")))))
}

/// What EC2 shows of an instance it has just made, so that the handle is the one a listing gives.
fn shown(ec2: &Ec2<'_, '_>, handle: &Handle) -> Result<Option<Instance>, Fault> {
    let until = Instant::now() + SHOWN_WITHIN.min(ec2.0.remaining() / 2);
    while Instant::now() < until {
        match ec2.ask(Form::new("DescribeInstances").set("InstanceId.1", handle.id.as_str())) {
            Ok(answer) => {
                let found = seen(&answer.document()?).into_iter().find(|seen| seen.owner == handle.owner);
                if let Some(found) = found {
                    return Ok(Some(found.into_instance()));
                }
            }
            Err(Fault::Refused(refusal)) if refusal.is_unknown_instance() => {}
            Err(fault) => return Err(fault),
        }
        thread::sleep(POLL);
    }
    Ok(None)
}

fn template_name(runner: &str) -> String {
    format!("pacer-{runner}")
}

/// Removes the template that was made for an instance alone.
pub fn forget_template(ec2: &Ec2<'_, '_>, runner: &str) -> Result<(), Fault> {
    let look = Form::new("DescribeLaunchTemplates").filter(1, "launch-template-name", &[&template_name(runner)]);
    let answer = ec2.ask(look)?;
    let document = answer.document()?;
    for template in items(document.root_element(), "launchTemplates") {
        let Some(id) = text(template, "launchTemplateId") else { continue };
        match ec2.ask(Form::new("DeleteLaunchTemplate").set("LaunchTemplateId", id)) {
            Err(Fault::Refused(refusal)) if refusal.kind == ErrorKind::NotFound => {}
            done => drop(done?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_comes_first_and_the_market_changes_last() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let pool = Pool {
            instance_types: list(&["a", "b"]),
            subnets: list(&["x", "y"]),
            market: Market::SpotThenOnDemand,
            ..Pool::default()
        };
        let told: Vec<String> = attempts(&pool, &[]).iter().map(described).collect();
        assert_eq!(
            told,
            [
                "a in x (spot)",
                "a in y (spot)",
                "b in x (spot)",
                "b in y (spot)",
                "a in x",
                "a in y",
                "b in x",
                "b in y",
            ]
        );
        let stays = [("market".to_owned(), "on-demand".to_owned())];
        assert!(attempts(&pool, &stays).iter().all(|attempt| !attempt.spot) && attempts(&pool, &stays).len() == 4);
        assert_eq!(attempts(&Pool::default(), &[]), [Attempt { instance_type: None, subnet: None, spot: false }]);
        let many = Pool { instance_types: (0..50).map(|n| n.to_string()).collect(), ..pool };
        assert_eq!(attempts(&many, &[]).len(), ATTEMPTS_MAX);
    }

    #[test]
    fn tokens_are_the_same_for_the_same_and_fit() {
        let long = "pacer-".to_owned() + &"x".repeat(58);
        let token = client_token("app-1", &long, 39);
        assert!(token.len() <= 64 && token.is_ascii(), "{token}");
        assert_eq!(token, client_token("app-1", &long, 39));
        let others =
            [client_token("app-2", &long, 39), client_token("app-1", &long, 38), client_token("app-1", "pacer-y", 39)];
        assert!(others.iter().all(|other| *other != token));
    }
}
