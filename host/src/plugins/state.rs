//! What a component's store holds during one call: its imports and its limits.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use wasmtime::{
    ResourceLimiter, Store, UpdateDeadline,
    component::{HasSelf, Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    p2::{DynInputStream, DynOutputStream},
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    bindings::pacer::backend::{
        cache as cache_import, connect as connect_import, log as log_import,
        model::{Error, ErrorKind},
    },
    cache::Cache,
    connect::Connection,
    egress::CallEgress,
    held,
    log::{CallLog, Sink, Stream},
    meter::Meter,
};
use crate::{config::PluginLimits, routing::BackendName};

/// Handles in the component's own tables.
const HANDLES: usize = 10_000;
/// Core instances, tables and memories of one component. An interpreter brings about 30 core instances.
const INSTANCES: usize = 200;
const TABLES: usize = 200;
const MEMORIES: usize = 50;
/// Of random bytes at once.
const RANDOM: u64 = 64 << 10;
/// What an element of a table costs.
const TABLE_ELEMENT: u64 = 16;

/// Memory that all calls together hold.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicU64,
    total: u64,
    freed: Notify,
}

impl Budget {
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), total, freed: Notify::new() })
    }

    /// Sets memory aside, as soon as there is room.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Reserved {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Whatever is given back from here on wakes it.
            freed.as_mut().enable();
            if self.take(bytes) {
                return Reserved { budget: self.clone(), bytes };
            }
            freed.await;
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.total)
        });
        taken.is_ok()
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn exceeded(&self) -> Exceeded {
        Exceeded::TotalMemory(self.total)
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.notify_waiters();
    }
}

/// Memory that is set aside, until it is dropped.
pub(super) struct Reserved {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reserved {
    fn grow(&mut self, bytes: u64) -> bool {
        let taken = self.budget.take(bytes);
        self.bytes += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// A limit that a call ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    #[error("more than {0} bytes of memory")]
    Memory(u64),
    #[error("more than {0} bytes of memory in all calls")]
    TotalMemory(u64),
    #[error("{computed:?} of computing")]
    Cpu { computed: Duration, limit: Duration },
}

impl Exceeded {
    /// Which limit it was, and the key that raises it.
    pub fn told(self, backend: &BackendName) -> String {
        match self {
            Self::Memory(limit) => format!(
                "it used more than the {limit} bytes of memory that `backends.{backend}.limits.memory` allows a call; \
                 raise it if that is what the work needs"
            ),
            Self::TotalMemory(limit) => format!(
                "all calls together used the {limit} bytes of memory that `plugins.limits.total_memory` allows; raise \
                 it, or lower `limits.concurrency`"
            ),
            Self::Cpu { computed, limit } => format!(
                "it computed for {} ms, more than the {} ms that `backends.{backend}.limits.cpu` allows a call; raise \
                 it if that is what the work needs",
                computed.as_millis(),
                limit.as_millis()
            ),
        }
    }
}

/// Counts the memory of one store, over all of its memories and tables.
struct Limiter {
    used: u64,
    limit: u64,
    /// With what the host may come to hold for the call, which is not of the component's limit.
    reserved: Reserved,
    exceeded: Option<Exceeded>,
}

impl Limiter {
    fn grow(&mut self, bytes: u64) -> bool {
        if self.used.saturating_add(bytes) > self.limit {
            self.exceeded = Some(Exceeded::Memory(self.limit));
            return false;
        }
        if !self.reserved.grow(bytes) {
            self.exceeded = Some(self.reserved.budget.exceeded());
            return false;
        }
        self.used += bytes;
        // Whoever goes on after a refusal did not end by it.
        self.exceeded = None;
        true
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT)))
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

/// The data of a store.
pub(super) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    egress: CallEgress,
    log: Arc<CallLog>,
    outputs: [Sink; 2],
    cache: Arc<Mutex<Cache>>,
    limiter: Limiter,
}

/// What a call brings along.
pub(super) struct CallParts {
    pub egress: CallEgress,
    pub log: Arc<CallLog>,
    pub cache: Arc<Mutex<Cache>>,
    pub reserved: Reserved,
    pub meter: Meter,
}

impl State {
    /// A store for one call, with every limit in force before anything of the component runs.
    pub fn store(engine: &wasmtime::Engine, limits: &PluginLimits, parts: CallParts) -> Store<Self> {
        let CallParts { egress, log, cache, reserved, meter } = parts;
        let outputs = [Sink::new(log.clone(), Stream::Out), Sink::new(log.clone(), Stream::Err)];
        // Nothing is inherited: no arguments, no variables, no directories, no addresses, an empty input.
        let mut wasi = WasiCtx::builder();
        wasi.stdout(outputs[0].clone()).stderr(outputs[1].clone()).max_random_size(RANDOM);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(held::FIELDS);
        let mut table = ResourceTable::new();
        table.set_max_capacity(held::RESOURCES);
        let limiter = Limiter { used: 0, limit: limits.memory, reserved, exceeded: None };
        let state = Self { wasi: wasi.build(), http, table, egress, log, outputs, cache, limiter };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(held::HOSTCALL_BYTES);
        store.set_max_component_handles(HANDLES);
        store.set_epoch_deadline(1);
        let limit = limits.cpu;
        store.epoch_deadline_callback(move |_| {
            let computed = meter.computed();
            if computed > limit {
                return Err(wasmtime::Error::new(Exceeded::Cpu { computed, limit }));
            }
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store
    }

    /// Whether it asked anything of an endpoint.
    pub fn reached_out(&self) -> bool {
        self.egress.reached_out()
    }

    /// What everything that it says is written to.
    pub fn log(&self) -> Arc<CallLog> {
        self.log.clone()
    }

    /// So many bytes of what the component answered, with the secrets of the call blanked out.
    pub fn redact(&self, text: &str, longest: usize) -> String {
        self.log.redact_up_to(text, longest)
    }

    /// The limit on memory that the call ran into, if it did.
    pub fn exceeded(&self) -> Option<Exceeded> {
        self.limiter.exceeded
    }

    /// Hands on what was written without a line end.
    pub fn finish_output(&self) {
        self.outputs.iter().for_each(Sink::finish);
    }
}

/// Everything a component may import.
pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    log_import::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    connect_import::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    cache_import::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
    held::bound_requests(&mut linker)?;
    Ok(linker)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.egress }
    }
}

impl log_import::Host for State {
    async fn emit(
        &mut self,
        level: log_import::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.log.emit(level, &message, &fields);
        Ok(())
    }
}

impl cache_import::Host for State {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key))
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).set(key, value);
        Ok(())
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).delete(&key);
        Ok(())
    }
}

impl connect_import::Host for State {
    async fn open(&mut self, endpoint: String) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        match self.egress.open(&endpoint).await {
            Ok((input, output)) => {
                let connection = Connection { input: Some(input), output: Some(output) };
                Ok(Ok(self.table.push(connection)?))
            }
            Err(refused) => Ok(Err(Error {
                kind: ErrorKind::from(refused.kind),
                message: refused.message,
                retry_after_ms: None,
                attributes: Vec::new(),
            })),
        }
    }
}

impl connect_import::HostConnection for State {
    async fn input(&mut self, connection: Resource<Connection>) -> wasmtime::Result<Resource<DynInputStream>> {
        let input = self.table.get_mut(&connection)?.input.take();
        let input = input.ok_or_else(|| wasmtime::Error::msg("the reading half of a connection was taken twice"))?;
        Ok(self.table.push(input)?)
    }

    async fn output(&mut self, connection: Resource<Connection>) -> wasmtime::Result<Resource<DynOutputStream>> {
        let output = self.table.get_mut(&connection)?.output.take();
        let output = output.ok_or_else(|| wasmtime::Error::msg("the writing half of a connection was taken twice"))?;
        Ok(self.table.push(output)?)
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}
