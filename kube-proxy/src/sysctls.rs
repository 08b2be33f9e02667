//! The kernel's settings for connection tracking, as upstream sets them at start.

use std::{fs, io, time::Duration};

/// Never more than this, on machines with many cores either.
const LIMIT: u32 = 1 << 20;
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// `conntrack` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conntrack {
    /// Entries for each core; 0 leaves the limit as it is.
    pub max_per_core: u32,
    pub min: u32,
    pub tcp_established: Duration,
    pub tcp_close_wait: Duration,
    pub tcp_be_liberal: bool,
    pub udp: Duration,
    pub udp_stream: Duration,
}

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("could not set conntrack parameters from kube-proxy configuration: {path}")]
pub(crate) struct SysctlError {
    path: String,
    #[source]
    source: io::Error,
}

impl Conntrack {
    /// The limit of entries; `None` leaves it as it is.
    fn max(&self, cores: u32) -> Option<u32> {
        let scaled = self.max_per_core.saturating_mul(cores);
        (self.max_per_core > 0).then(|| if scaled > LIMIT { LIMIT } else { scaled.max(self.min) })
    }

    /// Settings below net/netfilter in order.
    fn wanted(&self, cores: u32) -> Vec<(&'static str, u64)> {
        let seconds = |duration: Duration| Some(duration.as_secs()).filter(|_| !duration.is_zero());
        let all = [
            ("nf_conntrack_max", self.max(cores).map(u64::from)),
            ("nf_conntrack_tcp_timeout_established", seconds(self.tcp_established)),
            ("nf_conntrack_tcp_timeout_close_wait", seconds(self.tcp_close_wait)),
            ("nf_conntrack_tcp_be_liberal", self.tcp_be_liberal.then_some(1)),
            ("nf_conntrack_udp_timeout", seconds(self.udp)),
            ("nf_conntrack_udp_timeout_stream", seconds(self.udp_stream)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Makes the settings; what is right already is not touched.
    ///
    /// # Errors
    /// The first one that the kernel refuses.
    pub(crate) fn apply(&self) -> Result<(), SysctlError> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        for (name, value) in self.wanted(cores) {
            ensure(&format!("net/netfilter/{name}"), value)?;
            // Chains of the table must not grow long.
            let buckets = value / 4;
            let size = || Some(fs::read_to_string(HASH_SIZE).ok()?.trim().parse::<u64>().unwrap_or(u64::MAX));
            if name == "nf_conntrack_max" && size().is_some_and(|size| size < buckets) {
                write(HASH_SIZE, buckets)?;
            }
        }
        Ok(())
    }
}

/// Sets a sysctl below /proc/sys unless it has the value.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn ensure(name: &str, value: u64) -> Result<(), SysctlError> {
    let path = format!("/proc/sys/{name}");
    if fs::read_to_string(&path).is_ok_and(|now| now.trim().parse() == Ok(value)) {
        return Ok(());
    }
    tracing::info!(sysctl = name, value, "setting");
    write(&path, value)
}

/// A sysctl's number.
pub(crate) fn read(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}

fn write(path: &str, value: u64) -> Result<(), SysctlError> {
    fs::write(path, value.to_string()).map_err(|source| SysctlError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conntrack(max_per_core: u32, min: u32) -> Conntrack {
        Conntrack {
            max_per_core,
            min,
            tcp_established: Duration::from_secs(86_400),
            tcp_close_wait: Duration::ZERO,
            tcp_be_liberal: false,
            udp: Duration::ZERO,
            udp_stream: Duration::from_millis(2500),
        }
    }

    #[test]
    fn the_limit_follows_cores_floor_and_ceiling() {
        for (per_core, min, cores, want) in [
            (0, 131_072, 4, None),
            (32_768, 131_072, 2, Some(131_072)),
            (32_768, 131_072, 8, Some(262_144)),
            (32_768, 131_072, 64, Some(1 << 20)),
        ] {
            assert_eq!(conntrack(per_core, min).max(cores), want, "{per_core} {min} {cores}");
        }
    }

    #[test]
    fn what_is_zero_stays_as_it_is() {
        let wanted = conntrack(0, 0).wanted(1);
        assert_eq!(wanted, [("nf_conntrack_tcp_timeout_established", 86_400), ("nf_conntrack_udp_timeout_stream", 2)]);
    }
}
