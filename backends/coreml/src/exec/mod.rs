//! Core ML itself, on Apple's systems: asking it what it would run where.
//!
//! This was type-checked only: nobody has run it on such a system yet.
#![allow(unsafe_code)]

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use block2::{DynBlock, RcBlock};
use objc2::Message;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyClass, AnyObject, ProtocolObject};
use objc2_core_ml::{
    MLCPUComputeDevice, MLComputeDeviceProtocol, MLComputePlan, MLComputeUnits, MLGPUComputeDevice,
    MLModel, MLModelConfiguration, MLModelStructureProgramOperation, MLNeuralEngineComputeDevice,
};
use objc2_foundation::{NSError, NSProcessInfo, NSString, NSURL};

use crate::plan::{ComputePlan, Found, PlannedFunction, PlannedOperation, Processor};
use crate::{ComputeUnits, CoreMlError};

/// The longest that Core ML may take for one answer: the first one about a large model takes minutes.
const LIMIT: Duration = Duration::from_secs(1800);

/// What Core ML plans for the package at `package`, with these processors. Nodes are not known to it.
///
/// # Errors
/// A system without `MLComputePlan`; what Core ML says of the package; no answer within half an hour.
pub fn compute_plan(package: &Path, units: ComputeUnits) -> Result<ComputePlan, CoreMlError> {
    // a class that is not there would be a panic further down; the others came with it or before
    if AnyClass::get(c"MLComputePlan").is_none() {
        return Err(CoreMlError::NotThere {
            what: "MLComputePlan",
            why: "it came with iOS 17.4 and macOS 14.4".into(),
        });
    }
    autoreleasepool(|_| {
        let path = package.to_str().ok_or_else(|| CoreMlError::Option {
            what: "the path of a package".into(),
            found: package.display().to_string(),
            expected: "text".into(),
        })?;
        let url = NSURL::fileURLWithPath_isDirectory(&NSString::from_str(path), true);
        let compiled = awaited("compileModelAtURL", |done| {
            // SAFETY: the block takes what the method gives; both are alive during the call, which copies the block.
            unsafe { MLModel::compileModelAtURL_completionHandler(&url, done) }
        })?;
        let plan = plan_of(&compiled, units);
        if let Some(path) = compiled.path() {
            // what was compiled is in a folder for such; the system empties it too
            let _ = std::fs::remove_dir_all(path.to_string());
        }
        plan
    })
}

fn plan_of(compiled: &NSURL, units: ComputeUnits) -> Result<ComputePlan, CoreMlError> {
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
    let plan = awaited("MLComputePlan loadContentsOfURL", |done| {
        // SAFETY: as in `compute_plan`; the configuration is not changed from here on.
        unsafe {
            MLComputePlan::loadContentsOfURL_configuration_completionHandler(
                compiled,
                &configuration,
                done,
            )
        }
    })?;
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

/// The processors that Core ML can use.
fn processors() -> Vec<Found> {
    // SAFETY: it takes nothing, and its class was found to have what came before `MLComputePlan`.
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
            (None, Some(error)) => Err((error.code() as i64, text(&error))),
            (None, None) => Err((0, "neither a result nor an error".to_owned())),
        };
        // who waited may have given up
        let _ = sender.send(answer);
    });
    start(&block);
    match receiver.recv_timeout(LIMIT) {
        Ok(Ok(made)) => Ok(made),
        Ok(Err((code, text))) => Err(CoreMlError::Vendor { call, code, text }),
        Err(_) => Err(CoreMlError::Vendor {
            call,
            code: 0,
            text: format!("no answer within {LIMIT:?}"),
        }),
    }
}

/// What an error says, and of which domain it is.
fn text(error: &NSError) -> String {
    format!("{} ({})", error.localizedDescription(), error.domain())
}
