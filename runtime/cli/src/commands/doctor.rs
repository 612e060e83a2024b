//! `anynpu doctor`: each backend's health and the remedy for what is wrong.

use anynpu_hal::{OpenOptions, Registry};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::commands::{load, record};
use crate::output;

#[derive(Serialize)]
struct Document {
    version: &'static str,
    host: Host,
    backends: Vec<Backend>,
    /// What is wrong with the `ANYNPU_…` variables that are set.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Host {
    os: &'static str,
    arch: &'static str,
    cores: usize,
    /// Frequency governor of the first core, where the system tells it.
    governor: Option<String>,
    memory_available_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Backend {
    driver: String,
    /// `ok`, `artificial`, `does not open` or `not usable`.
    status: &'static str,
    detail: String,
    remedy: Option<String>,
}

/// Examines the machine and every driver.
pub fn execute(args: &DoctorArgs) -> anyhow::Result<()> {
    let (args, file) = (&args.list, &args.record);
    let mut drivers = load::drivers(&args.vendors);
    drivers.extend(args.plugins.listed()?);
    let variables = drivers.iter().flat_map(|d| d.variables());
    let variables: Vec<&str> = variables.map(|v| v.name).collect();
    let document = Document {
        version: env!("CARGO_PKG_VERSION"),
        host: host(),
        backends: backends(&Registry::new(drivers)),
        warnings: match anynpu::knobs::Knobs::from_env(&variables) {
            Ok((_, warnings)) => warnings,
            Err(e) => vec![e.to_string()],
        },
    };
    if let Some(file) = file {
        record::record(file, &document)?;
    }
    if args.json.json {
        return output::print_json(&document);
    }
    let host = &document.host;
    output::print_line(&format!(
        "anynpu {} on {} {}, {} cores{}{}",
        document.version,
        host.os,
        host.arch,
        host.cores,
        host.governor
            .as_ref()
            .map_or_else(String::new, |g| format!(", governor {g}")),
        host.memory_available_bytes
            .map_or_else(String::new, |b| format!(", {} free", output::bytes(b))),
    ))?;
    for b in &document.backends {
        output::print_line(&format!("{:<8} {:<13} {}", b.driver, b.status, b.detail))?;
        if let Some(remedy) = &b.remedy {
            output::print_line(&format!("         remedy: {remedy}"))?;
        }
    }
    for warning in &document.warnings {
        output::print_line(&format!("warning: {warning}"))?;
    }
    Ok(())
}

fn host() -> Host {
    let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    Host {
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
        governor: std::fs::read_to_string(governor)
            .ok()
            .map(|g| g.trim().to_owned()),
        memory_available_bytes: memory_available(),
    }
}

/// `MemAvailable` of Linux and Android.
fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

fn backends(registry: &Registry) -> Vec<Backend> {
    let (found, unavailable) = registry.enumerate();
    let found = found.into_iter().map(|d| {
        let opened = registry.open(&d.info.name, &OpenOptions::default());
        let (status, detail) = match opened {
            Ok(_) if d.artificial => ("artificial", d.info.description),
            Ok(_) => ("ok", d.info.description),
            Err(e) => ("does not open", e.to_string()),
        };
        Backend {
            driver: d.info.name,
            status,
            detail,
            remedy: None,
        }
    });
    let unavailable = unavailable.into_iter().map(|u| Backend {
        driver: u.driver,
        status: "not usable",
        detail: u.reason,
        remedy: u.remedy,
    });
    found.chain(unavailable).collect()
}
