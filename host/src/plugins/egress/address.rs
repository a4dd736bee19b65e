//! Addresses that no name may lead to: those where a cloud gives its machines their identity.
//!
//! A name is resolved by someone else, and its answer can change between two lookups: so addresses are judged after
//! the lookup, and the connection is made to the judged address. What an operator writes as a literal address is not
//! judged. Private networks are not refused: engines and hypervisors live there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services outside the link-local networks: those of EC2 and of its pods, of Google over IPv6, of Alibaba, of
/// Azure, and of Oracle.
const METADATA: [IpAddr; 6] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

pub(super) fn is_refused(address: IpAddr) -> bool {
    let embedded = match address {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(address) => embedded(address),
    };
    let plain = |address: IpAddr| {
        METADATA.contains(&address)
            || match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            }
    };
    plain(address) || embedded.into_iter().any(|address| plain(address.into()))
}

/// The IPv4 addresses that this one is another spelling of, or that a gateway would translate it to.
fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let [a, b, c, d, e, f, _, _] = address.segments();
    let octets = address.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    match (a, b, c, d, e, f) {
        // Mapped, translated, and the obsolete compatible form.
        (0, 0, 0, 0, 0, 0xffff | 0) | (0, 0, 0, 0, 0xffff, 0) => vec![at([12, 13, 14, 15])],
        (0x64, 0xff9b, 0, 0, 0, 0) => vec![at([12, 13, 14, 15])],
        // A network's own gateway takes it from one of these places, depending on the length of its prefix (RFC 6052).
        (0x64, 0xff9b, 1, ..) => {
            vec![at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), at([12, 13, 14, 15])]
        }
        (0x2002, ..) => vec![at([2, 3, 4, 5])],
        _ => Vec::new(),
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
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "fd00:ec2::23",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:168.63.129.16",
        ] {
            assert!(is_refused(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn other_addresses_are_not() {
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "::1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b:1::a00:1",
        ] {
            assert!(!is_refused(text.parse().unwrap()), "{text}");
        }
    }
}
