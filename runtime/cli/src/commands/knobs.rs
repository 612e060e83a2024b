//! `anynpu knobs`: every environment variable.

use anynpu::knobs::{KNOBS, Knob};
use serde::Serialize;

use crate::args::JsonArgs;
use crate::output;

#[derive(Serialize)]
struct Document {
    knobs: &'static [Knob],
}

/// Lists the variables.
pub fn execute(args: &JsonArgs) -> anyhow::Result<()> {
    if args.json {
        return output::print_json(&Document { knobs: KNOBS });
    }
    for k in KNOBS {
        output::print_line(&format!("{} ({}, default {})", k.name, k.kind, k.default))?;
        output::print_line(&format!("    {}", k.meaning))?;
    }
    Ok(())
}
