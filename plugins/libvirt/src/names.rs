//! What is called how: handles of machines, volumes of a machine.
//!
//! A volume's name tells its owner and its runner, so that what a machine leaves behind is found without it.

use pacer_backend::Error;

/// In front of every volume that is made here.
const PREFIX: &str = "pacer";
/// A file's name has 255 bytes; a runner's 64 and the longest ending have to fit beside the owner.
const OWNER_MAX: usize = 150;
/// The contract's limit.
const RUNNER_MAX: usize = 64;

/// What volumes a machine has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// The copy-on-write disk.
    Disk,
    /// The image that cloud-init reads.
    Seed,
    /// What the machine writes to its serial port. It is made last, right before the machine: where it exists, a
    /// machine was started.
    Console,
    /// What EFI firmware remembers. libvirt makes it, where it is told to, and leaves it.
    Nvram,
}

impl Part {
    pub const ALL: [Self; 4] = [Self::Disk, Self::Seed, Self::Console, Self::Nvram];

    fn ending(self) -> &'static str {
        match self {
            Self::Disk => "disk.qcow2",
            Self::Seed => "seed.iso",
            Self::Console => "console.log",
            Self::Nvram => "nvram.fd",
        }
    }
}

/// A machine by name, as handles and volumes have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The runner's name, the domain's as well.
    pub runner: String,
    /// The owner in letters that a file's name may have.
    slug: String,
    /// Where its volumes are.
    pub storage_pool: String,
}

impl Place {
    /// Refuses names that do not fit the contract: one with a dot could be taken for another machine's.
    pub fn new(runner: &str, owner: &str, storage_pool: &str) -> Result<Self, Error> {
        if !is_runner(runner) {
            return Err(Error::invalid_request(format!(
                "a runner's name has 1 to {RUNNER_MAX} of the characters a-z, 0-9 and `-`"
            )));
        }
        let slug = slug(owner);
        if slug.is_empty() || slug.len() > OWNER_MAX {
            return Err(Error::invalid_request("the owner's name is empty or too long for a volume's name"));
        }
        Ok(Self { runner: runner.into(), slug, storage_pool: storage_pool.into() })
    }

    /// A handle that was made here; none for anything else.
    pub fn of_handle(handle: &str) -> Option<Self> {
        let mut parts = handle.splitn(3, '/');
        let (runner, slug, storage_pool) = (parts.next()?, parts.next()?, parts.next()?);
        let known = is_runner(runner) && is_slug(slug) && !storage_pool.is_empty();
        known.then(|| Self { runner: runner.into(), slug: slug.into(), storage_pool: storage_pool.into() })
    }

    pub fn handle(&self) -> String {
        format!("{}/{}/{}", self.runner, self.slug, self.storage_pool)
    }

    pub fn owner(&self) -> String {
        unslug(&self.slug)
    }

    pub fn is_owned_by(&self, owner: &str) -> bool {
        self.slug == slug(owner)
    }

    pub fn volume(&self, part: Part) -> String {
        format!("{}{}", self.volumes(), part.ending())
    }

    /// How all its volumes begin, rotated logs included.
    pub fn volumes(&self) -> String {
        format!("{PREFIX}.{}.{}.", self.slug, self.runner)
    }

    /// The machine that a volume belongs to; none for a stranger's volume.
    pub fn of_volume(name: &str, storage_pool: &str) -> Option<Self> {
        let mut parts = name.splitn(4, '.');
        let (prefix, slug, runner, _ending) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let known = prefix == PREFIX && is_slug(slug) && is_runner(runner);
        known.then(|| Self { runner: runner.into(), slug: slug.into(), storage_pool: storage_pool.into() })
    }
}

fn is_runner(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=RUNNER_MAX).contains(&name.len()) && name.bytes().all(plain)
}

fn is_slug(slug: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    (1..=OWNER_MAX).contains(&slug.len()) && slug.bytes().all(plain)
}

/// Another owner has another slug: what is not plain becomes `_` and two digits.
fn slug(owner: &str) -> String {
    owner.bytes().fold(String::new(), |mut slug, b| {
        if b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' {
            slug.push(char::from(b));
        } else {
            slug.push_str(&format!("_{b:02x}"));
        }
        slug
    })
}

/// The owner that a slug was made of.
fn unslug(slug: &str) -> String {
    let mut bytes = Vec::with_capacity(slug.len());
    let mut rest = slug;
    while let Some((plain, coded)) = rest.split_once('_') {
        bytes.extend(plain.bytes());
        let code = coded.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        // Nothing that was made here has another character after it.
        bytes.push(code.unwrap_or(b'_'));
        rest = coded.get(if code.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    bytes.extend(rest.bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Part, Place, slug};

    #[test]
    fn names_that_could_be_anothers_are_refused() {
        for runner in ["", "a.b", "a/b", "A", "../x", &"a".repeat(65)] {
            assert!(Place::new(runner, "app-1", "default").is_err(), "{runner}");
        }
        assert!(Place::new("a", "", "default").is_err());
        assert!(Place::new("a", &"o".repeat(151), "default").is_err());
        for handle in ["", "a", "a/b", "a/b/", "A/b/c", "a/../c", "a/b.c/d"] {
            assert_eq!(Place::of_handle(handle), None, "{handle}");
        }
        for volume in ["base.qcow2", "pacer", "pacer.a", "pacer.a.b", "pacer..b.disk", "xpacer.a.b.disk", "pacer.a.B.c"]
        {
            assert_eq!(Place::of_volume(volume, "default"), None, "{volume}");
        }
    }

    proptest! {
        #[test]
        fn a_machine_is_found_by_its_handle_and_its_volumes(runner in "[a-z0-9-]{1,64}", owner in "[ -~é]{1,20}", pool in "[ -.0-~]{1,20}") {
            let place = Place::new(&runner, &owner, &pool).unwrap();
            prop_assert!(place.is_owned_by(&owner));
            prop_assert_eq!(place.owner(), owner);
            prop_assert_eq!(Place::of_handle(&place.handle()), Some(place.clone()));
            for part in Part::ALL {
                let name = place.volume(part);
                prop_assert!(name.len() <= 255 && !name.contains('/'));
                prop_assert_eq!(Place::of_volume(&name, &pool), Some(place.clone()));
            }
        }

        #[test]
        fn two_owners_have_two_slugs(one: String, other: String) {
            prop_assert_eq!(one == other, slug(&one) == slug(&other));
        }
    }
}
