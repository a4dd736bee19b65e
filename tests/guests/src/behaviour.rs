//! The behaviours by name.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::BuildHasher as _,
    hint::black_box,
    io::{self, Read as _, Write as _},
    mem,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use pacer_backend::{
    Call, Error, ErrorKind,
    bindings::wasi::{
        clocks::monotonic_clock,
        http::{outgoing_handler, types},
        io::poll,
        random::random,
    },
    connect,
    http::Request,
    log,
};

use crate::Settings;

static CALLS: AtomicU32 = AtomicU32::new(0);

pub fn run(call: &Call<'_, Settings>, words: &str) -> Result<String, Error> {
    let mut words = words.split(' ');
    let mut next = || words.next().unwrap_or_default();
    match next() {
        "say" => Ok(next().to_owned()),
        "error" => {
            let error = Error::new(kind(next()), "as you asked");
            Err(match next().parse() {
                Ok(ms) => error.retry_after(Duration::from_millis(ms)),
                Err(_) => error,
            })
        }
        "panic" => panic!("this is the end of {}", next()),
        "spin" => loop {
            black_box(());
        },
        "spin-for" => {
            let until = Instant::now() + Duration::from_millis(number(next()));
            while Instant::now() < until {
                black_box(());
            }
            Ok("spun".into())
        }
        "grow" => {
            let mut held = Vec::new();
            loop {
                held.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        // More memory is refused, less is given, and then something else goes wrong.
        "survive" => {
            let refused = core::arch::wasm32::memory_grow(0, 40_000) == usize::MAX;
            let given = core::arch::wasm32::memory_grow(0, 1) != usize::MAX;
            panic!("refused: {refused}, given: {given}");
        }
        "hold" => {
            let held = black_box(vec![1_u8; number(next()) as usize]);
            thread::sleep(Duration::from_millis(number(next())));
            Ok(held.len().to_string())
        }
        "recurse" => Ok(recurse(1).to_string()),
        "flood-stdout" => {
            for line in 0..100_000 {
                let _ = writeln!(io::stdout(), "line {line} of a flood");
            }
            Ok("flooded".into())
        }
        "flood-line" => {
            let part = "y".repeat(4_000);
            for _ in 0..1_000 {
                eprint!("{part}");
            }
            Ok("flooded".into())
        }
        "flood-log" => {
            for line in 0..100_000 {
                log!(Info, "line {line} of a flood"; "line" => line);
            }
            Ok("flooded".into())
        }
        "log" => {
            log!(Warn, "{}\n\u{1b}[31mred", next(); "key" => "value");
            Ok(String::new())
        }
        // What another call left behind.
        "count" => Ok(CALLS.fetch_add(1, Ordering::Relaxed).to_string()),
        "sleep-panic" => {
            thread::sleep(Duration::from_millis(number(next())));
            panic!("this is the end of {}", next())
        }
        "unsent" => unsent(number(next())),
        "burst" => {
            let timers: Vec<_> = (0..number(next())).map(|_| monotonic_clock::subscribe_duration(1)).collect();
            while poll::poll(&timers.iter().collect::<Vec<_>>()).is_empty() {}
            Ok("fired".into())
        }
        "random-bytes" => Ok(random::get_random_bytes(number(next())).len().to_string()),
        "pollables" => {
            for _ in 0..100_000 {
                mem::forget(monotonic_clock::subscribe_duration(1));
            }
            Ok("held".into())
        }
        "fields" => {
            for _ in 0..100_000 {
                mem::forget(types::Fields::new());
            }
            Ok("held".into())
        }
        "giant" => Ok("g".repeat(number(next()) as usize)),
        "giant-log" => {
            let text = "g".repeat(number(next()) as usize);
            log!(Info, "{text}");
            Ok("logged".into())
        }
        "sleep" => {
            thread::sleep(Duration::from_millis(number(next())));
            Ok("slept".into())
        }
        "look" => Ok(look()),
        "random" => Ok(RandomState::new().hash_one(1).to_string()),
        "get" => get(call, next(), next(), &[]),
        "get-as" => {
            let (endpoint, path, name, value) = (next(), next(), next(), next());
            get(call, endpoint, path, &[(name, value)])
        }
        "post-form" => {
            let (endpoint, path, form) = (next(), next(), next());
            let mut request = Request::post(endpoint, path).header("content-type", "application/x-www-form-urlencoded");
            request.body = form.as_bytes().to_vec();
            let response = request.send(call)?;
            let status = response.status;
            Ok(format!("{status} {}", String::from_utf8_lossy(&response.bytes(32 << 20)?)))
        }
        "find" => {
            let (endpoint, path, reversed) = (next(), next(), next());
            let body = get(call, endpoint, path, &[])?;
            let found = in_memory(reversed.as_bytes());
            // It is looked for while the answer is still there.
            drop(black_box(body));
            Ok(if found { "found" } else { "not found" }.into())
        }
        "tell" => {
            let body = get(call, next(), next(), &[])?;
            call.cache.set("told", body.as_bytes());
            log!(Warn, "{body}"; "answer" => &body);
            let _ = writeln!(io::stdout(), "{body}");
            eprintln!("{body}");
            match next() {
                "panic" => panic!("{body}"),
                _ => Err(Error::internal(body)),
            }
        }
        "many" => many(next(), number(next())),
        "echo" => echo(call, next(), next()),
        "keep" => {
            call.cache.set(next(), next().as_bytes());
            Ok("kept".into())
        }
        "recall" => Ok(call.cache.get(next()).map_or("nothing".into(), |v| String::from_utf8_lossy(&v).into_owned())),
        other => Err(Error::invalid_request(format!("no behaviour `{other}`"))),
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn kind(word: &str) -> ErrorKind {
    match word {
        "invalid-request" => ErrorKind::InvalidRequest,
        "invalid-config" => ErrorKind::InvalidConfig,
        "unauthorized" => ErrorKind::Unauthorized,
        "not-found" => ErrorKind::NotFound,
        "conflict" => ErrorKind::Conflict,
        "capacity" => ErrorKind::Capacity,
        "quota" => ErrorKind::Quota,
        "rate-limited" => ErrorKind::RateLimited,
        "unavailable" => ErrorKind::Unavailable,
        "interrupted" => ErrorKind::Interrupted,
        "unsupported" => ErrorKind::Unsupported,
        "internal" => ErrorKind::Internal,
        _ => ErrorKind::Other,
    }
}

fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if black_box(depth) == 0 { 0 } else { recurse(depth + 1) + black_box(frame)[1] }
}

/// Whether the memory of this component holds a text. It is given backwards, so that asking does not put it there.
#[expect(unsafe_code, reason = "what was freed is looked at as well")]
fn in_memory(reversed: &[u8]) -> bool {
    let end = core::arch::wasm32::memory_size(0) << 16;
    // SAFETY: all of `1..end` is memory that exists, and any byte is a `u8`.
    let byte = |at: usize| unsafe { core::ptr::with_exposed_provenance::<u8>(at).read_volatile() };
    (1..=end - reversed.len())
        .any(|at| reversed.iter().rev().enumerate().all(|(offset, wanted)| byte(at + offset) == *wanted))
}

/// Everything of the outside that can be seen: there should be nothing.
fn look() -> String {
    let mut seen = Vec::new();
    seen.extend(std::env::vars().map(|(key, _)| format!("variable {key}")));
    seen.extend(std::env::args().map(|arg| format!("argument {arg}")));
    for path in ["/", ".", "/etc/passwd", "/proc/self/environ"] {
        if fs::read_dir(path).is_ok() || fs::read(path).is_ok() {
            seen.push(format!("file {path}"));
        }
    }
    if fs::write("/tmp/left-behind", "x").is_ok() {
        seen.push("a place to write".into());
    }
    if TcpStream::connect("127.0.0.1:22").is_ok() || TcpListener::bind("127.0.0.1:0").is_ok() {
        seen.push("TCP".into());
    }
    if UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", "127.0.0.1:53")).is_ok() {
        seen.push("UDP".into());
    }
    if std::net::ToSocketAddrs::to_socket_addrs("localhost:80").is_ok() {
        seen.push("names".into());
    }
    let mut input = String::new();
    if io::stdin().read_to_string(&mut input).is_ok_and(|read| read > 0) {
        seen.push("an input".into());
    }
    if seen.is_empty() { "nothing".into() } else { seen.join(", ") }
}

fn get(call: &Call<'_, Settings>, endpoint: &str, path: &str, headers: &[(&str, &str)]) -> Result<String, Error> {
    let request =
        headers.iter().fold(Request::get(endpoint, path), |request, (name, value)| request.header(name, *value));
    let response = request.send(call)?;
    let status = response.status;
    let body = response.bytes(32 << 20)?;
    Ok(format!("{status} {}", String::from_utf8_lossy(&body)))
}

/// So many requests at once; how many were answered, and what the first of the others got.
fn many(endpoint: &str, count: u64) -> Result<String, Error> {
    let mut pending = Vec::new();
    for _ in 0..count {
        let request = types::OutgoingRequest::new(types::Fields::new());
        let refused = |()| Error::internal("a request could not be made");
        request.set_scheme(Some(&types::Scheme::Http)).map_err(refused)?;
        request.set_authority(Some(endpoint)).map_err(refused)?;
        request.set_path_with_query(Some("/slow")).map_err(refused)?;
        pending.push(outgoing_handler::handle(request, None));
    }
    let (mut answered, mut first) = (0, None);
    for pending in pending {
        let outcome = pending.and_then(|pending| {
            pending.subscribe().block();
            pending.get().and_then(Result::ok).unwrap_or(Err(types::ErrorCode::InternalError(None)))
        });
        match outcome {
            Ok(_) => answered += 1,
            Err(code) => {
                first.get_or_insert(format!("{code:?}"));
            }
        }
    }
    Ok(format!("{answered} {}", first.unwrap_or_default()))
}

/// So many requests that are never sent, each as large as the host takes it; how many bytes it took in all.
fn unsent(count: u64) -> Result<String, Error> {
    let part = vec![b'x'; 1 << 20];
    let (text, mut taken) = ("x".repeat(1 << 20), 0);
    for _ in 0..count {
        let fields = types::Fields::new();
        // One that is too large ends the call.
        for _ in 0..12 {
            taken += if fields.append("x", &part[..1_000]).is_ok() { 1_000 } else { 0 };
        }
        let request = types::OutgoingRequest::new(fields);
        for length in [1 << 20, 64 << 10, 8 << 10, 256] {
            let path = format!("/{}", &text[..length - 1]);
            taken += if request.set_authority(Some(&text[..length])).is_ok() { length } else { 0 };
            taken += if request.set_path_with_query(Some(&path)).is_ok() { length } else { 0 };
            let method = types::Method::Other(text[..length].to_owned());
            taken += if request.set_method(&method).is_ok() { length } else { 0 };
        }
        let refused = |()| Error::internal("a request has no body");
        let body = request.body().map_err(refused)?;
        let stream = body.write().map_err(refused)?;
        let mut rest = &part[..];
        while let Ok(room @ 1..) = stream.check_write() {
            let size = rest.len().min(room as usize);
            if size == 0 || stream.write(&rest[..size]).is_err() {
                break;
            }
            taken += size;
            rest = &rest[size..];
        }
        mem::forget((request, stream, body));
    }
    Ok(taken.to_string())
}

fn echo(call: &Call<'_, Settings>, endpoint: &str, text: &str) -> Result<String, Error> {
    let mut stream = connect::open(call, endpoint)?;
    let failed = |error: io::Error| Error::unavailable(error.to_string());
    stream.writer.write_all(text.as_bytes()).map_err(failed)?;
    let mut back = vec![0; text.len()];
    stream.reader.read_exact(&mut back).map_err(failed)?;
    Ok(String::from_utf8_lossy(&back).into_owned())
}
