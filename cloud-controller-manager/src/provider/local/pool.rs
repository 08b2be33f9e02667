//! Ranges of addresses: CIDRs, or first and last address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// An address as a number, so that ranges are arithmetic.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, v4: bool) -> Option<IpAddr> {
    if v4 {
        u32::try_from(number).ok().map(|number| Ipv4Addr::from(number).into())
    } else {
        Some(Ipv6Addr::from(number).into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: IpAddr,
    last: IpAddr,
}

/// The addresses that may be handed out, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Vec<Range>);

impl Pool {
    /// Parses `192.0.2.0/28` and `192.0.2.10-192.0.2.20`.
    pub(super) fn parse(texts: &[String]) -> Result<Self, String> {
        let range = |text: &String| -> Result<Range, String> {
            let bad = |reason: &str| format!("load-balancer pool {text:?}: {reason}");
            if let Some((first, last)) = text.split_once('-') {
                let parse = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| bad("not an address range"));
                let (first, last) = (parse(first)?, parse(last)?);
                if first.is_ipv4() != last.is_ipv4() || number(first) > number(last) {
                    return Err(bad("the first address must not be after the last, in one family"));
                }
                return Ok(Range { first, last });
            }
            let net: IpNet = text.trim().parse().map_err(|_| bad("neither a CIDR nor a range first-last"))?;
            // Network and broadcast address of an IPv4 network are nobody's.
            let inner = net.addr().is_ipv4() && net.prefix_len() <= 30;
            let shift = |ip: IpAddr, by: i128| address(number(ip).saturating_add_signed(by), ip.is_ipv4());
            let (first, last) = if inner {
                (shift(net.network(), 1), shift(net.broadcast(), -1))
            } else {
                (Some(net.network()), Some(net.broadcast()))
            };
            first.zip(last).map(|(first, last)| Range { first, last }).ok_or_else(|| bad("empty"))
        };
        texts.iter().map(range).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|range| {
            range.first.is_ipv4() == ip.is_ipv4() && (number(range.first)..=number(range.last)).contains(&number(ip))
        })
    }

    /// The first address of the family that is not taken. Costs no more steps than there are taken ones.
    pub(super) fn first_free(&self, v4: bool, taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.0.iter().filter(|range| range.first.is_ipv4() == v4).find_map(|range| {
            let numbers = number(range.first)..=number(range.last);
            numbers.filter_map(|number| address(number, v4)).find(|ip| !taken(ip))
        })
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.0.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
        f.write_str(&ranges.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_networks() {
        let pool =
            Pool::parse(&["192.0.2.0/30".into(), "198.51.100.7-198.51.100.8".into(), "fd00::/127".into()]).unwrap();
        assert_eq!(pool.to_string(), "192.0.2.1-192.0.2.2, 198.51.100.7-198.51.100.8, fd00::-fd00::1");
        assert!(pool.contains("192.0.2.1".parse().unwrap()) && !pool.contains("192.0.2.0".parse().unwrap()));
        assert!(!pool.contains("::192.0.2.1".parse().unwrap()));
        let first: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(pool.first_free(true, |ip| *ip == first).unwrap().to_string(), "192.0.2.2");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["192.0.2.9-192.0.2.1", "192.0.2.1-fd00::1", "everything", "192.0.2.0/40"] {
            assert!(Pool::parse(&[text.into()]).unwrap_err().contains(text));
        }
    }
}
