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
use tokio::{io::AsyncWriteExt as _, process::Command, sync::Semaphore, time::timeout};
use wasmtime::{Engine, component::Component};

use super::{PluginError, engine, load::Wasm};

/// An interpreter of 18 MB needs 650 MB at its peak; the rest is address space that is reserved and not used.
const ADDRESS_SPACE: u64 = 4 << 30;
/// Such an interpreter takes 20 seconds of two cores.
const CPU_SECONDS: u64 = 240;
/// Longer than the limit on the CPU allows on one busy core.
const PATIENCE: Duration = Duration::from_secs(600);
/// Components whose code is kept: more than a configuration has backends, with the versions before.
const KEPT: usize = 32;
/// How the files of the cache are called: whole ones at the end, others at the beginning.
const CODE: &str = ".cwasm";
const PART: &str = ".compiling-";
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

/// The compiled form of a component, from the cache or compiled now, when it is its turn.
pub(super) async fn compiled(
    engine: &Engine,
    compiler: &Compiler,
    cache_dir: &Path,
    wasm: &Wasm,
    turn: &Semaphore,
) -> Result<Component, PluginError> {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let suffix = format!("-{:016x}.cwasm", hasher.finish());
    let file = cache_dir.join(format!("{}{suffix}", wasm.digest));
    let look = || {
        let (engine, dir, file) = (engine.clone(), cache_dir.to_owned(), file.clone());
        aside(move || cached(&engine, &dir, &file))
    };
    if let Some(component) = look().await? {
        return Ok(component);
    }
    let _turn = turn.acquire().await.map_err(|_| PluginError::Engine("it is shutting down".to_owned()))?;
    // Another backend of the same component may have been before.
    if let Some(component) = look().await? {
        return Ok(component);
    }
    let dir = cache_dir.to_owned();
    let part = aside(move || part(&dir)).await?;
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
    let (engine, dir) = (engine.clone(), cache_dir.to_owned());
    aside(move || {
        part.persist(&file)
            .map_err(|error| PluginError::Io { what: format!("write {}", file.display()), source: error.error })?;
        let component = map(&engine, &file).map_err(|error| refused(format!("{error:#}")))?;
        tidy(&dir, &suffix);
        Ok(component)
    })
    .await
}

/// What the cache has, if that is usable.
fn cached(engine: &Engine, dir: &Path, file: &Path) -> Result<Option<Component>, PluginError> {
    own_directory(dir)?;
    if !file.exists() {
        return Ok(None);
    }
    Ok(map(engine, file)
        // Written by a version that hashed alike and compiled otherwise, or cut off: made anew.
        .inspect_err(|error| {
            tracing::warn!(file = %file.display(), "compiled code is not usable, compiling again: {error:#}");
        })
        .ok())
}

/// A file in the cache to compile into.
fn part(dir: &Path) -> Result<TempPath, PluginError> {
    let part = tempfile::Builder::new().prefix(PART).tempfile_in(dir);
    Ok(part.map_err(PluginError::io(format!("write to {}", dir.display())))?.into_temp_path())
}

/// Removes what nobody will use again: code for another engine, all but the newest, and what a compiler that was
/// killed left behind. What is in use stays in memory without its file.
fn tidy(dir: &Path, suffix: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let known = entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
    let mut known: Vec<_> = known.collect();
    known.sort();
    // The newest was written just now.
    let Some(now) = known.last().map(|(at, _)| *at) else { return };
    let mut kept = 0;
    for (at, path) in known.into_iter().rev() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let age = now.duration_since(at).unwrap_or_default();
        let over = if name.ends_with(suffix) {
            kept += 1;
            kept > KEPT
        } else {
            name.ends_with(CODE) || (name.starts_with(PART) && age > 2 * PATIENCE)
        };
        if over {
            // Somebody else may have been faster.
            let _ = fs::remove_file(&path);
        }
    }
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
            "others may use it (mode {:o}), and it holds native code that pacer runs: empty it and chmod 700 it",
            meta.mode() & 0o777
        )));
    }
    Ok(())
}

fn map(engine: &Engine, file: &Path) -> wasmtime::Result<Component> {
    let meta = fs::symlink_metadata(file)?;
    // Whoever could write to the directory before it was closed may have left a file of their own.
    if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(wasmtime::Error::msg("it is not a file that only this user can write"));
    }
    deserialize(engine, file)
}

#[expect(unsafe_code, reason = "compiled code can only be mapped by promising that it is ours")]
fn deserialize(engine: &Engine, file: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file is native code that this program's own compiler wrote, renamed into place whole and never
    // changed after: nobody else can write to it, nor to its directory, which `own_directory` found to be ours.
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
    fn what_nobody_will_use_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, age: u64| {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        };
        for n in 0..KEPT as u64 + 3 {
            write(&format!("{n}-ours.cwasm"), 100 * n);
        }
        write("0-other.cwasm", 0);
        write(".compiling-now", 0);
        write(".compiling-killed", 3 * PATIENCE.as_secs());
        write("notes", 1_000_000);
        tidy(dir.path(), "-ours.cwasm");
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected: Vec<std::ffi::OsString> = (0..KEPT).map(|n| format!("{n}-ours.cwasm").into()).collect();
        expected.extend([".compiling-now".into(), "notes".into()]);
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_file_that_others_can_write_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine::start().unwrap();
        let file = dir.path().join("x.cwasm");
        fs::write(&file, engine.precompile_component(b"\0asm\x0d\0\x01\0").unwrap()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        map(&engine, &file).unwrap();
        for mode in [0o620, 0o602] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert!(map(&engine, &file).err().unwrap().to_string().contains("only this user"), "{mode:o}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("link.cwasm");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(map(&engine, &link).err().unwrap().to_string().contains("only this user"));
    }

    #[test]
    fn a_new_directory_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        own_directory(&new).unwrap();
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o777, 0o700);
    }
}
