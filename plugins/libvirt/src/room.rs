//! Whether the node can take one more machine. What is promised to machines counts, used or not, and so does what others
//! use.
//!
//! Room is looked for before anything is made, and once more when the machine is up: several may have found the same room
//! at the same time. libvirt numbers machines in the order in which they start, so each judges itself against those before
//! it, and of two that do not fit together the later one goes. A try that was cut off in between does not judge itself.

use std::collections::BTreeSet;

use pacer_backend::Error;

use crate::{
    api::{Domain, Libvirt},
    fault::{Fault, NO_DOMAIN, none_if},
    settings::{Pool, Settings},
};

/// What was left when it was looked at.
pub struct Room {
    memory_kib: u64,
    cpus: u64,
    /// Virtual processors that may be given away.
    limit: f64,
    /// The machines that are counted.
    counted: BTreeSet<i32>,
}

impl Room {
    /// What the node has left for machines.
    pub fn look(settings: &Settings, libvirt: &mut Libvirt) -> Result<Self, Fault> {
        let node = libvirt.node()?;
        #[expect(clippy::cast_precision_loss, reason = "counts of processors are far below 2^52")]
        let limit = node.cpus as f64 * settings.cpu_overcommit;
        let mut room = Self { memory_kib: node.memory_kib, cpus: 0, limit, counted: BTreeSet::new() };
        for domain in libvirt.domains()? {
            room.count(libvirt, &domain)?;
        }
        room.memory_kib = room.memory_kib.min(libvirt.free_memory_kib()?).saturating_sub(settings.reserve_kib());
        Ok(room)
    }

    /// Takes what a machine was promised.
    fn count(&mut self, libvirt: &mut Libvirt, domain: &Domain) -> Result<(), Fault> {
        // One that is not running takes nothing, and one that went meanwhile is not there.
        let usage = none_if(libvirt.usage(domain), NO_DOMAIN)?;
        if let Some(usage) = usage.filter(|usage| usage.is_running) {
            self.memory_kib = self.memory_kib.saturating_sub(usage.memory_kib);
            self.cpus = self.cpus.saturating_add(usage.cpus);
            self.counted.insert(domain.id);
        }
        Ok(())
    }

    /// Whether this pool's next machine fits.
    pub fn fits(&self, pool: &Pool) -> Result<(), Fault> {
        let asked = pool.memory_kib();
        if asked > self.memory_kib {
            return Err(Fault::Ours(Error::capacity(format!(
                "the host has {} MiB of memory for machines left and {} MiB are asked for",
                self.memory_kib / 1024,
                asked / 1024
            ))));
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of processors are far below 2^52")]
        let wanted = (self.cpus + u64::from(pool.cpus)) as f64;
        if wanted > self.limit {
            return Err(Fault::Ours(Error::capacity(format!(
                "{} virtual processors are given away and {} more are asked for, of {} that `cpu_overcommit` allows",
                self.cpus, pool.cpus, self.limit
            ))));
        }
        Ok(())
    }

    /// Whether it still does beside those that started after the look and before it.
    pub fn still_fits(mut self, libvirt: &mut Libvirt, pool: &Pool, made: &Domain) -> Result<(), Fault> {
        for domain in libvirt.domains()? {
            if domain.id < made.id && !self.counted.contains(&domain.id) {
                self.count(libvirt, &domain)?;
            }
        }
        self.fits(pool)
    }
}
