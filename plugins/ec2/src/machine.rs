//! What an instance is made of, as parameters of a launch.

use std::collections::BTreeMap;

use pacer_backend::RunnerRequest;

use crate::{
    api::Form,
    attempt::Attempt,
    instance::{LEASE, NAME, OWNER, PRICE, TAG},
    settings::Pool,
};

/// At most 64 characters; another owner, name or attempt has another.
pub fn client_token(owner: &str, name: &str, attempt: usize) -> String {
    // FNV-1a over the owner, which may be long: two installations in one account differ in it.
    let hash =
        owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let tail: String = name.chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect();
    format!("{hash:016x}-{tail}-{attempt}")
}

/// Whose anything is that is made for a runner.
pub fn ownership(request: &RunnerRequest<Pool>) -> BTreeMap<String, String> {
    BTreeMap::from([(OWNER.to_owned(), request.owner.clone()), (NAME.to_owned(), request.name.clone())])
}

/// The tags of an instance and of its volumes. The pool may give them a `Name` of its own, and no other that is set here.
pub fn tags(request: &RunnerRequest<Pool>, price: Option<u64>) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::from([("Name".to_owned(), request.name.clone())]);
    tags.extend(request.pool.tags.clone());
    tags.extend(ownership(request));
    tags.insert(LEASE.to_owned(), request.lease_until_ms.to_string());
    tags.extend(price.map(|micros| (PRICE.to_owned(), micros.to_string())));
    tags.extend(request.tags.iter().map(|(key, value)| (format!("{TAG}{key}"), value.clone())));
    tags
}

/// Tags for things of these kinds, in a launch (no prefix) or in a template's data.
pub fn tagging(mut form: Form, prefix: &str, kinds: &[&str], tags: &BTreeMap<String, String>) -> Form {
    for (number, kind) in kinds.iter().enumerate() {
        let of = format!("{prefix}TagSpecification.{}", number + 1);
        form = form.set(format!("{of}.ResourceType"), *kind);
        for (index, (key, value)) in tags.iter().enumerate() {
            let tag = format!("{of}.Tag.{}", index + 1);
            form = form.set(format!("{tag}.Key"), key).set(format!("{tag}.Value"), value);
        }
    }
    form
}

/// One launch.
pub fn run(request: &RunnerRequest<Pool>, attempt: &Attempt<'_>, user_data: &str) -> Form {
    let pool = &request.pool;
    let mut form = Form::new("RunInstances")
        .set("MinCount", "1")
        .set("MaxCount", "1")
        .set("ClientToken", client_token(&request.owner, &request.name, attempt.index))
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
    tagging(form, "", &["instance", "volume"], &tags(request, price.map(|price| price.micros_per_hour)))
}

/// What a machine is made of, for a launch (no prefix) or for a template's data.
pub fn machine(form: Form, prefix: &str, pool: &Pool, subnet: Option<&str>, user_data: &str) -> Form {
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

#[cfg(test)]
mod tests {
    use super::client_token;

    #[test]
    fn tokens_are_the_same_for_the_same_and_fit() {
        let long = "pacer-".to_owned() + &"x".repeat(58);
        let token = client_token("app-1", &long, 799);
        assert!(token.len() <= 64 && token.is_ascii(), "{token}");
        assert_eq!(token, client_token("app-1", &long, 799));
        let others = [
            client_token("app-2", &long, 799),
            client_token("app-1", &long, 798),
            client_token("app-1", "pacer-y", 799),
        ];
        assert!(others.iter().all(|other| *other != token));
    }
}
