//! What may be left of an instance: the launch template that was made for it, and volumes that end with nobody.

use std::collections::{BTreeMap, BTreeSet};

use pacer_backend::{ErrorKind, Instance, InstanceState};
use roxmltree::Node;

use crate::{
    api::{Ec2, Form, items, text},
    fault::Fault,
    instance::{HOLD, Handle, NAME, OWNER, seen, tags},
};

/// EC2 takes 200 values of a filter.
const VALUES_MAX: usize = 200;

/// One thing that is left.
pub struct Leftover {
    pub name: String,
    hold: bool,
    /// How it is removed.
    removal: Form,
}

/// A request for what has the tags of an owner, and of one name where one is given.
pub fn tagged(action: &str, owner: &str, names: &[&str]) -> Form {
    let form = Form::new(action).filter(&format!("tag:{OWNER}"), &[owner]);
    if names.is_empty() { form } else { form.filter(&format!("tag:{NAME}"), names) }
}

/// What is there of an owner, of one name where one is given, whether or not an instance still needs it.
pub fn find(ec2: &Ec2<'_, '_>, owner: &str, names: &[&str]) -> Result<Vec<Leftover>, Fault> {
    let mut found = templates(ec2, owner, names)?;
    // What is attached to anything is none.
    let form = tagged("DescribeVolumes", owner, names).filter("status", &["available"]).set("MaxResults", "500");
    found.extend(ec2.ask_all(&form, |root| {
        let all = items(root, "volumeSet").into_iter();
        all.filter_map(|item| one(item, owner, "volumeId", "DeleteVolume", "VolumeId")).collect()
    })?);
    Ok(found)
}

/// The templates of it alone. An API that knows none has none.
pub fn templates(ec2: &Ec2<'_, '_>, owner: &str, names: &[&str]) -> Result<Vec<Leftover>, Fault> {
    let form = tagged("DescribeLaunchTemplates", owner, names).set("MaxResults", "200");
    let found = ec2.ask_all(&form, |root| {
        let all = items(root, "launchTemplates").into_iter();
        all.filter_map(|item| one(item, owner, "launchTemplateId", "DeleteLaunchTemplate", "LaunchTemplateId"))
            .collect()
    });
    match found {
        Err(Fault::Refused(refusal)) if refusal.code == "InvalidAction" => Ok(Vec::new()),
        found => found,
    }
}

fn one(item: Node<'_, '_>, owner: &str, id: &str, removal: &str, key: &str) -> Option<Leftover> {
    let tags: BTreeMap<String, String> = tags(item).collect();
    let name = tags.get(NAME).filter(|_| tags.get(OWNER).is_some_and(|its| its == owner))?;
    let removal = Form::new(removal).set(key, text(item, id)?);
    Some(Leftover { name: name.clone(), hold: tags.contains_key(HOLD), removal })
}

/// Removes what nobody holds.
pub fn remove(ec2: &Ec2<'_, '_>, leftovers: Vec<Leftover>) -> Result<(), Fault> {
    leftovers.iter().filter(|leftover| !leftover.hold).try_for_each(|leftover| delete(ec2, &leftover.removal))
}

/// Deletes what may be gone.
pub fn delete(ec2: &Ec2<'_, '_>, removal: &Form) -> Result<(), Fault> {
    match ec2.ask_patiently(removal, |_| ()) {
        Err(Fault::Refused(refusal)) if refusal.kind == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// What is left of an owner's instances that are not there any more, as stopped ones.
pub fn listed(ec2: &Ec2<'_, '_>, owner: &str) -> Result<Vec<Instance>, Fault> {
    let mut left: BTreeMap<String, bool> = BTreeMap::new();
    for found in find(ec2, owner, &[])? {
        *left.entry(found.name).or_default() |= found.hold;
    }
    // Asked after the leftovers: one that is launched meanwhile is found.
    let names: Vec<&str> = left.keys().map(String::as_str).collect();
    let mut needed = BTreeSet::new();
    for names in names.chunks(VALUES_MAX) {
        let all = ec2.ask_all(&tagged("DescribeInstances", owner, names), seen)?;
        needed.extend(all.into_iter().filter(|seen| !seen.is_terminated).map(|seen| seen.name));
    }
    left.retain(|name, _| !needed.contains(name));
    Ok(left.into_iter().map(|(name, hold)| Instance { hold, ..stopped(owner, &name) }).collect())
}

/// What stands for all that is left of one name.
pub fn stopped(owner: &str, name: &str) -> Instance {
    let handle = Handle { id: None, created_at_ms: 0, owner: owner.to_owned(), name: name.to_owned() };
    handle.bare(InstanceState::Stopped)
}
