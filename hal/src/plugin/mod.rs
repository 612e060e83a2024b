//! Backends that were built apart: plugins, by the C interface of `anynpu-abi`.
//!
//! [`PluginDriver`] loads one and is a driver like those in the tree: nothing above knows the difference. Plugins are
//! named one by one, by a path or in a [`Manifest`]; no folder is searched. They are never unloaded.
//!
//! What a plugin answers is read with care, but it runs in this process: one that crashes ends it. Where that matters,
//! a helper tries it first ([`PluginDriver::try_first`]), or it runs in one for good
//! ([`IsolatedDriver`](crate::isolate::IsolatedDriver)).
//!
//! The three main types: [`PluginDriver`], [`Manifest`], [`PluginError`].
#![allow(unsafe_code)] // a plugin's functions are called

mod answers;
mod array;
mod buffer;
mod device;
pub mod export;
mod host;
mod manifest;
mod module;
mod queue;
mod read;
mod table;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anynpu_abi::*;
use once_cell::sync::OnceCell;
use thiserror::Error;

use crate::isolate::{self, Helper};
use crate::{
    Device, Driver, ExposedDevice, HalError, Library, LibraryError, OpenOptions, Unavailable,
};
use answers::{Described, Message};
use table::Table;

pub use manifest::{DRIVER_FILES, Manifest, driver_files};
pub use read::{ReadGraph, ReadWeight, TableError, read_graph};

/// A plugin that can't be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginError {
    /// The system's loader does not load it, or it has not the one symbol.
    #[error("it is not loaded: {0}")]
    Library(#[from] LibraryError),
    /// It answered that it can't serve this program.
    #[error(
        "{path} can serve no program whose newest interface is {major}.{minor}: it needs a newer anynpu"
    )]
    Refused {
        /// The plugin.
        path: String,
        /// This program's version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// Its table is of another interface.
    #[error("{path} has the interface {found}, expected {expected}")]
    Version {
        /// The plugin.
        path: String,
        /// Its major version.
        found: u16,
        /// This program's.
        expected: u16,
    },
    /// Its table is too short for any version.
    #[error("the table of {path} has {found} bytes, expected at least {expected}")]
    Short {
        /// The plugin.
        path: String,
        /// Bytes it has.
        found: usize,
        /// Bytes of the first version.
        expected: usize,
    },
    /// Its table lacks a function that it must have.
    #[error("the table of {path} has no '{member}'")]
    Missing {
        /// The plugin.
        path: String,
        /// The function.
        member: &'static str,
    },
    /// It said something that makes no sense.
    #[error("'{driver}': {what} is {found}, expected {expected}")]
    Answer {
        /// The driver, or the plugin's path.
        driver: String,
        /// What it said.
        what: String,
        /// What that was.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// A manifest that can't be used.
    #[error("manifest {path}: {why}")]
    Manifest {
        /// The manifest.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another driver than its manifest names.
    #[error("{path} is the driver '{found}', its manifest says '{expected}'")]
    Name {
        /// The plugin.
        path: String,
        /// The driver's name.
        found: String,
        /// The manifest's.
        expected: String,
    },
    /// A helper that loaded it was ended by it.
    #[error("{path} crashes when it is loaded and asked for its devices: {how}")]
    Crashes {
        /// The plugin.
        path: String,
        /// How the helper ended.
        how: String,
    },
    /// A helper that loaded it did not come back.
    #[error("{path} does not come back when it is loaded and asked for its devices, in {limit:?}")]
    Hangs {
        /// The plugin.
        path: String,
        /// How long was waited.
        limit: Duration,
    },
}

/// How a plugin is used.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PluginOptions {
    /// For tests: buffers have guards around them, and a run that wrote to them fails; they are not shared. Elements of
    /// arrays have more behind them than is known, as those of later versions may.
    pub guarded: bool,
}

/// The driver in a plugin.
#[derive(Clone, Debug)]
pub struct PluginDriver {
    path: PathBuf,
    table: Arc<Table>,
    options: PluginOptions,
    /// Called when the last of its drivers and devices is gone.
    _end: Arc<End>,
}

/// Tells a plugin once that it is not needed any more.
#[derive(Debug)]
struct End(Arc<Table>);

impl Drop for End {
    fn drop(&mut self) {
        // devices hold the table as well, and may outlive the driver
        if let (1, Some(shutdown)) = (Arc::strong_count(&self.0), self.0.optional().shutdown) {
            // SAFETY: no device is open, and none will be.
            unsafe { shutdown(self.0.optional().context) }
        }
    }
}

impl PluginDriver {
    /// Loads the plugin, or the one that the manifest names, at `path`.
    ///
    /// # Errors
    /// What was looked for, and what is wrong with it.
    pub fn load(path: &Path, options: PluginOptions) -> Result<PluginDriver, PluginError> {
        let is_manifest = path.extension().is_some_and(|e| e == "json");
        let manifest = is_manifest.then(|| Manifest::read(path)).transpose()?;
        let library = manifest.as_ref().map_or(path, |m| &m.library);
        let shown = library.display().to_string();
        // a bare name would be looked for where the system's libraries are
        let file = match library.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new(".").join(library),
            _ => library.to_owned(),
        };
        // SAFETY: the user named the file.
        let loaded = unsafe { Library::open(file.as_os_str()) }?;
        type Query = unsafe extern "C" fn(u16, u16, *const anynpu_host) -> *const anynpu_backend;
        // SAFETY: the interface gives the symbol this type.
        let query: Query = unsafe { loaded.symbol(&shown, "anynpu_backend_query") }?;
        // SAFETY: the function is the plugin's, which lives as long as the process.
        let driver = unsafe { PluginDriver::from_query(&shown, query, options) }?;
        if let Some(manifest) = manifest.filter(|m| m.name != driver.table.name) {
            return Err(PluginError::Name {
                path: shown,
                found: driver.table.name.clone(),
                expected: manifest.name,
            });
        }
        Ok(driver)
    }

    /// A plugin that is linked into the program: where no libraries can be loaded. `name` is what messages call it.
    ///
    /// # Errors
    /// As [`PluginDriver::load`].
    ///
    /// # Safety
    /// `query` keeps the rules of the interface, and the table that it gives lives as long as the process.
    pub unsafe fn from_query(
        name: &str,
        query: unsafe extern "C" fn(u16, u16, *const anynpu_host) -> *const anynpu_backend,
        options: PluginOptions,
    ) -> Result<PluginDriver, PluginError> {
        let host = host::table(name);
        // SAFETY: by the contract; the host's table lives as long as the process.
        let table = unsafe {
            let table = query(ANYNPU_ABI_MAJOR, ANYNPU_ABI_MINOR, host);
            Table::read(table, name)
        }?;
        let table = Arc::new(table);
        Ok(PluginDriver {
            path: name.into(),
            _end: Arc::new(End(table.clone())),
            table,
            options,
        })
    }

    /// Has a helper load the plugin at `path` and ask it for its devices, so that one that crashes or hangs ends the
    /// helper alone. The helper is to serve that plugin.
    ///
    /// # Errors
    /// [`PluginError::Crashes`] and [`PluginError::Hangs`]. Other faults are left to [`PluginDriver::load`], which tells
    /// more of them.
    pub fn try_first(path: &Path, helper: &Helper, limit: Duration) -> Result<(), PluginError> {
        let shown = || path.display().to_string();
        match isolate::trial(helper, limit) {
            isolate::Trial::Ended => Ok(()),
            isolate::Trial::Crashed(how) => Err(PluginError::Crashes { path: shown(), how }),
            isolate::Trial::Hung => Err(PluginError::Hangs {
                path: shown(),
                limit,
            }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its own version.
    pub fn version(&self) -> &str {
        &self.table.version
    }

    /// The version of the interface that both sides use.
    pub fn abi(&self) -> (u16, u16) {
        (ANYNPU_ABI_MAJOR, self.table.minor)
    }

    /// The devices that the plugin tells of.
    fn devices(&self) -> Result<Vec<Described>, Unavailable> {
        let mut found = Found {
            driver: self.table.name.clone(),
            own_memory: self.table.has_memory(),
            devices: Vec::new(),
            wrong: OnceCell::new(),
        };
        let mut message = Message::new();
        // SAFETY: all that is given lives during the call; `tell` is given what it expects.
        let status = unsafe {
            self.table.enumerate()(
                self.table.optional().context,
                Some(tell),
                (&raw mut found).cast(),
                message.raw(),
            )
        };
        let unavailable = |reason: String| Unavailable {
            driver: self.table.name.clone(),
            reason,
            remedy: Some(format!("ask the vendor of {}", self.path.display())),
        };
        if let Some(wrong) = found.wrong.into_inner() {
            return Err(unavailable(wrong.to_string()));
        }
        match (status, found.devices.is_empty()) {
            (ANYNPU_OK, false) => Ok(found.devices),
            (ANYNPU_OK, true) => Err(unavailable("the plugin told of no device".into())),
            (status, _) => Err(unavailable(match message.text() {
                text if text.is_empty() => format!("the plugin said no more than status {status}"),
                text => text,
            })),
        }
    }
}

/// Devices in the telling.
struct Found {
    driver: String,
    own_memory: bool,
    devices: Vec<Described>,
    /// The first thing that made no sense.
    wrong: OnceCell<PluginError>,
}

/// Most devices of one plugin.
const DEVICES: usize = 64;

unsafe extern "C" fn tell(context: *mut c_void, info: *const anynpu_device_info) {
    // SAFETY: the context is the one given beside this function, and nobody else has it during the call; the description
    // is the plugin's for the time of the call.
    let (found, device) = unsafe {
        let Some(found) = context.cast::<Found>().as_mut() else {
            return;
        };
        let device = answers::read_device(info, &found.driver, found.own_memory);
        (found, device)
    };
    let device = device.and_then(|device| {
        let name = &device.exposed.info.name;
        let known = |d: &Described| d.exposed.info.name == *name;
        let wrong = |what: &str, found: String, expected: &str| PluginError::Answer {
            driver: device.exposed.info.driver.clone(),
            what: what.into(),
            found,
            expected: expected.into(),
        };
        if found.devices.iter().any(known) {
            let told = format!("'{name}' again");
            return Err(wrong("a device's name", told, "names that differ"));
        }
        if found.devices.len() >= DEVICES {
            return Err(wrong("the number of devices", "more".into(), "at most 64"));
        }
        Ok(device)
    });
    match device {
        Ok(device) => found.devices.push(device),
        // the first stands
        Err(e) => drop(found.wrong.set(e)),
    }
}

impl Driver for PluginDriver {
    fn name(&self) -> &str {
        &self.table.name
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        let devices = self.devices()?;
        Ok(devices.into_iter().map(|d| d.exposed).collect())
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let name = &device.info.name;
        let lost = |why: String| HalError::DeviceLost {
            device: name.clone(),
            why,
        };
        let found = self.devices().map_err(|u| lost(u.reason))?;
        let described = found.into_iter().find(|d| d.exposed.info.name == *name);
        let described = described.ok_or_else(|| lost("the plugin has no such device".into()))?;
        let opened = device::PluginDevice::open(&self.table, described, options, self.options)?;
        Ok(Arc::new(opened))
    }
}

/// In place of a plugin that can't be used, so that lists of drivers tell of it.
#[derive(Clone, Debug)]
pub struct UnusablePlugin {
    name: String,
    error: PluginError,
}

impl UnusablePlugin {
    /// The plugin at `path`, which has no name of its own then.
    pub fn new(path: &Path, error: PluginError) -> UnusablePlugin {
        UnusablePlugin {
            name: name_of(path),
            error,
        }
    }
}

/// What a plugin is called before it has told its name.
pub fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or(path.as_os_str());
    stem.to_string_lossy().into_owned()
}

impl Driver for UnusablePlugin {
    fn name(&self) -> &str {
        &self.name
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        Err(Unavailable {
            driver: self.name.clone(),
            reason: self.error.to_string(),
            remedy: Some("check the file, or ask its vendor".into()),
        })
    }

    fn open(&self, _: &ExposedDevice, _: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
        Err(HalError::DeviceLost {
            device: self.name.clone(),
            why: self.error.to_string(),
        })
    }
}
