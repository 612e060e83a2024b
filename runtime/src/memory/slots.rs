//! The safe layer over device buffers.
#![allow(unsafe_code)] // maps buffers; see `Slots` for why that is sound

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_hal::{
    Access, Buffer, BufferDesc, Device, ExternalHandle, HalError, Module, Point, Queue, Sequence,
    Submission,
};
use anynpu_ir::SymbolValues;

use super::worker::{Job, Worker};

/// A piece of memory that one or more devices see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId(usize);

/// What to run with which slots bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId(usize);

/// Owns the buffers of a session and the runs that use them.
///
/// Buffers are made here and never leave but inside submissions that `run`, `run_both`, `run_chain` and
/// [`run_together`] await, which borrow all slots that they use, so whenever no run is active no device
/// touches them and they may be mapped. A submission that
/// was not seen to end makes runs, `write`, `read` and `copy` fail from then on.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    runs: Vec<Arc<Run>>,
    /// Made when two runs are first to be made at once.
    worker: Option<Worker>,
    /// Why a run was given up; set for good.
    abandoned: Option<HalError>,
}

#[derive(Debug)]
struct Slot {
    desc: BufferDesc,
    /// The same memory as each device lane knows it; the first owns it.
    handles: Vec<(usize, Arc<dyn Buffer>)>,
}

/// An entry with its operands.
#[derive(Debug)]
pub(super) struct Run {
    module: Arc<dyn Module>,
    entry: usize,
    inputs: Vec<Arc<dyn Buffer>>,
    outputs: Vec<Arc<dyn Buffer>>,
    pub(super) states: Vec<Arc<dyn Buffer>>,
}

/// A run to be started on its device.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    pub run: RunId,
    pub device: &'a Arc<dyn Device>,
    pub symbols: SymbolValues,
    /// Tells its end.
    pub signal: &'a Point,
}

impl Run {
    /// Runs it to its end, which `signal` tells. Allocates nothing.
    pub(super) fn go(
        &self,
        queue: &dyn Queue,
        symbols: SymbolValues,
        signal: &Point,
        limit: Duration,
    ) -> Result<(), HalError> {
        self.submission(symbols, &[], signal, |s| queue.submit(s))?;
        signal.wait(limit)
    }

    /// Gives `submit` the run to be started once `wait` is reached.
    fn submission<T>(
        &self,
        symbols: SymbolValues,
        wait: &[Point],
        signal: &Point,
        submit: impl FnOnce(&Submission<'_>) -> T,
    ) -> T {
        submit(&Submission {
            module: &self.module,
            entry: self.entry,
            inputs: &self.inputs,
            outputs: &self.outputs,
            states: &self.states,
            sequences: &[],
            symbols,
            wait,
            signal,
        })
    }

    /// As [`Run::go`], over the states of several sequences.
    pub(super) fn go_over(
        &self,
        queue: &dyn Queue,
        sequences: &[Sequence],
        states: &[Arc<dyn Buffer>],
        symbols: SymbolValues,
        signal: &Point,
        limit: Duration,
    ) -> Result<(), HalError> {
        let run = |own: &Submission<'_>| {
            queue.submit(&Submission {
                states,
                sequences,
                ..*own
            })
        };
        self.submission(symbols, &[], signal, run)?;
        signal.wait(limit)
    }
}

/// The slots bound to one run, in the order its entry lists them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bound<'a> {
    pub inputs: &'a [SlotId],
    pub outputs: &'a [SlotId],
    pub states: &'a [SlotId],
}

impl Drop for Slots {
    /// Memory that a device may still write is never given back.
    fn drop(&mut self) {
        if self.abandoned.is_some() {
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(std::mem::take(&mut self.runs));
        }
    }
}

impl Slots {
    /// Allocates a slot on `device`, known as `lane` from now on.
    pub fn allocate(
        &mut self,
        lane: usize,
        device: &dyn Device,
        desc: BufferDesc,
    ) -> Result<SlotId, HalError> {
        let buffer = device.allocate(&desc)?;
        if buffer.desc().bytes < desc.bytes {
            return Err(HalError::InvalidUse {
                call: "allocate",
                what: format!("size of '{}'", desc.name),
                found: format!("{} bytes", buffer.desc().bytes),
                expected: format!("at least {} bytes", desc.bytes),
            });
        }
        self.slots.push(Slot {
            desc,
            handles: vec![(lane, buffer)],
        });
        Ok(SlotId(self.slots.len() - 1))
    }

    /// Lets `device` see the slot as well. False if it can't.
    pub fn share(&mut self, id: SlotId, lane: usize, device: &dyn Device) -> bool {
        let slot = &mut self.slots[id.0];
        if slot.handle(lane).is_some() {
            return true;
        }
        let owner = slot.handles[0].1.clone();
        match device.import(ExternalHandle::Shared(owner), &slot.desc) {
            Ok(buffer) => {
                slot.handles.push((lane, buffer));
                true
            }
            Err(e) => {
                tracing::debug!("'{}' is not shared: {e}", slot.desc.name);
                false
            }
        }
    }

    /// Frees every slot and run; ids given so far are void.
    pub fn clear(&mut self) {
        *self = Slots::default();
    }

    /// Prepares a run of an entry of `module` on the device `lane`, which must see every slot.
    pub fn prepare(
        &mut self,
        lane: usize,
        module: Arc<dyn Module>,
        entry: usize,
        bound: Bound<'_>,
    ) -> Result<RunId, HalError> {
        let handles = |ids: &[SlotId]| -> Result<Vec<_>, HalError> {
            let handle = |id: &SlotId| {
                let slot = &self.slots[id.0];
                slot.handle(lane).ok_or_else(|| HalError::InvalidUse {
                    call: "prepare",
                    what: format!("device of '{}'", slot.desc.name),
                    found: "another".into(),
                    expected: "the one that runs the entry".into(),
                })
            };
            ids.iter().map(handle).collect()
        };
        let run = Run {
            inputs: handles(bound.inputs)?,
            outputs: handles(bound.outputs)?,
            states: handles(bound.states)?,
            module,
            entry,
        };
        self.runs.push(Arc::new(run));
        Ok(RunId(self.runs.len() - 1))
    }

    /// Runs `id` to its end, which `signal` tells. Allocates nothing.
    pub fn run(
        &mut self,
        id: RunId,
        queue: &dyn Queue,
        symbols: SymbolValues,
        signal: &Point,
        limit: Duration,
    ) -> Result<(), HalError> {
        self.usable()?;
        let ended = self.runs[id.0].go(queue, symbols, signal, limit);
        self.note(&ended);
        ended
    }

    /// Runs both to their ends, at once: the first on a thread of its own. They are on different devices and write
    /// no slot that the other uses. Tells how long each took.
    pub fn run_both(
        &mut self,
        first: &Start<'_>,
        second: &Start<'_>,
        limit: Duration,
    ) -> [(Result<(), HalError>, Duration); 2] {
        if let Err(e) = self.usable() {
            return [(Err(e.clone()), Duration::ZERO), (Err(e), Duration::ZERO)];
        }
        let [first, second] = [first, second].map(|start| Job {
            run: self.runs[start.run.0].clone(),
            device: start.device.clone(),
            symbols: start.symbols,
            signal: start.signal.clone(),
            limit,
        });
        if self.worker.is_none() {
            self.worker = Worker::start().ok();
        }
        let ended = match &self.worker {
            Some(worker) => {
                let device = first.device.clone();
                worker.begin(first);
                let second = second.run();
                [worker.end(&device.info().name, limit), second]
            }
            // no thread is to be had: one after the other
            None => [first.run(), second.run()],
        };
        ended.iter().for_each(|(ended, _)| self.note(ended));
        if ended[0].0.is_err() {
            // what it tells later, or its end, is of no more use
            self.worker = None;
        }
        ended
    }

    /// Runs the first and, behind it without a word of the host where their devices can, the second, which reads what
    /// the first makes. Tells how long it took until each had ended.
    pub fn run_chain(
        &mut self,
        first: &Start<'_>,
        second: &Start<'_>,
        limit: Duration,
    ) -> [(Result<(), HalError>, Duration); 2] {
        if let Err(e) = self.usable() {
            return [(Err(e.clone()), Duration::ZERO), (Err(e), Duration::ZERO)];
        }
        let began = Instant::now();
        let ahead = self.runs[first.run.0].submission(first.symbols, &[], first.signal, |s| {
            first.device.queue().submit_ahead(s)
        });
        if let Err(e) = ahead {
            self.note(&Err(e.clone()));
            return [(Err(e.clone()), began.elapsed()), (Err(e), Duration::ZERO)];
        }
        let wait = [first.signal.clone()];
        let behind =
            self.runs[second.run.0].submission(second.symbols, &wait, second.signal, |s| {
                second.device.queue().submit(s)
            });
        let ended = first.signal.wait(limit);
        let took = began.elapsed();
        self.note(&ended);
        let behind = behind.and_then(|()| second.signal.wait(limit));
        self.note(&behind);
        // both are timed by when they end: what the second took is what there was besides the first
        [
            (ended, took),
            (behind, began.elapsed().saturating_sub(took)),
        ]
    }

    /// A run of the slots.
    pub(super) fn prepared(&self, id: RunId) -> Result<&Arc<Run>, HalError> {
        self.usable()?;
        Ok(&self.runs[id.0])
    }

    pub(super) fn note(&mut self, ended: &Result<(), HalError>) {
        if let Err(e @ HalError::Timeout { .. }) = ended {
            self.abandoned = Some(e.clone());
        }
    }

    /// Why a run was given up, if one was.
    pub fn abandoned(&self) -> Option<&HalError> {
        self.abandoned.as_ref()
    }

    /// Lets `fill` write the first `bytes` bytes of a slot.
    pub fn write(
        &mut self,
        id: SlotId,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), HalError> {
        self.usable()?;
        let slot = &self.slots[id.0];
        slot.check(bytes)?;
        let buffer = &slot.handles[0].1;
        // SAFETY: no submission is in flight (see `Slots`), and `&mut self` keeps other mappings
        // away until `unmap`.
        let memory = unsafe { buffer.map(Access::Write) }?;
        let fits = memory.len() >= bytes;
        if fits {
            // SAFETY: the mapping holds at least `bytes` bytes that nobody else touches until
            // `unmap`, and memory of a buffer is always initialised (zeroed when allocated).
            fill(unsafe { std::slice::from_raw_parts_mut(memory.cast::<u8>().as_ptr(), bytes) });
        }
        buffer.unmap();
        if fits {
            Ok(())
        } else {
            slot.check_mapped(memory.len(), bytes)
        }
    }

    /// The first `bytes` bytes of a slot.
    pub fn read(&self, id: SlotId, bytes: usize) -> Result<Mapped<'_>, HalError> {
        self.usable()?;
        let slot = &self.slots[id.0];
        slot.check(bytes)?;
        let buffer = &*slot.handles[0].1;
        // SAFETY: no submission is in flight (see `Slots`), and `&self` lets no one write until
        // the mapping is dropped.
        let memory = unsafe { buffer.map(Access::Read) }?;
        let mapped = Mapped {
            buffer,
            memory: memory.cast(),
            bytes,
        };
        slot.check_mapped(memory.len(), bytes)?;
        Ok(mapped)
    }

    /// Copies the first `bytes` bytes of one slot to another through the host.
    pub fn copy(&mut self, from: SlotId, to: SlotId, bytes: usize) -> Result<(), HalError> {
        self.usable()?;
        if from == to {
            return Ok(());
        }
        let (source, target) = (&self.slots[from.0], &self.slots[to.0]);
        source.check(bytes)?;
        target.check(bytes)?;
        let source = self.read(from, bytes)?;
        let buffer = &target.handles[0].1;
        // SAFETY: no submission is in flight (see `Slots`); the slots are different memory, and
        // `&mut self` keeps other mappings away until `unmap`.
        let memory = unsafe { buffer.map(Access::Write) }?;
        let fits = memory.len() >= bytes;
        if fits {
            // SAFETY: both mappings hold at least `bytes` bytes of different slots.
            unsafe {
                let to = memory.cast::<u8>().as_ptr();
                std::ptr::copy_nonoverlapping(source.as_ptr(), to, bytes);
            }
        }
        buffer.unmap();
        if fits {
            Ok(())
        } else {
            target.check_mapped(memory.len(), bytes)
        }
    }

    fn usable(&self) -> Result<(), HalError> {
        match &self.abandoned {
            None => Ok(()),
            Some(e) => Err(e.clone()),
        }
    }
}

impl Slot {
    fn handle(&self, lane: usize) -> Option<Arc<dyn Buffer>> {
        let found = self.handles.iter().find(|(l, _)| *l == lane);
        found.map(|(_, buffer)| buffer.clone())
    }

    fn check(&self, bytes: usize) -> Result<(), HalError> {
        self.check_mapped(self.desc.bytes, bytes)
    }

    fn check_mapped(&self, found: usize, needed: usize) -> Result<(), HalError> {
        if needed <= found {
            return Ok(());
        }
        Err(HalError::InvalidUse {
            call: "map",
            what: format!("size of '{}'", self.desc.name),
            found: format!("{found} bytes"),
            expected: format!("at least {needed} bytes"),
        })
    }
}

/// A slot's memory, readable until dropped.
#[derive(Debug)]
pub(crate) struct Mapped<'a> {
    buffer: &'a dyn Buffer,
    memory: NonNull<u8>,
    bytes: usize,
}

impl Mapped<'_> {
    /// The memory as F32 in the host's byte order; `None` if it is not aligned for that.
    pub fn f32s(&self) -> Option<&[f32]> {
        let aligned = self.memory.as_ptr().cast::<f32>();
        // SAFETY: the pointer is aligned, the length is within the mapping, and any bits are a
        // valid f32.
        aligned
            .is_aligned()
            .then(|| unsafe { std::slice::from_raw_parts(aligned, self.bytes / size_of::<f32>()) })
    }
}

impl Deref for Mapped<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping holds at least `bytes` initialised bytes until it is dropped.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.bytes) }
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        self.buffer.unmap();
    }
}

#[cfg(test)]
mod tests {
    use anynpu_hal::driver::chaos::{ChaosDriver, Fault};
    use anynpu_hal::driver::noop::NoopDriver;
    use anynpu_hal::{
        Bounds, CompileOptions, Driver, Entry, OpenOptions, Timeline, WeightSource, WeightView,
    };
    use anynpu_ir::{DType, Graph, Op, TensorType, UnaryOp};

    use super::*;

    #[derive(Debug)]
    struct NoWeights;

    impl WeightSource for NoWeights {
        fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
            Err(HalError::Weight {
                name: name.into(),
                why: "there are none".into(),
            })
        }
    }

    fn open(driver: impl Driver) -> Arc<dyn Device> {
        let found = driver.enumerate().unwrap();
        driver.open(&found[0], &OpenOptions::default()).unwrap()
    }

    fn negation(device: &dyn Device) -> Arc<dyn Module> {
        let mut graph = Graph::new("g");
        let x = TensorType::new(DType::F32, anynpu_ir::Shape::fixed(&[4]));
        let x = graph.add_input("x", x).unwrap();
        let y = graph.add("y", Op::Unary(UnaryOp::Neg), &[x]).unwrap();
        graph.set_output(y).unwrap();
        let entry = Entry {
            name: "e".into(),
            graph: Arc::new(graph),
            nodes: 0..1,
            bounds: Bounds::new(),
        };
        let options = CompileOptions::new(DType::F32);
        device
            .compile(&[entry], &options, Arc::new(NoWeights), &mut |_, _| true)
            .unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_copied_within_bounds() {
        let device = open(NoopDriver);
        let mut slots = Slots::default();
        let a = slots
            .allocate(0, &*device, BufferDesc::host("a", 8))
            .unwrap();
        let b = slots
            .allocate(1, &*device, BufferDesc::host("b", 4))
            .unwrap();
        slots
            .write(a, 8, |m| m.copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]))
            .unwrap();
        slots.copy(a, b, 4).unwrap();
        assert_eq!(&*slots.read(b, 4).unwrap(), [1, 2, 3, 4]);
        assert_eq!(slots.read(b, 4).unwrap().f32s().unwrap().len(), 1);
        assert!(slots.write(b, 5, |_| ()).is_err());
        assert!(slots.read(b, 5).is_err());
        assert!(slots.copy(a, b, 5).is_err());
    }

    #[test]
    fn a_device_without_import_shares_nothing_and_can_not_be_bound() {
        let device = open(NoopDriver);
        let mut slots = Slots::default();
        let a = slots
            .allocate(0, &*device, BufferDesc::host("a", 16))
            .unwrap();
        assert!(slots.share(a, 0, &*device));
        assert!(!slots.share(a, 1, &*device));
        let module = negation(&*device);
        let bound = Bound {
            inputs: &[a],
            outputs: &[a],
            states: &[],
        };
        assert!(slots.prepare(1, module, 0, bound).is_err());
    }

    #[test]
    fn a_run_that_does_not_end_locks_the_memory_for_good() {
        let device = open(ChaosDriver::new(
            Box::new(NoopDriver),
            vec![Fault::HangAtSubmit(2)],
        ));
        let mut slots = Slots::default();
        let x = slots
            .allocate(0, &*device, BufferDesc::host("x", 16))
            .unwrap();
        let y = slots
            .allocate(0, &*device, BufferDesc::host("y", 16))
            .unwrap();
        let bound = Bound {
            inputs: &[x],
            outputs: &[y],
            states: &[],
        };
        let run = slots.prepare(0, negation(&*device), 0, bound).unwrap();
        let timeline = Timeline::new("t");
        let go = |slots: &mut Slots, n| {
            let limit = Duration::from_millis(20);
            slots.run(
                run,
                device.queue(),
                SymbolValues::default(),
                &timeline.point(n),
                limit,
            )
        };
        go(&mut slots, 1).unwrap();
        assert!(slots.read(y, 16).is_ok());
        let e = go(&mut slots, 2).unwrap_err();
        assert!(matches!(e, HalError::Timeout { .. }), "{e}");
        assert!(slots.read(y, 16).is_err() && slots.write(x, 1, |_| ()).is_err());
        assert!(go(&mut slots, 3).is_err() && slots.abandoned().is_some());
    }
}
