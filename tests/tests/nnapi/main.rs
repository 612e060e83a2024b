//! Android's Neural Networks API: what is said to its runtime, and what that gives, with a strict stand-in for it.
#![cfg(target_os = "linux")]

mod vts;

use std::sync::Arc;

use anynpu_nnapi::exec::{Device, devices};
use anynpu_nnapi::sys;
use anynpu_nnapi_double::{Settings, place};

/// A copy of the stand-in in a folder of its own, which must stay as long as it may be loaded.
struct Placed {
    #[allow(dead_code)] // kept
    folder: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl Placed {
    fn new(settings: &Settings) -> Placed {
        Placed::without(settings, &[])
    }

    /// One that lacks functions, besides those of later levels.
    fn without(settings: &Settings, functions: &[&str]) -> Placed {
        let folder = tempfile::tempdir().unwrap();
        let path = place(folder.path(), settings, functions).unwrap();
        Placed { folder, path }
    }

    fn devices(&self) -> Vec<Device> {
        let runtime = sys::load(Some(&self.path)).unwrap();
        devices(&Arc::new(runtime)).unwrap()
    }

    /// Its reference device.
    fn reference(&self) -> Device {
        self.devices().pop().unwrap()
    }
}
