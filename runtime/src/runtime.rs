//! The devices a program runs on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anynpu_hal::{Device, DeviceKind, Driver, OpenOptions, Registry};

use crate::RuntimeError;
use crate::absent::AbsentDevice;
use crate::cache::Cache;
use crate::cost::CostModel;
use crate::exec::OpenDevice;
use crate::health::Health;
use crate::knobs::Knobs;
use crate::profile::Profile;

/// The opened devices. Clones share them; models are loaded onto them.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    devices: Vec<Arc<OpenDevice>>,
    /// How each was opened.
    options: BTreeMap<String, OpenOptions>,
    knobs: Knobs,
    cache: Option<Arc<Cache>>,
    cost: CostModel,
    health: Health,
    warnings: Vec<String>,
}

impl Runtime {
    /// Starts to describe a runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// The devices in use, most preferred first.
    pub fn devices(&self) -> Vec<Arc<dyn Device>> {
        let devices = self.inner.devices.iter();
        devices.map(|d| d.device().clone()).collect()
    }

    /// Every driver, for listing what else there is.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// The values of the environment variables it was built with.
    pub fn knobs(&self) -> &Knobs {
        &self.inner.knobs
    }

    /// What the user should know of how it was built, e.g. a device that did not open.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Which devices failed.
    pub(crate) fn health(&self) -> &Health {
        &self.inner.health
    }

    /// Where compiled forms are kept, if anywhere.
    pub(crate) fn cache(&self) -> Option<&Arc<Cache>> {
        self.inner.cache.as_ref()
    }

    /// What plans are priced by.
    pub fn cost(&self) -> &CostModel {
        &self.inner.cost
    }

    /// Threads that devices were to use, if they were told; else each has as many as it likes.
    pub fn threads(&self) -> Option<usize> {
        self.inner.options.values().find_map(|o| o.threads)
    }

    /// Opens a device in use once more, as it was opened.
    pub(crate) fn open_again(&self, name: &str) -> Result<Arc<dyn Device>, RuntimeError> {
        let options = self.inner.options.get(name).cloned().unwrap_or_default();
        Ok(self.inner.registry.open(name, &options)?)
    }

    pub(crate) fn open_devices(&self) -> &[Arc<OpenDevice>] {
        &self.inner.devices
    }
}

/// Says what a [`Runtime`] runs on.
#[derive(Debug, Default)]
#[must_use]
pub struct RuntimeBuilder {
    drivers: Vec<Box<dyn Driver>>,
    devices: Vec<String>,
    also: Vec<String>,
    forbidden: Vec<String>,
    threads: Option<usize>,
    options: BTreeMap<String, BTreeMap<String, String>>,
    knobs: Option<Knobs>,
    cache_folder: Option<PathBuf>,
    default_cache_folder: Option<PathBuf>,
    no_cache: bool,
    compiled: Vec<PathBuf>,
    profiles: Vec<Profile>,
    plan_only: bool,
    preferred: Vec<String>,
}

impl RuntimeBuilder {
    /// Adds drivers, most preferred first.
    pub fn drivers(mut self, drivers: Vec<Box<dyn Driver>>) -> Self {
        self.drivers.extend(drivers);
        self
    }

    /// Considers only devices that are named, most preferred first. Artificial devices are used
    /// only if named; without any name, every other device that opens is used.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.devices.push(name.into());
        self
    }

    /// Considers the device called `name` too, an artificial one as well, where no device is named.
    pub fn also(mut self, name: impl Into<String>) -> Self {
        self.also.push(name.into());
        self
    }

    /// Never uses the device called `name`.
    pub fn forbid(mut self, name: impl Into<String>) -> Self {
        self.forbidden.push(name.into());
        self
    }

    /// Threads of devices that use the host's; their own choice if not said.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets an option of a device, as its driver documents it.
    pub fn device_option(
        mut self,
        device: impl Into<String>,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        let options = self.options.entry(device.into()).or_default();
        options.insert(name.into(), value.into());
        self
    }

    /// Uses these values instead of the environment's.
    pub fn knobs(mut self, knobs: Knobs) -> Self {
        self.knobs = Some(knobs);
        self
    }

    /// Keeps what devices compile in `folder`, so that they compile a model once. Without this it is kept where
    /// `ANYNPU_CACHE_DIR` says, and nowhere if that is not set.
    pub fn cache_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_folder = Some(folder.into());
        self
    }

    /// Keeps what devices compile in `folder` where neither [`RuntimeBuilder::cache_folder`] nor
    /// `ANYNPU_CACHE_DIR` names one.
    pub fn default_cache_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.default_cache_folder = Some(folder.into());
        self
    }

    /// Looks in `folder` first for what was compiled ahead of time. Nothing is written there.
    pub fn compiled(mut self, folder: impl Into<PathBuf>) -> Self {
        self.compiled.push(folder.into());
        self
    }

    /// Keeps nothing that devices compile, whatever the environment says.
    pub fn without_cache(mut self) -> Self {
        self.no_cache = true;
        self
    }

    /// Prices plans by what was measured. Of a device in several profiles, the last counts. Without any, the
    /// profile that `ANYNPU_PROFILE` names is used, if it is set.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profiles.push(profile);
        self
    }

    /// Takes devices that are named, but not here, from the profiles. Models can be planned for them, not loaded.
    pub fn plan_only(mut self) -> Self {
        self.plan_only = true;
        self
    }

    /// Gives the device called `name` all nodes that it runs, as long as nothing is known of its speed: it was not
    /// measured, and its driver states none. Once there is a profile, time decides.
    pub fn prefer(mut self, name: impl Into<String>) -> Self {
        self.preferred.push(name.into());
        self
    }

    /// Opens the devices.
    ///
    /// # Errors
    /// A named device that doesn't exist or open; no device left; without named devices, none that
    /// runs the whole op set; an environment variable with a value that makes no sense; a profile named
    /// there that can't be used.
    pub fn build(self) -> Result<Runtime, RuntimeError> {
        let (knobs, mut warnings) = match self.knobs {
            Some(knobs) => (knobs, Vec::new()),
            None => {
                let variables = self.drivers.iter().flat_map(|d| d.variables());
                let names: Vec<&str> = variables.map(|v| v.name).collect();
                Knobs::from_env(&names)?
            }
        };
        let registry = Registry::new(self.drivers);
        let named = !self.devices.is_empty();
        let mut names = match named {
            true => self.devices,
            false => registry.default_devices(),
        };
        if !named && !self.also.is_empty() {
            let (found, unavailable) = registry.enumerate();
            let told = unavailable.iter().filter(|u| self.also.contains(&u.driver));
            warnings.extend(told.map(|u| format!("{} is not usable: {}", u.driver, u.reason)));
            let found = found.into_iter().map(|d| d.info.name);
            names.extend(found.filter(|n| self.also.contains(n)));
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|n| !self.forbidden.contains(n) && seen.insert(n.clone()));
        let mut profiles = self.profiles;
        if profiles.is_empty() && !knobs.profile.0.is_empty() {
            profiles.push(Profile::load(&knobs.profile.0)?);
        }
        let elsewhere = |name: &str| {
            let mut profiles = profiles.iter().rev().filter(|_| self.plan_only);
            profiles.find_map(|p| AbsentDevice::of(p, name))
        };
        let threads = self.threads.or(knobs.threads.map(|n| n.0 as usize));
        let mut devices = Vec::new();
        let mut opened = BTreeMap::new();
        for name in &names {
            let mut options = OpenOptions::default();
            options.threads = threads;
            options.options = self.options.get(name).cloned().unwrap_or_default();
            match registry.open(name, &options) {
                Ok(device) => devices.push(Arc::new(OpenDevice::new(device))),
                Err(_) if let Some(device) = elsewhere(name) => {
                    let told = format!("'{name}' is not here: it is planned for by its profile");
                    warnings.push(told);
                    devices.push(Arc::new(OpenDevice::new(Arc::new(device))));
                }
                Err(e) if named || names.len() == 1 => return Err(e.into()),
                Err(e) => warnings.push(e.to_string()),
            }
            opened.insert(name.clone(), options);
        }
        let simulated = |d: &&Arc<OpenDevice>| d.device().info().kind == DeviceKind::Simulated;
        warnings.extend(devices.iter().filter(simulated).map(|d| {
            format!(
                "'{}' is simulated: its times are virtual, and what is measured is this machine",
                d.name()
            )
        }));
        let cost = CostModel::new(profiles).preferring(self.preferred);
        let preferred =
            |d: &&Arc<OpenDevice>| cost.is_preferred(d.device().info(), d.device().capabilities());
        warnings.extend(devices.iter().filter(preferred).map(|d| {
            format!(
                "'{}' was not measured: it is given all that it can run, until a profile says how fast it is (see `anynpu probe --save`)",
                d.name()
            )
        }));
        let baseline = |d: &Arc<OpenDevice>| d.device().capabilities().features.baseline;
        if devices.is_empty() {
            let (_, unavailable) = registry.enumerate();
            let reasons = unavailable
                .iter()
                .map(|u| format!("{}: {}", u.driver, u.reason));
            let mut why: Vec<String> = reasons.chain(warnings).collect();
            if !self.forbidden.is_empty() {
                why.push(format!("forbidden: {}", self.forbidden.join(", ")));
            }
            if why.is_empty() {
                why.push("no driver was given, or none has a real device".into());
            }
            return Err(RuntimeError::NoDevice {
                why: why.join("; "),
            });
        }
        if !named && !devices.iter().any(baseline) {
            return Err(RuntimeError::NoDevice {
                why: format!(
                    "none of {} runs the whole op set; add such a device or name the devices to use",
                    names.join(", ")
                ),
            });
        }
        let known = Some(PathBuf::from(&knobs.cache_dir.0)).filter(|f| !f.as_os_str().is_empty());
        let folder = self.cache_folder.or(known).or(self.default_cache_folder);
        let folder = folder.filter(|_| !self.no_cache);
        let limit = u64::from(knobs.cache_limit.0) << 20;
        Ok(Runtime {
            inner: Arc::new(Inner {
                registry,
                devices,
                options: opened,
                health: Health::default(),
                cache: (folder.is_some() || !self.compiled.is_empty())
                    .then(|| Arc::new(Cache::new(folder, self.compiled, limit))),
                cost,
                knobs,
                warnings,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use anynpu_hal::driver::chaos::ChaosDriver;
    use anynpu_hal::driver::noop::NoopDriver;

    use super::*;

    fn builder() -> RuntimeBuilder {
        let chaos = ChaosDriver::new(Box::new(NoopDriver), Vec::new());
        let drivers: Vec<Box<dyn Driver>> = vec![Box::new(NoopDriver), Box::new(chaos)];
        Runtime::builder().drivers(drivers).knobs(Knobs::default())
    }

    fn names(runtime: &Runtime) -> Vec<String> {
        let devices = runtime.devices();
        devices.iter().map(|d| d.info().name.clone()).collect()
    }

    #[test]
    fn named_devices_are_opened_in_their_order_and_once() {
        let runtime = builder()
            .device("chaos")
            .device("noop")
            .device("chaos")
            .build()
            .unwrap();
        assert_eq!(names(&runtime), ["chaos", "noop"]);
        let runtime = builder()
            .device("chaos")
            .device("noop")
            .forbid("chaos")
            .build()
            .unwrap();
        assert_eq!(names(&runtime), ["noop"]);
    }

    #[test]
    fn artificial_devices_are_not_used_unless_named() {
        let e = builder().build().unwrap_err().to_string();
        assert!(e.contains("none has a real device"), "{e}");
        let e = builder()
            .device("noop")
            .forbid("noop")
            .build()
            .unwrap_err()
            .to_string();
        assert!(e.contains("forbidden: noop"), "{e}");
    }

    #[test]
    fn an_artificial_device_that_is_to_be_considered_too_is_used() {
        let names = |runtime: Runtime| -> Vec<String> {
            let devices = runtime.devices();
            devices.iter().map(|d| d.info().name.clone()).collect()
        };
        let runtime = builder().also("noop").also("nowhere").build();
        // none of them runs everything, which is told of the one that was opened
        let e = runtime.unwrap_err().to_string();
        assert!(
            e.contains("noop") && !e.contains("none has a real device"),
            "{e}"
        );
        let named = builder().device("noop").also("chaos").build().unwrap();
        assert_eq!(names(named), ["noop"]);
    }

    #[test]
    fn a_named_device_that_does_not_exist_is_an_error_listing_what_there_is() {
        let e = builder().device("npu").build().unwrap_err().to_string();
        assert!(e.contains("'npu'") && e.contains("noop, chaos"), "{e}");
    }

    #[test]
    fn options_reach_their_device() {
        let bad = builder()
            .device("chaos")
            .device_option("chaos", "faults", "nonsense");
        assert!(bad.build().is_err());
        let good = builder()
            .device("chaos")
            .device_option("chaos", "faults", "submit:1=lost");
        assert!(good.build().is_ok());
    }
}
