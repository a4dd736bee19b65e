//! The proxy breaks what it is told to break, and nothing else.

use std::{net::Ipv4Addr, time::Duration};

use pacer_contract::proxy::{Answer, Fault, Protocol, Proxy, Rule, Target};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// Nothing here takes so long.
const SOON: Duration = Duration::from_secs(10);
/// What is taken for no answer at all.
const NEVER: Duration = Duration::from_millis(300);
const REQUEST: &[u8] = b"POST /a HTTP/1.1\r\nhost: engine\r\ncontent-length: 5\r\n\r\nhello";
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789";

/// An engine that gives the same answer to whatever it reads, and tells that it was asked.
struct Server {
    proxy: Proxy,
    asked: mpsc::UnboundedReceiver<()>,
    _tasks: TaskTracker,
    _folder: TempDir,
}

async fn tcp(protocol: Protocol) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let target = Target::Tcp(listener.local_addr().expect("a port"));
    let (tell, asked) = mpsc::unbounded_channel();
    let (tasks, folder) = (TaskTracker::new(), tempfile::tempdir().expect("a folder"));
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                let _ = tell.send(());
                let _ = stream.write_all(ANSWER.as_bytes()).await;
            }
        }
    });
    let proxy = Proxy::start(target, protocol, folder.path()).await.expect("it listens");
    Server { proxy, asked, _tasks: tasks, _folder: folder }
}

impl Server {
    /// What comes back on a connection of its own: the bytes, and whether it ended in a reset.
    async fn ask(&self) -> (String, bool) {
        let Target::Tcp(address) = self.proxy.address() else { panic!("it listens on a port") };
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(REQUEST).await.expect("it reads");
        let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
        loop {
            match timeout(NEVER, stream.read(&mut bytes)).await {
                Ok(Ok(0)) | Err(_) => return (String::from_utf8_lossy(&all).into_owned(), false),
                Ok(Ok(count)) => all.extend_from_slice(&bytes[..count]),
                Ok(Err(_)) => return (String::from_utf8_lossy(&all).into_owned(), true),
            }
        }
    }

    /// How often the engine was asked since the last look.
    fn asked(&mut self) -> usize {
        std::iter::from_fn(|| self.asked.try_recv().ok()).count()
    }
}

#[tokio::test]
async fn without_a_rule_everything_passes() {
    for protocol in [Protocol::Http, Protocol::Stream] {
        let server = tcp(protocol).await;
        let (answer, reset) = server.ask().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("0123456789") && !reset, "{answer}");
        assert_eq!(server.proxy.turns(), 1);
    }
}

#[tokio::test]
async fn each_fault_is_what_it_says() {
    for protocol in [Protocol::Http, Protocol::Stream] {
        let mut server = tcp(protocol).await;
        let mut broken = async |fault: Fault| {
            server.proxy.arm(Rule::always(fault));
            let (answer, reset) = server.ask().await;
            (answer, reset, server.asked())
        };
        assert_eq!(broken(Fault::Stall).await, (String::new(), false, 0));
        assert_eq!(broken(Fault::Reset).await, (String::new(), true, 0));
        assert_eq!(broken(Fault::LoseAnswer).await, (String::new(), true, 1), "the engine heard of it");
        let (garbage, _, asked) = broken(Fault::Garbage).await;
        assert!(garbage.contains("no protocol at all") && asked == 0, "{garbage}");
        let (half, _, asked) = broken(Fault::Truncate).await;
        assert!(half.starts_with("HTTP/1.1 200 OK") && !half.ends_with("789") && asked == 1, "{half}");
        let (slow, _, asked) = broken(Fault::Slow(Duration::from_millis(5))).await;
        assert!(slow.ends_with("0123456789") && asked == 1, "{slow}");
    }
}

#[tokio::test]
async fn refusals_are_answers_of_the_proxys_own() {
    let mut server = tcp(Protocol::Http).await;
    server.proxy.arm(Rule::always(Fault::Refuse(Answer::new(429, "busy").header("retry-after", "7"))));
    let (answer, _) = server.ask().await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 7") && answer.ends_with("busy"));
    server.proxy.arm(Rule::always(Fault::Echo(400)));
    let (answer, _) = server.ask().await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("cannot understand: hello"), "{answer}");
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_rule_may_be_for_one_turn() {
    let server = tcp(Protocol::Http).await;
    server.proxy.arm(Rule::at(2, Fault::Reset));
    let resets = [server.ask().await.1, server.ask().await.1, server.ask().await.1];
    assert_eq!((resets, server.proxy.turns()), ([false, true, false], 3));
    server.proxy.disarm();
    assert_eq!(server.proxy.turns(), 0);
}

#[tokio::test]
async fn in_front_of_a_unix_socket_it_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let proxy = Proxy::start(Target::Unix(path), Protocol::Stream, folder.path()).await.unwrap();
    let Target::Unix(near) = proxy.address().clone() else { panic!("it listens on a socket") };
    let mut client = UnixStream::connect(&near).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    let (mut server, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut bytes = [0; 4];
    server.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
    drop(proxy);
    assert!(!near.exists(), "its socket goes with it");
}
