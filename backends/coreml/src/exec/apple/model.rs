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

use super::super::Loaded;
use super::super::numbers::gathered;
use super::refused;
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
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<Bound, CoreMlError> {
        let mut features = Vec::new();
        for ((array, _), bytes) in self.plan.inputs.iter().zip(inputs) {
            let memory = NonNull::from(*bytes).cast();
            let made = over(array, memory, bytes.len())?;
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
        let provider = MLDictionaryFeatureProvider::alloc();
        // SAFETY: all values are feature values.
        let provider =
            unsafe { MLDictionaryFeatureProvider::initWithDictionary_error(provider, &features) };
        let provider = provider.map_err(|e| refused("initWithDictionary", &e))?;
        let mut backings = Vec::new();
        for ((array, _), bytes) in self.plan.outputs.iter().zip(outputs) {
            let length = bytes.len();
            backings.push(over(array, NonNull::from(&mut **bytes).cast(), length)?);
        }
        let taken = names(&mut self.plan.outputs.iter().map(|(a, _)| a));
        let taken: Vec<&NSString> = taken.iter().map(|n| &**n).collect();
        let objects: Vec<&AnyObject> = backings.iter().map(|b| b.as_ref()).collect();
        let objects = NSDictionary::from_slices(&taken, &objects);
        // SAFETY: options have no demands on who makes them.
        let options = unsafe { MLPredictionOptions::new() };
        // SAFETY: all values are arrays, one for each name of an output.
        unsafe { options.setOutputBackings(&objects) };
        Ok(Bound {
            addresses,
            inputs: provider,
            outputs: backings,
            options,
        })
    }
}

impl Loaded for Function {
    fn predict(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), CoreMlError> {
        autoreleasepool(|_| {
            let given = inputs.iter().map(|i| i.as_ptr().addr());
            let taken = outputs.iter().map(|o| o.as_ptr().addr());
            let same = match &self.bound {
                Some(bound) => given
                    .clone()
                    .chain(taken.clone())
                    .eq(bound.addresses.iter().copied()),
                None => false,
            };
            if !same {
                let addresses = given.chain(taken).collect();
                self.bound = Some(self.bind(addresses, inputs, outputs)?);
            }
            let Some(bound) = &self.bound else {
                return Ok(());
            };
            let provider: &ProtocolObject<dyn MLFeatureProvider> =
                ProtocolObject::from_ref(&*bound.inputs);
            // SAFETY: the arrays lead to memory that is as large as they say and stays so during the call; inputs are read
            // and outputs written by nobody else meanwhile. One thread at a time uses the model.
            let made = unsafe {
                self.model
                    .predictionFromFeatures_options_error(provider, &bound.options)
            };
            let made = made.map_err(|e| refused(PREDICT, &e))?;
            let backings = bound.outputs.iter().zip(outputs);
            for ((array, _), (backing, bytes)) in self.plan.outputs.iter().zip(backings) {
                let name = NSString::from_str(&array.feature);
                // SAFETY: reading what a provider that is alive holds.
                let value = unsafe { made.featureValueForName(&name) };
                // SAFETY: likewise, of a value.
                let found = value.and_then(|v| unsafe { v.multiArrayValue() });
                let found = found.ok_or_else(|| wrong(array, "it was not given".into()))?;
                // what is not in our memory is in memory of Core ML's own
                if Retained::as_ptr(&found) != Retained::as_ptr(backing) {
                    copy(array, &found, bytes)?;
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

fn numbers(all: impl Iterator<Item = usize>) -> Retained<NSArray<NSNumber>> {
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
    // SAFETY: the memory has as many bytes as the shape, the strides and the type say, which was checked. The array outlives
    // it, but is read and written in runs only, for which it is made anew unless the memory is the same.
    let made = unsafe {
        MLMultiArray::initWithDataPointer_shape_dataType_strides_deallocator_error(
            MLMultiArray::alloc(),
            memory,
            &shape,
            data_type(array.element),
            &strides,
            None,
        )
    };
    made.map_err(|e| refused("initWithDataPointer", &e))
}

/// Copies what `from` holds, which may have gaps, to `to`.
fn copy(array: &Array, from: &MLMultiArray, to: &mut [u8]) -> Result<(), CoreMlError> {
    // SAFETY: reading numbers of an array that is alive.
    let (dtype, shape, strides) = unsafe { (from.dataType(), from.shape(), from.strides()) };
    let shape: Vec<u32> = shape.iter().map(|n| n.as_u32()).collect();
    let strides: Vec<usize> = strides.iter().map(|n| n.as_usize()).collect();
    if dtype != data_type(array.element) || shape != array.dims {
        let text = format!(
            "type {} and shape {shape:?}, expected {} and {:?}",
            dtype.0,
            data_type(array.element).0,
            array.dims
        );
        return Err(wrong(array, text));
    }
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
