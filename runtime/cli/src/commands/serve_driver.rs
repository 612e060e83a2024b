//! `anynpu serve-driver`: the helper process of `--isolate`.

use std::ffi::OsString;
use std::io;

use anyhow::Context;
use anynpu_backends::Drivers;
use anynpu_hal::isolate::{Helper, IsolatedDriver, own_output, serve};
use anynpu_hal::plugin::{PluginDriver, PluginOptions};

use crate::args::{ServeDriverArgs, VendorArgs};

/// Serves until the program that started this one goes away.
pub fn execute(args: &ServeDriverArgs) -> anyhow::Result<()> {
    let output = own_output().context("standard output")?;
    if let Some(path) = &args.driver {
        let driver = PluginDriver::load(path, PluginOptions::default())
            .with_context(|| path.display().to_string())?;
        return Ok(serve(&driver, io::stdin(), output)?);
    }
    let (drivers, _) = anynpu_backends::drivers_for(&args.device, &args.vendors.options())?;
    let count = drivers.len();
    let index = args.index.unwrap_or(count);
    let driver = drivers.into_iter().nth(index);
    let driver = driver.with_context(|| format!("driver {index} of {count}"))?;
    Ok(serve(&*driver, io::stdin(), output)?)
}

/// `drivers`, which are those for `devices`, each but the CPU's in a process of its own.
pub(super) fn isolated(
    drivers: Drivers,
    devices: &[String],
    vendors: &VendorArgs,
) -> anyhow::Result<Drivers> {
    let program = std::env::current_exe().context("this program's own file")?;
    let isolate = |(index, driver): (usize, Box<dyn anynpu_hal::Driver>)| {
        if driver.name() == "cpu" {
            return driver;
        }
        let index = index.to_string();
        let mut arguments: Vec<OsString> =
            vec!["serve-driver".into(), "--index".into(), index.into()];
        for device in devices {
            arguments.extend(["--device".into(), device.into()]);
        }
        arguments.extend(vendors.arguments());
        let helper = Helper {
            program: program.clone(),
            arguments,
        };
        let isolated = IsolatedDriver::new(driver.name(), helper);
        Box::new(isolated.with_variables(driver.variables()))
    };
    Ok(drivers.into_iter().enumerate().map(isolate).collect())
}
