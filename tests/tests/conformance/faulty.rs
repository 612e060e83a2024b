//! The CPU with a fault planted.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, Driver, Entry,
    EntryInfo, ExposedDevice, HalError, Module, OpenOptions, Point, Queue, Reason, ReasonCode,
    Submission, Support, Timeline, Unavailable, WeightSource, read_bytes, write_bytes,
};
use anynpu_ir::{Graph, Op, Subgraph, Symbol, SymbolValues};
use parking_lot::Mutex;

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// RmsNorm with ten times its epsilon.
    Epsilon,
    /// A Slice begins one later.
    OffByOne,
    /// Attention without its window.
    NoWindow,
    /// Softmax along the first axis.
    Axis,
    /// Every run is of as many tokens as it was compiled for.
    IgnoredSymbol,
    /// A run that failed is told to have succeeded.
    ForgottenError,
    /// A byte past the end of the first result.
    PastTheEnd,
    /// The first operand is changed.
    ChangedInput,
    /// Claims Gather and refuses to compile it.
    ClaimsTooMuch,
    /// Claims Sin and fails when it is run.
    FailsWhenRun,
    /// One verdict too few.
    FewVerdicts,
    /// Its table refuses Linear, which its validator admits.
    Disagrees,
    /// Every 7th run has other last bits.
    Nondeterministic,
    /// Cos never ends.
    Hangs,
    /// Modules are never freed.
    Leaks,
    /// More than there is can be allocated, it says.
    EndlessMemory,
    /// What a run waits for is not awaited.
    DoesNotWait,
    /// Wrong counts of buffers and short ones are taken as they are.
    Unchecked,
    /// A panic when it is asked for Tanh.
    Panics,
    /// Neighbouring rows of a state are written.
    NeighbourRow,
}

#[derive(Debug)]
pub struct FaultyDriver(pub Fault);

impl Driver for FaultyDriver {
    fn name(&self) -> &str {
        "faulty"
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        anynpu_cpu::CpuDriver.enumerate()
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let inner = anynpu_cpu::CpuDriver.open(device, options)?;
        Ok(Arc::new(Faulty {
            fault: self.0,
            queue: FaultyQueue {
                fault: self.0,
                inner: inner.clone(),
                runs: AtomicU64::new(0),
            },
            inner,
            kept: Mutex::new(Vec::new()),
        }))
    }
}

#[derive(Debug)]
struct Faulty {
    fault: Fault,
    inner: Arc<dyn Device>,
    queue: FaultyQueue,
    kept: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct FaultyQueue {
    fault: Fault,
    inner: Arc<dyn Device>,
    runs: AtomicU64,
}

/// The module of the CPU, and the ops of its first entry.
#[derive(Debug)]
struct FaultyModule {
    inner: Arc<dyn Module>,
    ops: Vec<Op>,
    limits: SymbolValues,
}

impl Module for FaultyModule {
    fn entries(&self) -> &[EntryInfo] {
        self.inner.entries()
    }

    fn resident_bytes(&self) -> u64 {
        self.inner.resident_bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Fault {
    fn change(self, op: &Op) -> Option<Op> {
        match (self, op) {
            (Fault::Epsilon, &Op::RmsNorm { eps }) => Some(Op::RmsNorm { eps: eps * 10.0 }),
            (
                Fault::OffByOne,
                &Op::Slice {
                    axis,
                    start,
                    end,
                    step: 1,
                },
            ) if start > 0 && start < end => Some(Op::Slice {
                axis,
                start: start - 1,
                end: end - 1,
                step: 1,
            }),
            (
                Fault::NoWindow,
                Op::Attention {
                    window: Some(_), ..
                },
            ) => {
                let mut op = op.clone();
                if let Op::Attention { window, .. } = &mut op {
                    *window = None;
                }
                Some(op)
            }
            (Fault::Axis, &Op::Softmax { axis }) if axis > 0 => {
                Some(Op::Softmax { axis: axis - 1 })
            }
            _ => None,
        }
    }

    /// The graph with the fault in it.
    fn plant(self, graph: &Arc<Graph>) -> Arc<Graph> {
        if !graph.nodes().iter().any(|n| self.change(&n.op).is_some()) {
            return graph.clone();
        }
        let mut changed = Graph::new(graph.name());
        for state in graph.states() {
            changed
                .add_state(&state.name, state.ty.clone(), state.axis)
                .unwrap();
        }
        for definition in graph.definitions() {
            match definition {
                anynpu_ir::Definition::Input(id) => {
                    let value = graph.value(id);
                    changed.add_input(&value.name, value.ty.clone()).unwrap();
                }
                anynpu_ir::Definition::Weight(id) => {
                    let weight = graph.weight(id);
                    let ty = graph.ty(weight.value).clone();
                    match &weight.inline {
                        Some(data) => changed
                            .add_constant(&weight.name, ty, data.clone())
                            .unwrap(),
                        None => changed.add_weight(&weight.name, ty).unwrap(),
                    };
                }
                anynpu_ir::Definition::Node(id) => {
                    let node = graph.node(id);
                    let op = self.change(&node.op).unwrap_or_else(|| node.op.clone());
                    changed.add_node(&node.name, op, &node.inputs).unwrap();
                }
            }
        }
        for &id in graph.outputs() {
            changed.set_output(id).unwrap();
        }
        assert_eq!(changed.values().len(), graph.values().len());
        Arc::new(changed)
    }
}

fn has(run: &Subgraph<'_>, is: impl Fn(&Op) -> bool) -> bool {
    run.nodes().any(|(_, n)| is(&n.op))
}

impl Device for Faulty {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        let mut verdicts = self.inner.support(graph);
        match self.fault {
            Fault::FewVerdicts => drop(verdicts.pop()),
            Fault::Disagrees => {
                for ((_, node), verdict) in graph.nodes().zip(&mut verdicts) {
                    if let Op::Linear = node.op {
                        *verdict = Support::No(Reason::new(ReasonCode::OpUnknown, "no Linear"));
                    }
                }
            }
            Fault::Panics
                if has(graph, |op| {
                    matches!(op, Op::Unary(anynpu_ir::UnaryOp::Tanh))
                }) =>
            {
                panic!("Tanh, on purpose");
            }
            _ => {}
        }
        verdicts
    }

    fn validate(&self, graph: &Subgraph<'_>) -> Result<Vec<Support>, HalError> {
        self.inner.validate(graph)
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let mut entries = entries.to_vec();
        let mut ops = Vec::new();
        let limits = entries
            .first()
            .map(|e| e.bounds.limits())
            .unwrap_or_default();
        for entry in &mut entries {
            entry.graph = self.fault.plant(&entry.graph);
            if let Ok(run) = entry.subgraph() {
                ops.extend(run.nodes().map(|(_, n)| n.op.clone()));
            }
        }
        if self.fault == Fault::ClaimsTooMuch && ops.iter().any(|o| matches!(o, Op::Gather { .. }))
        {
            return Err(HalError::CompileRejected {
                device: "cpu".into(),
                nodes: Vec::new(),
            });
        }
        if self.fault == Fault::Leaks {
            self.kept.lock().push(vec![1; 256 << 10]);
        }
        let inner = self.inner.compile(&entries, options, weights, progress)?;
        Ok(Arc::new(FaultyModule { inner, ops, limits }))
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        if self.fault == Fault::EndlessMemory && desc.bytes > 1 << 40 {
            return self.inner.allocate(&BufferDesc::host(&desc.name, 64));
        }
        self.inner.allocate(desc)
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn failed(text: &str) -> HalError {
    HalError::Vendor {
        device: "cpu".into(),
        call: "run".into(),
        code: -1,
        text: text.into(),
    }
}

/// Changes a byte of a buffer of which no run is going on.
fn disturb(buffer: &dyn Buffer, at: usize) {
    let mut byte = [0];
    // SAFETY: the run that used the buffer has ended, and the suite waits for its signal.
    #[allow(unsafe_code)]
    unsafe {
        if read_bytes(buffer, at, &mut byte).is_ok() {
            byte[0] ^= 1;
            let _ = write_bytes(buffer, at, &byte);
        }
    }
}

impl Queue for FaultyQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let module = s.module.as_any().downcast_ref::<FaultyModule>();
        let Some(module) = module else {
            return Err(failed("a module of another device"));
        };
        let has = |is: fn(&Op) -> bool| module.ops.iter().any(is);
        let fault = self.fault;
        if fault == Fault::FailsWhenRun && has(|o| matches!(o, Op::Unary(anynpu_ir::UnaryOp::Sin)))
        {
            s.signal.fail(failed("no Sin after all"));
            return Ok(());
        }
        if fault == Fault::Hangs && has(|o| matches!(o, Op::Unary(anynpu_ir::UnaryOp::Cos))) {
            return Ok(());
        }
        let own = Timeline::new("inner");
        let signal: Point = own.point(1);
        let mut inner = *s;
        inner.module = &module.inner;
        inner.signal = &signal;
        if fault == Fault::DoesNotWait {
            inner.wait = &[];
        }
        if fault == Fault::IgnoredSymbol && s.symbols != module.limits {
            // as if it were always the same
            let mut symbols = s.symbols;
            symbols.set(Symbol::TOKENS, module.limits.get(Symbol::TOKENS).min(1));
            inner.symbols = symbols;
        }
        let ran = self.inner.queue().submit(&inner);
        match (fault, ran) {
            (Fault::ForgottenError | Fault::Unchecked, _) => {}
            (_, ran) => ran?,
        }
        match fault {
            Fault::PastTheEnd => {
                let port = module.entries()[s.entry].outputs.first();
                if let (Some(port), Some(buffer)) = (port, s.outputs.first()) {
                    disturb(&**buffer, port.ty.bytes(&s.symbols).unwrap_or(0));
                }
            }
            Fault::ChangedInput => {
                if let Some(buffer) = s.inputs.first() {
                    disturb(&**buffer, 0);
                }
            }
            Fault::Nondeterministic if run % 7 == 3 => {
                if let Some(buffer) = s.outputs.first() {
                    disturb(&**buffer, 0);
                }
            }
            Fault::NeighbourRow => {
                // the last row, which no step of the suite writes
                if let Some(buffer) = s.states.first() {
                    disturb(&**buffer, buffer.desc().bytes.saturating_sub(400));
                }
            }
            _ => {}
        }
        s.signal.signal();
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.inner.queue().counters()
    }
}
