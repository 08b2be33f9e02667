//! Upstream's rules for IP addresses and CIDR ranges in the API: strict for new values, forgiving for what clients stored long ago.

use std::net::{IpAddr, Ipv4Addr};

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// A dotted quad; leading zeros count as decimal, as Go's old parser had it.
fn sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| octets.into())
}

/// An address in any form that was ever accepted.
pub fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    match text.rsplit_once(':') {
        None => sloppy_v4(text).map(IpAddr::V4),
        Some((head, tail)) => format!("{head}:{}", sloppy_v4(tail)?).parse().ok(),
    }
}

/// The address that one mapped into IPv6 stands for.
fn unmapped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn is_mapped(ip: IpAddr) -> bool {
    ip.is_ipv6() && unmapped(ip).is_ipv4()
}

/// What is wrong with an address in a field that was once checked loosely (`StrictIPCIDRValidation`).
pub fn legacy_ip(text: &str) -> Vec<String> {
    match (sloppy_ip(text), text.parse::<IpAddr>()) {
        (None, _) => vec![BAD_IP.to_owned()],
        (Some(_), Err(_)) => vec!["must not have leading 0s".to_owned()],
        (Some(_), Ok(ip)) if is_mapped(ip) => vec!["must not be an IPv4-mapped IPv6 address".to_owned()],
        (Some(_), Ok(_)) => Vec::new(),
    }
}

/// What is wrong with an address in a field that asks for the canonical form.
pub fn canonical_ip(text: &str) -> Vec<String> {
    let errors = legacy_ip(text);
    match text.parse::<IpAddr>() {
        Ok(ip) if errors.is_empty() && ip.to_string() != text => vec![format!("must be in canonical form (\"{ip}\")")],
        _ => errors,
    }
}

/// An address and a prefix length, which may leave host bits set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// As written.
    pub addr: IpAddr,
    /// Bits of the network.
    pub bits: u8,
}

impl Cidr {
    /// Parses any form that was ever accepted.
    pub fn sloppy(text: &str) -> Option<Cidr> {
        let (addr, bits) = text.split_once('/')?;
        let addr = sloppy_ip(addr)?;
        let digits = bits.trim_start_matches('0');
        let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        let max = if addr.is_ipv4() { 32 } else { 128 };
        (plain && bits <= max).then_some(Cidr { addr, bits })
    }

    /// The network, without host bits; of a mapped address the IPv4 one.
    pub fn network(self) -> Option<ipnet::IpNet> {
        let net = ipnet::IpNet::new(self.addr, self.bits).ok()?.trunc();
        match unmapped(net.addr()) {
            v4 @ IpAddr::V4(_) if is_mapped(net.addr()) && self.bits >= 96 => {
                ipnet::IpNet::new(v4, self.bits - 96).ok()
            }
            _ => Some(net),
        }
    }

    fn has_host_bits(self) -> bool {
        ipnet::IpNet::new(self.addr, self.bits).is_ok_and(|net| net.trunc().addr() != self.addr)
    }
}

fn has_leading_zeros(text: &str) -> bool {
    let (addr, bits) = text.split_once('/').unwrap_or((text, ""));
    addr.parse::<IpAddr>().is_err() || (bits.len() > 1 && bits.starts_with('0'))
}

/// What is wrong with a range in a field that was once checked loosely (`StrictIPCIDRValidation`).
pub fn legacy_cidr(text: &str) -> Vec<String> {
    let complaint = match Cidr::sloppy(text) {
        None => BAD_CIDR,
        Some(_) if has_leading_zeros(text) => "must not have leading 0s in IP or prefix length",
        Some(cidr) if is_mapped(cidr.addr) => "must not have an IPv4-mapped IPv6 address",
        Some(cidr) if cidr.has_host_bits() => "must not have bits set beyond the prefix length",
        Some(_) => return Vec::new(),
    };
    vec![complaint.to_owned()]
}

/// What is wrong with a range in a field that asks for the canonical form.
pub fn canonical_cidr(text: &str) -> Vec<String> {
    let errors = legacy_cidr(text);
    match Cidr::sloppy(text).and_then(Cidr::network) {
        Some(net) if errors.is_empty() && net.to_string() != text => {
            vec![format!("must be in canonical form (\"{net}\")")]
        }
        _ => errors,
    }
}

/// What is wrong with an address and the prefix of its network, as interfaces have them.
pub fn interface_address(text: &str) -> Vec<String> {
    let Some(cidr) = Cidr::sloppy(text) else {
        return vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned()];
    };
    let bits = if is_mapped(cidr.addr) { cidr.bits.saturating_sub(96) } else { cidr.bits };
    let canonical = format!("{}/{bits}", unmapped(cidr.addr));
    if canonical == text { Vec::new() } else { vec![format!("must be in canonical form (\"{canonical}\")")] }
}

/// Warns of an address that new objects should not have; `field` is its path.
pub fn ip_warning(field: impl std::fmt::Display, text: &str) -> Option<String> {
    let ip = sloppy_ip(text)?;
    match text.parse::<IpAddr>() {
        Ok(strict) if !is_mapped(strict) => (strict.is_ipv6() && strict.to_string() != text)
            .then(|| format!("{field}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{strict}\")")),
        _ => Some(format!("{field}: non-standard IP address {text:?} is invalid: use \"{}\"", unmapped(ip))),
    }
}

/// Warns of a range that new objects should not have; `field` is its path.
pub fn cidr_warnings(field: impl std::fmt::Display, text: &str) -> Vec<String> {
    let Some(cidr) = Cidr::sloppy(text) else { return Vec::new() };
    let Some(net) = cidr.network() else { return Vec::new() };
    let mut out = Vec::new();
    if cidr.has_host_bits() {
        let single = format!("{}/{}", unmapped(cidr.addr), if cidr.addr.is_ipv4() { 32 } else { 128 });
        out.push(format!(
            "{field}: CIDR value {text:?} is ambiguous in this context (should be \"{net}\" or \"{single}\"?)"
        ));
    }
    if has_leading_zeros(text) || is_mapped(cidr.addr) {
        out.push(format!("{field}: non-standard CIDR value {text:?} is invalid: use \"{net}\""));
    }
    let plain = format!("{}/{}", cidr.addr, cidr.bits);
    if out.is_empty() && cidr.addr.is_ipv6() && plain != text {
        out.push(format!("{field}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{plain}\")"));
    }
    out
}

/// Why traffic may not be sent to an address, if so: endpoints and external addresses ask for this.
pub fn not_an_endpoint(text: &str) -> Vec<String> {
    let Some(ip) = sloppy_ip(text).map(unmapped) else { return vec!["must be a valid IP address".to_owned()] };
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let rules = [
        (ip.is_unspecified(), format!("may not be unspecified ({text})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ];
    rules.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let cases = [
            ("10.1.2.3", "", ""),
            ("2001:db8::1", "", ""),
            ("2001:DB8::1", "", "must be in canonical form (\"2001:db8::1\")"),
            ("010.1.2.3", "must not have leading 0s", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address", "must not be an IPv4-mapped IPv6 address"),
            ("1.2.3", BAD_IP, BAD_IP),
            ("1.2.3.256", BAD_IP, BAD_IP),
            ("", BAD_IP, BAD_IP),
        ];
        for (text, legacy, canonical) in cases {
            assert_eq!(legacy_ip(text).join(","), legacy, "{text}");
            assert_eq!(canonical_ip(text).join(","), canonical, "{text}");
        }
    }

    #[test]
    fn ranges() {
        let cases = [
            ("10.0.0.0/8", "", ""),
            ("2001:DB8::/64", "", "must be in canonical form (\"2001:db8::/64\")"),
            ("10.1.0.0/8", "must not have bits set beyond the prefix length", ""),
            ("010.0.0.0/8", "must not have leading 0s in IP or prefix length", ""),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length", ""),
            ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address", ""),
            ("10.0.0.0", BAD_CIDR, ""),
            ("10.0.0.0/33", BAD_CIDR, ""),
        ];
        for (text, legacy, canonical) in cases {
            assert_eq!(legacy_cidr(text).join(","), legacy, "{text}");
            let canonical = if canonical.is_empty() { legacy } else { canonical };
            assert_eq!(canonical_cidr(text).join(","), canonical, "{text}");
        }
    }

    #[test]
    fn warnings() {
        assert_eq!(ip_warning("f", "10.0.0.1"), None);
        let mapped = ip_warning("f", "::ffff:1.2.3.4").unwrap_or_default();
        assert_eq!(mapped, "f: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\"");
        let long = ip_warning("f", "2001:db8:0:0::1").unwrap_or_default();
        assert_eq!(
            long,
            "f: IPv6 address \"2001:db8:0:0::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"
        );
        assert_eq!(
            cidr_warnings("f", "10.1.2.3/24"),
            [
                "f: CIDR value \"10.1.2.3/24\" is ambiguous in this context (should be \"10.1.2.0/24\" or \"10.1.2.3/32\"?)"
            ]
        );
        assert_eq!(
            cidr_warnings("f", "::ffff:10.0.0.0/104"),
            ["f: non-standard CIDR value \"::ffff:10.0.0.0/104\" is invalid: use \"10.0.0.0/8\""]
        );
        assert_eq!(cidr_warnings("f", "2001:db8::/64"), Vec::<String>::new());
    }

    #[test]
    fn endpoints() {
        for (text, wrong) in [
            ("127.0.0.1", true),
            ("169.254.1.1", true),
            ("224.0.0.9", true),
            ("fe80::1", true),
            ("0.0.0.0", true),
            ("10.0.0.1", false),
        ] {
            assert_eq!(!not_an_endpoint(text).is_empty(), wrong, "{text}");
        }
    }
}
