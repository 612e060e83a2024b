//! Copies of the stand-in, and a runtime that is there.

use std::path::PathBuf;
use std::sync::Arc;

use anynpu_hal::Driver;
use anynpu_nnapi::exec::{Device, devices};
use anynpu_nnapi::{NnapiDriver, sys};
use anynpu_nnapi_double::{Settings, place};

/// The feature levels whose attention is made in each way, with the interface's numbers: 8, 5 and 3.
pub const LEVELS: [i64; 3] = [1_000_008, 31, 29];

/// A copy of the stand-in in a folder of its own, which must stay as long as it may be loaded.
pub struct Placed {
    #[allow(dead_code)] // kept
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Placed {
    /// One that is what `settings` say.
    pub fn new(settings: &Settings) -> Placed {
        Placed::without(settings, &[])
    }

    /// One that lacks functions, besides those of later levels.
    pub fn without(settings: &Settings, functions: &[&str]) -> Placed {
        let folder = tempfile::tempdir().unwrap();
        let path = place(folder.path(), settings, functions).unwrap();
        Placed {
            folder: Some(folder),
            path,
        }
    }

    /// The runtime that `ANYNPU_NNAPI_LIBRARY` names.
    ///
    /// `None` where it is not set; then a line tells that `test` was skipped.
    pub fn installed(test: &str) -> Option<Placed> {
        let Some(path) = std::env::var_os("ANYNPU_NNAPI_LIBRARY") else {
            println!("SKIPPED {test}: ANYNPU_NNAPI_LIBRARY is not set");
            return None;
        };
        Some(Placed {
            folder: None,
            path: path.into(),
        })
    }

    /// One of `level` with an accelerator.
    pub fn accelerated(level: i64) -> Placed {
        Placed::new(&Settings::new(level).with_accelerator())
    }

    pub fn driver(&self) -> NnapiDriver {
        NnapiDriver {
            library: Some(self.path.clone()),
            ..NnapiDriver::default()
        }
    }

    /// Its devices, the reference one last.
    pub fn devices(&self) -> Vec<Device> {
        let runtime = sys::load(Some(&self.path)).unwrap();
        devices(&Arc::new(runtime)).unwrap()
    }

    /// The number of the level of its best device.
    pub fn level(&self) -> i64 {
        let exposed = self.driver().enumerate().unwrap().remove(0);
        let named = |d: &Device| exposed.info.description.starts_with(d.name());
        let mut devices = self.devices().into_iter();
        devices.find(named).unwrap().level().number()
    }

    /// Its reference device.
    pub fn reference(&self) -> Device {
        self.devices().pop().unwrap()
    }
}
