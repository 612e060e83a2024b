//! What the system tells of the machine.

use std::fs;
use std::path::Path;

use crate::profile::{Cluster, Host};

/// The machine this runs on.
pub(super) fn host() -> Host {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Host {
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cores,
        clusters: clusters(Path::new("/sys/devices/system/cpu")),
        last_level_cache: last_level_cache(Path::new("/sys/devices/system/cpu")),
    }
}

/// Cores by their capacity and highest frequency, as Linux tells; nothing elsewhere.
fn clusters(root: &Path) -> Vec<Cluster> {
    let mut found: Vec<((u64, u64), Cluster)> = Vec::new();
    for core in 0..1024 {
        let folder = root.join(format!("cpu{core}"));
        if !folder.is_dir() {
            break;
        }
        let capacity = number(&folder.join("cpu_capacity")).unwrap_or(0);
        let khz = number(&folder.join("cpufreq/cpuinfo_max_freq")).unwrap_or(0);
        let key = (capacity, khz);
        match found.iter_mut().find(|(k, _)| *k == key) {
            Some((_, cluster)) => cluster.cores.push(core),
            None => found.push((
                key,
                Cluster {
                    cores: vec![core],
                    max_mhz: (khz > 0).then_some((khz / 1000).min(u32::MAX.into()) as u32),
                },
            )),
        }
    }
    found.into_iter().map(|(_, cluster)| cluster).collect()
}

/// Bytes of the largest cache of the first core.
fn last_level_cache(root: &Path) -> Option<u64> {
    let caches = (0..8).filter_map(|i| {
        let size = fs::read_to_string(root.join(format!("cpu0/cache/index{i}/size"))).ok()?;
        let size = size.trim();
        let (digits, unit) = match size.strip_suffix('K') {
            Some(digits) => (digits, 1 << 10),
            None => (
                size.strip_suffix('M').unwrap_or(size),
                match size.ends_with('M') {
                    true => 1 << 20,
                    false => 1,
                },
            ),
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    });
    caches.max()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_of_different_capacity_are_different_clusters() {
        let root = tempfile::tempdir().unwrap();
        for (core, capacity, khz) in [
            (0, 400, 1_800_000),
            (1, 400, 1_800_000),
            (2, 1024, 2_900_000),
        ] {
            let folder = root.path().join(format!("cpu{core}/cpufreq"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cpuinfo_max_freq"), format!("{khz}\n")).unwrap();
            fs::write(folder.join("../cpu_capacity"), format!("{capacity}\n")).unwrap();
        }
        let cache = root.path().join("cpu0/cache/index3");
        fs::create_dir_all(&cache).unwrap();
        fs::write(cache.join("size"), "8192K\n").unwrap();
        let found = clusters(root.path());
        let cores: Vec<_> = found.iter().map(|c| (c.cores.clone(), c.max_mhz)).collect();
        assert_eq!(cores, [(vec![0, 1], Some(1800)), (vec![2], Some(2900))]);
        assert_eq!(last_level_cache(root.path()), Some(8 << 20));
        assert!(clusters(&root.path().join("none")).is_empty());
    }
}
