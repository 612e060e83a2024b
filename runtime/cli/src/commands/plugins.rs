//! Backends that were built apart, as `--driver` and the environment name them.

use anyhow::Context;
use anynpu_backends::{Drivers, Plugins};
use anynpu_hal::isolate::Helper;

use crate::args::PluginArgs;

impl PluginArgs {
    /// Drivers of the plugins that were named here, each of which must be usable.
    pub fn named(&self, isolate: bool) -> anyhow::Result<Drivers> {
        let plugins = settings(isolate)?;
        let open = |path| {
            let driver = plugins.open(path);
            driver.with_context(|| format!("--driver {}", path.display()))
        };
        self.driver.iter().map(|path| open(path)).collect()
    }

    /// Drivers of all plugins, named here or in the environment; those that can't be used tell why.
    pub fn listed(&self) -> anyhow::Result<Drivers> {
        let mut plugins = settings(false)?;
        plugins.files.clone_from(&self.driver);
        let mut drivers = plugins.drivers();
        drivers.extend(of_environment(false)?);
        Ok(drivers)
    }
}

/// Drivers of the plugins that the environment names; those that can't be used tell why.
pub fn of_environment(isolate: bool) -> anyhow::Result<Drivers> {
    let mut plugins = settings(isolate)?;
    plugins.files = Plugins::of_environment().files;
    Ok(plugins.drivers())
}

/// Plugins are tried by this program itself, started once more.
fn settings(isolate: bool) -> anyhow::Result<Plugins> {
    let mut plugins = Plugins::default();
    plugins.isolate = isolate;
    plugins.helper = Some(Helper {
        program: std::env::current_exe().context("this program's own file")?,
        arguments: vec!["serve-driver".into(), "--driver".into()],
    });
    Ok(plugins)
}
