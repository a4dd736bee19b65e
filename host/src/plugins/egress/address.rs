//! Addresses that no name may lead to: those where a cloud gives its machines their identity.
//!
//! A name is resolved by someone else, and its answer can change between two lookups: so addresses are judged after
//! the lookup, and the connection is made to the judged address. What an operator writes as a literal address is not
//! judged. Private networks are not refused: engines and hypervisors live there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services outside the link-local networks: those of EC2, of Google over IPv6, and of Alibaba.
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

pub(super) fn is_refused(address: IpAddr) -> bool {
    let embedded = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => embedded(address),
    };
    let plain = |address: IpAddr| {
        METADATA.contains(&address)
            || match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            }
    };
    plain(address) || embedded.is_some_and(|address| plain(address.into()))
}

/// The IPv4 address that this one is another spelling of, or that a gateway would translate it to.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let last = |g: u16, h: u16| {
        let ([a, b], [c, d]) = (g.to_be_bytes(), h.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match (a, b, c, d, e, f) {
        // Mapped, translated, and the obsolete compatible form.
        (0, 0, 0, 0, 0, 0xffff | 0) | (0, 0, 0, 0, 0xffff, 0) => Some(last(g, h)),
        (0x64, 0xff9b, 0, 0, 0, 0) => Some(last(g, h)),
        (0x2002, ..) => Some(last(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_refused_in_every_spelling() {
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_refused(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn other_addresses_are_not() {
        for text in
            ["127.0.0.1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "::1", "fd00::1", "2001:db8::1", "::ffff:10.0.0.1"]
        {
            assert!(!is_refused(text.parse().unwrap()), "{text}");
        }
    }
}
