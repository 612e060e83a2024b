//! What Core ML would run where.

use std::path::Path;

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_core_ml::{
    MLCPUComputeDevice, MLComputeDeviceProtocol, MLComputePlan, MLGPUComputeDevice, MLModel,
    MLModelConfiguration, MLModelStructureProgramOperation, MLNeuralEngineComputeDevice,
};
use objc2_foundation::{NSProcessInfo, NSURL};

use super::{awaited, compile, configuration, file_url, need_class};
use crate::plan::{ComputePlan, Found, PlannedFunction, PlannedOperation, Processor};
use crate::{ComputeUnits, CoreMlError};

/// What Core ML plans for the package at `package`, with these processors. Nodes are not known to it.
///
/// # Errors
/// A system without `MLComputePlan`; what Core ML says of the package; no answer within half an hour.
pub(crate) fn compute_plan(
    package: &Path,
    units: ComputeUnits,
) -> Result<ComputePlan, CoreMlError> {
    told()?;
    autoreleasepool(|_| {
        let compiled = compile(package)?;
        let plan = file_url(&compiled).and_then(|url| of_compiled(&url, units));
        // it is in a folder for such; the system empties that too
        let _ = std::fs::remove_dir_all(compiled);
        plan
    })
}

/// An error where Core ML does not tell its plans. The other classes came with this or before.
fn told() -> Result<(), CoreMlError> {
    need_class(c"MLComputePlan", "it came with iOS 17.4 and macOS 14.4")
}

/// What it plans for what is compiled at `compiled`.
pub(super) fn of_compiled(
    compiled: &NSURL,
    units: ComputeUnits,
) -> Result<ComputePlan, CoreMlError> {
    asked(units, |configuration| {
        awaited("MLComputePlan loadContentsOfURL", |done| {
            // SAFETY: the block takes what the method gives; all are alive during the call, which copies the block. The
            // configuration is not changed from here on.
            unsafe {
                MLComputePlan::loadContentsOfURL_configuration_completionHandler(
                    compiled,
                    configuration,
                    done,
                )
            }
        })
    })
}

/// What it plans by the word of `ask`.
pub(super) fn asked(
    units: ComputeUnits,
    ask: impl FnOnce(&MLModelConfiguration) -> Result<Retained<MLComputePlan>, CoreMlError>,
) -> Result<ComputePlan, CoreMlError> {
    told()?;
    let plan = ask(&configuration(units))?;
    Ok(ComputePlan {
        schema_version: 1,
        constructed: false,
        system: NSProcessInfo::processInfo()
            .operatingSystemVersionString()
            .to_string(),
        units: units.name().to_owned(),
        processors: processors(),
        functions: functions(&plan),
    })
}

/// The processors that Core ML can use, from iOS 17 and macOS 14 on.
pub(super) fn processors() -> Vec<Found> {
    // SAFETY: it takes nothing, and came with the classes of these processors, which were found.
    let all = unsafe { MLModel::availableComputeDevices() };
    let each = all.iter().filter_map(|device| {
        let object: &AnyObject = (*device).as_ref();
        let engine = object.downcast_ref::<MLNeuralEngineComputeDevice>();
        Some(Found {
            processor: processor(&device)?,
            // SAFETY: reading a number of an object that is alive.
            cores: engine.and_then(|e| u32::try_from(unsafe { e.totalCoreCount() }).ok()),
        })
    });
    each.collect()
}

/// The kind of `device`; `None` of one that is newer than this program.
fn processor(device: &ProtocolObject<dyn MLComputeDeviceProtocol>) -> Option<Processor> {
    let object: &AnyObject = device.as_ref();
    if object
        .downcast_ref::<MLNeuralEngineComputeDevice>()
        .is_some()
    {
        return Some(Processor::Ane);
    }
    if object.downcast_ref::<MLGPUComputeDevice>().is_some() {
        return Some(Processor::Gpu);
    }
    object
        .downcast_ref::<MLCPUComputeDevice>()
        .map(|_| Processor::Cpu)
}

fn functions(plan: &MLComputePlan) -> Vec<PlannedFunction> {
    // SAFETY: reading what a plan that is alive holds; it does not change.
    let program = unsafe { plan.modelStructure().program() };
    let Some(program) = program else {
        return Vec::new();
    };
    // SAFETY: as above, of the program.
    let (names, functions) = unsafe { program.functions() }.to_vecs();
    let each = names.iter().zip(&functions).map(|(name, function)| {
        // SAFETY: as above, of the function and its block.
        let operations = unsafe { function.block().operations() };
        PlannedFunction {
            name: name.to_string(),
            operations: operations.iter().map(|op| operation(plan, &op)).collect(),
            nodes: Vec::new(),
        }
    });
    each.collect()
}

fn operation(plan: &MLComputePlan, op: &MLModelStructureProgramOperation) -> PlannedOperation {
    // SAFETY: reading what an operation that is alive holds; it does not change.
    let (kind, outputs) = unsafe { (op.operatorName(), op.outputs()) };
    // SAFETY: the operation is one of the plan's own.
    let (usage, cost) = unsafe {
        (
            plan.computeDeviceUsageForMLProgramOperation(op),
            plan.estimatedCostOfMLProgramOperation(op),
        )
    };
    let (mut supported, mut preferred) = (Vec::new(), None);
    if let Some(usage) = usage {
        // SAFETY: reading what a usage that is alive holds.
        let (all, one) = unsafe {
            (
                usage.supportedComputeDevices(),
                usage.preferredComputeDevice(),
            )
        };
        supported = all.iter().filter_map(|d| processor(&d)).collect();
        preferred = processor(&one);
    }
    // SAFETY: reading a name of a result that is alive.
    let results = outputs.iter().map(|o| unsafe { o.name() }.to_string());
    PlannedOperation {
        kind: kind.to_string(),
        results: results.collect(),
        supported,
        preferred,
        // SAFETY: reading a number of an object that is alive.
        cost: cost.map(|c| unsafe { c.weight() }),
    }
}
