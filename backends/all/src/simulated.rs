//! Simulated devices by the names that users give them: `sim:FILE.toml` or `sim:NAME`.

use std::path::Path;

use anynpu_hal::Driver;
use anynpu_sim::{Description, SHIPPED, Shipped, SimDriver, SimError};
use thiserror::Error;

use crate::BackendOptions;

/// A simulated device that can't be had.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum SimulatedError {
    /// Neither a shipped description nor a file.
    #[error(
        "there is no simulated device '{name}': no file of that name, and no shipped description; name one as sim:FILE.toml, or one of {shipped}"
    )]
    Unknown {
        /// What stood after `sim:`.
        name: String,
        /// The shipped ones, as they are named.
        shipped: String,
    },
    /// Two devices of one name.
    #[error(
        "two simulated devices are called '{name}'; give one of the descriptions another `name`"
    )]
    Twice {
        /// The name.
        name: String,
    },
    /// A description that can't be used.
    #[error("{0}; shipped descriptions are {shipped}", shipped = shipped())]
    Description(#[from] SimError),
}

/// The word before a description's name.
const PREFIX: &str = "sim:";

/// The driver of the simulated device that `spec` names: the name of a shipped description or else the path
/// of a file, after `sim:` or without it. Its numbers are computed by the CPU.
///
/// # Errors
/// No such description, or one that can't be used.
pub fn simulated(spec: &str) -> Result<SimDriver, SimulatedError> {
    let name = spec.strip_prefix(PREFIX).unwrap_or(spec);
    let description = match Shipped::find(name) {
        Some(shipped) => shipped.read()?,
        None if name.is_empty() || name == "sim" || !Path::new(name).exists() => {
            return Err(SimulatedError::Unknown {
                name: name.to_owned(),
                shipped: shipped(),
            });
        }
        None => Description::read(Path::new(name))?,
    };
    Ok(SimDriver::new(description, Box::new(anynpu_cpu::CpuDriver)))
}

/// Drivers, most preferred first.
pub type Drivers = Vec<Box<dyn Driver>>;

/// [`super::drivers_with`] and those of the simulated devices among `names`, and `names` as the runtime knows
/// them: one simulated device is `sim`, several are `sim:` and their descriptions' names.
///
/// # Errors
/// As [`simulated`]; two simulated devices of one name.
pub fn drivers_for(
    names: &[String],
    options: &BackendOptions,
) -> Result<(Drivers, Vec<String>), SimulatedError> {
    let mut drivers = super::drivers_with(options);
    let mut named = names.to_vec();
    let specs = |name: &String| name == "sim" || name.starts_with(PREFIX);
    let mut known: Vec<(String, String)> = Vec::new();
    let mut simulations = Vec::new();
    for spec in names.iter().filter(|name| specs(name)) {
        if known.iter().any(|(s, _)| s == spec) {
            continue;
        }
        let driver = simulated(spec)?;
        let name = format!("{PREFIX}{}", driver.description().name());
        if known.iter().any(|(_, n)| *n == name) {
            return Err(SimulatedError::Twice { name });
        }
        known.push((spec.clone(), name));
        simulations.push(driver);
    }
    if let [(_, name)] = &mut known[..] {
        *name = "sim".to_owned();
    }
    for (driver, (spec, name)) in simulations.into_iter().zip(known) {
        named
            .iter_mut()
            .filter(|n| **n == spec)
            .for_each(|n| n.clone_from(&name));
        drivers.push(Box::new(driver.named(name)));
    }
    Ok((drivers, named))
}

fn shipped() -> String {
    let names: Vec<String> = SHIPPED
        .iter()
        .map(|s| format!("{PREFIX}{}", s.name))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(specs: &[&str]) -> Result<(Vec<String>, Vec<String>), SimulatedError> {
        let specs: Vec<String> = specs.iter().map(|s| (*s).to_owned()).collect();
        let (drivers, named) = drivers_for(&specs, &BackendOptions::default())?;
        // vendors' drivers find their devices or not
        let own = drivers
            .iter()
            .filter(|d| !["qnn", "nnapi", "coreml"].contains(&d.name()));
        let devices = own.flat_map(|d| d.enumerate().unwrap());
        Ok((devices.map(|d| d.info.name).collect(), named))
    }

    #[test]
    fn one_simulated_device_is_sim_and_several_carry_their_descriptions_names() {
        let (devices, named) = names(&["cpu", "sim:reference-f32"]).unwrap();
        assert_eq!(named, ["cpu", "sim"]);
        assert_eq!(devices, ["cpu", "noop", "chaos", "sim"]);
        let (devices, named) = names(&["sim:reference-f32", "cpu", "sim:reference-f16"]).unwrap();
        assert_eq!(named, ["sim:reference-f32", "cpu", "sim:reference-f16"]);
        assert_eq!(devices[3..], ["sim:reference-f32", "sim:reference-f16"]);
        let (_, named) = names(&["sim:reference-f32", "sim:reference-f32"]).unwrap();
        assert_eq!(named, ["sim", "sim"]);
        assert_eq!(names(&[]).unwrap().1, [""; 0]);
    }

    #[test]
    fn a_description_that_is_not_there_is_an_error_that_lists_those_that_are() {
        for spec in ["sim", "sim:", "sim:no-such", "sim:no/such.toml"] {
            let text = names(&["cpu", spec]).unwrap_err().to_string();
            assert!(
                text.contains("sim:reference-f32, sim:reference-f16"),
                "{text}"
            );
            assert!(text.contains("sim:FILE.toml"), "{text}");
        }
    }

    #[test]
    fn files_are_descriptions_too_and_a_bad_one_is_named_with_its_fault() {
        let folder = std::env::temp_dir().join(format!("anynpu-sim-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            format!("sim:{}", path.display())
        };
        let text = Shipped::find("reference-f32").unwrap().text;
        let good = file("good.toml", text);
        assert_eq!(names(&["cpu", &good]).unwrap().1, ["cpu", "sim"]);
        let twice = names(&[&good, "sim:reference-f32"]).unwrap_err();
        let name = "sim:reference-f32".to_owned();
        assert_eq!(twice, SimulatedError::Twice { name });
        let bad = file("bad.toml", &text.replace("40e9", "-1"));
        let text = names(&[&bad]).unwrap_err().to_string();
        assert!(
            text.contains("bad.toml") && text.contains("sim:reference-f32"),
            "{text}"
        );
        assert!(
            text.contains("memory.read_bytes_per_second.value is -1"),
            "{text}"
        );
        let folder_itself = format!("sim:{}", folder.display());
        assert!(names(&[&folder_itself]).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
