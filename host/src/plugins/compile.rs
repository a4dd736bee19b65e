//! From the bytes of a component to code in memory.
//!
//! Compilation is outside of what the sandbox bounds, so it happens in a child process with limits of its own. Its
//! product is native code: it lies in a directory that only this user can write, under a name made of the component's
//! digest and of everything that decides how the engine compiles.

use std::{
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Resource, Rlimit};
use tempfile::TempPath;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};
use wasmtime::{Engine, component::Component};

use super::{PluginError, engine, load::Wasm};

/// An interpreter of 18 MB needs 650 MB at its peak; the rest is address space that is reserved and not used.
const ADDRESS_SPACE: u64 = 4 << 30;
/// Such an interpreter takes 20 seconds of two cores.
const CPU_SECONDS: u64 = 240;
/// Longer than the limit on the CPU allows on one busy core.
const PATIENCE: Duration = Duration::from_secs(600);
/// What is read of a child's complaint.
const COMPLAINT: usize = 2_000;

/// Who compiles.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// A limited child: this program with `plugin compile`.
    Child(PathBuf),
    /// This process. For tests, and for tools that do nothing else.
    InProcess,
}

impl Compiler {
    /// This very program.
    pub fn current() -> Result<Self, PluginError> {
        std::env::current_exe().map(Self::Child).map_err(PluginError::io("find this program to compile with it"))
    }
}

/// The compiled form of a component, from the cache or compiled now.
pub(super) async fn compiled(
    engine: &Engine,
    compiler: &Compiler,
    cache_dir: &Path,
    wasm: &Wasm,
) -> Result<Component, PluginError> {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let file = cache_dir.join(format!("{}-{:016x}.cwasm", wasm.digest, hasher.finish()));
    let cached = aside({
        let (engine, dir, file) = (engine.clone(), cache_dir.to_owned(), file.clone());
        move || cached(&engine, &dir, &file)
    });
    let part = match cached.await? {
        Cached::Usable(component) => return Ok(component),
        Cached::Nothing(part) => part,
    };
    let path = wasm.path.clone();
    let refused = move |reason: String| PluginError::Compile { path: path.clone(), reason };
    match compiler {
        Compiler::InProcess => {
            let (engine, bytes, out, refused) =
                (engine.clone(), wasm.bytes.clone(), part.to_path_buf(), refused.clone());
            aside(move || {
                let code = engine.precompile_component(&bytes).map_err(|error| refused(format!("{error:#}")))?;
                fs::write(&out, code).map_err(PluginError::io(format!("write {}", out.display())))
            })
            .await?;
        }
        Compiler::Child(program) => in_child(program, &wasm.bytes, &part, &refused).await?,
    }
    let engine = engine.clone();
    aside(move || {
        part.persist(&file)
            .map_err(|error| PluginError::Io { what: format!("write {}", file.display()), source: error.error })?;
        map(&engine, &file).map_err(|error| refused(format!("{error:#}")))
    })
    .await
}

/// What the cache has.
enum Cached {
    Usable(Component),
    /// A file in the cache to compile into.
    Nothing(TempPath),
}

fn cached(engine: &Engine, dir: &Path, file: &Path) -> Result<Cached, PluginError> {
    own_directory(dir)?;
    if file.exists() {
        match map(engine, file) {
            Ok(component) => return Ok(Cached::Usable(component)),
            // Written by a version that hashed alike and compiled otherwise, or cut off: made anew.
            Err(error) => {
                tracing::warn!(file = %file.display(), "compiled code is not usable, compiling again: {error:#}")
            }
        }
    }
    let part = tempfile::Builder::new()
        .prefix(".compiling-")
        .tempfile_in(dir)
        .map_err(PluginError::io(format!("write to {}", dir.display())))?;
    Ok(Cached::Nothing(part.into_temp_path()))
}

/// Runs what blocks where it holds up nobody.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PluginError> + Send + 'static,
) -> Result<T, PluginError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| PluginError::Engine(error.to_string()))?
}

async fn in_child(
    program: &Path,
    wasm: &[u8],
    out: &Path,
    refused: impl Fn(String) -> PluginError,
) -> Result<(), PluginError> {
    let mut child = Command::new(program)
        .args(["plugin", "compile"])
        .arg(out)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(PluginError::io(format!("start {} to compile", program.display())))?;
    let stdin = child.stdin.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A child that gives up early says why on its standard error.
            let _ = stdin.write_all(wasm).await;
        }
    };
    let work = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = timeout(PATIENCE, work)
        .await
        .map_err(|_| refused(format!("the compiler was ended after {} s", PATIENCE.as_secs())))?
        .map_err(PluginError::io("wait for the compiler"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(COMPLAINT).collect();
    Err(refused(format!("the compiler ended with {}: {said}", output.status)))
}

/// `pacer plugin compile <out>`: compiles the component on standard input, within limits, into the file `out`.
pub fn compile_child_main(args: &[OsString]) -> Result<(), PluginError> {
    let [out] = args else {
        return Err(PluginError::Engine(
            "usage: pacer plugin compile <file>, with a component on standard input".into(),
        ));
    };
    let out = Path::new(out);
    for (resource, limit) in [(Resource::As, ADDRESS_SPACE), (Resource::Cpu, CPU_SECONDS), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        rustix::process::setrlimit(resource, limit)
            .map_err(|error| PluginError::Io { what: "limit the compiler".into(), source: io::Error::from(error) })?;
    }
    // Politeness, not protection: a machine that refuses it compiles all the same.
    let _ = rustix::process::nice(10);
    let mut wasm = Vec::new();
    io::stdin().read_to_end(&mut wasm).map_err(PluginError::io("read the component"))?;
    let engine = Engine::new(&engine::config()).map_err(PluginError::engine)?;
    let code = engine
        .precompile_component(&wasm)
        .map_err(|error| PluginError::Compile { path: "the component".into(), reason: format!("{error:#}") })?;
    let mut file = fs::File::create(out).map_err(PluginError::io(format!("write {}", out.display())))?;
    file.write_all(&code).map_err(PluginError::io(format!("write {}", out.display())))
}

/// Makes the directory, or makes sure that nobody else can write to it.
fn own_directory(dir: &Path) -> Result<(), PluginError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(PluginError::io(format!("create {}", dir.display())))?;
    let meta = fs::symlink_metadata(dir).map_err(PluginError::io(format!("look at {}", dir.display())))?;
    let unusable = |reason: String| PluginError::CacheDir { path: dir.to_owned(), reason };
    if !meta.is_dir() {
        return Err(unusable("it is not a directory of its own; remove the link".into()));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(unusable(
            "it belongs to another user; set `plugins.cache_dir` to a directory of pacer's own".into(),
        ));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(unusable(format!(
            "others may use it (mode {:o}); it holds native code that pacer runs: chmod 700 it",
            meta.mode() & 0o777
        )));
    }
    Ok(())
}

#[expect(unsafe_code, reason = "compiled code can only be mapped by promising that it is ours")]
fn map(engine: &Engine, file: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file is native code that this program's own compiler wrote, renamed into place whole and never
    // changed after. It lies in a directory that `own_directory` found to be ours and closed to everybody else.
    unsafe { Component::deserialize_file(engine, file) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_that_others_can_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = own_directory(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        own_directory(dir.path()).unwrap();
    }

    #[test]
    fn a_new_directory_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        own_directory(&new).unwrap();
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o777, 0o700);
    }
}
