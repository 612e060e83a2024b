//! `anynpu knobs`: every environment variable.

use anynpu::knobs::{KNOBS, Knob};
use serde::Serialize;

use crate::args::JsonArgs;
use crate::output;

#[derive(Serialize)]
struct Document {
    knobs: Vec<Knob>,
}

/// Lists the variables.
pub fn execute(args: &JsonArgs) -> anyhow::Result<()> {
    let drivers = anynpu_backends::drivers();
    let own = drivers.iter().flat_map(|d| d.variables()).map(|v| Knob {
        name: v.name,
        kind: "text",
        default: v.default,
        meaning: v.meaning,
    });
    let knobs: Vec<Knob> = KNOBS.iter().copied().chain(own).collect();
    if args.json {
        return output::print_json(&Document { knobs });
    }
    for k in knobs {
        output::print_line(&format!("{} ({}, default {})", k.name, k.kind, k.default))?;
        output::print_line(&format!("    {}", k.meaning))?;
    }
    Ok(())
}
