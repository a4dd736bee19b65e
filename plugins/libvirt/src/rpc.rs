//! libvirt's RPC: calls and answers, one at a time, and the byte streams that some calls open.
//!
//! Facts from `virnetprotocol.x` and the page on RPC internals of libvirt's documentation. A packet is its length, six
//! words of header and a payload. What holds here:
//! * No packet above [`PACKET_MAX`] is read, and no stream beyond the size that was asked for.
//! * One call is under way at a time, so an answer with another serial is a fault of the other side.
//! * A failure of the stream under it is `unavailable`; what the engine itself refuses is a [`Refusal`] with its code.

use std::{
    collections::VecDeque,
    io::{Read, Write},
};

use pacer_backend::{Error, connect::Connection};

use crate::{
    fault::{Fault, Refusal},
    xdr::{Malformed, Reader, Writer},
};

/// The program that everything about machines and volumes belongs to.
const REMOTE: u32 = 0x2000_8086;
/// The program that asks whether the other side still lives.
const KEEPALIVE: u32 = 0x6b65_6570;
const VERSION: u32 = 1;
const PING: i32 = 1;
const PONG: i32 = 2;
/// Bytes of a packet with its length. libvirt allows 32 MiB; this is a fourth of a component's memory, and the largest
/// answer here, 16,384 volumes, stays far below. The first byte of every length is zero then.
const PACKET_MAX: usize = 16 * 1024 * 1024 - 1;
/// What a daemon says over TLS before anything else: it takes the client's certificate.
const WELCOME: u8 = 1;
/// The length and the six words of the header.
const HEAD: usize = 28;
/// Bytes of a stream's packet. The oldest libvirt took 256 KiB with the head.
const CHUNK: usize = 64 * 1024;
/// Packets of a stream that may overtake the answer: some of its window, which is 256 KiB at the daemon.
const EARLY_MAX: usize = 16;
/// Packets that are read while one is waited for: events and pings come far less often.
const STRAY_MAX: usize = 10_000;

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Call,
    Reply,
    Message,
    Stream,
    /// File descriptors and holes in streams, neither of which is ever asked for.
    Unexpected,
}

#[derive(Clone, Copy, PartialEq)]
enum Status {
    Ok,
    Error,
    Continue,
}

struct Packet {
    program: u32,
    procedure: i32,
    kind: Type,
    serial: u32,
    status: Status,
    payload: Vec<u8>,
}

/// A connection, with one call at a time.
pub struct Rpc {
    stream: Box<dyn Connection>,
    serial: u32,
    /// Packets of the stream that overtook the answer of the call that opened it, as the daemon lets them.
    early: VecDeque<Packet>,
    /// Whether the call under way opens a stream.
    streams: bool,
    /// Whether nothing was read yet.
    is_new: bool,
}

impl Rpc {
    pub fn new(stream: Box<dyn Connection>) -> Self {
        Self { stream, serial: 0, early: VecDeque::new(), streams: false, is_new: true }
    }

    /// Calls a procedure and returns the payload of its answer.
    pub fn call(&mut self, procedure: i32, arguments: Writer) -> Result<Vec<u8>, Fault> {
        self.begin(procedure, arguments, false)
    }

    fn begin(&mut self, procedure: i32, arguments: Writer, streams: bool) -> Result<Vec<u8>, Fault> {
        self.streams = streams;
        self.serial = self.serial.wrapping_add(1);
        self.early.clear();
        self.send(REMOTE, procedure, Type::Call, self.serial, Status::Ok, &arguments.0)?;
        Ok(self.receive(procedure, Type::Reply)?.payload)
    }

    /// Calls a procedure that takes a stream, and sends it.
    pub fn upload(&mut self, procedure: i32, arguments: Writer, bytes: &[u8]) -> Result<(), Fault> {
        self.begin(procedure, arguments, true)?;
        for chunk in bytes.chunks(CHUNK) {
            self.send(REMOTE, procedure, Type::Stream, self.serial, Status::Continue, chunk)?;
        }
        self.finish(procedure)
    }

    /// Calls a procedure that gives a stream, and reads it, at most `max` bytes of it.
    pub fn download(&mut self, procedure: i32, arguments: Writer, max: usize) -> Result<Vec<u8>, Fault> {
        self.begin(procedure, arguments, true)?;
        let mut bytes = Vec::new();
        loop {
            let packet = self.receive(procedure, Type::Stream)?;
            // An empty packet is the end of the data.
            if packet.status == Status::Ok || packet.payload.is_empty() {
                break;
            }
            if bytes.len() + packet.payload.len() > max {
                return Err(broken("sent more of a stream than it was asked for"));
            }
            bytes.extend(packet.payload);
        }
        self.finish(procedure)?;
        Ok(bytes)
    }

    /// Ends a stream from this side, and waits until the other has done so: then all of it was taken.
    fn finish(&mut self, procedure: i32) -> Result<(), Fault> {
        self.send(REMOTE, procedure, Type::Stream, self.serial, Status::Ok, &[])?;
        while self.receive(procedure, Type::Stream)?.status != Status::Ok {}
        Ok(())
    }

    fn send(
        &mut self,
        program: u32,
        procedure: i32,
        kind: Type,
        serial: u32,
        status: Status,
        payload: &[u8],
    ) -> Result<(), Fault> {
        let length = u32::try_from(HEAD + payload.len()).ok().filter(|_| HEAD + payload.len() <= PACKET_MAX);
        let length = length.ok_or_else(|| Error::invalid_request("a message to libvirt would be too large"))?;
        let kind = match kind {
            Type::Call => 0,
            Type::Reply => 1,
            Type::Message => 2,
            Type::Stream | Type::Unexpected => 3,
        };
        let status = match status {
            Status::Ok => 0,
            Status::Error => 1,
            Status::Continue => 2,
        };
        let mut packet = Writer::default()
            .uint(length)
            .uint(program)
            .uint(VERSION)
            .int(procedure)
            .int(kind)
            .uint(serial)
            .int(status);
        packet.0.extend(payload);
        self.stream.write_all(&packet.0).and_then(|()| self.stream.flush()).map_err(|e| lost("sending", &e))
    }

    /// The next packet of this type for the call that is under way. An error in its place is a refusal.
    fn receive(&mut self, procedure: i32, kind: Type) -> Result<Packet, Fault> {
        if kind == Type::Stream
            && let Some(packet) = self.early.pop_front()
        {
            return Ok(packet);
        }
        for _ in 0..STRAY_MAX {
            let packet = self.read()?;
            match packet.program {
                KEEPALIVE if packet.procedure == PING => {
                    self.send(KEEPALIVE, PONG, Type::Message, 0, Status::Ok, &[])?;
                }
                // Events of machines, which nobody subscribed to and nobody needs.
                _ if packet.kind == Type::Message => {}
                REMOTE if packet.serial == self.serial && packet.procedure == procedure => {
                    if packet.status == Status::Error {
                        return Err(Fault::Refused(refusal(&packet.payload)?));
                    }
                    if packet.kind == kind {
                        return Ok(packet);
                    }
                    if self.streams && packet.kind == Type::Stream && self.early.len() < EARLY_MAX {
                        self.early.push_back(packet);
                        continue;
                    }
                    return Err(broken("sent another kind of packet than was due"));
                }
                // What is left of a stream that was given up by an error.
                REMOTE if packet.kind == Type::Stream => {}
                _ => return Err(broken("answered something that was not asked")),
            }
        }
        Err(broken("sends events and no answer"))
    }

    fn read(&mut self) -> Result<Packet, Fault> {
        let mut length = [0; 4];
        let waiting = |e: std::io::Error| lost("waiting for an answer", &e);
        self.stream.read_exact(&mut length[..1]).map_err(waiting)?;
        // Whether the endpoint is one over TLS is not known here, and no length begins like the welcome.
        if std::mem::take(&mut self.is_new) && length[0] == WELCOME {
            self.stream.read_exact(&mut length[..1]).map_err(waiting)?;
        }
        self.stream.read_exact(&mut length[1..]).map_err(waiting)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(HEAD..=PACKET_MAX).contains(&length) {
            return Err(broken("sent a packet of an impossible size; is it libvirt?"));
        }
        let mut bytes = Vec::new();
        let rest = u64::try_from(length - 4).unwrap_or(u64::MAX);
        // Grows with what arrives, so that a mere claim costs no memory.
        let got = (&mut self.stream).take(rest).read_to_end(&mut bytes).map_err(|e| lost("reading an answer", &e))?;
        if got < length - 4 {
            return Err(broken("closed the connection within an answer"));
        }
        packet(&bytes).map_err(|Malformed| broken("sent a packet that is not of its protocol"))
    }
}

fn packet(bytes: &[u8]) -> Result<Packet, Malformed> {
    let mut reader = Reader(bytes);
    let (program, version, procedure) = (reader.uint()?, reader.uint()?, reader.int()?);
    if version != VERSION {
        return Err(Malformed);
    }
    let kind = match reader.int()? {
        0 => Type::Call,
        1 => Type::Reply,
        2 => Type::Message,
        3 => Type::Stream,
        _ => Type::Unexpected,
    };
    let serial = reader.uint()?;
    let status = match reader.int()? {
        0 => Status::Ok,
        1 => Status::Error,
        2 => Status::Continue,
        _ => return Err(Malformed),
    };
    Ok(Packet { program, procedure, kind, serial, status, payload: reader.0.to_vec() })
}

fn refusal(payload: &[u8]) -> Result<Refusal, Fault> {
    let mut reader = Reader(payload);
    let mut read = || -> Result<Refusal, Malformed> {
        let (code, domain) = (reader.int()?, reader.int()?);
        let message = reader.optional(Reader::string)?.unwrap_or_default();
        let _level = reader.int()?;
        reader.optional(|machine| {
            machine.string()?;
            machine.fixed(16)?;
            machine.int()
        })?;
        for _ in 0..3 {
            reader.optional(Reader::string)?;
        }
        Ok(Refusal { code, domain, message, detail: reader.int()? })
    };
    read().map_err(|Malformed| broken("sent an error that is not of its protocol"))
}

fn lost(doing: &str, error: &std::io::Error) -> Fault {
    Fault::Lost(Error::unavailable(format!("the connection to libvirt failed while {doing}: {error}")))
}

fn broken(what: &str) -> Fault {
    Fault::Lost(Error::unavailable(format!("the other end of the endpoint `libvirt` {what}")))
}
