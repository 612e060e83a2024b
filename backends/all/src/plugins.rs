//! Backends that were built apart, and are loaded from files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anynpu_hal::Driver;
use anynpu_hal::isolate::{Helper, IsolatedDriver};
use anynpu_hal::plugin::{self, PluginDriver, PluginError, PluginOptions, UnusablePlugin};

use crate::Drivers;

/// How long a plugin may take to be loaded and to tell of its devices, when that is tried first.
const TRIAL: Duration = Duration::from_secs(20);

/// Which plugins to load, and how.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Plugins {
    /// Plugins and manifests, in order.
    pub files: Vec<PathBuf>,
    /// A program that serves the plugin whose path is added to its arguments: each is tried there first, so that one
    /// that crashes or hangs is an error. Without it plugins are loaded at once.
    pub helper: Option<Helper>,
    /// Run plugins in that program for good.
    pub isolate: bool,
}

impl Plugins {
    /// Those that the environment variable `ANYNPU_DRIVER_FILES` names.
    pub fn of_environment() -> Plugins {
        Plugins {
            files: plugin::driver_files(),
            ..Plugins::default()
        }
    }

    /// A driver for each file; those that can't be used tell why when they are asked for devices.
    pub fn drivers(&self) -> Drivers {
        let each = self.files.iter().map(|path| self.driver(path));
        each.collect()
    }

    fn driver(&self, path: &Path) -> Box<dyn Driver> {
        match self.open(path) {
            Ok(driver) => driver,
            Err(e) => {
                tracing::warn!("{}: {e}", path.display());
                Box::new(UnusablePlugin::new(path, e))
            }
        }
    }

    /// The driver in the file at `path`.
    ///
    /// # Errors
    /// A plugin that can't be used.
    pub fn open(&self, path: &Path) -> Result<Box<dyn Driver>, PluginError> {
        let helper = self.helper.clone().map(|mut helper| {
            helper.arguments.push(path.into());
            helper
        });
        if let Some(helper) = helper {
            if self.isolate {
                let isolated = IsolatedDriver::new(plugin::name_of(path), helper);
                return Ok(Box::new(isolated));
            }
            PluginDriver::try_first(path, &helper, TRIAL)?;
        }
        let driver = PluginDriver::load(path, PluginOptions::default())?;
        Ok(Box::new(driver))
    }
}
