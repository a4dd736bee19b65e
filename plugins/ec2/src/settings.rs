//! Settings: their schemas, and their judgement beyond them.

use std::collections::BTreeMap;

use pacer_backend::{
    Finding, Price,
    settings::{pointer, schema},
};
use serde::Deserialize;
use serde_json::json;

/// EC2 takes 50 tags on an instance; these are left beside the ones that are set here.
const TAGS_MAX: usize = 30;
const TAG_KEY_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;

/// The backend's settings: the region and who asks are the endpoint's business.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// How an instance is bought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    #[default]
    OnDemand,
    Spot,
    SpotThenOnDemand,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootVolume {
    /// In GiB.
    pub size: u32,
    #[serde(default = "gp3")]
    pub r#type: String,
    #[serde(default = "xvda")]
    pub device: String,
    pub iops: Option<u32>,
    /// In MiB/s.
    pub throughput: Option<u32>,
}

fn gp3() -> String {
    "gp3".into()
}
fn xvda() -> String {
    "/dev/xvda".into()
}
fn latest() -> String {
    "$Default".into()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchTemplate {
    pub id: Option<String>,
    pub name: Option<String>,
    #[serde(default = "latest")]
    pub version: String,
}

/// A pool's settings.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    pub ami: Option<String>,
    pub instance_types: Vec<String>,
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    pub key_name: Option<String>,
    pub iam_instance_profile: Option<String>,
    pub root_volume: Option<RootVolume>,
    pub public_ip: Option<bool>,
    pub launch_template: Option<LaunchTemplate>,
    pub market: Market,
    pub max_price: Option<String>,
    pub fleet: bool,
    pub tags: BTreeMap<String, String>,
    pub prices: BTreeMap<String, String>,
}

impl Pool {
    pub fn price_of(&self, instance_type: &str) -> Option<Price> {
        Price::per_hour(self.prices.get(instance_type)?, "USD")
    }

    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut wrong = |keys: &[&str], message: String| findings.push(Finding::error(pointer(keys), message));
        match &self.launch_template {
            None => {
                if self.ami.is_none() {
                    wrong(&["pool", "ami"], "is needed where there is no `launch_template`".into());
                }
                if self.instance_types.is_empty() {
                    wrong(&["pool", "instance_types"], "is needed where there is no `launch_template`".into());
                }
            }
            Some(template) => {
                if template.id.is_some() == template.name.is_some() {
                    wrong(&["pool", "launch_template"], "needs either `id` or `name`".into());
                }
                if self.fleet {
                    let why = "a fleet takes its user-data from a template that is made for it: give the settings here instead";
                    wrong(&["pool", "launch_template"], why.into());
                }
            }
        }
        if self.public_ip.is_some() && self.subnets.is_empty() {
            wrong(&["pool", "public_ip"], "is a matter of the subnet's interface: name `subnets`".into());
        }
        if self.max_price.is_some() && self.market == Market::OnDemand {
            wrong(&["pool", "max_price"], "is about spot instances, and `market` is `on-demand`".into());
        }
        for (key, price) in self.max_price.iter().map(|price| ("max_price", price)) {
            if pacer_backend::micros(price).is_none() {
                wrong(&["pool", key], format!("`{price}` is no price in US dollars, such as \"0.0416\""));
            }
        }
        for (kind, price) in &self.prices {
            if pacer_backend::micros(price).is_none() {
                wrong(&["pool", "prices", kind], format!("`{price}` is no price in US dollars, such as \"0.0416\""));
            }
        }
        for (key, value) in &self.tags {
            let small = key.to_ascii_lowercase();
            if small.starts_with("pacer:") || small.starts_with("aws:") {
                wrong(&["pool", "tags", key], "tags that begin with `pacer:` or `aws:` are not yours to set".into());
            }
            if key.is_empty() || key.chars().count() > TAG_KEY_MAX || value.chars().count() > TAG_VALUE_MAX {
                let limits = format!("a tag has 1 to {TAG_KEY_MAX} characters, its value at most {TAG_VALUE_MAX}");
                wrong(&["pool", "tags", key], limits);
            }
        }
        if self.tags.len() > TAGS_MAX {
            wrong(
                &["pool", "tags"],
                format!("has {} tags, at most {TAGS_MAX} fit beside pacer's own", self.tags.len()),
            );
        }
        findings
    }
}

pub fn backend_schema() -> String {
    schema(json!({}), &[])
}

pub fn pool_schema() -> String {
    let strings = |description: &str| json!({ "type": "array", "items": { "type": "string", "minLength": 1 }, "maxItems": 20, "uniqueItems": true, "description": description });
    let string = |description: &str| json!({ "type": "string", "minLength": 1, "description": description });
    let text_map = |description: &str| json!({ "type": "object", "additionalProperties": { "type": "string" }, "description": description });
    schema(
        json!({
            "ami": string("The image. Needed without `launch_template`."),
            "instance_types": strings("Best first: the next is tried where one is not to be had. Needed without `launch_template`."),
            "subnets": strings("Best first, tried for each type; default: the default network's."),
            "security_groups": strings("Ids of security groups; default: the network's default one."),
            "key_name": string("A key pair, for a look into a machine."),
            "iam_instance_profile": string("Name of the instance profile. The job's user is kept from its credentials, a job that becomes root is not."),
            "root_volume": { "type": "object", "additionalProperties": false, "required": ["size"], "description": "The root disk; default: the image's.",
                "properties": {
                    "size": { "type": "integer", "minimum": 1, "description": "In GiB." },
                    "type": { "type": "string", "default": "gp3" },
                    "device": { "type": "string", "default": "/dev/xvda", "description": "The image's root device." },
                    "iops": { "type": "integer", "minimum": 1 },
                    "throughput": { "type": "integer", "minimum": 1, "description": "In MiB/s." } } },
            "public_ip": { "type": "boolean", "description": "A public address; default: what the subnet says." },
            "launch_template": { "type": "object", "additionalProperties": false, "description": "A launch template; what is set here goes before it.",
                "properties": { "id": { "type": "string" }, "name": { "type": "string" }, "version": { "type": "string", "default": "$Default" } } },
            "market": { "enum": ["on-demand", "spot", "spot-then-on-demand"], "default": "on-demand" },
            "max_price": string("The most to pay for a spot instance, in US dollars an hour; default: the on-demand price."),
            "fleet": { "type": "boolean", "default": false, "description": "One instant fleet over all types and subnets instead of one attempt after the other." },
            "tags": text_map("More tags for instances and their volumes."),
            "prices": text_map("What a type costs on demand, in US dollars an hour: `{ c7i.large: \"0.0892\" }`. EC2's API does not tell."),
        }),
        &[],
    )
}
