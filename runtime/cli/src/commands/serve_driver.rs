//! `anynpu serve-driver`: the helper process of `--isolate`.

use std::ffi::OsString;
use std::io;

use anyhow::Context;
use anynpu_backends::Drivers;
use anynpu_hal::isolate::{Helper, IsolatedDriver, serve};

use crate::args::ServeDriverArgs;

/// Serves until the program that started this one goes away.
pub fn execute(args: &ServeDriverArgs) -> anyhow::Result<()> {
    let (drivers, _) = anynpu_backends::drivers_for(&args.device)?;
    let count = drivers.len();
    let driver = drivers.into_iter().nth(args.index);
    let driver = driver.with_context(|| format!("driver {} of {count}", args.index))?;
    Ok(serve(&*driver, io::stdin(), io::stdout())?)
}

/// `drivers`, which are those for `devices`, each but the CPU's in a process of its own.
pub(super) fn isolated(drivers: Drivers, devices: &[String]) -> anyhow::Result<Drivers> {
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
        let helper = Helper {
            program: program.clone(),
            arguments,
        };
        Box::new(IsolatedDriver::new(driver.name(), helper))
    };
    Ok(drivers.into_iter().enumerate().map(isolate).collect())
}
