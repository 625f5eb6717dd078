//! How much memory there is, where the system says so (Linux).

use std::fs;

/// The bytes of memory that are free or can be made free: the machine's, or those that the control group of a container
/// has left.
pub(super) fn available() -> Option<u64> {
    let machine = machine();
    let own = group().unwrap_or(u64::MAX);
    machine.map(|bytes| bytes.min(own))
}

fn machine() -> Option<u64> {
    let told = fs::read_to_string("/proc/meminfo").ok()?;
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

/// What the group may take and takes, in both versions of control groups, as a container sees them. What it takes
/// counts files that are kept in memory too, which can be made free.
fn group() -> Option<u64> {
    const FILES: [[&str; 3]; 2] = [
        ["memory.max", "memory.current", "memory.stat"],
        [
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
        ],
    ];
    FILES.into_iter().find_map(|[most, taken, parts]| {
        let read = |name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
        let number = |name| read(name)?.trim().parse::<u64>().ok();
        let (most, taken) = (number(most)?, number(taken)?);
        let parts = read(parts).unwrap_or_default();
        let files = parts.lines().find_map(|line| {
            let bytes = line.strip_prefix("inactive_file ")?;
            bytes.trim().parse::<u64>().ok()
        });
        Some(most.saturating_sub(taken.saturating_sub(files.unwrap_or(0))))
    })
}
