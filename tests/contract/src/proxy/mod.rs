//! A proxy between a component and its engine that breaks what can break on the way.
//!
//! It counts *turns*: requests where it speaks HTTP, otherwise pieces that the component sends. A [`Rule`] says which
//! turns go wrong and how; without one everything passes untouched. It listens on a unix socket in front of a unix
//! socket, else on a port of the loopback.

mod http;
mod stream;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longer than any engine takes for one answer; a proxy must not hold its connections for ever.
const ANSWER: Duration = Duration::from_secs(120);
/// What is not the beginning of any protocol that an engine speaks.
const GARBAGE: &[u8] = b"\xff\xfe\x00\x00\x7f this is no protocol at all\r\n\r\n\x00\x01\x02\x03";
/// The pieces that a slow answer comes in.
const PIECES: usize = 8;

/// Where an engine listens.
#[derive(Debug, Clone)]
pub enum Target {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// What is spoken with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    /// Anything else, which the proxy does not understand.
    Stream,
}

/// An answer of the proxy's own.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing is ever answered.
    Stall,
    /// The connection is reset before the engine heard of it.
    Reset,
    /// The engine does what it was asked to, and the connection is reset instead of its answer.
    LoseAnswer,
    /// Bytes that are not of the protocol.
    Garbage,
    /// Half of the answer, then the end.
    Truncate,
    /// The answer in pieces, with this pause after each.
    Slow(Duration),
    /// This instead of the engine's answer. HTTP only.
    Refuse(Answer),
    /// This status, with a message that repeats the body of the request. HTTP only.
    Echo(u16),
}

/// Which turns go wrong.
#[derive(Debug, Clone)]
pub struct Rule {
    pub fault: Fault,
    /// The first turn that goes wrong, counted from 1.
    pub from: usize,
    /// Only this one, or all that follow as well.
    pub once: bool,
}

impl Rule {
    /// From now on.
    pub fn always(fault: Fault) -> Self {
        Self { fault, from: 1, once: false }
    }

    /// Only the turn of this number.
    pub fn at(turn: usize, fault: Fault) -> Self {
        Self { fault, from: turn, once: true }
    }
}

#[derive(Default)]
struct Turns {
    rule: Option<Rule>,
    taken: usize,
}

struct State {
    target: Target,
    turns: Mutex<Turns>,
    tasks: TaskTracker,
}

impl State {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn: what goes wrong with it, if anything does.
    fn turn(&self) -> Option<Fault> {
        let mut turns = self.turns();
        turns.taken += 1;
        let taken = turns.taken;
        let hit = |rule: &&Rule| if rule.once { taken == rule.from } else { taken >= rule.from };
        turns.rule.as_ref().filter(hit).map(|rule| rule.fault.clone())
    }

    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.target {
            Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Target::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        })
    }
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Has the other side see a reset where the kind of connection knows one.
    fn reset(&self);
}

impl Stream for UnixStream {
    fn reset(&self) {}
}

impl Stream for TcpStream {
    fn reset(&self) {
        // Without it the other side sees an orderly end, which is almost the same fault.
        let _ = self.set_zero_linger();
    }
}

/// A running proxy; it ends when it is dropped.
pub struct Proxy {
    state: Arc<State>,
    address: Target,
    ending: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ending.cancel();
        if let Target::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Proxy {
    /// Listens in `folder`, which must have a short path, or on the loopback.
    pub async fn start(target: Target, protocol: Protocol, folder: &Path) -> io::Result<Self> {
        let (ending, tasks) = (CancellationToken::new(), TaskTracker::new());
        let address = match &target {
            Target::Unix(_) => Target::Unix(folder.join("proxy.sock")),
            Target::Tcp(_) => Target::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
        };
        let state = Arc::new(State { target, turns: Mutex::default(), tasks: tasks.clone() });
        let serve = {
            let (state, ending) = (state.clone(), ending.clone());
            move |stream: Box<dyn Stream>| {
                let (state, ending) = (state.clone(), ending.clone());
                tasks.spawn(async move {
                    let served = async {
                        match protocol {
                            Protocol::Http => http::serve(&state, stream).await,
                            Protocol::Stream => stream::serve(&state, stream).await,
                        }
                    };
                    ending.run_until_cancelled(served).await;
                });
            }
        };
        let address = match address {
            Target::Unix(path) => {
                let listener = UnixListener::bind(&path)?;
                let ending = ending.clone();
                state.tasks.spawn(async move {
                    while let Some(Ok((stream, _))) = ending.run_until_cancelled(listener.accept()).await {
                        serve(Box::new(stream));
                    }
                });
                Target::Unix(path)
            }
            Target::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = listener.local_addr()?;
                let ending = ending.clone();
                state.tasks.spawn(async move {
                    while let Some(Ok((stream, _))) = ending.run_until_cancelled(listener.accept()).await {
                        let _ = stream.set_nodelay(true);
                        serve(Box::new(stream));
                    }
                });
                Target::Tcp(address)
            }
        };
        Ok(Self { state, address, ending })
    }

    /// Where it listens.
    pub fn address(&self) -> &Target {
        &self.address
    }

    /// Counts turns anew and has some of them go wrong.
    pub fn arm(&self, rule: Rule) {
        *self.state.turns() = Turns { rule: Some(rule), taken: 0 };
    }

    /// Counts turns anew; everything passes.
    pub fn disarm(&self) {
        *self.state.turns() = Turns::default();
    }

    /// Turns since it was last armed or disarmed.
    pub fn turns(&self) -> usize {
        self.state.turns().taken
    }
}
