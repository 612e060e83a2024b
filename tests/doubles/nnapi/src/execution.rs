//! Runs of compiled models.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use crate::codes::*;
use crate::compilation::Inner;
use crate::compute::{Tensor, run};
use crate::live::Object;
use crate::memory;
use crate::model::{Type, told};
use crate::operand::{Operand, Value};
use crate::settings::{Fault, REFERENCE};

/// Runs of devices that fail after some.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// The code with which `function` fails now, of a device with `fault`.
pub fn failing(fault: &Fault, function: &str) -> Option<i32> {
    match fault {
        Fault::Fails(of, code) if of == function => Some(*code),
        Fault::After {
            runs,
            code,
            lost: true,
        } if function == "copy" && RUNS.load(Ordering::Relaxed) > *runs => Some(*code),
        _ => None,
    }
}

/// An execution.
pub struct Execution {
    pub compilation: Arc<Inner>,
    /// The compilation's address, which stands for it in roles of memory.
    pub owner: usize,
    inputs: Vec<Option<Argument>>,
    outputs: Vec<Option<Argument>>,
    pub state: State,
    pub reusable: bool,
    pub padded: bool,
    pub timed: bool,
    timeout: bool,
    /// Dimensions of results, once it ran.
    results: Vec<Vec<u32>>,
    nanoseconds: u64,
}

/// Where an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Preparation,
    Completed,
}

/// What is bound to an input or output.
pub struct Argument {
    pub dims: Vec<u32>,
    pub place: Place,
}

/// Memory that is bound.
pub enum Place {
    Omitted,
    Pointer(usize, usize),
    Memory(Arc<memory::Inner>, usize, usize),
}

/// A burst: executions of one compilation that follow each other fast.
pub struct Burst {
    pub compilation: Arc<Inner>,
    pub busy: AtomicBool,
}

impl Execution {
    pub fn new(compilation: &Arc<Inner>, owner: usize) -> Result<Execution, i32> {
        if !compilation.finished {
            return told(
                BAD_STATE,
                "an execution of a compilation that is not finished",
            );
        }
        let none = |list: &[u32]| list.iter().map(|_| None).collect();
        Ok(Execution {
            compilation: compilation.clone(),
            owner,
            inputs: none(&compilation.model.inputs),
            outputs: none(&compilation.model.outputs),
            state: State::Preparation,
            reusable: false,
            padded: false,
            timed: false,
            timeout: false,
            results: Vec::new(),
            nanoseconds: u64::MAX,
        })
    }

    /// Whether options and arguments may be set.
    pub fn preparing(&self) -> Result<(), i32> {
        match self.state {
            State::Preparation => Ok(()),
            State::Completed => Err(BAD_STATE),
        }
    }

    /// Whether it is for exactly one device that was named.
    pub fn has_one_device(&self) -> Result<(), i32> {
        match self.compilation.explicit && self.compilation.devices.len() == 1 {
            true => Ok(()),
            false => told(BAD_DATA, "this needs exactly one device that is named"),
        }
    }

    /// Whether the dimensions of all results are known before it runs.
    pub fn outputs_are_specified(&self) -> bool {
        let known = |a: &Argument| !a.dims.is_empty() && !a.dims.contains(&0);
        self.outputs.iter().flatten().all(known)
    }

    /// Whether something is bound to it.
    pub fn has_bound(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).any(Option::is_some)
    }

    /// Fails if `function` is to fail on its device.
    pub fn fails(&self, function: &str) -> Result<(), i32> {
        self.compilation.fails(function)
    }

    /// Ends the process if a run would write what it reads: neither may change while it goes on.
    fn check_apart(&self) {
        let places = |list: &[Option<Argument>]| -> Vec<(usize, usize, usize)> {
            let memories = list.iter().flatten().filter_map(|a| match &a.place {
                Place::Memory(memory, offset, length) => {
                    let length = match memory.roles {
                        Some(_) => memory.size,
                        None => *length,
                    };
                    Some((memory.as_ptr().addr(), *offset, length))
                }
                Place::Omitted | Place::Pointer(..) => None,
            });
            memories.collect()
        };
        let (read, written) = (places(&self.inputs), places(&self.outputs));
        for (i, w) in written.iter().enumerate() {
            let meets =
                |o: &(usize, usize, usize)| o.0 == w.0 && o.1 < w.1 + w.2 && w.1 < o.1 + o.2;
            if read.iter().any(meets) || written[..i].iter().any(meets) {
                crate::live::violated("a run writes memory that it reads or writes elsewhere");
            }
        }
    }

    pub fn set_timeout(&mut self, nanoseconds: u64) -> Result<(), i32> {
        self.preparing()?;
        self.has_one_device()?;
        self.timeout = nanoseconds > 0;
        Ok(())
    }

    /// Binds `place` to an input or output; `ty` says dimensions that the model leaves open.
    pub fn bind(
        &mut self,
        output: bool,
        index: i32,
        ty: Option<Type>,
        place: Place,
    ) -> Result<(), i32> {
        self.preparing()?;
        let at = usize::try_from(index).map_err(|_| BAD_DATA)?;
        let list = match output {
            true => &self.compilation.model.outputs,
            false => &self.compilation.model.inputs,
        };
        let number = *list.get(at).ok_or(BAD_DATA)?;
        let operand = &self.compilation.model.operands[number as usize];
        let dims = match ty {
            None => operand.dims.clone(),
            Some(ty) => {
                let same = (ty.ty, ty.scale, ty.zero_point)
                    == (operand.ty, operand.scale, operand.zero_point);
                let dims = ty.dims;
                let open = operand.dims.is_empty() || operand.dims.len() == dims.len();
                let fits = |(own, given): (&u32, &u32)| *own == 0 || own == given;
                if !same || !open || !operand.dims.iter().zip(&dims).all(fits) {
                    return told(BAD_DATA, "a type that is not the operand's");
                }
                dims
            }
        };
        let concrete = Operand {
            dims: dims.clone(),
            ..operand.clone()
        };
        let known = concrete.is_specified();
        let needed = concrete.bytes().unwrap_or(usize::MAX);
        let fits = |length: usize| match (known, output) {
            (true, _) => length == needed || (self.padded && length >= needed),
            // what is not known is told by the result
            (false, true) => true,
            // dimensions of zero are known in a run
            (false, false) => !dims.is_empty() && length == needed,
        };
        match &place {
            Place::Omitted => {}
            Place::Pointer(_, length) if !fits(*length) => {
                return told(BAD_DATA, &format!("{length} bytes for {dims:?}"));
            }
            Place::Pointer(..) => {}
            Place::Memory(memory, offset, length) => {
                memory.check(Some((self.owner, output, at as u32)), *offset, *length)?;
                if memory.roles.is_none() && !fits(*length) {
                    return told(BAD_DATA, &format!("{length} bytes of memory for {dims:?}"));
                }
            }
        }
        let slots = match output {
            true => &mut self.outputs,
            false => &mut self.inputs,
        };
        if slots[at].is_some() {
            return told(BAD_STATE, "an argument was bound twice");
        }
        slots[at] = Some(Argument { dims, place });
        Ok(())
    }

    /// Runs it. If it fails, memory of roles that it was to write holds nothing.
    pub fn compute(&mut self) -> Result<(), i32> {
        let ran = self.run();
        if ran.is_err() {
            for argument in self.outputs.iter().flatten() {
                if let Place::Memory(memory, ..) = &argument.place {
                    memory.spoil();
                }
            }
        }
        ran
    }

    fn run(&mut self) -> Result<(), i32> {
        if self.state == State::Completed && !self.reusable {
            return told(BAD_STATE, "an execution that is not reusable was run twice");
        }
        if self.inputs.iter().chain(&self.outputs).any(Option::is_none) {
            return told(BAD_DATA, "not every argument is bound");
        }
        self.check_apart();
        self.state = State::Completed;
        let device = self.compilation.devices.first();
        match device.and_then(|d| d.fault.as_ref()) {
            Some(Fault::Vanish) => return Err(DEAD_OBJECT),
            Some(Fault::After { runs, code, .. })
                if RUNS.fetch_add(1, Ordering::Relaxed) >= *runs =>
            {
                return Err(*code);
            }
            Some(Fault::Memory) => return Err(RESOURCE_EXHAUSTED_TRANSIENT),
            Some(Fault::Deadline) if self.timeout => return Err(MISSED_DEADLINE_PERSISTENT),
            _ => {}
        }
        let started = Instant::now();
        let model = &self.compilation.model;
        let mut given = Vec::new();
        for (argument, number) in self.inputs.iter().flatten().zip(&model.inputs) {
            let operand = Operand {
                dims: argument.dims.clone(),
                ..model.operands[*number as usize].clone()
            };
            let needed = operand.bytes().ok_or(BAD_DATA)?;
            let bytes = match &argument.place {
                Place::Omitted => {
                    given.push(None);
                    continue;
                }
                Place::Pointer(at, _) => {
                    let pointer = std::ptr::with_exposed_provenance::<u8>(*at);
                    // SAFETY: the application keeps inputs until the execution is done.
                    unsafe { std::slice::from_raw_parts(pointer, needed) }.to_vec()
                }
                Place::Memory(memory, offset, _) => {
                    memory.check_written(OP_FAILED)?;
                    memory.read(*offset, needed)
                }
            };
            given.push(Some(Tensor::of(&operand, &bytes)));
        }
        let fault = device.and_then(|d| d.fault.as_ref());
        let made = run(model, &self.compilation.constants, given, fault)?;
        self.results.clear();
        let mut short = false;
        for ((argument, number), made) in
            self.outputs.iter().flatten().zip(&model.outputs).zip(made)
        {
            let operand = &model.operands[*number as usize];
            let bytes = operand.encode(&made.data);
            let dims = made.dims.iter().map(|d| *d as u32).collect();
            self.results.push(dims);
            match &argument.place {
                Place::Omitted => {}
                Place::Pointer(_, length) | Place::Memory(_, _, length)
                    if *length < bytes.len()
                        && !matches!(&argument.place, Place::Memory(m, ..) if m.roles.is_some()) =>
                {
                    short = true;
                }
                Place::Pointer(at, _) => {
                    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(*at);
                    // SAFETY: the application keeps outputs until the execution is done; the length was checked.
                    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
                }
                Place::Memory(memory, offset, _) => memory.write(*offset, &bytes)?,
            }
        }
        // the reference device tells no times
        let reference = device.is_none_or(|d| d.name == REFERENCE);
        if self.timed && !reference {
            self.nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        match short {
            true => told(
                OUTPUT_INSUFFICIENT_SIZE,
                "a result is larger than its memory",
            ),
            false => Ok(()),
        }
    }

    /// Dimensions of result `index`.
    pub fn result(&self, index: i32) -> Result<&[u32], i32> {
        if self.state == State::Preparation {
            return Err(BAD_STATE);
        }
        let at = usize::try_from(index).map_err(|_| BAD_DATA)?;
        let dims = self.results.get(at).ok_or(BAD_DATA)?;
        Ok(dims)
    }

    /// How long it took; the largest number if that is not known.
    pub fn duration(&self) -> Result<u64, i32> {
        match self.timed && self.state == State::Completed {
            true => Ok(self.nanoseconds),
            false => Err(BAD_STATE),
        }
    }
}

impl Object for Execution {}
impl Object for Burst {}

impl Burst {
    /// Runs `execution` in it.
    pub fn compute(&self, execution: &mut Execution) -> Result<(), i32> {
        if !Arc::ptr_eq(&self.compilation, &execution.compilation) {
            return told(BAD_DATA, "a burst of another compilation");
        }
        if self.busy.swap(true, Ordering::Acquire) {
            return told(BAD_STATE, "a burst that is busy");
        }
        let ran = execution.compute();
        self.busy.store(false, Ordering::Release);
        ran
    }
}

/// Whether contents of `operand` are left out.
pub fn is_omitted(operand: &Operand) -> bool {
    matches!(operand.value, Value::Omitted)
}
