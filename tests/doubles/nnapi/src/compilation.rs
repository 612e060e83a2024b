//! Compiled models.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codes::*;
use crate::execution::failing;
use crate::live::Object;
use crate::model::{Model, told};
use crate::settings::{Device, Fault};

/// A compilation.
pub struct Compilation {
    pub inner: Arc<Inner>,
    options: Options,
}

/// What executions keep of it.
pub struct Inner {
    pub model: Model,
    /// The devices that it is for.
    pub devices: Vec<Device>,
    /// Whether the application named them.
    pub explicit: bool,
    pub finished: bool,
    /// What is fixed, decoded once.
    pub constants: Vec<Option<crate::compute::Tensor>>,
}

#[derive(Default)]
struct Options {
    timeout: bool,
    /// The file that stands for what a driver would keep.
    cache: Option<PathBuf>,
}

impl Object for Compilation {
    fn is_needed(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }
}

impl Compilation {
    pub fn new(model: &Model, devices: Vec<Device>, explicit: bool) -> Result<Compilation, i32> {
        if !model.finished {
            return told(BAD_STATE, "a model was compiled before it was finished");
        }
        Ok(Compilation {
            inner: Arc::new(Inner {
                model: model.clone(),
                devices,
                explicit,
                finished: false,
                constants: Vec::new(),
            }),
            options: Options::default(),
        })
    }

    /// Whether options may be set.
    pub fn changeable(&self) -> Result<(), i32> {
        match self.inner.finished {
            true => Err(BAD_STATE),
            false => Ok(()),
        }
    }

    /// Has a file named by `token` made in `folder` once it is compiled, as a driver would keep it there.
    pub fn set_caching(&mut self, folder: &Path, token: &[u8]) -> Result<(), i32> {
        self.changeable()?;
        if !folder.is_dir() {
            return told(BAD_DATA, "the folder for caches is not there");
        }
        let name: String = token.iter().map(|b| format!("{b:02x}")).collect();
        self.options.cache = Some(folder.join(name));
        Ok(())
    }

    pub fn set_timeout(&mut self, nanoseconds: u64) -> Result<(), i32> {
        self.changeable()?;
        if !self.inner.explicit || self.inner.devices.len() != 1 {
            return told(BAD_DATA, "a timeout needs exactly one device that is named");
        }
        self.options.timeout = nanoseconds > 0;
        Ok(())
    }

    pub fn finish(&mut self) -> Result<(), i32> {
        self.changeable()?;
        let Some(inner) = Arc::get_mut(&mut self.inner) else {
            return Err(BAD_STATE);
        };
        for operation in &inner.model.operations {
            let runs = |d: &Device| supports(d, operation.code, operation.level);
            if !inner.devices.iter().any(runs) {
                let what = format!("no device runs operation {}", operation.code);
                return told(BAD_DATA, &what);
            }
        }
        for device in &inner.devices {
            match device.fault {
                Some(Fault::Compile) => return told(OP_FAILED, "the device does not compile"),
                Some(Fault::Deadline) if self.options.timeout => {
                    return Err(MISSED_DEADLINE_PERSISTENT);
                }
                _ => {}
            }
        }
        let count = inner.model.operands.len() as u32;
        inner.constants = (0..count)
            .map(|i| {
                let bytes = inner.model.constant(i)?;
                Some(crate::compute::Tensor::of(
                    &inner.model.operands[i as usize],
                    &bytes,
                ))
            })
            .collect();
        inner.finished = true;
        if let Some(path) = &self.options.cache
            && std::fs::write(path, inner.model.operations.len().to_string()).is_err()
        {
            return told(BAD_DATA, "the cache can't be written");
        }
        Ok(())
    }
}

impl Inner {
    /// Fails if `function` is to fail on its device.
    pub fn fails(&self, function: &str) -> Result<(), i32> {
        match self.fault().and_then(|f| failing(f, function)) {
            Some(code) => told(code, function),
            None => Ok(()),
        }
    }

    /// What goes wrong with its device.
    pub fn fault(&self) -> Option<&Fault> {
        self.devices.first().and_then(|d| d.fault.as_ref())
    }
}

/// Whether `device` says that it runs operation `code`, which needs `level`.
pub fn supports(device: &Device, code: i32, level: i64) -> bool {
    let name = operation_name(code).unwrap_or_default();
    level <= device.level && !device.lacks.iter().any(|l| l == name)
}
