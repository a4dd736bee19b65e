//! A machine that exists: what libvirt says of it, and taking it down.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use pacer_backend::{Destruction, Error, Instance, InstanceState, Page, paging};

use crate::{
    C,
    api::{Domain, Libvirt},
    fault::{Fault, NO_DOMAIN, NO_POOL, NO_VOLUME, OPERATION_INVALID, none_if},
    names::{Part, Place},
    record::{self, Record},
};

/// Machines in one page of a listing.
const PAGE: usize = 500;
/// Between two looks whether a machine went down.
const POLL: Duration = Duration::from_millis(250);
/// Kept of the call for ending a machine and removing its volumes.
const REMOVAL: Duration = Duration::from_secs(8);

/// States of a domain, as libvirt numbers them.
mod state {
    pub const RUNNING: i32 = 1;
    pub const BLOCKED: i32 = 2;
    pub const PAUSED: i32 = 3;
    pub const SHUTDOWN: i32 = 4;
    pub const SHUTOFF: i32 = 5;
    pub const CRASHED: i32 = 6;
    pub const SLEEPING: i32 = 7;
    /// Reasons to be paused.
    pub const IO_ERROR: i32 = 5;
    pub const PANICKED: i32 = 10;
}

/// A machine of pacer's.
pub struct Seen {
    pub domain: Domain,
    pub record: Record,
    pub hold: bool,
    pub state: (i32, i32),
}

impl Seen {
    fn place(&self) -> Option<Place> {
        Place::new(&self.record.runner, &self.record.owner, &self.record.storage_pool).ok()
    }

    /// None for a record that was not written here.
    pub fn into_instance(self) -> Option<Instance> {
        let place = self.place()?;
        Some(instance(&place, &self.record, self.hold, meaning(self.state)))
    }
}

fn meaning((now, reason): (i32, i32)) -> InstanceState {
    match (now, reason) {
        (state::PAUSED, state::IO_ERROR) => {
            InstanceState::Failed("libvirt paused it after a disk error; the storage pool may be full".into())
        }
        (state::PAUSED, state::PANICKED) | (state::CRASHED, _) => InstanceState::Failed("it crashed".into()),
        (state::RUNNING | state::BLOCKED | state::PAUSED | state::SLEEPING, _) => InstanceState::Running,
        (state::SHUTDOWN, _) => InstanceState::Stopping,
        (state::SHUTOFF, _) => InstanceState::Stopped,
        (other, _) => InstanceState::Failed(format!("libvirt says state {other}")),
    }
}

/// The contract's instance.
pub fn instance(place: &Place, record: &Record, hold: bool, state: InstanceState) -> Instance {
    let some = |ms: u64| (ms > 0).then_some(ms);
    Instance {
        handle: place.handle(),
        name: record.runner.clone(),
        owner: record.owner.clone(),
        state,
        addresses: vec![],
        created_at_ms: some(record.created_at_ms),
        lease_until_ms: some(record.lease_until_ms),
        hold,
        price: None,
        attributes: record.tags.clone(),
    }
}

/// What a domain is. None if it is a stranger's, or gone meanwhile.
pub fn seen(libvirt: &mut Libvirt, domain: &Domain) -> Result<Option<Seen>, Fault> {
    let Some(xml) = none_if(libvirt.domain_xml(domain), NO_DOMAIN)? else { return Ok(None) };
    let Some((record, hold)) = Record::read(&xml) else { return Ok(None) };
    // A copy that an operator made of the definition is not the machine.
    if record.runner != domain.name {
        return Ok(None);
    }
    let state = none_if(libvirt.state(domain), NO_DOMAIN)?;
    Ok(state.map(|state| Seen { domain: domain.clone(), record, hold, state }))
}

/// The machine behind a handle, if it is up and the same owner's.
pub fn find(libvirt: &mut Libvirt, place: &Place) -> Result<Option<Seen>, Fault> {
    let Some(domain) = none_if(libvirt.domain(&place.runner), NO_DOMAIN)? else { return Ok(None) };
    Ok(seen(libvirt, &domain)?.filter(|seen| seen.place().as_ref() == Some(place)))
}

/// The machine behind a handle, which must be up.
pub fn require(libvirt: &mut Libvirt, place: &Place) -> Result<Seen, Fault> {
    find(libvirt, place)?.ok_or_else(|| {
        Fault::Ours(Error::not_found(format!("libvirt has no machine `{}` of this installation", place.runner)))
    })
}

pub fn get(libvirt: &mut Libvirt, place: &Place) -> Result<Option<Instance>, Fault> {
    if let Some(seen) = find(libvirt, place)? {
        // A driver without leases refuses; addresses are for information.
        let addresses = libvirt.addresses(&seen.domain).or_else(|fault| match fault {
            Fault::Refused(_) => Ok(vec![]),
            Fault::Lost(_) | Fault::Ours(_) => Err(fault),
        })?;
        return Ok(seen.into_instance().map(|found| Instance { addresses, ..found }));
    }
    let Some(storage) = none_if(libvirt.pool(&place.storage_pool), NO_POOL)? else { return Ok(None) };
    for part in Part::ALL {
        if none_if(libvirt.volume(&storage, &place.volume(part)), NO_VOLUME)?.is_some() {
            return Ok(Some(leftover(place)));
        }
    }
    Ok(None)
}

/// What is left of a machine that is over.
pub fn leftover(place: &Place) -> Instance {
    let record = Record { runner: place.runner.clone(), owner: place.owner(), ..Record::default() };
    instance(place, &record, false, InstanceState::Stopped)
}

pub fn list(libvirt: &mut Libvirt, owner: &str, cursor: Option<&str>) -> Result<Page, Fault> {
    // Volumes first: the machine of one that is made meanwhile is then found below.
    let mut places = BTreeSet::new();
    for storage in libvirt.pools()? {
        // A pool that was stopped meanwhile has no volumes to tell.
        let volumes = match libvirt.volumes(&storage) {
            Err(Fault::Refused(_)) => continue,
            other => other?,
        };
        let known = volumes.iter().filter_map(|volume| Place::of_volume(&volume.name, &storage.name));
        places.extend(known.filter(|place| place.is_owned_by(owner)));
    }
    let mut instances = Vec::new();
    for domain in libvirt.domains()? {
        let Some(seen) = seen(libvirt, &domain)?.filter(|seen| seen.record.owner == owner) else { continue };
        if let Some(place) = seen.place() {
            places.remove(&place);
        }
        instances.extend(seen.into_instance());
    }
    instances.extend(places.iter().map(leftover));
    Ok(paging::by_name(instances, cursor, PAGE))
}

pub fn destroy(call: &C<'_>, libvirt: &mut Libvirt, place: &Place, grace: Duration) -> Result<Destruction, Fault> {
    if let Some(seen) = find(libvirt, place)? {
        end(call, libvirt, &seen, grace)?;
    }
    remove_volumes(libvirt, place)?;
    Ok(Destruction::Gone)
}

/// Asks it to go down, waits, and ends it.
fn end(call: &C<'_>, libvirt: &mut Libvirt, seen: &Seen, grace: Duration) -> Result<(), Fault> {
    let until = Instant::now() + grace.min(call.remaining().saturating_sub(REMOVAL));
    if Instant::now() < until {
        // A paused machine hears nothing; what cannot be woken or asked is ended below.
        if seen.state.0 == state::PAUSED {
            refused_or(libvirt.resume(&seen.domain))?;
        }
        refused_or(libvirt.shut_down(&seen.domain))?;
        while let Some((now, _)) = none_if(libvirt.state(&seen.domain), NO_DOMAIN)? {
            if now == state::SHUTOFF || Instant::now() >= until {
                break;
            }
            std::thread::sleep(POLL.min(until.saturating_duration_since(Instant::now())));
        }
    }
    match libvirt.destroy(&seen.domain) {
        // It went down by itself.
        Err(fault) if fault.is(NO_DOMAIN) || fault.is(OPERATION_INVALID) => Ok(()),
        other => other,
    }
}

/// A refusal is as good as done.
fn refused_or(result: Result<(), Fault>) -> Result<(), Fault> {
    match result {
        Err(Fault::Refused(_)) | Ok(()) => Ok(()),
        lost => lost,
    }
}

/// Removes what the names tell: what was made here, what a log daemon made of the console's log, and the memory of the
/// firmware.
pub fn remove_volumes(libvirt: &mut Libvirt, place: &Place) -> Result<(), Fault> {
    let Some(storage) = none_if(libvirt.pool(&place.storage_pool), NO_POOL)? else { return Ok(()) };
    // Refused while another volume of the pool is written; what libvirt has not seen is then left, and `list` reports it
    // once it has: it looks by itself after the writing.
    refused_or(libvirt.refresh(&storage))?;
    let prefix = place.volumes();
    for volume in libvirt.volumes(&storage)?.into_iter().filter(|volume| volume.name.starts_with(&prefix)) {
        none_if(libvirt.delete_volume(&volume), NO_VOLUME)?;
    }
    Ok(())
}

pub fn renew(libvirt: &mut Libvirt, place: &Place, until_ms: u64) -> Result<(), Fault> {
    let seen = require(libvirt, place)?;
    let record = Record { lease_until_ms: until_ms, ..seen.record };
    libvirt.set_metadata(&seen.domain, &record.bare_element(), record::KEY, record::SPACE)
}

/// The end of what the machine wrote to its serial port.
pub fn console(libvirt: &mut Libvirt, place: &Place, max: u32) -> Result<String, Fault> {
    let storage = libvirt.pool(&place.storage_pool)?;
    let volume = none_if(libvirt.volume(&storage, &place.volume(Part::Console)), NO_VOLUME)?;
    let volume = volume.ok_or_else(|| Error::not_found(format!("there is no console log of `{}`", place.runner)))?;
    let size = libvirt.volume_size(&volume)?;
    if size == 0 || max == 0 {
        return Ok(String::new());
    }
    let bytes = libvirt.download(&volume, size.saturating_sub(max.into()), max)?;
    // The cut may have gone through a character.
    let start = bytes.iter().position(|b| b & 0xc0 != 0x80).filter(|at| *at < 4).unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
}

/// Pauses it or lets it go on. A refusal is none when it is already as it should be: the call may be a repetition.
pub fn pause(libvirt: &mut Libvirt, place: &Place, paused: bool) -> Result<Seen, Fault> {
    let seen = require(libvirt, place)?;
    let done = if paused { libvirt.suspend(&seen.domain) } else { libvirt.resume(&seen.domain) };
    let now = libvirt.state(&seen.domain)?;
    match done {
        Err(Fault::Refused(_)) if (now.0 == state::PAUSED) == paused => {}
        other => other?,
    }
    Ok(Seen { state: now, ..seen })
}
