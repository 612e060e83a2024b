//! A function that Core ML has loaded.

use std::ffi::c_void;
use std::ptr::NonNull;

use block2::RcBlock;
use objc2::AnyThread;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_core_ml::{
    MLDictionaryFeatureProvider, MLFeatureProvider, MLFeatureValue, MLModel, MLMultiArray,
    MLMultiArrayDataType, MLPredictionOptions,
};
use objc2_foundation::{NSArray, NSDictionary, NSInteger, NSNumber, NSString};

use super::super::numbers::gathered;
use super::super::{ArrayMemory, Given, Loaded, StateMemory, Taken};
use super::states::States;
use super::surface::Surface;
use super::{caught, refused};
use crate::CoreMlError;
use crate::binding::{Array, Element, FunctionPlan};

/// Called for a prediction.
const PREDICT: &str = "predictionFromFeatures";

/// A function, with the arrays that Core ML knows our memory by.
#[derive(Debug)]
pub(super) struct Function {
    model: Retained<MLModel>,
    plan: FunctionPlan,
    /// Of the memory of the last run, which is that of the next one as a rule.
    bound: Option<Bound>,
}

// SAFETY: a model may be used from any thread, by one at a time, as its owner does; the arrays are touched in runs only.
unsafe impl Send for Function {}

/// Arrays over memory that is there during runs only: they are given to Core ML for these, and nothing else touches them.
#[derive(Debug)]
struct Bound {
    /// Where inputs and then outputs begin.
    addresses: Vec<usize>,
    inputs: Retained<MLDictionaryFeatureProvider>,
    outputs: Vec<Retained<MLMultiArray>>,
    options: Retained<MLPredictionOptions>,
}

impl Function {
    pub fn new(model: Retained<MLModel>, plan: FunctionPlan) -> Function {
        Function {
            model,
            plan,
            bound: None,
        }
    }

    /// Arrays over `inputs` and `outputs`.
    fn bind(
        &self,
        addresses: Vec<usize>,
        inputs: &[Given<'_>],
        outputs: &mut [Taken<'_>],
    ) -> Result<Bound, CoreMlError> {
        let mut features = Vec::new();
        for ((array, _), given) in self.plan.inputs.iter().zip(inputs) {
            let made = match given {
                Given::Bytes(bytes) => over(array, NonNull::from(*bytes).cast(), bytes.len())?,
                Given::Memory(memory) => known(array, *memory)?.array().clone(),
            };
            // SAFETY: the array is alive; the value keeps it so.
            features.push(unsafe { MLFeatureValue::featureValueWithMultiArray(&made) });
        }
        let names = |all: &mut dyn Iterator<Item = &Array>| -> Vec<Retained<NSString>> {
            all.map(|a| NSString::from_str(&a.feature)).collect()
        };
        let given = names(&mut self.plan.inputs.iter().map(|(a, _)| a));
        let given: Vec<&NSString> = given.iter().map(|n| &**n).collect();
        let features: Vec<&AnyObject> = features.iter().map(|f| f.as_ref()).collect();
        let features = NSDictionary::from_slices(&given, &features);
        let provider = caught("initWithDictionary", || {
            let provider = MLDictionaryFeatureProvider::alloc();
            // SAFETY: all values are feature values.
            unsafe { MLDictionaryFeatureProvider::initWithDictionary_error(provider, &features) }
        })?;
        let provider = provider.map_err(|e| refused("initWithDictionary", &e))?;
        let mut backings = Vec::new();
        for ((array, _), taken) in self.plan.outputs.iter().zip(outputs) {
            backings.push(match taken {
                Taken::Bytes(bytes) => {
                    let length = bytes.len();
                    over(array, NonNull::from(&mut **bytes).cast(), length)?
                }
                Taken::Memory(memory) => known(array, &**memory)?.array().clone(),
            });
        }
        let taken = names(&mut self.plan.outputs.iter().map(|(a, _)| a));
        let taken: Vec<&NSString> = taken.iter().map(|n| &**n).collect();
        let objects: Vec<&AnyObject> = backings.iter().map(|b| b.as_ref()).collect();
        let objects = NSDictionary::from_slices(&taken, &objects);
        // SAFETY: options have no demands on who makes them.
        let options = unsafe { MLPredictionOptions::new() };
        // SAFETY: all values are arrays, one for each name of an output.
        caught("setOutputBackings", || unsafe {
            options.setOutputBackings(&objects);
        })?;
        Ok(Bound {
            addresses,
            inputs: provider,
            outputs: backings,
            options,
        })
    }
}

/// The surface that `memory` is.
fn known<'a>(array: &Array, memory: &'a dyn ArrayMemory) -> Result<&'a Surface, CoreMlError> {
    let known = memory.as_any().downcast_ref::<Surface>();
    known.ok_or_else(|| wrong(array, "its memory is of another engine".into()))
}

/// Where what is given or taken is: what is at the same places is known by the same arrays.
fn address(memory: &dyn ArrayMemory) -> usize {
    let surface = memory.as_any().downcast_ref::<Surface>();
    surface.map_or(0, |s| Retained::as_ptr(s.array()).addr())
}

impl Loaded for Function {
    fn states(&mut self) -> Result<Box<dyn StateMemory>, CoreMlError> {
        Ok(Box::new(States::new(&self.model)?))
    }

    fn memory(&mut self, array: &Array) -> Option<Box<dyn ArrayMemory>> {
        let surface = Surface::new(array)?;
        Some(Box::new(surface))
    }

    fn predict(
        &mut self,
        inputs: &[Given<'_>],
        outputs: &mut [Taken<'_>],
        states: Option<&mut dyn StateMemory>,
    ) -> Result<(), CoreMlError> {
        autoreleasepool(|_| {
            let given = inputs.iter().map(|given| match given {
                Given::Bytes(bytes) => bytes.as_ptr().addr(),
                Given::Memory(memory) => address(*memory),
            });
            let taken = outputs.iter().map(|taken| match taken {
                Taken::Bytes(bytes) => bytes.as_ptr().addr(),
                Taken::Memory(memory) => address(&**memory),
            });
            let addresses: Vec<usize> = given.chain(taken).collect();
            if !matches!(&self.bound, Some(bound) if bound.addresses == addresses) {
                self.bound = Some(self.bind(addresses, inputs, outputs)?);
            }
            let Some(bound) = &self.bound else {
                return Ok(());
            };
            let provider: &ProtocolObject<dyn MLFeatureProvider> =
                ProtocolObject::from_ref(&*bound.inputs);
            let states = match &states {
                None => None,
                Some(states) => {
                    let known = states.as_any().downcast_ref::<States>();
                    Some(known.ok_or_else(|| CoreMlError::Vendor {
                        call: PREDICT,
                        code: 0,
                        text: "the states are of another engine".into(),
                    })?)
                }
            };
            let (model, options) = (&self.model, &*bound.options);
            // SAFETY: the arrays lead to memory that is as large as they say and stays so during the call; inputs are read
            // and outputs written by nobody else meanwhile, and states used by no other prediction. One thread at a time
            // uses the model. Where there are states, the method for them is there too.
            let made = caught(PREDICT, || unsafe {
                match states {
                    None => model.predictionFromFeatures_options_error(provider, options),
                    Some(states) => model.predictionFromFeatures_usingState_options_error(
                        provider,
                        states.state(),
                        options,
                    ),
                }
            })?;
            let made = made.map_err(|e| refused(PREDICT, &e))?;
            let backings = bound.outputs.iter().zip(outputs);
            for ((array, _), (backing, taken)) in self.plan.outputs.iter().zip(backings) {
                let name = NSString::from_str(&array.feature);
                // SAFETY: reading what a provider that is alive holds.
                let value = unsafe { made.featureValueForName(&name) };
                // SAFETY: likewise, of a value.
                let found = value.and_then(|v| unsafe { v.multiArrayValue() });
                let found = found.ok_or_else(|| wrong(array, "it was not given".into()))?;
                // what is not in the memory that was told is in memory of Core ML's own
                if Retained::as_ptr(&found) == Retained::as_ptr(backing) {
                    continue;
                }
                match taken {
                    Taken::Bytes(bytes) => copy(array, &found, bytes)?,
                    Taken::Memory(memory) => {
                        let mut copied = Ok(());
                        memory.write(&mut |bytes| copied = copy(array, &found, bytes))?;
                        copied?;
                    }
                }
            }
            Ok(())
        })
    }
}

fn wrong(array: &Array, text: String) -> CoreMlError {
    CoreMlError::Vendor {
        call: PREDICT,
        code: 0,
        text: format!("output '{}': {text}", array.feature),
    }
}

const fn data_type(element: Element) -> MLMultiArrayDataType {
    match element {
        Element::F16 => MLMultiArrayDataType::Float16,
        Element::F32 => MLMultiArrayDataType::Float32,
        Element::I32 => MLMultiArrayDataType::Int32,
    }
}

pub(super) fn numbers(all: impl Iterator<Item = usize>) -> Retained<NSArray<NSNumber>> {
    let all: Vec<Retained<NSNumber>> = all.map(NSNumber::new_usize).collect();
    NSArray::from_retained_slice(&all)
}

/// An array over `memory`, which has `bytes` bytes and is there whenever the array is used.
fn over(
    array: &Array,
    memory: NonNull<c_void>,
    bytes: usize,
) -> Result<Retained<MLMultiArray>, CoreMlError> {
    if bytes != array.bytes() {
        return Err(CoreMlError::Option {
            what: format!("memory of '{}'", array.feature),
            found: format!("{bytes} bytes"),
            expected: format!("{} bytes", array.bytes()),
        });
    }
    let shape = numbers(array.dims.iter().map(|n| *n as usize));
    let strides = numbers(array.strides().into_iter());
    let made = caught("initWithDataPointer", || {
        // SAFETY: the memory has as many bytes as the shape, the strides and the type say, which was checked. The array
        // outlives it, but is read and written in runs only, for which it is made anew unless the memory is the same.
        unsafe {
            MLMultiArray::initWithDataPointer_shape_dataType_strides_deallocator_error(
                MLMultiArray::alloc(),
                memory,
                &shape,
                data_type(array.element),
                &strides,
                None,
            )
        }
    })?;
    made.map_err(|e| refused("initWithDataPointer", &e))
}

/// An error unless `found` has the type and shape of `array`.
pub(super) fn checked(
    call: &'static str,
    array: &Array,
    found: &MLMultiArray,
) -> Result<(), CoreMlError> {
    // SAFETY: reading numbers of an array that is alive.
    let (dtype, shape) = unsafe { (found.dataType(), found.shape()) };
    let shape: Vec<usize> = shape.iter().map(|n| n.as_usize()).collect();
    let same = shape
        .iter()
        .copied()
        .eq(array.dims.iter().map(|n| *n as usize));
    match dtype == data_type(array.element) && same {
        true => Ok(()),
        false => Err(CoreMlError::Vendor {
            call,
            code: 0,
            text: format!(
                "'{}' is of type {} and shape {shape:?}, expected {} and {:?}",
                array.feature,
                dtype.0,
                data_type(array.element).0,
                array.dims
            ),
        }),
    }
}

/// How many elements lie between neighbours along each dimension of `array`.
pub(super) fn strides_of(array: &MLMultiArray) -> Vec<usize> {
    // SAFETY: reading numbers of an array that is alive.
    let strides = unsafe { array.strides() };
    strides.iter().map(|n| n.as_usize()).collect()
}

/// Copies what `from` holds, which may have gaps, to `to`.
fn copy(array: &Array, from: &MLMultiArray, to: &mut [u8]) -> Result<(), CoreMlError> {
    checked(PREDICT, array, from)?;
    let strides = strides_of(from);
    let size = array.element.bytes();
    let whole = std::cell::Cell::new(false);
    let own = to.as_ptr().addr();
    let to = std::cell::RefCell::new(to);
    let block = RcBlock::new(|memory: NonNull<c_void>, bytes: NSInteger| {
        // another array over our own memory has nothing to copy
        if memory.as_ptr().addr() == own && strides == array.strides() {
            whole.set(true);
            return;
        }
        let bytes = usize::try_from(bytes).unwrap_or(0);
        // SAFETY: the method gives memory of so many bytes, which is there during the call.
        let memory = unsafe { std::slice::from_raw_parts(memory.cast::<u8>().as_ptr(), bytes) };
        let mut to = to.borrow_mut();
        whole.set(gathered(memory, &array.dims, &strides, size, &mut to));
    });
    // SAFETY: the block takes what the method gives, and is called during the call.
    unsafe { from.getBytesWithHandler(&block) };
    match whole.get() {
        true => Ok(()),
        false => Err(wrong(
            array,
            format!("strides {strides:?} lead out of its memory"),
        )),
    }
}
