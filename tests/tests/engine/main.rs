//! The candle engine as a plugin, beside the CPU: `tests/engines/candle`, built apart, in the library that
//! `ANYNPU_CANDLE_PLUGIN` names.

mod cases;
mod models;
mod suite;

use std::path::Path;

use anynpu_hal::plugin::{PluginDriver, PluginOptions};

/// The variable that names the library.
const VARIABLE: &str = "ANYNPU_CANDLE_PLUGIN";

/// The engine, or `None` with the reason printed.
fn plugin(test: &str) -> Option<PluginDriver> {
    let Some(path) = std::env::var_os(VARIABLE).filter(|p| !p.is_empty()) else {
        println!("SKIPPED {test}: {VARIABLE} is not set");
        return None;
    };
    let mut options = PluginOptions::default();
    options.guarded = true;
    Some(PluginDriver::load(Path::new(&path), options).unwrap())
}
