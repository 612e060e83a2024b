//! Core ML itself, on Apple's systems.
//!
//! This was type-checked only: nobody has run it on such a system yet.

mod model;
mod plan;
mod states;
mod surface;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use block2::{DynBlock, RcBlock};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyClass, NSObjectProtocol};
use objc2::{Message, sel};
use objc2_core_ml::{MLComputePlan, MLComputeUnits, MLModel, MLModelAsset, MLModelConfiguration};
use objc2_foundation::{NSData, NSDictionary, NSError, NSProcessInfo, NSString, NSURL};

use super::{Engine, Loaded, Model, System};
use crate::binding::FunctionPlan;
use crate::package::{PackageInMemory, WEIGHTS_NAME};
use crate::plan::{ComputePlan, Found, Processor};
use crate::{ComputeUnits, CoreMlError, Platform};

pub(crate) use plan::compute_plan;

/// The longest that Core ML may take for one answer: the first one about a large model takes minutes.
const LIMIT: Duration = Duration::from_secs(1800);

/// The system's Core ML.
#[derive(Clone, Copy, Debug)]
pub(super) struct CoreMl;

impl Engine for CoreMl {
    fn system(&self) -> Result<System, CoreMlError> {
        need_class(
            c"MLModelConfiguration",
            "it came with iOS 12 and macOS 10.14",
        )?;
        let process = NSProcessInfo::processInfo();
        let version = process.operatingSystemVersion();
        let number = |n: isize| u32::try_from(n).unwrap_or(0);
        Ok(System {
            platform: match cfg!(target_os = "macos") {
                true => Platform::Macos,
                false => Platform::Ios,
            },
            version: [number(version.majorVersion), number(version.minorVersion)],
            text: process.operatingSystemVersionString().to_string(),
            processors: processors(),
        })
    }

    fn compile(&self, package: &Path, compiled: &Path) -> Result<(), CoreMlError> {
        autoreleasepool(|_| {
            let made = compile(package)?;
            let moved = move_folder(&made, compiled);
            moved.map_err(|source| CoreMlError::Io {
                what: "keeping",
                path: compiled.to_owned(),
                source,
            })
        })
    }

    fn open(&self, compiled: &Path) -> Result<Box<dyn Model>, CoreMlError> {
        autoreleasepool(|_| {
            let url = file_url(compiled)?;
            Ok(Box::new(Compiled(url)) as Box<dyn Model>)
        })
    }

    fn opens_memory(&self) -> Result<(), CoreMlError> {
        let system = self.system()?;
        let since = match system.platform {
            Platform::Macos => 15,
            Platform::Ios => 18,
        };
        if system.version[0] < since {
            return Err(CoreMlError::NotThere {
                what: "MLModelAsset with weights",
                why: "it came with iOS 18 and macOS 15".into(),
            });
        }
        need_class(c"MLModelAsset", "it came with iOS 16 and macOS 13")
    }

    fn open_memory(&self, package: PackageInMemory) -> Result<Box<dyn Model>, CoreMlError> {
        autoreleasepool(|_| {
            let model = NSData::from_vec(package.model);
            let weights = NSData::from_vec(package.weights);
            // as coremltools names it in its tests of this
            let name = NSURL::URLWithString(&NSString::from_str(WEIGHTS_NAME));
            let name = name.ok_or(CoreMlError::NotThere {
                what: "the address of weights",
                why: format!("{WEIGHTS_NAME} is none"),
            })?;
            let weights = NSDictionary::from_slices(&[&*name], &[&*weights]);
            const CALL: &str = "modelAssetWithSpecificationData";
            // SAFETY: both are alive during the call, which keeps what it needs; neither is changed by anybody.
            let asset = caught(CALL, || unsafe {
                MLModelAsset::modelAssetWithSpecificationData_blobMapping_error(&model, &weights)
            })?;
            let asset = asset.map_err(|e| refused(CALL, &e))?;
            Ok(Box::new(Asset(asset)) as Box<dyn Model>)
        })
    }
}

/// A compiled model at an address.
#[derive(Debug)]
struct Compiled(Retained<NSURL>);

impl Model for Compiled {
    fn load(
        &self,
        function: &FunctionPlan,
        units: ComputeUnits,
    ) -> Result<Box<dyn Loaded>, CoreMlError> {
        loaded(function, units, |configuration| {
            awaited("MLModel loadContentsOfURL", |done| {
                // SAFETY: the block takes what the method gives; all are alive during the call, which copies the block, and
                // the configuration is not changed from here on.
                unsafe {
                    MLModel::loadContentsOfURL_configuration_completionHandler(
                        &self.0,
                        configuration,
                        done,
                    )
                }
            })
        })
    }

    fn compute_plan(&self, units: ComputeUnits) -> Result<ComputePlan, CoreMlError> {
        autoreleasepool(|_| plan::of_compiled(&self.0, units))
    }
}

/// A model in memory.
#[derive(Debug)]
struct Asset(Retained<MLModelAsset>);

impl Model for Asset {
    fn load(
        &self,
        function: &FunctionPlan,
        units: ComputeUnits,
    ) -> Result<Box<dyn Loaded>, CoreMlError> {
        loaded(function, units, |configuration| {
            awaited("MLModel loadModelAsset", |done| {
                // SAFETY: as for one at an address.
                unsafe {
                    MLModel::loadModelAsset_configuration_completionHandler(
                        &self.0,
                        configuration,
                        done,
                    )
                }
            })
        })
    }

    fn compute_plan(&self, units: ComputeUnits) -> Result<ComputePlan, CoreMlError> {
        autoreleasepool(|_| {
            plan::asked(units, |configuration| {
                awaited("MLComputePlan loadModelAsset", |done| {
                    // SAFETY: as for one at an address.
                    unsafe {
                        MLComputePlan::loadModelAsset_configuration_completionHandler(
                            &self.0,
                            configuration,
                            done,
                        )
                    }
                })
            })
        })
    }
}

/// The function that `load` gives.
fn loaded(
    function: &FunctionPlan,
    units: ComputeUnits,
    load: impl FnOnce(&MLModelConfiguration) -> Result<Retained<MLModel>, CoreMlError>,
) -> Result<Box<dyn Loaded>, CoreMlError> {
    autoreleasepool(|_| {
        let configuration = configuration(units);
        if let Some(name) = &function.function {
            if !configuration.respondsToSelector(sel!(setFunctionName:)) {
                return Err(CoreMlError::NotThere {
                    what: "MLModelConfiguration setFunctionName",
                    why: "it came with iOS 18 and macOS 15".into(),
                });
            }
            // SAFETY: nobody else has the configuration yet, which has the method.
            unsafe { configuration.setFunctionName(Some(&NSString::from_str(name))) };
        }
        let model = load(&configuration)?;
        Ok(Box::new(model::Function::new(model, function.clone())) as Box<dyn Loaded>)
    })
}

/// An error unless this system has a class. One that is not there would be a panic further down.
fn need_class(name: &std::ffi::CStr, why: &str) -> Result<(), CoreMlError> {
    match AnyClass::get(name) {
        Some(_) => Ok(()),
        None => Err(CoreMlError::NotThere {
            what: "a class of Core ML",
            why: format!("{}: {why}", name.to_string_lossy()),
        }),
    }
}

/// The processors that Core ML can use; before iOS 17 and macOS 14, which do not tell, those that such machines have.
fn processors() -> Vec<Found> {
    if AnyClass::get(c"MLNeuralEngineComputeDevice").is_some() {
        return plan::processors();
    }
    let mut found = vec![Processor::Cpu, Processor::Gpu];
    if cfg!(target_arch = "aarch64") {
        found.push(Processor::Ane);
    }
    let each = found.into_iter().map(|processor| Found {
        processor,
        cores: None,
    });
    each.collect()
}

fn file_url(path: &Path) -> Result<Retained<NSURL>, CoreMlError> {
    let text = path.to_str().ok_or_else(|| CoreMlError::Option {
        what: "the path of a model".into(),
        found: path.display().to_string(),
        expected: "text".into(),
    })?;
    let text = NSString::from_str(text);
    Ok(NSURL::fileURLWithPath_isDirectory(&text, true))
}

fn configuration(units: ComputeUnits) -> Retained<MLModelConfiguration> {
    // SAFETY: a configuration has no demands on who makes it.
    let configuration = unsafe { MLModelConfiguration::new() };
    let told = match units {
        ComputeUnits::All => MLComputeUnits::All,
        ComputeUnits::NeuralEngine => MLComputeUnits::CPUAndNeuralEngine,
        ComputeUnits::Gpu => MLComputeUnits::CPUAndGPU,
        ComputeUnits::Cpu => MLComputeUnits::CPUOnly,
    };
    // SAFETY: nobody else has the configuration yet.
    unsafe { configuration.setComputeUnits(told) };
    configuration
}

/// Compiles the package at `package`; where that is, which is a folder that the system empties too.
fn compile(package: &Path) -> Result<PathBuf, CoreMlError> {
    let url = file_url(package)?;
    let compiled = awaited("compileModelAtURL", |done| {
        // SAFETY: the block takes what the method gives; both are alive during the call, which copies the block.
        unsafe { MLModel::compileModelAtURL_completionHandler(&url, done) }
    })?;
    match compiled.path() {
        Some(path) => Ok(PathBuf::from(path.to_string())),
        None => Err(CoreMlError::Vendor {
            call: "compileModelAtURL",
            code: 0,
            text: "what it made is at no path".into(),
        }),
    }
}

/// Moves a folder, by copying it if it is on another disk.
fn move_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    if std::fs::rename(from, to).is_ok() {
        return Ok(());
    }
    copy_folder(from, to)?;
    std::fs::remove_dir_all(from)
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &place)?,
            false => drop(std::fs::copy(entry.path(), place)?),
        }
    }
    Ok(())
}

/// What `run` gives. An exception that it raises is an error of `call` where the program is built to catch them, else it
/// ends the process.
#[cfg(feature = "exceptions")]
fn caught<R>(call: &'static str, run: impl FnOnce() -> R) -> Result<R, CoreMlError> {
    // what the call was to give is not used after an exception
    let run = std::panic::AssertUnwindSafe(run);
    objc2::exception::catch(run).map_err(|raised| CoreMlError::Vendor {
        call,
        code: 0,
        text: match raised {
            Some(raised) => format!("an exception: {raised}"),
            None => "an exception that says nothing".to_owned(),
        },
    })
}

/// What `run` gives. An exception that it raises ends the process, as the program is not built to catch them.
#[cfg(not(feature = "exceptions"))]
fn caught<R>(_: &'static str, run: impl FnOnce() -> R) -> Result<R, CoreMlError> {
    Ok(run())
}

/// Waits for what `start` is told by the block that it is given.
fn awaited<T: Message + 'static>(
    call: &'static str,
    start: impl FnOnce(&DynBlock<dyn Fn(*mut T, *mut NSError)>),
) -> Result<Retained<T>, CoreMlError> {
    let (sender, receiver) = mpsc::channel();
    let block = RcBlock::new(move |made: *mut T, error: *mut NSError| {
        // SAFETY: each is an object that is alive during the call, or null; what is kept is retained, and handed to the one
        // thread that waits, as Core ML does not use it any more.
        let (made, error) = unsafe { (Retained::retain(made), Retained::retain(error)) };
        let answer = match (made, error) {
            (Some(made), _) => Ok(made),
            (None, Some(error)) => Err(refused(call, &error)),
            (None, None) => Err(CoreMlError::Vendor {
                call,
                code: 0,
                text: "neither a result nor an error".to_owned(),
            }),
        };
        // who waited may have given up
        let _ = sender.send(answer);
    });
    caught(call, || start(&block))?;
    let late = |_| CoreMlError::Late { call, limit: LIMIT };
    receiver.recv_timeout(LIMIT).map_err(late)?
}

/// The error of `call` that `error` tells: what it says and of which domain it is, and what lies behind it.
fn refused(call: &'static str, error: &NSError) -> CoreMlError {
    /// ENOMEM.
    const NO_MEMORY: isize = 12;
    let domain = error.domain().to_string();
    let mut text = format!("{} ({domain})", error.localizedDescription());
    if let Some(reason) = error.localizedFailureReason() {
        text = format!("{text}: {reason}");
    }
    match domain == "NSPOSIXErrorDomain" && error.code() == NO_MEMORY {
        true => CoreMlError::NoMemory { call, text },
        false => CoreMlError::Vendor {
            call,
            code: error.code() as i64,
            text,
        },
    }
}
