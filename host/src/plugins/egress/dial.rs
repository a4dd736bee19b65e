//! Connects to where an endpoint is: lookup, judging the addresses, TCP or a unix socket, TLS.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;
use wasmtime_wasi_http::Error as Code;

use super::{address, call::Failure, proxy::Proxy};

/// For all of lookup, connection and TLS, when a component does not ask for less. Everything is near or at a provider.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// Of a lookup: the system's resolver tries each server for 5 s.
const LOOKUP: Duration = Duration::from_secs(5);
/// Lookups of one backend at once: each holds a thread, and threads are shared with all other backends.
const LOOKUPS: usize = 4;
/// Addresses of a name that are tried.
const ADDRESSES: usize = 8;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where to connect to.
pub(super) enum Place {
    Unix(std::path::PathBuf),
    Tcp {
        host: String,
        port: u16,
        tls: Option<(TlsConnector, ServerName<'static>)>,
        unencrypted: Unencrypted,
        via: Option<Via>,
    },
}

/// Where it may be connected to without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unencrypted {
    /// No secret is sent, or there is TLS.
    Anywhere,
    /// On this machine.
    Here,
    /// On this machine or beside it, where clouds give out identities.
    Beside,
}

/// The proxy on the way.
#[derive(Clone)]
pub(super) enum Via {
    /// It is told with each request where that goes.
    Forward(Arc<Proxy>),
    /// It is told once, and passes bytes on from then.
    Tunnel(Arc<Proxy>),
}

impl Via {
    pub fn proxy(&self) -> &Proxy {
        match self {
            Self::Forward(proxy) | Self::Tunnel(proxy) => proxy,
        }
    }
}

/// Connects on behalf of one backend.
#[derive(Clone)]
pub(super) struct Dialer {
    lookups: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Dialer {
    pub fn new(tasks: TaskTracker) -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)), tasks }
    }

    /// Finished or failed at `until`, whatever the other side does.
    pub async fn dial(&self, place: &Place, until: Instant) -> Result<Box<dyn Stream>, Failure> {
        match place {
            Place::Unix(path) => match timeout_at(until, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => Ok(Box::new(stream)),
                Ok(Err(error)) => Err(not_connected(&error)),
                Err(_) => Err(late("the connection")),
            },
            Place::Tcp { host, port, tls, unencrypted, via } => {
                let stream = match via {
                    None => self.connect(host, *port, *unencrypted, until).await?,
                    // What is behind a proxy is never this machine.
                    Some(_) if *unencrypted != Unencrypted::Anywhere => return Err(unencrypted.refused()),
                    Some(via) => self.through(via, host, *port, until).await?,
                };
                match tls {
                    None => Ok(stream),
                    Some((connector, name)) => match timeout_at(until, connector.connect(name.clone(), stream)).await {
                        Ok(Ok(stream)) => Ok(Box::new(stream)),
                        Ok(Err(error)) => Err(not_trusted(&error)),
                        Err(_) => Err(late("the TLS handshake")),
                    },
                }
            }
        }
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
        unencrypted: Unencrypted,
        until: Instant,
    ) -> Result<Box<dyn Stream>, Failure> {
        let addresses = self.addresses(host, port, until).await?;
        if !addresses.iter().all(|address| unencrypted.allows(address.ip())) {
            return Err(unencrypted.refused());
        }
        let stream = connect(&addresses, until).await?;
        // Requests are small and each waits for its answer.
        let _ = stream.set_nodelay(true);
        Ok(Box::new(stream))
    }

    async fn through(&self, via: &Via, host: &str, port: u16, until: Instant) -> Result<Box<dyn Stream>, Failure> {
        let proxy = via.proxy();
        let stream = self
            .connect(&proxy.host, proxy.port, Unencrypted::Anywhere, until)
            .await
            .map_err(|failure| Failure { reason: format!("the proxy `{}`: {failure}", proxy.text()), ..failure })?;
        match via {
            Via::Forward(_) => Ok(stream),
            Via::Tunnel(proxy) => proxy.tunnel(stream, host, port, until).await,
        }
    }

    /// Only addresses that may be connected to. A literal address is the operator's own word.
    async fn addresses(&self, host: &str, port: u16, until: Instant) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let until = until.min(Instant::now() + LOOKUP);
        let timed_out = || Failure::unreachable(Code::DnsTimeout, "the lookup of its name took too long");
        let no_answer = |reason: String| {
            let code = Code::DnsError { rcode: None, info_code: None };
            Failure::unreachable(code, format!("its name is not found: {reason}"))
        };
        let permit = timeout_at(until, self.lookups.clone().acquire_owned()).await.map_err(|_| timed_out())?;
        let permit = permit.map_err(|error| no_answer(error.to_string()))?;
        let host = host.to_owned();
        // In a task of its own: a lookup that is given up goes on in its thread, and counts until it is over.
        let lookup = self.tasks.spawn(async move {
            let found = lookup_host((host, port)).await.map(|found| found.take(ADDRESSES).collect::<Vec<_>>());
            drop(permit);
            found
        });
        let found = timeout_at(until, lookup).await.map_err(|_| timed_out())?;
        let found =
            found.map_err(|error| no_answer(error.to_string()))?.map_err(|error| no_answer(error.to_string()))?;
        judge(found)
    }
}

fn judge(found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Failure> {
    let Some(first) = found.first().copied() else {
        return Err(Failure::unreachable(Code::DestinationNotFound, "its name has no address"));
    };
    let fit: Vec<_> = found.into_iter().filter(|address| !address::is_refused(address.ip())).collect();
    if fit.is_empty() {
        let reason = format!(
            "its name leads to {}, where clouds give machines their identity; write the address itself into `url` if \
             that is meant",
            first.ip()
        );
        return Err(Failure { code: Code::DestinationIpProhibited, ..Failure::denied(reason) });
    }
    Ok(fit)
}

/// One address after the other, each with its share of the time that is left.
async fn connect(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, Failure> {
    let mut last = late("the connection");
    for (tried, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = not_connected(&error),
            Err(_) => last = late("the connection"),
        }
    }
    Err(last)
}

impl Unencrypted {
    fn allows(self, address: IpAddr) -> bool {
        let here = address.to_canonical().is_loopback();
        match self {
            Self::Anywhere => true,
            Self::Here => here,
            Self::Beside => here || address::is_refused(address),
        }
    }

    fn refused(self) -> Failure {
        Failure::denied(match self {
            Self::Anywhere | Self::Here => {
                "its credential would cross the network unencrypted; use `https://` in `url`, or remove `credential`"
            }
            Self::Beside => {
                "what proves who asks would cross the network unencrypted; use an address that begins with `https://`"
            }
        })
    }
}

pub(super) fn late(what: &str) -> Failure {
    Failure::unreachable(Code::ConnectionTimeout, format!("{what} took too long"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of many kinds; the rest need no code of their own")]
fn not_connected(error: &io::Error) -> Failure {
    use io::ErrorKind;
    let code = match error.kind() {
        ErrorKind::PermissionDenied => {
            return Failure::denied(format!(
                "pacer may not open it: {error}; give the user that pacer runs as access, for instance through the \
                 group of the socket"
            ));
        }
        ErrorKind::ConnectionRefused => Code::ConnectionRefused,
        ErrorKind::NotFound => Code::DestinationNotFound,
        ErrorKind::TimedOut => Code::ConnectionTimeout,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Code::ConnectionTerminated,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Code::DestinationIpUnroutable,
        _ => Code::DestinationUnavailable,
    };
    Failure::unreachable(code, format!("it cannot be connected to: {error}"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of many kinds; the rest need no code of their own")]
fn not_trusted(error: &io::Error) -> Failure {
    let code = tls_code(error).unwrap_or(match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Code::ConnectionTerminated,
        _ => Code::TlsProtocolError,
    });
    Failure::unreachable(code, format!("the TLS handshake failed: {error}"))
}

/// The code of what TLS has against it, if it is TLS.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of many kinds; the rest need no code of their own")]
pub(super) fn tls_code(error: &io::Error) -> Option<Code> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Code::TlsCertificateError,
        rustls::Error::AlertReceived(alert) => {
            Code::TlsAlertReceived { alert_id: Some(u8::from(*alert)), alert_message: Some(format!("{alert:?}")) }
        }
        _ => Code::TlsProtocolError,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_to_metadata_is_refused_and_one_that_also_leads_elsewhere_goes_there() {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 80);
        let failure = judge(vec![address("169.254.169.254"), address("::ffff:169.254.169.254")]).unwrap_err();
        assert!(matches!(failure.code, Code::DestinationIpProhibited));
        assert!(failure.reason.contains("169.254.169.254"), "{failure}");
        assert_eq!(judge(vec![address("fe80::1"), address("10.0.0.1")]).unwrap(), [address("10.0.0.1")]);
        assert!(matches!(judge(Vec::new()).unwrap_err().code, Code::DestinationNotFound));
    }

    #[test]
    fn a_secret_goes_unencrypted_no_further_than_beside_this_machine() {
        let allowed = |unencrypted: Unencrypted| {
            ["10.0.0.1", "192.0.2.1", "169.254.169.254", "fd00:ec2::23", "127.0.0.2", "::ffff:127.0.0.1"]
                .map(|text| unencrypted.allows(text.parse().unwrap()))
        };
        assert_eq!(allowed(Unencrypted::Anywhere), [true; 6]);
        assert_eq!(allowed(Unencrypted::Here), [false, false, false, false, true, true]);
        assert_eq!(allowed(Unencrypted::Beside), [false, false, true, true, true, true]);
    }

    #[tokio::test]
    async fn the_resolver_spells_addresses_in_more_ways_than_one() {
        // Not a literal address to us, but one to the resolver.
        let dialer = Dialer::new(TaskTracker::new());
        let until = Instant::now() + CONNECT;
        let failure = dialer.addresses("169.254.43518", 80, until).await.unwrap_err();
        assert!(matches!(failure.code, Code::DestinationIpProhibited), "{failure}");
        assert_eq!(dialer.addresses("169.254.169.254", 80, until).await.unwrap().len(), 1);
    }
}
