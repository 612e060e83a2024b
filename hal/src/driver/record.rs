//! A driver around another that notes between which numbers values are.
//!
//! Its device runs the nodes of an entry one by one on the other driver's, so that every value comes by in memory of the
//! host.
#![allow(unsafe_code)] // reads buffers of runs that it awaited

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anynpu_ir::{DType, Graph, Subgraph, SymbolValues, TensorType, ValueId};
use parking_lot::Mutex;

use crate::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, Driver, Entry,
    EntryInfo, ExposedDevice, ExternalHandle, HalError, Module, OpenOptions, Queue, Submission,
    Support, Timeline, Unavailable, WeightSource, read_bytes,
};

/// Longest wait for one node.
const LIMIT: Duration = Duration::from_secs(600);

/// Between which numbers the values of the graphs that ran are, by name: those in F32.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<BTreeMap<String, [f64; 2]>>);

impl Recorder {
    /// The least and the most of each value over all runs.
    pub fn ranges(&self) -> BTreeMap<String, [f64; 2]> {
        self.0.lock().clone()
    }

    /// Takes in numbers that the value `name` has; those that are none are left out.
    fn note(&self, name: &str, numbers: impl Iterator<Item = f32>) {
        let finite = numbers.filter(|x| x.is_finite()).map(f64::from);
        let range = finite.fold(None, |range: Option<[f64; 2]>, x| match range {
            None => Some([x, x]),
            Some([least, most]) => Some([least.min(x), most.max(x)]),
        });
        let Some([least, most]) = range else {
            return;
        };
        let mut all = self.0.lock();
        match all.get_mut(name) {
            Some(known) => *known = [known[0].min(least), known[1].max(most)],
            None => drop(all.insert(name.to_owned(), [least, most])),
        }
    }
}

/// Driver of the devices of another, which notes what they compute.
#[derive(Debug)]
pub struct RecordDriver {
    inner: Box<dyn Driver>,
    recorder: Arc<Recorder>,
}

impl RecordDriver {
    /// Notes in `recorder` what devices of `inner` compute.
    pub fn new(inner: Box<dyn Driver>, recorder: Arc<Recorder>) -> Self {
        RecordDriver { inner, recorder }
    }
}

impl Driver for RecordDriver {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        self.inner.enumerate()
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let inner = self.inner.open(device, options)?;
        Ok(Arc::new(RecordDevice {
            queue: RecordQueue {
                inner: inner.clone(),
                recorder: self.recorder.clone(),
                counters: Mutex::new(Counters::default()),
            },
            inner,
        }))
    }
}

#[derive(Debug)]
struct RecordDevice {
    inner: Arc<dyn Device>,
    queue: RecordQueue,
}

struct RecordQueue {
    inner: Arc<dyn Device>,
    recorder: Arc<Recorder>,
    /// What was executed; held while a submission is.
    counters: Mutex<Counters>,
}

impl fmt::Debug for RecordQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordQueue").finish_non_exhaustive()
    }
}

/// Entries, and the nodes that they are run as.
#[derive(Debug)]
struct RecordModule {
    inner: Arc<dyn Module>,
    entries: Vec<EntryInfo>,
    runs: Vec<Vec<Part>>,
    /// Memory of values between nodes.
    between: Vec<Arc<dyn Buffer>>,
}

/// One node of an entry.
#[derive(Debug)]
struct Part {
    /// The other device's entry.
    entry: usize,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    /// Of each state, its number among the entry's.
    states: Vec<usize>,
    /// Values to note: name, type, place.
    noted: Vec<(String, TensorType, Place)>,
}

/// Where a value is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Input(usize),
    Output(usize),
    Between(usize),
}

impl RecordDevice {
    /// The nodes of `whole`, which are the other device's entries from `first` on.
    fn parts(
        &self,
        graph: &Graph,
        whole: &EntryInfo,
        nodes: &[EntryInfo],
        first: usize,
        between: &mut Vec<Arc<dyn Buffer>>,
    ) -> Result<Vec<Part>, HalError> {
        let mut places: HashMap<ValueId, Place> = HashMap::new();
        for (i, port) in whole.inputs.iter().enumerate() {
            places.insert(port.value, Place::Input(i));
        }
        for (i, port) in whole.outputs.iter().enumerate() {
            places.insert(port.value, Place::Output(i));
        }
        let mut parts = Vec::new();
        for (i, info) in nodes.iter().enumerate() {
            let mut place = |value: ValueId, bytes: usize| -> Result<Place, HalError> {
                if let Some(&known) = places.get(&value) {
                    return Ok(known);
                }
                let desc = BufferDesc::host(graph.value(value).name.as_str(), bytes);
                between.push(self.inner.allocate(&desc)?);
                let made = Place::Between(between.len() - 1);
                places.insert(value, made);
                Ok(made)
            };
            let (mut inputs, mut outputs, mut noted) = (Vec::new(), Vec::new(), Vec::new());
            let ports = info.inputs.iter().map(|p| (p, false));
            for (port, output) in ports.chain(info.outputs.iter().map(|p| (p, true))) {
                let at = place(port.value, port.max_bytes)?;
                let list = if output { &mut outputs } else { &mut inputs };
                list.push(at);
                // what another node made was noted there
                if port.ty.dtype == DType::F32 && (output || matches!(at, Place::Input(_))) {
                    let name = graph.value(port.value).name.clone();
                    noted.push((name, port.ty.clone(), at));
                }
            }
            let state = |state| whole.states.iter().position(|s| s.state == state);
            let states = info.states.iter().filter_map(|s| state(s.state));
            parts.push(Part {
                entry: first + i,
                inputs,
                outputs,
                states: states.collect(),
                noted,
            });
        }
        Ok(parts)
    }
}

impl Device for RecordDevice {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        self.inner.support(graph)
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let mut single = Vec::new();
        for entry in entries {
            single.extend(entry.nodes.clone().map(|node| Entry {
                name: format!("{}.{node}", entry.name),
                graph: entry.graph.clone(),
                nodes: node..node + 1,
                bounds: entry.bounds.clone(),
            }));
        }
        let inner = self.inner.compile(&single, options, weights, progress)?;
        let (mut infos, mut runs, mut between, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for entry in entries {
            let info = EntryInfo::describe(entry, options.state_dtype)?;
            let count = entry.nodes.len();
            let nodes = inner.entries().get(first..first + count);
            let nodes = nodes.unwrap_or_default();
            runs.push(self.parts(&entry.graph, &info, nodes, first, &mut between)?);
            infos.push(info);
            first += count;
        }
        Ok(Arc::new(RecordModule {
            inner,
            entries: infos,
            runs,
            between,
        }))
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.allocate(desc)
    }

    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.import(handle, desc)
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Module for RecordModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.entries
    }

    fn resident_bytes(&self) -> u64 {
        let between = self.between.iter().map(|b| b.desc().bytes as u64);
        self.inner
            .resident_bytes()
            .saturating_add(between.sum::<u64>())
    }

    /// Where the other device takes them in a run of each node.
    fn sequences(&self, entry: usize) -> Support {
        let parts = self.runs.get(entry).map_or(&[][..], Vec::as_slice);
        let verdicts = parts.iter().map(|part| self.inner.sequences(part.entry));
        let mut refused = verdicts.filter(|v| *v != Support::Yes);
        refused.next().unwrap_or(Support::Yes)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl RecordQueue {
    fn run(
        &self,
        s: &Submission<'_>,
        info: &EntryInfo,
        module: &RecordModule,
    ) -> Result<(), HalError> {
        let timeline = Timeline::new("record");
        let parts = module.runs.get(s.entry).map_or(&[][..], Vec::as_slice);
        for (part, n) in parts.iter().zip(1u64..) {
            let at = |place: &Place| match *place {
                Place::Input(i) => s.inputs[i].clone(),
                Place::Output(i) => s.outputs[i].clone(),
                Place::Between(i) => module.between[i].clone(),
            };
            let inputs: Vec<_> = part.inputs.iter().map(at).collect();
            let outputs: Vec<_> = part.outputs.iter().map(at).collect();
            // of each sequence, those of the node
            let per = info.states.len().max(1);
            let states = s
                .states
                .chunks(per)
                .flat_map(|of| part.states.iter().map(|i| of[*i].clone()));
            let states: Vec<_> = states.collect();
            let signal = timeline.point(n);
            self.inner.queue().submit(&Submission {
                module: &module.inner,
                entry: part.entry,
                inputs: &inputs,
                outputs: &outputs,
                states: &states,
                sequences: s.sequences,
                symbols: s.symbols,
                wait: &[],
                signal: &signal,
            })?;
            signal.wait(LIMIT)?;
            for (name, ty, place) in &part.noted {
                self.note(name, ty, &at(place), &s.symbols)?;
            }
        }
        Ok(())
    }

    fn note(
        &self,
        name: &str,
        ty: &TensorType,
        buffer: &Arc<dyn Buffer>,
        symbols: &SymbolValues,
    ) -> Result<(), HalError> {
        let mut bytes = vec![0; ty.bytes(symbols).unwrap_or(0)];
        // SAFETY: the node that wrote the buffer has ended, and the submission's operands are read by nobody else.
        unsafe { read_bytes(&**buffer, 0, &mut bytes)? };
        let numbers = bytes.chunks_exact(4);
        let numbers = numbers.map(|b| f32::from_ne_bytes(b.try_into().unwrap_or_default()));
        self.recorder.note(name, numbers);
        Ok(())
    }
}

impl Queue for RecordQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        let module = s.module.as_any().downcast_ref::<RecordModule>();
        let module = module.ok_or_else(|| HalError::InvalidUse {
            call: "submit",
            what: "module".into(),
            found: "one of another device".into(),
            expected: "one that is recorded".into(),
        })?;
        for point in s.wait {
            point.wait(LIMIT)?;
        }
        let mut counters = self.counters.lock();
        let before = self.inner.queue().counters().busy_ns;
        match self.run(s, info, module) {
            Ok(()) => {
                counters.submissions += 1;
                counters.nodes += u64::from(info.nodes);
                let after = self.inner.queue().counters().busy_ns;
                counters.busy_ns += after.saturating_sub(before);
                s.signal.signal();
            }
            Err(e) => {
                s.signal.fail(e);
            }
        }
        Ok(())
    }

    fn counters(&self) -> Counters {
        *self.counters.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_all_runs_had_but_for_what_is_no_number() {
        let recorder = Recorder::default();
        recorder.note("x", [1.0, -2.0, f32::NAN].into_iter());
        recorder.note("x", [3.0, f32::INFINITY].into_iter());
        recorder.note("y", [f32::NAN].into_iter());
        let ranges = recorder.ranges();
        assert_eq!(
            ranges.into_iter().collect::<Vec<_>>(),
            [("x".into(), [-2.0, 3.0])]
        );
    }
}
