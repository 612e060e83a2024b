//! What compiles packages and runs their functions.

use std::any::Any;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use crate::binding::{Array, FunctionPlan};
use crate::package::PackageInMemory;
use crate::plan::{ComputePlan, Found};
use crate::{ComputeUnits, CoreMlError, DeploymentTarget, Platform};

/// A system that has Core ML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Which it is.
    pub platform: Platform,
    /// Its major and minor version.
    pub version: [u32; 2],
    /// Its version as it tells it, with the number of its build: what compiled models are told apart by.
    pub text: String,
    /// The processors that Core ML can use.
    pub processors: Vec<Found>,
}

impl System {
    /// What packages are written for here: the newest target that this system loads, but none that has nothing new.
    /// `None` of a system before iOS 16 and macOS 13, which have not all that is called here: compiling in the background,
    /// the Neural Engine by itself, memory for outputs.
    pub fn target(&self) -> Option<DeploymentTarget> {
        let fits = |t: &DeploymentTarget| {
            t.platform() == self.platform
                && t.version() <= self.version[0]
                && t.has_ios16()
                && t.specification() <= DeploymentTarget::LAST_WITH_NEWS
        };
        DeploymentTarget::all()
            .filter(fits)
            .max_by_key(|t| t.specification())
    }
}

/// What Core ML does for a device. It may be used from any thread.
pub trait Engine: Debug + Send + Sync {
    /// The system that it is a part of.
    ///
    /// # Errors
    /// A system without it.
    fn system(&self) -> Result<System, CoreMlError>;

    /// Compiles the package at `package` to `compiled`, where nothing is yet.
    ///
    /// # Errors
    /// What the compiler says; a disk that is full.
    fn compile(&self, package: &Path, compiled: &Path) -> Result<(), CoreMlError>;

    /// Opens what was compiled, which stays where it is as long as any of it is used.
    ///
    /// # Errors
    /// What is said of it.
    fn open(&self, compiled: &Path) -> Result<Box<dyn Model>, CoreMlError>;

    /// An error that says why packages in memory can't be opened, if they can't.
    ///
    /// # Errors
    /// That.
    fn opens_memory(&self) -> Result<(), CoreMlError>;

    /// Opens a package that is in memory.
    ///
    /// # Errors
    /// What is said of it.
    fn open_memory(&self, package: PackageInMemory) -> Result<Box<dyn Model>, CoreMlError>;
}

/// A model whose functions can be loaded.
pub trait Model: Debug {
    /// Loads a function, for these processors.
    ///
    /// # Errors
    /// What the loader says.
    fn load(
        &self,
        function: &FunctionPlan,
        units: ComputeUnits,
    ) -> Result<Box<dyn Loaded>, CoreMlError>;

    /// What would run where, for these processors.
    ///
    /// # Errors
    /// A system that does not tell.
    fn compute_plan(&self, units: ComputeUnits) -> Result<ComputePlan, CoreMlError>;
}

/// What an input is given.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// Numbers, row-major without gaps, of exactly the bytes that the input has.
    Bytes(&'a [u8]),
    /// Memory that the function made for it.
    Memory(&'a dyn ArrayMemory),
}

/// Where an output goes.
#[derive(Debug)]
pub enum Taken<'a> {
    /// To memory of exactly the bytes that the output has: row-major without gaps.
    Bytes(&'a mut [u8]),
    /// To memory that the function made for it.
    Memory(&'a mut dyn ArrayMemory),
}

/// Memory that an engine made for an input or output: its processors read or write it where it is.
pub trait ArrayMemory: Debug + Send {
    /// Lets `touch` see its numbers, row-major without gaps, and change them.
    ///
    /// # Errors
    /// What is said of that.
    fn write(&mut self, touch: &mut dyn FnMut(&mut [u8])) -> Result<(), CoreMlError>;

    /// Lets `touch` see its numbers, likewise.
    ///
    /// # Errors
    /// What is said of that.
    fn read(&self, touch: &mut dyn FnMut(&[u8])) -> Result<(), CoreMlError>;

    /// For an engine to know its own.
    fn as_any(&self) -> &dyn Any;
}

/// States of a function that live from run to run, zeros at first.
pub trait StateMemory: Debug + Send {
    /// Copies the numbers of `state` to `to`: row-major without gaps, of exactly its bytes.
    ///
    /// # Errors
    /// What is said of that.
    fn read(&mut self, state: &Array, to: &mut [u8]) -> Result<(), CoreMlError>;

    /// Copies `from` to the numbers of `state`, likewise.
    ///
    /// # Errors
    /// What is said of that.
    fn write(&mut self, state: &Array, from: &[u8]) -> Result<(), CoreMlError>;

    /// For an engine to know its own.
    fn as_any(&self) -> &dyn Any;
}

/// A function that is loaded.
pub trait Loaded: Debug + Send {
    /// Makes states, which other functions of the package that have the same may be given too.
    ///
    /// # Errors
    /// What is said of that.
    fn states(&mut self) -> Result<Box<dyn StateMemory>, CoreMlError>;

    /// Memory for an input or output that its processors reach better than that of others. `None` if it makes none for
    /// such an array.
    fn memory(&mut self, array: &Array) -> Option<Box<dyn ArrayMemory>>;

    /// Runs it. Inputs and outputs are those of its plan in their order, and are read and written during the call only. Of
    /// a plan with states these are given, and nobody else uses them meanwhile.
    ///
    /// # Errors
    /// What is said of the run. What outputs hold then, and the rows of states from the step's first one on, is not told.
    fn predict(
        &mut self,
        inputs: &[Given<'_>],
        outputs: &mut [Taken<'_>],
        states: Option<&mut dyn StateMemory>,
    ) -> Result<(), CoreMlError>;
}

/// Core ML of this system.
///
/// # Errors
/// A system that has none.
pub fn system_engine() -> Result<Arc<dyn Engine>, CoreMlError> {
    #[cfg(target_vendor = "apple")]
    return Ok(Arc::new(super::apple::CoreMl));
    #[cfg(not(target_vendor = "apple"))]
    Err(not_apple())
}

/// Why there is no Core ML here.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn not_apple() -> CoreMlError {
    CoreMlError::NotThere {
        what: "Core ML",
        why: format!(
            "this is {}, and it is a part of Apple's systems",
            std::env::consts::OS
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_written_for_what_the_system_loads() {
        let target = |platform, version: u32| {
            let system = System {
                platform,
                version: [version, 2],
                text: String::new(),
                processors: Vec::new(),
            };
            system.target().map(|t| t.to_string())
        };
        assert_eq!(target(Platform::Macos, 12), None);
        assert_eq!(target(Platform::Ios, 15), None);
        assert_eq!(target(Platform::Macos, 13).as_deref(), Some("macOS13"));
        assert_eq!(target(Platform::Macos, 15).as_deref(), Some("macOS15"));
        assert_eq!(target(Platform::Macos, 26).as_deref(), Some("macOS15"));
        assert_eq!(target(Platform::Ios, 17).as_deref(), Some("iOS17"));
        assert_eq!(target(Platform::Ios, 27).as_deref(), Some("iOS18"));
    }
}
