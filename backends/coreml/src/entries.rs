//! Entries of a plan as packages.

use std::path::{Path, PathBuf};

use anynpu_hal::{CompileOptions, Entry, EntryInfo, HalError, WeightSource};

use crate::CoreMlError;
use crate::DeploymentTarget;
use crate::binding::FunctionPlan;
use crate::lower::{Form, Totals, lower_run};
use crate::package::{Description, PackageInMemory, PackageWriter};

/// Where package number `n` is in a folder.
pub fn package_path(folder: &Path, n: usize) -> PathBuf {
    folder.join(format!("{n}.mlpackage"))
}

/// Where what was compiled of it is.
pub fn compiled_path(folder: &Path, n: usize) -> PathBuf {
    folder.join(format!("{n}.mlmodelc"))
}

/// Where packages are written.
pub trait Packages {
    /// Begins package number `n`.
    ///
    /// # Errors
    /// As [`PackageWriter::create`].
    fn begin(&mut self, n: usize, target: DeploymentTarget) -> Result<PackageWriter, CoreMlError>;

    /// Ends it; the bytes of its weights.
    ///
    /// # Errors
    /// As [`PackageWriter::finish`].
    fn end(&mut self, package: PackageWriter, about: &Description) -> Result<u64, CoreMlError>;
}

/// A folder of packages.
#[derive(Debug)]
pub struct InFolder<'a>(pub &'a Path);

impl Packages for InFolder<'_> {
    fn begin(&mut self, n: usize, target: DeploymentTarget) -> Result<PackageWriter, CoreMlError> {
        PackageWriter::create(&package_path(self.0, n), target)
    }

    fn end(&mut self, package: PackageWriter, about: &Description) -> Result<u64, CoreMlError> {
        Ok(package.finish(about)?.weight_bytes)
    }
}

/// Packages in memory, in their order.
#[derive(Debug, Default)]
pub struct InMemory(pub Vec<PackageInMemory>);

impl Packages for InMemory {
    fn begin(&mut self, _: usize, target: DeploymentTarget) -> Result<PackageWriter, CoreMlError> {
        PackageWriter::in_memory(target)
    }

    fn end(&mut self, package: PackageWriter, about: &Description) -> Result<u64, CoreMlError> {
        let made = package.finish_in_memory(about)?;
        let bytes = made.weights.len() as u64;
        self.0.push(made);
        Ok(bytes)
    }
}

/// Writes `entries` as packages, which share weights where the target has several functions: then there is
/// one, else one for each. Gives what functions are given, and the bytes of the weights. `progress` is called with (done, total) nodes and stops the work by returning `false`.
///
/// # Errors
/// Nodes that can't be lowered, as [`HalError::CompileRejected`] is made of; weights that can't be had or held; a disk that
/// is full.
pub fn write(
    entries: &[Entry],
    options: &CompileOptions,
    form: &Form,
    weights: &dyn WeightSource,
    packages: &mut dyn Packages,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<(Vec<FunctionPlan>, u64), CoreMlError> {
    let total: u64 = entries.iter().map(|e| e.nodes.len() as u64).sum();
    let together = form.target.has_ios18() && entries.len() > 1;
    let (mut plans, mut totals, mut done) = (Vec::new(), Totals::default(), 0);
    let mut weight_bytes = 0;
    let mut package: Option<PackageWriter> = None;
    for (entry, i) in entries.iter().zip(0..) {
        let info = EntryInfo::describe(entry, options.state_dtype)?;
        // the first function is the one that is loaded unless another is asked for
        let (number, function) = match together {
            true => (0, format!("entry_{i}")),
            false => (i, "main".to_owned()),
        };
        let mut own = match package.take() {
            Some(begun) => begun,
            None => packages.begin(number, form.target)?,
        };
        let mut step = |n: u64| progress(done + n, total);
        let lowered = lower_run(
            entry,
            &function,
            form,
            weights,
            &mut own,
            &mut totals,
            &mut step,
        )?;
        done += entry.nodes.len() as u64;
        own.add(lowered.function.clone())?;
        let named = together.then_some(function);
        plans.push(FunctionPlan::new(lowered, entry, &info, (number, named))?);
        match together {
            true => package = Some(own),
            false => weight_bytes += packages.end(own, &description(entry))?,
        }
    }
    if let (Some(package), Some(first)) = (package, entries.first()) {
        weight_bytes = packages.end(package, &description(first))?;
    }
    if !progress(total, total) {
        return Err(CoreMlError::Hal(HalError::Cancelled {
            what: "compiling".into(),
        }));
    }
    Ok((plans, weight_bytes))
}

fn description(entry: &Entry) -> Description {
    Description {
        text: format!("a part of '{}'", entry.graph.name()),
        entries: Vec::new(),
    }
}
