//! States that Core ML keeps between predictions.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::NonNull;

use block2::RcBlock;
use objc2::rc::{Retained, autoreleasepool};
use objc2_core_ml::{MLModel, MLMultiArray, MLState};
use objc2_foundation::{NSArray, NSInteger, NSNumber, NSString};

use super::super::StateMemory;
use super::super::numbers::{gathered, scattered};
use super::model::{checked, strides_of};
use super::{caught, need_class};
use crate::CoreMlError;
use crate::binding::Array;

/// Called for the numbers of a state.
const CALL: &str = "MLState getMultiArrayForStateNamed";

/// The states that a model made: zeros at first.
#[derive(Debug)]
pub(super) struct States(Retained<MLState>);

impl States {
    /// New ones for `model`.
    pub fn new(model: &MLModel) -> Result<States, CoreMlError> {
        need_class(c"MLState", "it came with iOS 18 and macOS 15")?;
        autoreleasepool(|_| {
            // SAFETY: the class is there, and with it the method; a model may be asked at any time.
            let made = caught("MLModel newState", || unsafe { model.newState() });
            Ok(States(made?))
        })
    }

    /// It as Core ML knows it.
    pub fn state(&self) -> &MLState {
        &self.0
    }

    /// Lets `touch` see the array of `state`.
    fn with(
        &self,
        state: &Array,
        touch: impl Fn(&MLMultiArray) -> Result<(), CoreMlError>,
    ) -> Result<(), CoreMlError> {
        autoreleasepool(|_| {
            let name = NSString::from_str(&state.feature);
            let touched = RefCell::new(None);
            let block = RcBlock::new(|array: NonNull<MLMultiArray>| {
                // SAFETY: the array is alive during the call of the block.
                let array = unsafe { array.as_ref() };
                let done = checked(CALL, state, array).and_then(|()| touch(array));
                *touched.borrow_mut() = Some(done);
            });
            caught(CALL, || {
                // SAFETY: the block takes what the method gives, and is called during the call. No prediction with the states
                // is in flight: their owner is used by one at a time, and waits for each.
                unsafe { self.0.getMultiArrayForStateNamed_handler(&name, &block) }
            })?;
            let nothing = || wrong(state, "there is no such state".into());
            touched.take().unwrap_or_else(|| Err(nothing()))
        })
    }
}

fn wrong(state: &Array, text: String) -> CoreMlError {
    CoreMlError::Vendor {
        call: CALL,
        code: 0,
        text: format!("state '{}': {text}", state.feature),
    }
}

impl StateMemory for States {
    fn read(&mut self, state: &Array, to: &mut [u8]) -> Result<(), CoreMlError> {
        let to = RefCell::new(to);
        self.with(state, |array| {
            let strides = strides_of(array);
            let whole = Cell::new(false);
            let block = RcBlock::new(|memory: NonNull<c_void>, bytes: NSInteger| {
                let bytes = usize::try_from(bytes).unwrap_or(0);
                let memory = memory.cast::<u8>().as_ptr();
                // SAFETY: the method gives memory of so many bytes, which is there during the call.
                let memory = unsafe { std::slice::from_raw_parts(memory, bytes) };
                let (size, mut to) = (state.element.bytes(), to.borrow_mut());
                whole.set(gathered(memory, &state.dims, &strides, size, &mut to));
            });
            // SAFETY: the block takes what the method gives, and is called during the call.
            unsafe { array.getBytesWithHandler(&block) };
            match whole.get() {
                true => Ok(()),
                false => Err(wrong(
                    state,
                    format!("strides {strides:?} lead out of its memory"),
                )),
            }
        })
    }

    fn write(&mut self, state: &Array, from: &[u8]) -> Result<(), CoreMlError> {
        self.with(state, |array| {
            let whole = Cell::new(false);
            type Strides = NonNull<NSArray<NSNumber>>;
            let block = RcBlock::new(
                |memory: NonNull<c_void>, bytes: NSInteger, strides: Strides| {
                    // SAFETY: the strides are alive during the call of the block.
                    let strides = unsafe { strides.as_ref() };
                    let strides: Vec<usize> = strides.iter().map(|n| n.as_usize()).collect();
                    let bytes = usize::try_from(bytes).unwrap_or(0);
                    let memory = memory.cast::<u8>().as_ptr();
                    // SAFETY: the method gives memory of so many bytes to change, which is there during the call.
                    let memory = unsafe { std::slice::from_raw_parts_mut(memory, bytes) };
                    let size = state.element.bytes();
                    whole.set(scattered(from, &state.dims, &strides, size, memory));
                },
            );
            // SAFETY: the block takes what the method gives, and is called during the call.
            unsafe { array.getMutableBytesWithHandler(&block) };
            match whole.get() {
                true => Ok(()),
                false => Err(wrong(
                    state,
                    format!("{} bytes are not all within its memory", from.len()),
                )),
            }
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
