//! Who can open a connection to an address: the table by which requests are refused that a registry sends us to make
//! (CVE-2020-15157). Sources: the IANA registries of special-purpose addresses (RFC 6890), and what clouds document.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who can open a connection to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nobody has business there at a server's word: metadata services, multicast, what is reserved.
    Never,
    /// This machine.
    Loopback,
    /// The own network.
    Private,
    /// Everybody.
    Public,
}

use Reach::{Loopback, Never, Private, Public};

/// (network, length of its prefix, class); the first that fits counts.
const V4: &[([u8; 4], u32, Reach)] = &[
    ([0, 0, 0, 0], 8, Never),          // this network
    ([100, 100, 100, 200], 32, Never), // metadata of Alibaba Cloud
    ([168, 63, 129, 16], 32, Never),   // the platform's own services in Azure
    ([169, 254, 0, 0], 16, Never),     // link-local, and nearly everybody's metadata
    ([192, 0, 0, 192], 32, Never),     // metadata of Oracle Cloud
    ([192, 88, 99, 0], 24, Never),     // relays of 6to4, given up in RFC 7526
    ([224, 0, 0, 0], 3, Never),        // multicast, reserved, broadcast
    ([127, 0, 0, 0], 8, Loopback),
    ([10, 0, 0, 0], 8, Private),
    ([100, 64, 0, 0], 10, Private), // carriers' translators
    ([172, 16, 0, 0], 12, Private),
    ([192, 0, 0, 0], 24, Private), // protocol assignments
    ([192, 0, 2, 0], 24, Private), // documentation, and the next two
    ([198, 51, 100, 0], 24, Private),
    ([203, 0, 113, 0], 24, Private),
    ([192, 168, 0, 0], 16, Private),
    ([198, 18, 0, 0], 15, Private), // benchmarks
    ([0, 0, 0, 0], 0, Public),
];

const V6: &[([u16; 8], u32, Reach)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Loopback),
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Never), // metadata of EC2
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Never),  // metadata of Google Cloud
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Private),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Private), // site-local, given up in RFC 3879 and still routed
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Private), // protocol assignments
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Private), // documentation, and the next
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Private),
    ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, Public),
    ([0, 0, 0, 0, 0, 0, 0, 0], 0, Never), // link-local, multicast, unspecified, never assigned
];

/// The class of an address. An IPv4 address in an IPv6 one (mapped, NAT64, 6to4) counts as itself.
#[must_use]
pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => embedded(address).map_or_else(|| reach_v6(address), reach_v4),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let bits = address.to_bits();
    let fits = |net: [u8; 4], length: u32| (bits ^ u32::from_be_bytes(net)).leading_zeros() >= length;
    V4.iter().find(|(net, length, _)| fits(*net, *length)).map_or(Never, |(_, _, class)| *class)
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let bits = address.to_bits();
    let fits = |net: [u16; 8], length: u32| (bits ^ Ipv6Addr::from(net).to_bits()).leading_zeros() >= length;
    V6.iter().find(|(net, length, _)| fits(*net, *length)).map_or(Never, |(_, _, class)| *class)
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => join(high, low),
        _ => address.to_ipv4_mapped(),
    }
}

/// The address that a URL's host is, without brackets and zone; None for a name.
#[must_use]
pub fn literal(host: &str) -> Option<IpAddr> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.split('%').next().unwrap_or(host).parse().ok()
}

/// Whether resolvers read a name as an address that `literal` does not: 127.1, 2130706433, 0x7f.1, 0177.0.0.1, 0xa9fea9fe.
#[must_use]
pub fn is_disguised(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex_number = last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x")) && is_hex(&last[2..]);
    literal(host).is_none() && (is_number || is_hex_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_class() {
        for (text, class) in [
            ("127.255.0.9", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("0.1.2.3", Never),
            ("::", Never),
            ("::7f00:1", Never),
            ("64:ff9b:1::a00:1", Never),
            ("169.254.169.254", Never),
            ("168.63.129.16", Never),
            ("192.88.99.1", Never),
            ("100.100.100.200", Never),
            ("fd00:ec2::254", Never),
            ("fe80::1", Never),
            ("ff02::1", Never),
            ("255.255.255.255", Never),
            ("4000::1", Never),
            ("10.1.2.3", Private),
            ("100.64.0.1", Private),
            ("fec0::1", Private),
            ("3fff::1", Private),
            ("2001:db8::1", Private),
            ("2002:a00:1::", Private),
            ("172.32.0.1", Public),
            ("2606:4700::1111", Public),
            ("64:ff9b::808:808", Public),
            ("3ffe::1", Public),
        ] {
            assert_eq!(reach(text.parse().unwrap()), class, "{text}");
        }
    }

    #[test]
    fn numbers_in_disguise_are_seen() {
        for host in ["127.1", "2130706433", "0x7f000001", "0xA9FEA9FE", "0x7f.0.0.0x1", "0177.0.0.1", "0x7f.0xab", "1.2.3.0x", "127.1."] {
            assert!(is_disguised(host), "{host}");
        }
        for host in ["127.0.0.1", "::1", "[::1]", "a.example", "x0.0xg", "deadbeef", "7.a"] {
            assert!(!is_disguised(host), "{host}");
        }
    }
}
