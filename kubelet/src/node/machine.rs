//! Facts about the machine, from /proc and /sys.

use std::path::Path;

/// The machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) cpus: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) swap_bytes: i64,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    /// (bytes of a page, pages set aside) for each size of huge pages.
    pub(crate) huge_pages: Vec<(i64, i64)>,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Reads all there is; what cannot be read stays empty.
pub(crate) fn detect() -> Machine {
    let meminfo = read("/proc/meminfo");
    let online = read("/sys/devices/system/cpu/online");
    let cpus = match count_cpus(&online) {
        0 => std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
        count => count,
    };
    let os_release = read("/etc/os-release");
    let os_image = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .unwrap_or_default();
    let machine_id =
        ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().map(|path| read(path)).find(|id| !id.is_empty());
    let uuid = ["/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid"]
        .iter()
        .map(|path| read(path))
        .find(|id| !id.is_empty());
    let machine_id = machine_id.unwrap_or_default();
    Machine {
        cpus,
        memory_bytes: meminfo_bytes(&meminfo, "MemTotal"),
        swap_bytes: meminfo_bytes(&meminfo, "SwapTotal"),
        system_uuid: uuid.unwrap_or_else(|| machine_id.clone()),
        machine_id,
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel: read("/proc/sys/kernel/osrelease"),
        os_image,
        huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
    }
}

/// Sizes of huge pages that the kernel has, and how many of each: directories such as `hugepages-2048kB`.
pub(crate) fn huge_pages(directory: &Path) -> Vec<(i64, i64)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sizes: Vec<(i64, i64)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kilobytes: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            Some((kilobytes.checked_mul(1024)?, count.trim().parse().ok()?))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

/// `hugepages-2Mi`: the resource of a page size.
pub(crate) fn huge_page_resource(size: i64) -> String {
    let (mut size, mut unit) = (size, 0);
    const UNITS: [&str; 5] = ["", "Ki", "Mi", "Gi", "Ti"];
    while size > 0 && size % 1024 == 0 && unit + 1 < UNITS.len() {
        size /= 1024;
        unit += 1;
    }
    format!("hugepages-{size}{}", UNITS[unit])
}

/// Memory that could be used without swapping.
pub(crate) fn available_memory() -> i64 {
    meminfo_bytes(&read("/proc/meminfo"), "MemAvailable")
}

/// Whether the kernel counts swap per cgroup.
pub(crate) fn counts_swap(cgroup_v2: bool) -> bool {
    if !cgroup_v2 {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    // The root has no such file; our own cgroup has.
    let own = read("/proc/self/cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/')).join("memory.swap.max").exists()
}

/// (processes now, most there may be).
pub(crate) fn processes() -> (i64, i64) {
    let loadavg = read("/proc/loadavg");
    let running = loadavg.split_whitespace().nth(3).and_then(|pair| pair.split('/').nth(1));
    let threads = running.and_then(|count| count.parse().ok()).unwrap_or(0);
    let number = |path: &str| read(path).parse::<i64>().unwrap_or(i64::MAX);
    (threads, number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max")))
}

/// Size and use of a file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk {
    /// Bytes.
    pub capacity: i64,
    /// Bytes that anyone may take.
    pub available: i64,
    /// Files it can hold.
    pub inodes: i64,
    /// Files it can still take.
    pub inodes_free: i64,
}

/// Asks the file system that holds `path`.
pub(crate) fn disk(path: &Path) -> Disk {
    let Ok(stat) = nix::sys::statvfs::statvfs(path) else { return Disk::default() };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let block = number(stat.fragment_size());
    Disk {
        capacity: number(stat.blocks()).saturating_mul(block),
        available: number(stat.blocks_available()).saturating_mul(block),
        inodes: number(stat.files()),
        inodes_free: number(stat.files_free()),
    }
}

fn meminfo_bytes(text: &str, key: &str) -> i64 {
    let line = text.lines().find(|line| line.starts_with(key) && line[key.len()..].starts_with(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|value| value.parse::<i64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// `0-3,5` has five.
fn count_cpus(list: &str) -> i64 {
    let ranges = list.split(',').filter_map(|range| match range.split_once('-') {
        Some((first, last)) => Some(last.trim().parse::<i64>().ok()? - first.trim().parse::<i64>().ok()? + 1),
        None => range.trim().parse::<i64>().ok().map(|_| 1),
    });
    ranges.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_by_size() {
        let directory = tempfile::tempdir().unwrap();
        for (name, count) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "0\n"), ("other", "1\n")] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join("nr_hugepages"), count).unwrap();
        }
        assert_eq!(huge_pages(directory.path()), [(2 << 20, 3), (1 << 30, 0)]);
        assert!(huge_pages(Path::new("/no/such/directory")).is_empty());
        assert_eq!(huge_page_resource(2 << 20), "hugepages-2Mi");
        assert_eq!(huge_page_resource(64 << 10), "hugepages-64Ki");
    }

    #[test]
    fn parses() {
        assert_eq!(count_cpus("0-3,5"), 5);
        assert_eq!(count_cpus(""), 0);
        assert_eq!(meminfo_bytes("MemTotal:       2 kB\nSwapTotal: 1 kB\n", "SwapTotal"), 1024);
    }
}
