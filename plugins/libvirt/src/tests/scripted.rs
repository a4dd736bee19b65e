//! Against a scripted daemon: what a real one cannot be made to say.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use pacer_backend::{
    Backend, Error, ErrorKind,
    connect::{Connection, Connector},
    testing::Timed,
};
use serde_json::json;

use super::call;
use crate::{
    Machines,
    fault::kind,
    xdr::{Reader, Writer},
};

const REMOTE: u32 = 0x2000_8086;
const KEEPALIVE: u32 = 0x6b65_6570;

/// A connector whose other end is a thread with a script.
struct Scripted {
    script: Arc<dyn Fn(&mut Daemon) + Send + Sync>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Scripted {
    fn new(script: impl Fn(&mut Daemon) + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), threads: Mutex::default() }
    }

    /// What listing machines answers, within this time; the script must have been as expected.
    fn list_within(self, limit: Duration) -> Result<usize, Error> {
        let listed = call(&self, &json!({}), limit, |call| Machines::list(call, "app-1", None));
        for thread in self.threads.into_inner().unwrap() {
            thread.join().expect("the script goes as expected");
        }
        listed.map(|page| page.instances.len())
    }

    fn list(self) -> Result<usize, Error> {
        self.list_within(Duration::from_secs(30))
    }
}

struct Daemon(UnixStream);

impl Daemon {
    /// The next packet: program, procedure, type, serial and payload.
    fn read(&mut self) -> Option<(u32, i32, i32, u32, Vec<u8>)> {
        let mut head = [0; 28];
        self.0.read_exact(&mut head).ok()?;
        let mut words = Reader(&head);
        let length = words.uint().unwrap() as usize;
        let (program, _, procedure) = (words.uint().unwrap(), words.uint().unwrap(), words.int().unwrap());
        let (kind, serial) = (words.int().unwrap(), words.uint().unwrap());
        let mut payload = vec![0; length - 28];
        self.0.read_exact(&mut payload).ok()?;
        Some((program, procedure, kind, serial, payload))
    }

    fn send(&mut self, program: u32, procedure: i32, kind: i32, serial: u32, status: i32, payload: &Writer) {
        let length = u32::try_from(28 + payload.0.len()).unwrap();
        let head =
            Writer::default().uint(length).uint(program).uint(1).int(procedure).int(kind).uint(serial).int(status);
        let _ = self.0.write_all(&[head.0, payload.0.clone()].concat());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Answers the next call, which must be of this procedure.
    fn answer(&mut self, procedure: i32, status: i32, payload: &Writer) {
        let (program, asked, kind, serial, _) = self.read().expect("a call");
        assert_eq!((program, asked, kind), (REMOTE, procedure, 0));
        self.send(REMOTE, procedure, 1, serial, status, payload);
    }

    /// The greeting: no authentication, and the driver is opened.
    fn greet(&mut self) {
        self.answer(66, 0, &Writer::default().uint(1).int(0));
        self.answer(1, 0, &Writer::default());
    }
}

fn refusal(code: i32, domain: i32, message: &str) -> Writer {
    let writer = Writer::default().int(code).int(domain).optional(Some(message)).int(2);
    writer.uint(0).optional(None).optional(None).optional(None).int(0).int(0).uint(0)
}

impl Connector for Scripted {
    fn connect(&self, endpoint: &str, limit: Duration) -> Result<Box<dyn Connection>, Error> {
        assert_eq!(endpoint, "libvirt");
        let (near, far) = UnixStream::pair().unwrap();
        let script = self.script.clone();
        self.threads.lock().unwrap().push(std::thread::spawn(move || script(&mut Daemon(far))));
        Ok(Box::new(Timed { stream: near, until: Instant::now() + limit }))
    }
}

const LIST_POOLS: i32 = 281;
const LIST_DOMAINS: i32 = 273;
const CLOSE: i32 = 2;

fn nothing() -> Writer {
    Writer::default().uint(0).uint(0)
}

#[test]
fn pings_are_answered_and_events_are_passed_over() {
    let listed = Scripted::new(|daemon| {
        daemon.greet();
        let (_, procedure, _, serial, _) = daemon.read().unwrap();
        assert_eq!(procedure, LIST_POOLS);
        daemon.send(KEEPALIVE, 1, 2, 0, 0, &Writer::default());
        let (program, procedure, kind, _, payload) = daemon.read().unwrap();
        assert_eq!((program, procedure, kind, payload.len()), (KEEPALIVE, 2, 2, 0), "a pong");
        daemon.send(REMOTE, 107, 2, 0, 0, &Writer::default().uint(7));
        daemon.send(REMOTE, LIST_POOLS, 1, serial, 0, &nothing());
        daemon.answer(LIST_DOMAINS, 0, &nothing());
        daemon.answer(CLOSE, 0, &Writer::default());
    });
    assert_eq!(listed.list().unwrap(), 0);
}

#[test]
fn authentication_is_asked_for_in_words_that_help() {
    let check = |script: fn(&mut Daemon), expected: Result<(), &str>| {
        let listed = Scripted::new(script).list();
        match (listed, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(says)) => {
                assert_eq!(error.kind, ErrorKind::Unauthorized, "{}", error.message);
                assert!(error.message.contains(says), "{}", error.message);
            }
            (listed, expected) => panic!("{listed:?}, not {expected:?}"),
        }
    };
    check(|daemon| daemon.answer(66, 0, &Writer::default().uint(1).int(1)), Err("SASL, which is not supported"));
    check(|daemon| daemon.answer(66, 0, &Writer::default().uint(1).int(9)), Err("a way that is not known here"));
    check(
        |daemon| {
            daemon.answer(66, 0, &Writer::default().uint(1).int(2));
            daemon.answer(70, 1, &refusal(45, 7, "authentication failed: no agent"));
        },
        Err("group `libvirt`"),
    );
    check(
        |daemon| {
            daemon.answer(66, 0, &Writer::default().uint(1).int(2));
            daemon.answer(70, 0, &Writer::default().int(1));
            daemon.answer(1, 0, &Writer::default());
            daemon.answer(LIST_POOLS, 0, &nothing());
            daemon.answer(LIST_DOMAINS, 0, &nothing());
            daemon.answer(CLOSE, 0, &Writer::default());
        },
        Ok(()),
    );
    check(
        |daemon| {
            daemon.answer(66, 0, &Writer::default().uint(0));
            daemon.answer(1, 1, &refusal(88, 55, "access denied"));
        },
        Err("access denied"),
    );
}

#[test]
fn what_is_not_libvirt_is_unavailable() {
    let check = |script: fn(&mut Daemon), says: &str| {
        let error = Scripted::new(script).list().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.message);
        assert!(error.message.contains(says), "{}", error.message);
    };
    // Reads what it was asked first: who hangs up on unread words takes his own back.
    fn bytes(daemon: &mut Daemon, bytes: &[u8]) {
        daemon.read();
        daemon.bytes(bytes);
    }
    fn packet(daemon: &mut Daemon, kind: i32, serial: u32, status: i32, payload: &Writer) {
        daemon.read();
        daemon.send(REMOTE, 66, kind, serial, status, payload);
    }
    check(|_| {}, "connection to libvirt failed");
    check(|daemon| bytes(daemon, b"HTTP/1.1 400 Bad Request\r\n\r\n"), "is it libvirt?");
    check(|daemon| bytes(daemon, &[255; 64]), "is it libvirt?");
    check(|daemon| bytes(daemon, &[0, 0, 0, 27, 1]), "is it libvirt?");
    check(|daemon| bytes(daemon, &[0, 0, 0, 64, 1, 2, 3]), "within an answer");
    check(|daemon| bytes(daemon, &[&[0, 0, 0, 32][..], &[0; 28]].concat()), "not of its protocol");
    check(|daemon| packet(daemon, 1, 99, 0, &nothing()), "not asked");
    check(|daemon| packet(daemon, 1, 1, 1, &Writer::default()), "an error that is not of its protocol");
    check(|daemon| packet(daemon, 3, 1, 2, &Writer::default()), "another kind of packet");
    check(|daemon| daemon.answer(66, 0, &Writer::default().uint(u32::MAX)), "not of its protocol");
}

#[test]
fn a_daemon_that_says_nothing_is_given_up_at_the_deadline() {
    let started = Instant::now();
    let silent = Scripted::new(|daemon| while daemon.read().is_some() {});
    let error = silent.list_within(Duration::from_millis(400)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn each_code_is_of_a_kind() {
    for (codes, expected) in [
        (&[29, 45, 79, 88, 94][..], ErrorKind::Unauthorized),
        (&[42, 43, 49, 50, 53, 57, 62, 66, 99], ErrorKind::NotFound),
        (&[28, 87, 90], ErrorKind::Conflict),
        (&[2], ErrorKind::Capacity),
        (&[3, 8, 21, 27, 67, 84, 91, 92], ErrorKind::InvalidConfig),
        (&[1, 5, 9, 38, 39, 55, 63, 68, 78], ErrorKind::Unavailable),
        (&[0, 71, 5000, -1], ErrorKind::Other),
    ] {
        for code in codes {
            assert_eq!(kind(*code, 10, 0), expected, "{code}");
        }
    }
    assert_eq!(kind(1, 55, 0), ErrorKind::Unauthorized, "whatever access control says");
}

#[test]
fn a_system_call_that_finds_no_space_is_capacity() {
    let refused = |code: i32, errno: i32| {
        let error = Scripted::new(move |daemon| {
            daemon.greet();
            let refusal = Writer::default().int(code).int(18).optional(Some("cannot write")).int(2);
            // About a machine, as libvirt may say.
            let refusal = refusal.uint(1).string("one").fixed(&[7; 16]).int(3);
            let refusal = refusal.optional(Some("%s")).optional(None).optional(Some("x")).int(errno).int(-1).uint(0);
            daemon.answer(LIST_POOLS, 1, &refusal);
            daemon.answer(CLOSE, 0, &Writer::default());
        });
        error.list().unwrap_err().kind
    };
    for errno in [12, 28, 122] {
        assert_eq!(refused(38, errno), ErrorKind::Capacity, "{errno}");
    }
    assert_eq!(refused(38, 5), ErrorKind::Unavailable, "an error of input or output");
    assert_eq!(refused(1, 28), ErrorKind::Unavailable, "the number means something else there");
}

#[test]
fn what_a_daemon_says_after_tls_is_taken_once_and_nothing_else_is() {
    let listed = Scripted::new(|daemon| {
        daemon.bytes(&[1]);
        daemon.greet();
        daemon.answer(LIST_POOLS, 0, &nothing());
        daemon.answer(LIST_DOMAINS, 0, &nothing());
        daemon.answer(CLOSE, 0, &Writer::default());
    });
    assert_eq!(listed.list().unwrap(), 0);
    for welcome in [&[2][..], &[1, 1], &[0]] {
        let refused = Scripted::new(|daemon| {
            daemon.read().expect("a call");
            daemon.bytes(welcome);
            daemon.bytes(&[0, 0, 0, 32, 0, 0, 0, 0]);
        });
        let error = refused.list().unwrap_err();
        assert!(error.message.contains("impossible size"), "{welcome:?}: {}", error.message);
    }
    let late = Scripted::new(|daemon| {
        daemon.answer(66, 0, &Writer::default().uint(1).int(0));
        daemon.read().expect("a call");
        daemon.bytes(&[1, 0, 0, 0, 32]);
    });
    assert!(late.list().unwrap_err().message.contains("impossible size"), "only before the first answer");
}

#[test]
fn a_refusal_is_told_with_its_code_and_cut() {
    let error = Scripted::new(|daemon| {
        daemon.greet();
        daemon.answer(LIST_POOLS, 1, &refusal(38, 18, &"long ".repeat(1000)));
        daemon.answer(CLOSE, 0, &Writer::default());
    });
    let error = error.list().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.len() < 500 && error.message.ends_with("(error 38 of domain 18)"), "{}", error.message);
}
