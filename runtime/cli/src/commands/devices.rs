//! `anynpu devices`: what is found, and why a driver has nothing.

use anynpu_hal::{Capabilities, OpenOptions, Registry};
use serde::Serialize;

use crate::args::ListArgs;
use crate::commands::load;
use crate::output;

#[derive(Serialize)]
struct Document {
    devices: Vec<Device>,
    unavailable: Vec<Unavailable>,
    /// Shipped descriptions of simulated devices.
    simulated: Vec<Simulated>,
}

#[derive(Serialize)]
struct Simulated {
    /// As `--device` takes it.
    name: String,
    models: String,
}

#[derive(Serialize)]
struct Device {
    name: String,
    kind: &'static str,
    driver: String,
    description: String,
    /// Not used unless named with `--device`.
    artificial: bool,
    /// Absent where the device did not open.
    claims: Option<Claims>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Claims {
    op_set: u32,
    baseline: bool,
    dynamic_shapes: bool,
    asynchronous: bool,
    states: String,
    compute: Vec<&'static str>,
    /// What activations are held in instead, where they are in fixed point.
    fixed_point: Option<&'static str>,
    weights: Vec<&'static str>,
    memory: Vec<String>,
    memory_limit_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Unavailable {
    driver: String,
    reason: String,
    remedy: Option<String>,
}

/// Lists the devices.
pub fn execute(args: &ListArgs) -> anyhow::Result<()> {
    let mut drivers = load::drivers(&args.vendors);
    drivers.extend(args.plugins.listed()?);
    let document = collect(&Registry::new(drivers));
    if args.json.json {
        return output::print_json(&document);
    }
    for d in &document.devices {
        output::print_line(&format!("{:<8} {:<10} {}", d.name, d.kind, d.description))?;
        if let Some(claims) = &d.claims {
            output::print_line(&format!(
                "         op set {}, computes in {}, reads weights in {}{}",
                claims.op_set,
                claims
                    .fixed_point
                    .map_or_else(|| claims.compute.join(" "), str::to_owned),
                claims.weights.join(" "),
                if claims.baseline {
                    ", runs every op"
                } else {
                    ""
                }
            ))?;
        }
        if let Some(e) = &d.error {
            output::print_line(&format!("         does not open: {e}"))?;
        }
        if d.artificial {
            output::print_line("         artificial: used only if named with --device")?;
        }
    }
    for u in &document.unavailable {
        output::print_line(&format!("{:<8} not usable: {}", u.driver, u.reason))?;
    }
    output::print_line("simulated devices, used only if named with --device:")?;
    for s in &document.simulated {
        output::print_line(&format!("         {:<26} {}", s.name, s.models))?;
    }
    Ok(())
}

fn collect(registry: &Registry) -> Document {
    let (found, unavailable) = registry.enumerate();
    let devices = found
        .into_iter()
        .map(|d| {
            let opened = registry.open(&d.info.name, &OpenOptions::default());
            let (claims, error) = match opened {
                Ok(device) => (Some(claims(device.capabilities())), None),
                Err(e) => (None, Some(e.to_string())),
            };
            Device {
                name: d.info.name,
                kind: d.info.kind.name(),
                driver: d.info.driver,
                description: d.info.description,
                artificial: d.artificial,
                claims,
                error,
            }
        })
        .collect();
    let unavailable = unavailable
        .into_iter()
        .map(|u| Unavailable {
            driver: u.driver,
            reason: u.reason,
            remedy: u.remedy,
        })
        .collect();
    Document {
        devices,
        unavailable,
        simulated: simulated(),
    }
}

fn simulated() -> Vec<Simulated> {
    let shipped = anynpu_backends::SHIPPED.iter();
    let named = |name: &str| format!("sim:{name}");
    shipped
        .filter_map(|s| {
            Some(Simulated {
                name: named(s.name),
                models: s.read().ok()?.models().to_owned(),
            })
        })
        .collect()
}

fn claims(c: &Capabilities) -> Claims {
    Claims {
        op_set: c.op_set,
        baseline: c.features.baseline,
        dynamic_shapes: c.features.dynamic_shapes,
        asynchronous: c.features.asynchronous,
        states: format!("{:?}", c.states),
        compute: c.compute.iter().map(|d| d.name()).collect(),
        fixed_point: c.fixed_point.map(|f| f.name()),
        weights: c.weights.iter().map(|d| d.name()).collect(),
        memory: c.memory.iter().map(|m| format!("{m:?}")).collect(),
        memory_limit_bytes: c.memory_limit,
    }
}
