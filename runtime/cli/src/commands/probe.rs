//! `anynpu probe`: measures each device into a profile.

use std::fmt::Write;

use anynpu::Outcome;
use anynpu::probe::{ProbeOptions, probe};
use anynpu::profile::{DeviceProfile, OpCheck, Profile, Sample};

use crate::args::ProbeArgs;
use crate::output;

/// Measures, saves if asked to, and tells the figures.
pub fn execute(args: &ProbeArgs) -> anyhow::Result<()> {
    if let Some(path) = &args.save {
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|f| !f.is_dir()) {
            anyhow::bail!("{}: there is no such folder to save in", folder.display());
        }
    }
    let unused = [
        ("--profile", args.placement.profile.is_empty()),
        ("--place", args.placement.place.is_empty()),
        ("--require", args.placement.require.is_none()),
    ];
    if let Some((option, _)) = unused.iter().find(|(_, absent)| !absent) {
        anyhow::bail!(
            "{option} has no meaning for `anynpu probe`, which plans nothing; leave it out"
        );
    }
    let runtime = args.placement.runtime()?;
    let mut progress = |device: &str, what: &str| output::note(&format!("{device}: {what}"));
    let options = ProbeOptions {
        quick: args.quick,
        weights: None,
        progress: &mut progress,
    };
    let profile = probe(&runtime, options);
    if let Some(path) = &args.save {
        profile.save(path)?;
    }
    match args.json.json {
        true => Ok(output::print(&profile.to_json())?),
        false => Ok(output::print(&text(&profile))?),
    }
}

fn text(profile: &Profile) -> String {
    let mut text = String::new();
    for device in &profile.devices {
        describe(&mut text, device);
    }
    for link in &profile.links {
        let cost = match (link.latency_us, link.bytes_per_second) {
            (Some(latency), Some(rate)) => format!(
                "{} us and {} GB/s",
                figure(latency),
                figure(rate.map(|r| r / 1e9))
            ),
            _ => "no copy".into(),
        };
        line(
            &mut text,
            &format!("{} to {}: {}, {cost}", link.from, link.to, link.mode),
        );
    }
    text
}

fn describe(text: &mut String, device: &DeviceProfile) {
    let simulated = if device.simulated {
        ", simulated: its time is virtual"
    } else {
        ""
    };
    line(
        text,
        &format!("{} ({}{simulated})", device.name, device.description),
    );
    if let (Some(dispatch), Some(node)) = (device.dispatch_us, device.node_us) {
        let (dispatch, node) = (figure(dispatch), figure(node));
        line(
            text,
            &format!("  start of a segment {dispatch} us, smallest node {node} us"),
        );
    }
    for (what, curve) in [("read", &device.read), ("copy", &device.copy)] {
        for p in curve {
            let rate = figure(p.bytes_per_second.map(|r| r / 1e9));
            line(
                text,
                &format!(
                    "  {what} {:>9.2} MiB: {rate} GB/s",
                    p.bytes as f64 / f64::from(1 << 20)
                ),
            );
        }
    }
    for p in &device.products {
        let cold = if p.cold { "cold" } else { "cached" };
        let operations = 2e-3 * p.elements() * f64::from(p.tokens);
        let rate = figure(p.us.map(|us| operations / us));
        let shape = format!("{}x{}", p.rows, p.columns);
        line(
            text,
            &format!(
                "  {:<5} {shape:>10} {cold}, {:>3} rows: {rate} GFLOP/s",
                p.dtype, p.tokens
            ),
        );
    }
    for a in &device.attention {
        let rate = figure(a.us.map(|us| a.operations / us / 1e3));
        line(
            text,
            &format!(
                "  attention over {} + {} rows of {}: {rate} GFLOP/s",
                a.cached, a.tokens, a.dtype
            ),
        );
    }
    for v in &device.values {
        line(
            text,
            &format!("  {:<6} of {:>8} bytes: {} us", v.op, v.bytes, figure(v.us)),
        );
    }
    for a in &device.anchors {
        let (us, nodes) = (figure(a.us), a.nodes_us);
        line(
            text,
            &format!(
                "  block of {}, {} wide, {}: {us} us, its nodes alone {nodes:.1} us",
                a.dtype, a.hidden, a.phase
            ),
        );
    }
    if let Some(best) = device.best_threads {
        line(
            text,
            &format!(
                "  best threads: {} for prefill, {} for decode",
                best.prefill, best.decode
            ),
        );
    }
    let right = |c: &&OpCheck| matches!(c.outcome, Outcome::Agrees { .. });
    let agree = device.checks.iter().filter(right).count();
    if !device.checks.is_empty() {
        let of = device.checks.len();
        line(
            text,
            &format!("  tried beside the CPU: {agree} of {of} kinds of nodes agree"),
        );
    }
    for check in &device.checks {
        if let Some(why) = check.outcome.obstacle() {
            let weights = check.weights.as_ref();
            let of = weights.map_or_else(String::new, |w| format!(" of {w}"));
            line(text, &format!("  wrong: {}{of}: {why}", check.op));
        }
    }
    for missing in &device.not_measured {
        line(text, &format!("  not measured: {missing}"));
    }
    for verdict in &device.failed {
        line(
            text,
            &format!("  failed: {}: {}", verdict.what, verdict.error),
        );
    }
}

/// A figure with its spread and runs.
fn figure(sample: Sample) -> String {
    let Sample {
        median,
        p10,
        p90,
        runs,
    } = sample;
    format!("{median:.2} ({p10:.2} to {p90:.2}, {runs} runs)")
}

fn line(text: &mut String, line: &str) {
    // writing to a String can't fail
    let _ = writeln!(text, "{line}");
}
