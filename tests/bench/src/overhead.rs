//! What a sandboxed backend costs over the engine itself: the same work through its `create` and directly, in turns. What
//! comes before `create` in the server (the delivery, the database, GitHub's configuration) is measured in `dispatch`.

use std::{
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use pacer::{
    clock::{Clock as _, SystemClock},
    config::{self, ProcessEnvironment},
    fleet::runner::RunnerName,
    plugins::{Backends as _, Bootstrap, Compiler, Destruction, Host, RunnerRequest},
    routing::BackendName,
};
use pacer_tests::{
    binaries,
    daemon::Daemon,
    engine::{self, Engine, RUNNER_IMAGE},
    libvirt::{self, BASE, Libvirtd},
    world::{World, runner_script},
};
use tokio::{net::UnixStream, runtime, task::JoinSet};
use tokio_util::task::TaskTracker;

use crate::figures::{Figures, Target, quantile_ms};

/// Containers and machines made each way.
const CONTAINERS: usize = 30;
const MACHINES: usize = 8;
/// Instances asked for at once.
const CLOUD: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);
const MOST: Target = Target::AtMost(1.2);

pub fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    match engine::unavailable() {
        Some(why) => figures.leave_out("overhead over Docker", &why),
        None => runtime.block_on(docker(figures))?,
    }
    match libvirt::unavailable() {
        Some(why) => figures.leave_out("overhead over libvirt", &why),
        None => runtime.block_on(virtual_machines(figures))?,
    }
    match Daemon::start("moto.sh") {
        Err(why) => figures.leave_out("the emulated cloud", &why),
        Ok(moto) => runtime.block_on(cloud(&moto, figures))?,
    }
    Ok(())
}

/// A host with one backend.
async fn host(yaml: &str) -> anyhow::Result<(Arc<Host>, BackendName)> {
    let world = World::start().await;
    let prepared = world.bare().backends(&format!("  it: {{ {yaml} }}")).projects("[]").prepare();
    let config = Arc::new(config::load(&prepared.config_path(), &ProcessEnvironment)?);
    let host = Host::start_with(&config, Arc::new(SystemClock), Compiler::Child(binaries::pacer())).await?;
    host.settled().await;
    Ok((host, "it".parse()?))
}

fn request(name: &str, settings: serde_json::Value, bootstrap: Bootstrap) -> Arc<RunnerRequest> {
    Arc::new(RunnerRequest {
        name: RunnerName::new(name),
        owner: "bench".to_owned(),
        labels: Vec::new(),
        settings,
        bootstrap,
        secrets: Vec::new(),
        lease_until: SystemClock.now() + Duration::from_secs(3600),
        tags: Vec::new(),
    })
}

async fn destroy(host: &Host, backend: &BackendName, handle: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    while host.destroy(backend, handle, Duration::ZERO, PATIENCE).await? != Destruction::Gone {
        ensure!(since.elapsed() < PATIENCE, "machine `{handle}` does not go");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Both ways, and their ratio.
fn add(figures: &mut Figures, what: &str, mut ours: Vec<Duration>, mut theirs: Vec<Duration>) {
    ours.sort_unstable();
    theirs.sort_unstable();
    let (ours, theirs) = (quantile_ms(&ours, 0.5), quantile_ms(&theirs, 0.5));
    figures.add(format!("{what}, by the backend's create, p50"), ours, "ms", Target::None);
    figures.add("  the same directly, p50", theirs, "ms", Target::None);
    figures.add("  the backend's create / directly", ours / theirs, "x", MOST);
}

async fn docker(figures: &mut Figures) -> anyhow::Result<()> {
    let engine = tokio::task::block_in_place(Engine::start);
    tokio::task::block_in_place(|| engine.build_runner_image(&runner_script()));
    let (host, backend) = host(&format!("plugin: docker, endpoints: {{ engine: \"{}\" }}", engine.endpoint())).await?;
    let settings =
        serde_json::json!({ "image": RUNNER_IMAGE, "pull": "never", "network": "host", "command": ["sleep", "600"] });
    let tasks = TaskTracker::new();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=CONTAINERS {
        let name = format!("pacer-bench-{round}");
        let began = Instant::now();
        let jit = Bootstrap::JitConfig("c2VjcmV0".into());
        let made = host.create(&backend, request(&name, settings.clone(), jit), PATIENCE).await?;
        ours.push(began.elapsed());
        let mut direct = Direct::connect(&engine.socket(), &tasks).await?;
        let began = Instant::now();
        direct.create_and_start(&format!("direct-{round}")).await?;
        theirs.push(began.elapsed());
        destroy(&host, &backend, &made.handle).await?;
        direct.send("DELETE", &format!("/v1.41/containers/direct-{round}?force=1"), "").await?;
    }
    // The first of each is cold.
    add(figures, "docker: create and start a container", ours.split_off(1), theirs.split_off(1));
    Ok(())
}

/// A client of the engine that does nothing but the two calls.
struct Direct(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Direct {
    async fn connect(socket: &Path, tasks: &TaskTracker) -> anyhow::Result<Self> {
        let stream = TokioIo::new(UnixStream::connect(socket).await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tasks.spawn(connection);
        Ok(Self(sender))
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "engine")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))?;
        self.0.ready().await?;
        let answer = self.0.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{method} {path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }

    async fn create_and_start(&mut self, name: &str) -> anyhow::Result<()> {
        let body = format!(
            "{{\"Image\":\"{RUNNER_IMAGE}\",\"Cmd\":[\"sleep\",\"600\"],\"HostConfig\":{{\"NetworkMode\":\"host\"}}}}"
        );
        self.send("POST", &format!("/v1.41/containers/create?name={name}"), &body).await?;
        self.send("POST", &format!("/v1.41/containers/{name}/start"), "").await
    }
}

/// The same volumes and the same domain, once by the backend and once by one run of libvirt's own client.
async fn virtual_machines(figures: &mut Figures) -> anyhow::Result<()> {
    let files = tempfile::tempdir()?;
    let daemon = tokio::task::block_in_place(|| Libvirtd::start(files.path()));
    let settings = "{ uri: \"qemu:///session\", cpu_overcommit: 100, memory_reserve: 1m }";
    let endpoint = daemon.endpoint();
    let (host, backend) =
        host(&format!("plugin: libvirt, endpoints: {{ libvirt: \"{endpoint}\" }}, settings: {settings}")).await?;
    let pool =
        serde_json::json!({ "base_image": BASE, "network": "none", "cpus": 1, "memory": "64m", "domain_type": "qemu" });
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=MACHINES {
        let name = format!("pacer-bench-{round}");
        let script = Bootstrap::StartScript("#!/bin/sh\n".into());
        let began = Instant::now();
        let made = host.create(&backend, request(&name, pool.clone(), script), PATIENCE).await?;
        ours.push(began.elapsed());

        // What the backend made, made again under other names.
        let document = tokio::task::block_in_place(|| daemon.virsh(&["dumpxml", "--inactive", &name])).out;
        let prefix = format!("pacer.bench.{name}.");
        let other = format!("direct-{round}");
        let document: String =
            document.lines().filter(|line| !line.contains("<uuid>")).map(|line| format!("{line}\n")).collect();
        let document = document.replace(&prefix, &format!("{other}.")).replace(&name, &other);
        let (domain, seed) = (files.path().join("domain.xml"), files.path().join("seed.iso"));
        std::fs::write(&domain, document)?;
        std::fs::File::create(&seed)?.write_all(&vec![0; 64 * 1024])?;
        let commands = format!(
            "vol-create-as default {other}.disk.qcow2 64M --format qcow2 --backing-vol {BASE} --backing-vol-format qcow2; \
             vol-create-as default {other}.seed.iso 64K --format raw; vol-upload {other}.seed.iso {} --pool default; \
             vol-create-as default {other}.console.log 0 --format raw; create {}",
            seed.display(),
            domain.display()
        );
        let began = Instant::now();
        let said = tokio::task::block_in_place(|| daemon.virsh(&[&commands]));
        theirs.push(began.elapsed());
        ensure!(said.code == 0, "virsh: {}", said.all());

        destroy(&host, &backend, &made.handle).await?;
        let volumes =
            ["disk.qcow2", "seed.iso", "console.log"].map(|part| format!("vol-delete {other}.{part} --pool default"));
        let said = tokio::task::block_in_place(|| daemon.virsh(&[&format!("destroy {other}; {}", volumes.join("; "))]));
        ensure!(said.code == 0, "virsh: {}", said.all());
    }
    add(figures, "libvirt: from nothing to a running machine", ours.split_off(1), theirs.split_off(1));
    Ok(())
}

/// On a server that behaves as EC2 does.
async fn cloud(moto: &Daemon, figures: &mut Figures) -> anyhow::Result<()> {
    let (host, backend) = host(&format!(
        "plugin: ec2, limits: {{ concurrency: {CLOUD} }}, endpoints: {{ ec2: {{ url: \"http://{}\", credential: {{ aws_sigv4: {{ region: \
         us-east-1, service: ec2, access_key_id: AKIDEXAMPLE, secret_access_key: secretsecretsecret }} }} }} }}",
        moto.socket().display()
    ))
    .await?;
    let settings = serde_json::json!({ "ami": "ami-12c6146b", "instance_types": ["t3.small"] });
    // The component's code and the server's are warm.
    let ask = |number: usize| {
        let (host, backend, settings) = (host.clone(), backend.clone(), settings.clone());
        async move {
            let script = Bootstrap::StartScript("#!/bin/sh\n".into());
            host.create(&backend, request(&format!("pacer-bench-{number}"), settings, script), PATIENCE).await
        }
    };
    let first = ask(CLOUD).await?;
    destroy(&host, &backend, &first.handle).await?;
    let mut asked = JoinSet::new();
    let began = Instant::now();
    for number in 0..CLOUD {
        asked.spawn(ask(number));
    }
    let mut handles = Vec::new();
    while let Some(made) = asked.join_next().await {
        handles.push(made?.context("an instance was refused")?.handle);
    }
    figures.add(
        format!("{CLOUD} instances asked for at once, until all are made"),
        began.elapsed().as_secs_f64(),
        "s",
        Target::AtMost(2.0),
    );
    for handle in handles {
        destroy(&host, &backend, &handle).await?;
    }
    Ok(())
}
