//! Bringing up a machine: room, volumes, the machine, and whether there is room for it still, in this order.
//!
//! Two tries for one name never make two machines. The disk and the seed may be made and written by a try that is cut
//! off, and the next one goes on with them: nothing ran yet. The console's volume is made by one try alone, right before
//! the machine, so where it exists and no machine does, the machine is over. What a failing start leaves is removed at
//! once; what a lost connection leaves is found by `list`.

use std::time::{Duration, Instant};

use pacer_backend::{Error, Instance, InstanceState, RunnerRequest};
use roxmltree::Document;

use crate::{
    C,
    api::{Domain, Libvirt, StoragePool, Volume},
    bootstrap,
    fault::{Fault, NO_DOMAIN, NO_VOLUME, OPERATION_INVALID, VOLUME_EXISTS, none_if},
    machine,
    names::{Part, Place},
    record::Record,
    room::Room,
    seed,
    settings::Pool,
    template::{Parts, document, escape},
};

/// How long another try may take from its claim to its machine. QEMU is up in half a second; a busy host takes longer.
const CLAIMED: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL: Duration = Duration::from_millis(200);

/// The base image, as its volume's document tells.
struct Base {
    path: String,
    format: String,
    capacity: u64,
}

/// Brings it up, or returns the one that has this name and owner.
pub fn create(call: &C<'_>, libvirt: &mut Libvirt, request: &RunnerRequest<Pool>) -> Result<Instance, Fault> {
    let pool = &request.pool;
    let place = Place::new(&request.name, &request.owner, &pool.storage_pool)?;
    let user_data = bootstrap::user_data(&request.bootstrap)?;
    if let Some(held) = running(libvirt, request)? {
        return Ok(held);
    }
    let storage = libvirt.pool(&pool.storage_pool)?;
    if none_if(libvirt.volume(&storage, &place.volume(Part::Console)), NO_VOLUME)?.is_some() {
        return claimed(call, libvirt, request, &place);
    }
    let base = base(libvirt, pool)?;
    let capacity = disk_size(pool, &base)?;
    let room = Room::look(&call.settings, libvirt)?;
    room.fits(pool)?;

    let mut made = Vec::new();
    let volumes = Volumes { base, capacity, user_data };
    let until = Instant::now() + CLAIMED;
    let started = loop {
        match start(libvirt, request, &place, &storage, &volumes, &mut made) {
            // After an upload, another try's for instance, libvirt looks at the pool anew and knows none of its
            // volumes while it does.
            Err(fault) if fault.is(NO_VOLUME) && Instant::now() < until => std::thread::sleep(POLL),
            started => break started,
        }
    };
    let started = match started {
        Ok(None) => return claimed(call, libvirt, request, &place),
        Ok(Some((domain, instance))) => room.still_fits(libvirt, pool, &domain).map(|()| instance).or_else(|fault| {
            none_if(libvirt.destroy(&domain), NO_DOMAIN)?;
            Err(fault)
        }),
        Err(fault) => Err(fault),
    };
    match started {
        Ok(instance) => Ok(instance),
        // The machine may be there.
        Err(Fault::Lost(error)) => Err(Fault::Lost(error)),
        Err(fault) => {
            // Why there is no machine is the answer to give; what cannot be removed now is found by `list`.
            let _ = if made.iter().any(|volume| volume.name == place.volume(Part::Console)) {
                machine::remove_volumes(libvirt, &place)
            } else {
                made.iter().try_for_each(|volume| libvirt.delete_volume(volume))
            };
            Err(fault)
        }
    }
}

/// What its volumes are made of.
struct Volumes {
    base: Base,
    capacity: u64,
    user_data: String,
}

/// Makes volumes and machine; none if another try has claimed the name. `made` is what was made on the way.
fn start(
    libvirt: &mut Libvirt,
    request: &RunnerRequest<Pool>,
    place: &Place,
    storage: &StoragePool,
    volumes: &Volumes,
    made: &mut Vec<Volume>,
) -> Result<Option<(Domain, Instance)>, Fault> {
    let disk = volume_xml(&place.volume(Part::Disk), volumes.capacity, Some(&volumes.base));
    let (disk, new) = make(libvirt, storage, &place.volume(Part::Disk), &disk)?;
    if new {
        made.push(disk.clone());
    }
    let image = seed::image(&request.name, &volumes.user_data);
    let size = u64::try_from(image.len()).unwrap_or(u64::MAX);
    let seed = volume_xml(&place.volume(Part::Seed), size, None);
    let (seed, new) = make(libvirt, storage, &place.volume(Part::Seed), &seed)?;
    if new {
        made.push(seed.clone());
    }
    upload(libvirt, &seed, &image)?;
    let console = volume_xml(&place.volume(Part::Console), 0, None);
    let (console, new) = make(libvirt, storage, &place.volume(Part::Console), &console)?;
    // Made by this try before libvirt lost sight of it for a moment, it is this try's claim as well.
    if !new && !made.iter().any(|volume| volume.name == console.name) {
        return Ok(None);
    }
    // From here on everything is this try's own. The claim goes last, so that nobody takes the rest for a new try's.
    *made = vec![disk.clone(), seed.clone(), console.clone()];

    let mut path = |volume: &Volume| -> Result<String, Fault> { Ok(described(libvirt, volume)?.path) };
    let (disk, seed, console) = (path(&disk)?, path(&seed)?, path(&console)?);
    let folder = console.rsplit_once('/').map_or("", |(folder, _)| folder);
    let nvram = format!("{folder}/{}", place.volume(Part::Nvram));
    let record = Record {
        runner: request.name.clone(),
        owner: request.owner.clone(),
        storage_pool: request.pool.storage_pool.clone(),
        lease_until_ms: request.lease_until_ms,
        created_at_ms: now_ms(),
        tags: request.tags.clone(),
    };
    let parts =
        Parts { name: &request.name, record: &record, disk: &disk, seed: &seed, console: &console, nvram: &nvram };
    let domain = libvirt.start(&document(&request.pool, &parts))?;
    Ok(Some((domain, machine::instance(place, &record, false, InstanceState::Running))))
}

/// The machine of this name, if it runs and is the owner's.
fn running(libvirt: &mut Libvirt, request: &RunnerRequest<Pool>) -> Result<Option<Instance>, Fault> {
    let Some(domain) = none_if(libvirt.domain(&request.name), NO_DOMAIN)? else { return Ok(None) };
    match machine::seen(libvirt, &domain)? {
        Some(seen) if seen.record.owner == request.owner => Ok(seen.into_instance()),
        // It ended between the two questions.
        None if none_if(libvirt.domain(&request.name), NO_DOMAIN)?.is_none() => Ok(None),
        Some(_) | None => Err(Fault::Ours(Error::conflict(format!(
            "libvirt has a machine `{0}` of somebody else; remove it with `virsh destroy {0}` and `virsh undefine {0}`",
            request.name
        )))),
    }
}

/// What became of the try that claimed the name: its machine, or one that is over.
fn claimed(
    call: &C<'_>,
    libvirt: &mut Libvirt,
    request: &RunnerRequest<Pool>,
    place: &Place,
) -> Result<Instance, Fault> {
    let until = Instant::now() + CLAIMED.min(call.remaining() / 2);
    loop {
        if let Some(instance) = running(libvirt, request)? {
            return Ok(instance);
        }
        if Instant::now() >= until {
            return Ok(machine::leftover(place));
        }
        std::thread::sleep(POLL);
    }
}

/// A volume, and whether it was made now.
fn make(libvirt: &mut Libvirt, storage: &StoragePool, name: &str, xml: &str) -> Result<(Volume, bool), Fault> {
    match libvirt.create_volume(storage, xml) {
        Ok(volume) => Ok((volume, true)),
        Err(fault) if fault.is(VOLUME_EXISTS) => Ok((libvirt.volume(storage, name)?, false)),
        Err(fault) => Err(fault),
    }
}

/// Writes a volume; one that another try is writing is waited for.
fn upload(libvirt: &mut Libvirt, volume: &Volume, bytes: &[u8]) -> Result<(), Fault> {
    let until = Instant::now() + CLAIMED;
    loop {
        match libvirt.upload(volume, bytes) {
            Err(fault) if fault.is(OPERATION_INVALID) && Instant::now() < until => std::thread::sleep(POLL),
            done => return done,
        }
    }
}

/// Finds the base image; one that was copied into the pool by hand is found after a look at what is there.
fn base(libvirt: &mut Libvirt, pool: &Pool) -> Result<Base, Fault> {
    let storage = libvirt.pool(pool.base_pool())?;
    let volume = match none_if(libvirt.volume(&storage, &pool.base_image), NO_VOLUME)? {
        Some(volume) => volume,
        None => {
            look_again(libvirt, &storage)?;
            none_if(libvirt.volume(&storage, &pool.base_image), NO_VOLUME)?.ok_or_else(|| {
                Error::not_found(format!(
                    "the storage pool `{}` has no volume `{}` to make disks from; `virsh vol-list {0}` shows what it has",
                    pool.base_pool(),
                    pool.base_image
                ))
            })?
        }
    };
    described(libvirt, &volume)
}

/// Has libvirt look at what is in a pool. It refuses while somebody writes a volume there, in words that have no code.
fn look_again(libvirt: &mut Libvirt, storage: &StoragePool) -> Result<(), Fault> {
    let until = Instant::now() + CLAIMED;
    loop {
        match libvirt.refresh(storage) {
            Err(Fault::Refused(_)) if Instant::now() < until => std::thread::sleep(POLL),
            done => return done,
        }
    }
}

/// What a volume's document tells.
fn described(libvirt: &mut Libvirt, volume: &Volume) -> Result<Base, Fault> {
    let xml = libvirt.volume_xml(volume)?;
    let read = || {
        let document = Document::parse(&xml).ok()?;
        let child =
            |node: roxmltree::Node<'_, '_>, name: &str| node.children().find(|n| n.has_tag_name(name)).map(|n| n.id());
        let node = |id| document.get_node(id);
        let root = document.root_element();
        let capacity = node(child(root, "capacity")?)?.text()?.trim().parse().ok()?;
        let target = node(child(root, "target")?)?;
        let path = node(child(target, "path")?)?.text()?.to_owned();
        let format =
            child(target, "format").and_then(node).and_then(|n| n.attribute("type")).unwrap_or("raw").to_owned();
        Some(Base { path, format, capacity })
    };
    read().ok_or_else(|| {
        Fault::Ours(Error::invalid_config(format!(
            "the volume `{}` of the storage pool `{}` is none that has a path; the pool must be one of files",
            volume.name, volume.pool
        )))
    })
}

fn disk_size(pool: &Pool, base: &Base) -> Result<u64, Error> {
    match pool.disk_bytes() {
        Some(asked) if asked < base.capacity => Err(Error::invalid_config(format!(
            "`/pool/disk` is smaller than the base image `{}`, which has {} bytes",
            pool.base_image, base.capacity
        ))),
        Some(asked) => Ok(asked),
        None => Ok(base.capacity),
    }
}

fn volume_xml(name: &str, bytes: u64, backing: Option<&Base>) -> String {
    let (format, backing) = match backing {
        None => ("raw", String::new()),
        Some(base) => (
            "qcow2",
            format!(
                "<backingStore><path>{}</path><format type=\"{}\"/></backingStore>",
                escape(&base.path),
                escape(&base.format)
            ),
        ),
    };
    format!(
        "<volume><name>{}</name><capacity unit=\"bytes\">{bytes}</capacity><target><format type=\"{format}\"/></target>{backing}</volume>",
        escape(name)
    )
}

#[expect(clippy::disallowed_methods, reason = "the time a machine was made, stored with it; nothing is decided by it")]
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}
