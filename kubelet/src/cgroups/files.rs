//! Which file of the kernel gets which value, on v1 and v2. Pure; upstream's conversions.

use super::{Limits, Version};

/// More than any machine has: how upstream writes "no bound" for huge pages.
const UNBOUNDED: i64 = 1 << 62;

/// A limit as one file: (controller, file, value).
pub(super) type Entry = (&'static str, String, String);

/// The files that say these limits, in the order to write them.
pub(super) fn of(version: Version, limits: &Limits) -> Vec<Entry> {
    let mut files: Vec<Entry> = match version {
        Version::V1 => v1(limits),
        Version::V2 => v2(limits),
    };
    if let Some(pids) = limits.pids {
        files.push(("pids", "pids.max".into(), pids.to_string()));
    }
    for (size, bytes) in &limits.huge_pages {
        let file = match version {
            Version::V1 => "limit_in_bytes",
            Version::V2 => "max",
        };
        let bytes = bytes.unwrap_or(UNBOUNDED);
        files.push(("hugetlb", format!("hugetlb.{}.{file}", page_size(*size)), bytes.to_string()));
        // Reservations too, where the kernel counts them.
        files.push(("hugetlb", format!("hugetlb.{}.rsvd.{file}", page_size(*size)), bytes.to_string()));
    }
    files
}

fn v1(limits: &Limits) -> Vec<Entry> {
    let mut files = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        files.push(("cpu", "cpu.shares".into(), shares.to_string()));
    }
    if let Some((quota, period)) = limits.cpu_quota {
        files.push(("cpu", "cpu.cfs_period_us".into(), period.to_string()));
        let quota = if quota <= 0 { "-1".into() } else { quota.to_string() };
        files.push(("cpu", "cpu.cfs_quota_us".into(), quota));
    }
    if let Some(memory) = limits.memory {
        let memory = if memory <= 0 { "-1".into() } else { memory.to_string() };
        files.push(("memory", "memory.limit_in_bytes".into(), memory));
    }
    files
}

fn v2(limits: &Limits) -> Vec<Entry> {
    let mut files = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        files.push(("cpu", "cpu.weight".into(), weight(shares).to_string()));
    }
    if let Some((quota, period)) = limits.cpu_quota {
        let quota = if quota <= 0 { "max".into() } else { quota.to_string() };
        files.push(("cpu", "cpu.max".into(), format!("{quota} {period}")));
    }
    if let Some(memory) = limits.memory {
        let memory = if memory <= 0 { "max".into() } else { memory.to_string() };
        files.push(("memory", "memory.max".into(), memory));
    }
    files
}

/// `cpu.weight` for v1 shares. For its own cgroups upstream's kubelet maps linearly (KEP-2254), unlike current runtimes do
/// for containers; what counts is that pods are weighed alike by either kubelet.
fn weight(shares: i64) -> i64 {
    if shares >= 262_144 { 10_000 } else { 1 + (shares.max(2) - 2) * 9999 / 262_142 }
}

/// `2MB`, `1GB`: as the kernel names files of a page size.
pub(crate) fn page_size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
    let (mut size, mut unit) = (bytes, 0);
    while size > 0 && size % 1024 == 0 && unit + 1 < UNITS.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_upstreams() {
        for (shares, want) in [(0, 1), (2, 1), (102, 4), (512, 20), (1024, 39), (4096, 157), (262_144, 10_000)] {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }

    #[test]
    fn page_sizes_are_the_kernels() {
        for (bytes, want) in [(64 << 10, "64KB"), (2 << 20, "2MB"), (32 << 20, "32MB"), (1 << 30, "1GB")] {
            assert_eq!(page_size(bytes), want);
        }
    }

    #[test]
    fn each_limit_has_its_file() {
        let limits = Limits {
            cpu_shares: Some(512),
            cpu_quota: Some((50_000, 100_000)),
            memory: Some(1 << 30),
            pids: Some(100),
            huge_pages: [(2 << 20, Some(4 << 20)), (1 << 30, None)].into(),
        };
        let shown = |version, limits: &Limits| -> Vec<String> {
            of(version, limits).into_iter().map(|(_, file, value)| format!("{file}={value}")).collect()
        };
        assert_eq!(
            shown(Version::V2, &limits),
            [
                "cpu.weight=20",
                "cpu.max=50000 100000",
                "memory.max=1073741824",
                "pids.max=100",
                "hugetlb.2MB.max=4194304",
                "hugetlb.2MB.rsvd.max=4194304",
                "hugetlb.1GB.max=4611686018427387904",
                "hugetlb.1GB.rsvd.max=4611686018427387904"
            ]
        );
        assert_eq!(
            shown(Version::V1, &Limits { huge_pages: [(2 << 20, Some(0))].into(), ..limits }),
            [
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1073741824",
                "pids.max=100",
                "hugetlb.2MB.limit_in_bytes=0",
                "hugetlb.2MB.rsvd.limit_in_bytes=0"
            ]
        );
        let lifted = Limits { cpu_quota: Some((0, 100_000)), memory: Some(0), ..Limits::default() };
        assert_eq!(shown(Version::V2, &lifted), ["cpu.max=max 100000", "memory.max=max"]);
        assert_eq!(
            shown(Version::V1, &lifted),
            ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=-1", "memory.limit_in_bytes=-1"]
        );
        assert!(shown(Version::V2, &Limits::default()).is_empty());
    }
}
