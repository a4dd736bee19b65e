//! What goes wrong between here and libvirt, and the contract's kind for it.
//!
//! Codes decide, never sentences; the numbers are those of libvirt's `virterror.h`. A sentence is passed on to people.

use pacer_backend::{Error, ErrorKind};

/// No machine of this name.
pub const NO_DOMAIN: i32 = 42;
/// No storage pool of this name.
pub const NO_POOL: i32 = 49;
/// No volume of this name.
pub const NO_VOLUME: i32 = 50;
/// The volume exists already.
pub const VOLUME_EXISTS: i32 = 90;
/// The driver does not do this.
pub const NO_SUPPORT: i32 = 3;
/// The machine is not in a state in which this can be done.
pub const OPERATION_INVALID: i32 = 55;
/// Characters kept of libvirt's sentence: it may quote whole documents.
const MESSAGE_MAX: usize = 400;

/// What libvirt refused.
#[derive(Debug)]
pub struct Refusal {
    pub code: i32,
    /// The part of libvirt that it came from.
    pub domain: i32,
    pub message: String,
    /// What the code makes of it; of a failed system call its `errno`.
    pub detail: i32,
}

/// What a call can fail with.
#[derive(Debug)]
pub enum Fault {
    /// libvirt answered, and said no.
    Refused(Refusal),
    /// There is no answer: whether it was done is not known, and the connection is of no use any more.
    Lost(Error),
    /// libvirt answered, and what it said does not do.
    Ours(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl Fault {
    /// Whether libvirt refused with this code.
    pub fn is(&self, code: i32) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == code)
    }
}

/// Turns a refusal with one of these codes into nothing.
pub fn none_if<T>(result: Result<T, Fault>, code: i32) -> Result<Option<T>, Fault> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(fault) if fault.is(code) => Ok(None),
        Err(fault) => Err(fault),
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Lost(error) | Fault::Ours(error) => error,
            Fault::Refused(Refusal { code, domain, message, detail }) => {
                let said: String = message.trim().chars().take(MESSAGE_MAX).collect();
                Self::new(
                    kind(code, domain, detail),
                    format!("libvirt refused: {said} (error {code} of domain {domain})"),
                )
            }
        }
    }
}

/// The class of a code, by what would have to change.
pub fn kind(code: i32, domain: i32, detail: i32) -> ErrorKind {
    /// Errors of the security drivers and of access control.
    const FROM_ACCESS: i32 = 55;
    const FROM_POLKIT: i32 = 60;
    /// A system call failed, and why: no memory, no space, no quota left.
    const SYSTEM_ERROR: i32 = 38;
    const FULL: [i32; 3] = [12, 28, 122];
    match code {
        // Authentication, and what access control denies.
        29 | 45 | 79 | 88 | 94 => ErrorKind::Unauthorized,
        _ if domain == FROM_ACCESS || domain == FROM_POLKIT => ErrorKind::Unauthorized,
        // A network, pool, volume, interface, secret, filter, device or machine that is not there.
        42 | 43 | 49 | 50 | 53 | 57 | 62 | 66 | 99 => ErrorKind::NotFound,
        // It exists already, or is in use.
        28 | 37 | 87 | 90 => ErrorKind::Conflict,
        2 => ErrorKind::Capacity,
        SYSTEM_ERROR if FULL.contains(&detail) => ErrorKind::Capacity,
        // A document or an argument it does not take, or a machine, CPU or feature it does not have.
        3 | 8 | 16..=24 | 26 | 27 | 35 | 44 | 54 | 67 | 74 | 84 | 91 | 92 => ErrorKind::InvalidConfig,
        // A hypervisor that is not there, failing commands and system calls, time that ran out, changing
        // states, a firewall that could not be made.
        4 | 5 | 9..=15 | SYSTEM_ERROR | 39 | 40 | 55 | 63 | 68 | 73 | 75 | 78 | 85 | 86 | 89 | 97 | 98 => {
            ErrorKind::Unavailable
        }
        // libvirt's own `internal error` is what it says when QEMU ended at its start.
        1 => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    }
}
