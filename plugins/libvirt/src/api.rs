//! The procedures of libvirt's remote protocol that are used here, typed. Numbers and shapes are those of
//! `remote_protocol.x`; they never change, new ones are added.

use pacer_backend::{Error, connect::Connection};

use crate::{
    fault::{Fault, NO_SUPPORT},
    rpc::Rpc,
    xdr::{Malformed, Reader, Writer},
};

/// Metadata of the kind "an element of one's own".
const METADATA_ELEMENT: i32 = 2;
/// Of the running machine, not of its stored definition.
const AFFECT_LIVE: u32 = 1;
/// All memory cells together.
const ALL_CELLS: i32 = -1;
/// Storage pools that are started.
const POOLS_ACTIVE: u32 = 2;
/// The state of a machine that is defined and does not run.
const SHUT_OFF: u32 = 5;
/// Addresses as the network's own DHCP server gave them.
const FROM_LEASES: u32 = 0;

mod procedure {
    pub const CONNECT_OPEN: i32 = 1;
    pub const CONNECT_CLOSE: i32 = 2;
    pub const NODE_GET_INFO: i32 = 6;
    pub const DOMAIN_CREATE_XML: i32 = 10;
    pub const DOMAIN_DESTROY: i32 = 12;
    pub const DOMAIN_GET_XML_DESC: i32 = 14;
    pub const DOMAIN_GET_INFO: i32 = 16;
    pub const DOMAIN_LOOKUP_BY_NAME: i32 = 23;
    pub const DOMAIN_RESUME: i32 = 28;
    pub const DOMAIN_SHUTDOWN: i32 = 33;
    pub const DOMAIN_SUSPEND: i32 = 34;
    pub const AUTH_LIST: i32 = 66;
    pub const AUTH_POLKIT: i32 = 70;
    pub const STORAGE_POOL_REFRESH: i32 = 83;
    pub const STORAGE_POOL_LOOKUP_BY_NAME: i32 = 84;
    pub const STORAGE_VOL_CREATE_XML: i32 = 93;
    pub const STORAGE_VOL_DELETE: i32 = 94;
    pub const STORAGE_VOL_LOOKUP_BY_NAME: i32 = 95;
    pub const STORAGE_VOL_GET_INFO: i32 = 98;
    pub const STORAGE_VOL_GET_XML_DESC: i32 = 99;
    pub const NODE_GET_FREE_MEMORY: i32 = 102;
    pub const STORAGE_VOL_UPLOAD: i32 = 208;
    pub const STORAGE_VOL_DOWNLOAD: i32 = 209;
    pub const DOMAIN_GET_STATE: i32 = 212;
    pub const NODE_GET_MEMORY_STATS: i32 = 228;
    pub const DOMAIN_SET_METADATA: i32 = 264;
    pub const CONNECT_LIST_ALL_DOMAINS: i32 = 273;
    pub const CONNECT_LIST_ALL_STORAGE_POOLS: i32 = 281;
    pub const STORAGE_POOL_LIST_ALL_VOLUMES: i32 = 282;
    pub const DOMAIN_INTERFACE_ADDRESSES: i32 = 353;
}

/// How a connection may have to be authenticated.
mod auth {
    pub const NONE: i32 = 0;
    pub const SASL: i32 = 1;
    pub const POLKIT: i32 = 2;
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Domain {
    pub name: String,
    uuid: [u8; 16],
    /// Its number among those that run, in the order in which they started; less than zero for one that does not run.
    pub id: i32,
}

/// A storage pool.
#[derive(Clone, Debug)]
pub struct StoragePool {
    pub name: String,
    uuid: [u8; 16],
}

/// A volume of a storage pool.
#[derive(Clone, Debug)]
pub struct Volume {
    pub pool: String,
    pub name: String,
    key: String,
}

/// The machine that libvirt runs on.
#[derive(Debug)]
pub struct Node {
    pub memory_kib: u64,
    pub cpus: u64,
}

/// What a machine takes.
#[derive(Debug)]
pub struct Usage {
    pub is_running: bool,
    pub memory_kib: u64,
    pub cpus: u64,
}

impl Domain {
    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { name: from.string()?, uuid: uuid(from)?, id: from.int()? })
    }
    fn write(&self) -> Writer {
        Writer::default().string(&self.name).fixed(&self.uuid).int(self.id)
    }
}

impl StoragePool {
    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { name: from.string()?, uuid: uuid(from)? })
    }
    fn write(&self) -> Writer {
        Writer::default().string(&self.name).fixed(&self.uuid)
    }
}

impl Volume {
    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { pool: from.string()?, name: from.string()?, key: from.string()? })
    }
    fn write(&self) -> Writer {
        Writer::default().string(&self.pool).string(&self.name).string(&self.key)
    }
}

fn uuid(from: &mut Reader<'_>) -> Result<[u8; 16], Malformed> {
    from.fixed(16)?.try_into().map_err(|_| Malformed)
}

/// An open connection to a driver.
pub struct Libvirt(Rpc);

/// Reads an answer.
fn read<'a, T>(answer: &'a [u8], with: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>) -> Result<T, Fault> {
    with(&mut Reader(answer))
        .map_err(|Malformed| Fault::Lost(Error::unavailable("libvirt answered something that is not of its protocol")))
}

impl Libvirt {
    /// Greets the daemon and opens the driver behind `uri`.
    pub fn open(stream: Box<dyn Connection>, uri: &str) -> Result<Self, Fault> {
        let mut rpc = Rpc::new(stream);
        let ways = rpc.call(procedure::AUTH_LIST, Writer::default())?;
        let ways = read(&ways, |from| from.list(Reader::int))?;
        if ways.contains(&auth::POLKIT) && !ways.contains(&auth::NONE) {
            // The daemon asks polkit about the process that holds the socket; nothing is sent that proves anything.
            rpc.call(procedure::AUTH_POLKIT, Writer::default()).map_err(|fault| match fault {
                Fault::Refused(refusal) => Fault::Ours(Error::unauthorized(format!(
                    "polkit does not let pacer's user use libvirt; add that user to the group `libvirt`, or set \
                     `auth_unix_rw = \"none\"` in the daemon's configuration ({})",
                    refusal.message
                ))),
                lost @ (Fault::Lost(_) | Fault::Ours(_)) => lost,
            })?;
        } else if !ways.is_empty() && !ways.contains(&auth::NONE) {
            let way = if ways.contains(&auth::SASL) { "SASL" } else { "a way that is not known here" };
            return Err(Fault::Ours(Error::unauthorized(format!(
                "libvirt asks for authentication by {way}, which is not supported; use a unix socket, or TLS with \
                 client certificates and `auth_tls = \"none\"` in the daemon's configuration"
            ))));
        }
        rpc.call(procedure::CONNECT_OPEN, Writer::default().optional(Some(uri)).uint(0))?;
        Ok(Self(rpc))
    }

    /// Says goodbye. Nothing depends on it, but the daemon's log stays clean.
    pub fn close(mut self) {
        let _ = self.0.call(procedure::CONNECT_CLOSE, Writer::default());
    }

    fn domain_call(&mut self, procedure: i32, domain: &Domain) -> Result<Vec<u8>, Fault> {
        self.0.call(procedure, domain.write())
    }

    pub fn domain(&mut self, name: &str) -> Result<Domain, Fault> {
        let answer = self.0.call(procedure::DOMAIN_LOOKUP_BY_NAME, Writer::default().string(name))?;
        read(&answer, Domain::read)
    }

    pub fn domains(&mut self) -> Result<Vec<Domain>, Fault> {
        let answer = self.0.call(procedure::CONNECT_LIST_ALL_DOMAINS, Writer::default().int(1).uint(0))?;
        read(&answer, |from| from.list(Domain::read))
    }

    /// The definition with what is only known of a running machine.
    pub fn domain_xml(&mut self, domain: &Domain) -> Result<String, Fault> {
        let answer = self.0.call(procedure::DOMAIN_GET_XML_DESC, domain.write().uint(0))?;
        read(&answer, Reader::string)
    }

    /// State and its reason.
    pub fn state(&mut self, domain: &Domain) -> Result<(i32, i32), Fault> {
        let answer = self.0.call(procedure::DOMAIN_GET_STATE, domain.write().uint(0))?;
        read(&answer, |from| Ok((from.int()?, from.int()?)))
    }

    pub fn usage(&mut self, domain: &Domain) -> Result<Usage, Fault> {
        let answer = self.domain_call(procedure::DOMAIN_GET_INFO, domain)?;
        read(&answer, |from| {
            let is_running = from.uint()? != SHUT_OFF;
            let memory_kib = from.hyper()?;
            let _now = from.hyper()?;
            Ok(Usage { is_running, memory_kib, cpus: from.uint()?.into() })
        })
    }

    /// Makes a machine that is forgotten when it ends, and starts it.
    pub fn start(&mut self, xml: &str) -> Result<Domain, Fault> {
        let answer = self.0.call(procedure::DOMAIN_CREATE_XML, Writer::default().string(xml).uint(0))?;
        read(&answer, Domain::read)
    }

    /// Asks the machine to go down.
    pub fn shut_down(&mut self, domain: &Domain) -> Result<(), Fault> {
        self.domain_call(procedure::DOMAIN_SHUTDOWN, domain).map(drop)
    }

    /// Ends it.
    pub fn destroy(&mut self, domain: &Domain) -> Result<(), Fault> {
        self.domain_call(procedure::DOMAIN_DESTROY, domain).map(drop)
    }

    pub fn suspend(&mut self, domain: &Domain) -> Result<(), Fault> {
        self.domain_call(procedure::DOMAIN_SUSPEND, domain).map(drop)
    }

    pub fn resume(&mut self, domain: &Domain) -> Result<(), Fault> {
        self.domain_call(procedure::DOMAIN_RESUME, domain).map(drop)
    }

    /// Replaces the running machine's element of namespace `uri`.
    pub fn set_metadata(&mut self, domain: &Domain, element: &str, key: &str, uri: &str) -> Result<(), Fault> {
        let arguments = domain.write().int(METADATA_ELEMENT).optional(Some(element)).optional(Some(key));
        let arguments = arguments.optional(Some(uri)).uint(AFFECT_LIVE);
        self.0.call(procedure::DOMAIN_SET_METADATA, arguments).map(drop)
    }

    /// Addresses that the network's DHCP server gave the machine.
    pub fn addresses(&mut self, domain: &Domain) -> Result<Vec<String>, Fault> {
        let arguments = domain.write().uint(FROM_LEASES).uint(0);
        let answer = self.0.call(procedure::DOMAIN_INTERFACE_ADDRESSES, arguments)?;
        let interfaces = read(&answer, |from| {
            from.list(|from| {
                let _name = from.string()?;
                let _hardware = from.optional(Reader::string)?;
                from.list(|from| {
                    let (_kind, address, _prefix) = (from.int()?, from.string()?, from.uint()?);
                    Ok(address)
                })
            })
        })?;
        Ok(interfaces.concat())
    }

    pub fn node(&mut self) -> Result<Node, Fault> {
        // The model's name is a fixed array of single characters, each in a word of its own.
        const MODEL: usize = 32 * 4;
        let answer = self.0.call(procedure::NODE_GET_INFO, Writer::default())?;
        read(&answer, |from| {
            from.fixed(MODEL)?;
            Ok(Node { memory_kib: from.hyper()?, cpus: from.uint()?.into() })
        })
    }

    /// Memory that could be given away now, what only caches files included.
    pub fn free_memory_kib(&mut self) -> Result<u64, Fault> {
        let ask = |count: i32| Writer::default().int(count).int(ALL_CELLS).uint(0);
        let known = match self.0.call(procedure::NODE_GET_MEMORY_STATS, ask(0)) {
            Ok(answer) => read(&answer, |from| {
                from.list(memory_stat)?;
                from.int()
            })?,
            Err(fault) if fault.is(NO_SUPPORT) => 0,
            Err(fault) => return Err(fault),
        };
        if known > 0 {
            let answer = self.0.call(procedure::NODE_GET_MEMORY_STATS, ask(known))?;
            let stats = read(&answer, |from| from.list(memory_stat))?;
            let free = stats.iter().filter(|(field, _)| matches!(field.as_str(), "free" | "buffers" | "cached"));
            return Ok(free.fold(0, |sum, (_, kib)| sum.saturating_add(*kib)));
        }
        let answer = self.0.call(procedure::NODE_GET_FREE_MEMORY, Writer::default())?;
        Ok(read(&answer, Reader::hyper)? / 1024)
    }

    pub fn pool(&mut self, name: &str) -> Result<StoragePool, Fault> {
        let answer = self.0.call(procedure::STORAGE_POOL_LOOKUP_BY_NAME, Writer::default().string(name))?;
        read(&answer, StoragePool::read)
    }

    /// Storage pools that are started.
    pub fn pools(&mut self) -> Result<Vec<StoragePool>, Fault> {
        let arguments = Writer::default().int(1).uint(POOLS_ACTIVE);
        let answer = self.0.call(procedure::CONNECT_LIST_ALL_STORAGE_POOLS, arguments)?;
        read(&answer, |from| from.list(StoragePool::read))
    }

    /// Has libvirt look what is in the pool.
    pub fn refresh(&mut self, pool: &StoragePool) -> Result<(), Fault> {
        self.0.call(procedure::STORAGE_POOL_REFRESH, pool.write().uint(0)).map(drop)
    }

    pub fn volumes(&mut self, pool: &StoragePool) -> Result<Vec<Volume>, Fault> {
        let answer = self.0.call(procedure::STORAGE_POOL_LIST_ALL_VOLUMES, pool.write().int(1).uint(0))?;
        read(&answer, |from| from.list(Volume::read))
    }

    pub fn volume(&mut self, pool: &StoragePool, name: &str) -> Result<Volume, Fault> {
        let answer = self.0.call(procedure::STORAGE_VOL_LOOKUP_BY_NAME, pool.write().string(name))?;
        read(&answer, Volume::read)
    }

    pub fn create_volume(&mut self, pool: &StoragePool, xml: &str) -> Result<Volume, Fault> {
        let answer = self.0.call(procedure::STORAGE_VOL_CREATE_XML, pool.write().string(xml).uint(0))?;
        read(&answer, Volume::read)
    }

    pub fn volume_xml(&mut self, volume: &Volume) -> Result<String, Fault> {
        let answer = self.0.call(procedure::STORAGE_VOL_GET_XML_DESC, volume.write().uint(0))?;
        read(&answer, Reader::string)
    }

    /// Its size in bytes, as it is now.
    pub fn volume_size(&mut self, volume: &Volume) -> Result<u64, Fault> {
        let answer = self.0.call(procedure::STORAGE_VOL_GET_INFO, volume.write())?;
        read(&answer, |from| {
            let _kind = from.int()?;
            from.hyper()
        })
    }

    pub fn delete_volume(&mut self, volume: &Volume) -> Result<(), Fault> {
        self.0.call(procedure::STORAGE_VOL_DELETE, volume.write().uint(0)).map(drop)
    }

    pub fn upload(&mut self, volume: &Volume, bytes: &[u8]) -> Result<(), Fault> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.upload(procedure::STORAGE_VOL_UPLOAD, volume.write().hyper(0).hyper(length).uint(0), bytes)
    }

    /// At most `length` bytes from `offset` on.
    pub fn download(&mut self, volume: &Volume, offset: u64, length: u32) -> Result<Vec<u8>, Fault> {
        let max = usize::try_from(length).unwrap_or(usize::MAX);
        let arguments = volume.write().hyper(offset).hyper(length.into()).uint(0);
        self.0.download(procedure::STORAGE_VOL_DOWNLOAD, arguments, max)
    }
}

fn memory_stat(from: &mut Reader<'_>) -> Result<(String, u64), Malformed> {
    Ok((from.string()?, from.hyper()?))
}
