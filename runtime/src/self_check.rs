//! Trying what a device claims: one node of each kind that a model has, beside a device that runs everything.
//!
//! A vendor's library may say yes and then give wrong numbers, fail, or end its process. With a driver in a
//! helper process ([`anynpu_hal::isolate`]) even the last is only a verdict.

use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::{
    Bounds, BufferDesc, CompileOptions, Device, Entry, Extent, HalError, Module, Support, Timeline,
    WeightSource,
};
use anynpu_ir::{
    AttentionKv, DType, Graph, Node, NodeId, Op, Symbol, SymbolValues, TensorType, weight_dtype,
};
use serde::{Deserialize, Serialize};

use crate::memory::{Bound, SlotId, Slots};
use crate::{OpenModel, Runtime, RuntimeError};

/// What came of trying a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SelfCheck {
    /// The device.
    pub device: String,
    /// The device it was compared with.
    pub against: String,
    /// One entry a kind of node, in the order of the model.
    pub kinds: Vec<CheckedKind>,
}

/// Nodes of the same op over the same types.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CheckedKind {
    /// Their op, with what devices may tell apart: `Activation silu`.
    pub op: String,
    /// The type of the weights they multiply by, if they do.
    pub weights: Option<&'static str>,
    /// The node that was tried.
    pub node: String,
    /// All of them.
    #[serde(skip)]
    pub nodes: Vec<NodeId>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of trying one kind of node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The numbers agree.
    Agrees {
        /// The largest difference over the largest number.
        error: f64,
    },
    /// The numbers are others.
    Differs {
        /// The largest difference over the largest number, at most 1e9.
        error: f64,
        /// The most that is allowed.
        limit: f64,
    },
    /// The device says that it doesn't run it.
    Refused {
        /// Its reason.
        why: String,
    },
    /// It said yes and failed.
    Failed {
        /// What it said.
        why: String,
    },
    /// It was gone afterwards.
    Lost {
        /// What was seen.
        why: String,
    },
}

impl Outcome {
    /// Why nodes of the kind must not go to the device, if so. That it says no itself is known.
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Outcome::Agrees { .. } | Outcome::Refused { .. } => None,
            Outcome::Differs { error, limit } => Some(format!(
                "when it was tried its numbers were off by {error:.1e}, at most {limit:.0e} is allowed"
            )),
            Outcome::Failed { why } => Some(format!("when it was tried it failed: {why}")),
            Outcome::Lost { why } => Some(format!("when it was tried the device was lost: {why}")),
        }
    }

    fn of(e: HalError) -> Outcome {
        let why = e.to_string();
        match e {
            HalError::CompileRejected { .. } => Outcome::Refused { why },
            HalError::DeviceLost { .. } => Outcome::Lost { why },
            _ => Outcome::Failed { why },
        }
    }
}

/// Difference over the largest number that devices which compute in 16 bits, or round activations to 8, stay within.
const LIMIT: f64 = 2e-2;
/// What numbers that can't be compared differ by.
const LARGEST: f64 = 1e9;
/// Times that a lost device is opened again.
const REOPENED: u32 = 8;
/// Rows of a trial, where the device takes any number.
const ROWS: u32 = 8;
/// Longest time of a trial.
const LONGEST: Duration = Duration::from_secs(60);

impl Runtime {
    /// Runs one node of each kind that `open` has on `device`, opened once more for it, and on a device that runs
    /// everything, with the model's weights and made-up inputs, and compares.
    ///
    /// # Errors
    /// No such device, no other one to compare with, weights that can't be read. What the device itself does
    /// wrong is an outcome.
    pub fn self_check(&self, open: &OpenModel, device: &str) -> Result<SelfCheck, RuntimeError> {
        let mut trials = Trials::new(self, device)?;
        let weights = crate::exec::weights_of(open.model());
        let mut kinds = Vec::new();
        trials.try_kinds(open.model().graph(), &weights, &mut kinds, &mut || true)?;
        Ok(SelfCheck {
            device: device.to_owned(),
            against: trials.against.info().name.clone(),
            kinds: kinds.into_iter().map(|(_, kind)| kind).collect(),
        })
    }
}

/// Kinds that were tried, by what makes them a kind.
pub(crate) type Tried = Vec<(String, CheckedKind)>;

/// A device being tried, apart from its use elsewhere, and one to compare it with.
pub(crate) struct Trials<'a> {
    runtime: &'a Runtime,
    tried: Arc<dyn Device>,
    against: Arc<dyn Device>,
    losses: u32,
}

impl<'a> Trials<'a> {
    /// Opens the device called `name` once more.
    pub fn new(runtime: &'a Runtime, name: &str) -> Result<Self, RuntimeError> {
        let devices = runtime.devices();
        let names: Vec<&str> = devices.iter().map(|d| d.info().name.as_str()).collect();
        if !names.contains(&name) {
            return Err(RuntimeError::UnknownDevice {
                what: "the self-check".into(),
                device: name.into(),
                devices: names.join(", "),
            });
        }
        let baseline =
            |d: &&Arc<dyn Device>| d.capabilities().features.baseline && d.info().name != name;
        let against = devices.iter().find(baseline);
        let against = against.ok_or_else(|| RuntimeError::NoDevice {
            why: format!(
                "none to compare '{name}' with; in use: {}",
                names.join(", ")
            ),
        })?;
        Ok(Trials {
            runtime,
            tried: runtime.open_again(name)?,
            against: against.clone(),
            losses: 0,
        })
    }

    /// Tries one node of each kind of `graph` that is not in `kinds`, until `go_on` says no.
    pub fn try_kinds(
        &mut self,
        graph: &Arc<Graph>,
        weights: &Arc<dyn WeightSource>,
        kinds: &mut Tried,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), RuntimeError> {
        let verdicts = self.tried.support(&graph.whole());
        for (n, node) in graph.nodes().iter().enumerate() {
            let id = NodeId(n as u32);
            let signature = signature(graph, node);
            if let Some((_, kind)) = kinds.iter_mut().find(|(s, _)| *s == signature) {
                kind.nodes.push(id);
                continue;
            }
            if !go_on() {
                return Ok(());
            }
            let outcome = match verdicts.get(n) {
                Some(Support::No(reason)) => Outcome::Refused {
                    why: reason.to_string(),
                },
                _ => self.try_node(graph, id, weights)?,
            };
            let kind = CheckedKind {
                op: kind_name(&node.op),
                weights: weights_of_kind(graph, node).map(|d| d.name()),
                node: node.name.clone(),
                nodes: vec![id],
                outcome,
            };
            kinds.push((signature, kind));
        }
        Ok(())
    }

    fn try_node(
        &mut self,
        graph: &Arc<Graph>,
        node: NodeId,
        weights: &Arc<dyn WeightSource>,
    ) -> Result<Outcome, RuntimeError> {
        if self.losses > REOPENED {
            return Ok(Outcome::Lost {
                why: format!("not tried, as it was lost {} times before", self.losses),
            });
        }
        let outcome = compare(graph, node, &self.tried, &self.against, weights)?;
        if matches!(outcome, Outcome::Lost { .. }) {
            self.losses += 1;
            match self.runtime.open_again(&self.tried.info().name) {
                Ok(device) => self.tried = device,
                Err(e) => {
                    tracing::debug!("it does not open again: {e}");
                    self.losses = u32::MAX;
                }
            }
        }
        Ok(outcome)
    }
}

/// The type of the weights that make a kind of `node`: those it multiplies by, or looks rows up in.
pub(crate) fn weights_of_kind(graph: &Graph, node: &Node) -> Option<DType> {
    let table = node.inputs.first().filter(|_| node.op == Op::Embedding);
    weight_dtype(graph, node).or_else(|| table.map(|&table| graph.ty(table).dtype))
}

/// The name of `op` with what devices may tell apart.
pub(crate) fn kind_name(op: &Op) -> String {
    let name = op.name();
    match op {
        Op::Activation(a) | Op::GatedActivation(a) => format!("{name} {}", a.name()),
        Op::Unary(u) => format!("{name} {}", u.name()),
        Op::Binary(b) => format!("{name} {}", b.name()),
        Op::Rope { style, .. } => format!("{name} {}", style.name()),
        Op::Attention {
            kv,
            causal,
            soft_cap,
            window,
            ..
        } => {
            let words = [
                (matches!(kv, AttentionKv::Operands), " operands"),
                (*causal, " causal"),
                (soft_cap.is_some(), " soft_cap"),
                (window.is_some(), " window"),
            ];
            let words = words.iter().filter(|(holds, _)| *holds);
            words.fold(name.to_owned(), |all, (_, word)| all + word)
        }
        _ => name.to_owned(),
    }
}

/// Equal for nodes that a device can't tell apart but by their numbers.
fn signature(graph: &Graph, node: &Node) -> String {
    let types = node.inputs.iter().chain(&node.outputs);
    let types: Vec<String> = types.map(|&v| graph.ty(v).to_string()).collect();
    // states are numbered by layer
    let op = match &node.op {
        Op::Attention {
            causal,
            mask,
            scale,
            soft_cap,
            window,
            ..
        } => format!("Attention {causal} {mask} {scale} {soft_cap:?} {window:?}"),
        Op::KvAppend { .. } | Op::StateRead { .. } => node.op.name().to_owned(),
        op => format!("{op:?}"),
    };
    format!("{op} {}", types.join(" "))
}

/// Runs `node` on both devices. An error is one of the device that it is compared with.
fn compare(
    graph: &Arc<Graph>,
    node: NodeId,
    tried: &Arc<dyn Device>,
    against: &Arc<dyn Device>,
    weights: &Arc<dyn WeightSource>,
) -> Result<Outcome, RuntimeError> {
    let Some((rows, capacity)) = sizes(&**tried) else {
        return Ok(Outcome::Refused {
            why: "it takes no steps of any size".into(),
        });
    };
    let entry = Entry {
        name: "trial".into(),
        graph: graph.clone(),
        nodes: node.0..node.0 + 1,
        bounds: Bounds::new()
            .with(Symbol::TOKENS, Extent::Exact(rows))
            .with(Symbol::CACHED, Extent::AtMost(capacity))
            .with(Symbol::OUTPUTS, Extent::Exact(1))
            .with(Symbol::CAPACITY, Extent::Exact(capacity)),
    };
    let symbols = SymbolValues::step(rows, 0, 1, capacity);
    let expected = run(&entry, against, weights, symbols)?;
    let found = match run(&entry, tried, weights, symbols) {
        Ok(found) => found,
        Err(e) => return Ok(Outcome::of(e)),
    };
    let error = difference(&expected, &found);
    Ok(match error <= LIMIT {
        true => Outcome::Agrees { error },
        false => Outcome::Differs {
            error,
            limit: LIMIT,
        },
    })
}

/// Tokens and rows of states of a trial.
fn sizes(device: &dyn Device) -> Option<(u32, u32)> {
    let capabilities = device.capabilities();
    if capabilities.features.dynamic_shapes {
        return Some((ROWS, 2 * ROWS));
    }
    let fixed = capabilities.fixed_shapes.as_ref()?;
    let tokens = match fixed.tokens.as_slice() {
        [] => ROWS,
        tokens => tokens
            .iter()
            .copied()
            .find(|&t| t >= ROWS)
            .or(tokens.last().copied())?,
    };
    let capacity = match fixed.capacities.as_slice() {
        [] => tokens,
        capacities => capacities.iter().copied().find(|&c| c >= tokens)?,
    };
    Some((tokens, capacity))
}

/// What a device made of an entry: the results, then the states.
struct Results {
    values: Vec<(DType, Vec<u8>)>,
}

fn run(
    entry: &Entry,
    device: &Arc<dyn Device>,
    weights: &Arc<dyn WeightSource>,
    symbols: SymbolValues,
) -> Result<Results, HalError> {
    let graph = &entry.graph;
    let options = CompileOptions::new(DType::F32);
    let entries = std::slice::from_ref(entry);
    let module = device.compile(entries, &options, weights.clone(), &mut |_, _| true)?;
    let info = module.entries().first().cloned();
    let info = info.ok_or_else(|| HalError::InvalidUse {
        call: "compile",
        what: format!("number of entries of '{}'", device.info().name),
        found: "0".into(),
        expected: "1".into(),
    })?;
    let mut slots = Slots::default();
    let mut seed = 1;
    let mut memory = |slots: &mut Slots, name: &str, ty: &TensorType, filled: bool| {
        let bytes = ty.bytes(&symbols).ok_or_else(|| HalError::OutOfMemory {
            device: device.info().name.clone(),
            bytes: u64::MAX,
            what: name.to_owned(),
        })?;
        let slot = slots.allocate(0, &**device, BufferDesc::host(name, bytes))?;
        if filled {
            slots.write(slot, bytes, |memory| fill(memory, ty.dtype, &mut seed))?;
        }
        Ok::<(SlotId, usize), HalError>((slot, bytes))
    };
    let (mut inputs, mut outputs, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for port in &info.inputs {
        let name = &graph.value(port.value).name;
        inputs.push(memory(&mut slots, name, &port.ty, true)?.0);
    }
    for port in &info.outputs {
        let name = &graph.value(port.value).name;
        outputs.push((port.ty.dtype, memory(&mut slots, name, &port.ty, false)?));
    }
    for port in &info.states {
        let state = graph.state(port.state);
        let ty = TensorType::new(port.dtype, state.ty.shape.clone());
        states.push((port.dtype, memory(&mut slots, &state.name, &ty, true)?));
    }
    let made: Vec<SlotId> = outputs.iter().map(|(_, (slot, _))| *slot).collect();
    let homes: Vec<SlotId> = states.iter().map(|(_, (slot, _))| *slot).collect();
    let bound = Bound {
        inputs: &inputs,
        outputs: &made,
        states: &homes,
    };
    let module: Arc<dyn Module> = module;
    let prepared = slots.prepare(0, module, 0, bound)?;
    let timeline = Timeline::new(device.info().name.as_str());
    slots.run(
        prepared,
        device.queue(),
        symbols,
        &timeline.point(1),
        LONGEST,
    )?;
    let mut values = Vec::new();
    for (dtype, (slot, bytes)) in outputs.into_iter().chain(states) {
        values.push((dtype, slots.read(slot, bytes)?.to_vec()));
    }
    Ok(Results { values })
}

/// Numbers in -1..1 of a fixed sequence, or 0, 1, 2, … for integers: positions, tokens and rows.
fn fill(memory: &mut [u8], dtype: DType, seed: &mut u32) {
    match dtype {
        DType::F32 => {
            for x in memory.chunks_exact_mut(4) {
                *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let number = (*seed >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
                x.copy_from_slice(&number.to_ne_bytes());
            }
        }
        DType::I32 => {
            for (i, x) in (0i32..).zip(memory.chunks_exact_mut(4)) {
                x.copy_from_slice(&i.to_ne_bytes());
            }
        }
        // of other types zeros are as good as any
        _ => {}
    }
}

/// The largest difference over the largest number; [`LARGEST`] where bytes that are no numbers differ.
fn difference(expected: &Results, found: &Results) -> f64 {
    let (mut most, mut largest) = (0f64, f64::MIN_POSITIVE);
    for ((dtype, a), (other, b)) in expected.values.iter().zip(&found.values) {
        if dtype != other || a.len() != b.len() {
            return LARGEST;
        }
        if *dtype != DType::F32 {
            most = if a == b { most } else { f64::INFINITY };
            continue;
        }
        let numbers = |bytes: &[u8]| -> Vec<f64> {
            let number = |x: &[u8]| f32::from_ne_bytes(x.try_into().unwrap_or_default());
            bytes
                .chunks_exact(4)
                .map(|x| f64::from(number(x)))
                .collect()
        };
        for (a, b) in numbers(a).into_iter().zip(numbers(b)) {
            largest = largest.max(a.abs());
            let apart = (a - b).abs();
            // what is no number is as far off as can be
            most = if apart.is_nan() {
                f64::INFINITY
            } else {
                most.max(apart)
            };
        }
    }
    (most / largest).min(LARGEST)
}

#[cfg(test)]
mod tests {
    use anynpu_hal::driver::chaos::{ChaosDriver, Fault};
    use anynpu_hal::driver::noop::NoopDriver;

    use super::*;
    use crate::knobs::Knobs;
    use crate::testing::tiny_llama;

    fn check(driver: Box<dyn anynpu_hal::Driver>, device: &str) -> SelfCheck {
        let drivers = vec![driver, Box::new(anynpu_cpu::CpuDriver) as Box<_>];
        let builder = Runtime::builder().drivers(drivers).knobs(Knobs::default());
        let runtime = builder.device(device).device("cpu").build().unwrap();
        let open = OpenModel::new(tiny_llama(3), None);
        let check = runtime.self_check(&open, device).unwrap();
        let nodes: usize = check.kinds.iter().map(|k| k.nodes.len()).sum();
        assert_eq!(nodes, open.model().graph().nodes().len());
        assert!(check.kinds.len() < nodes / 2, "{}", check.kinds.len());
        check
    }

    fn chaos(faults: Vec<Fault>) -> Box<dyn anynpu_hal::Driver> {
        Box::new(ChaosDriver::new(Box::new(anynpu_cpu::CpuDriver), faults))
    }

    #[test]
    fn a_device_that_computes_alike_agrees_in_every_kind() {
        let check = check(chaos(Vec::new()), "chaos");
        assert_eq!(check.against, "cpu");
        for kind in &check.kinds {
            assert_eq!(
                kind.outcome,
                Outcome::Agrees { error: 0.0 },
                "{}",
                kind.node
            );
            assert_eq!(kind.outcome.obstacle(), None);
        }
    }

    #[test]
    fn a_device_that_computes_nothing_differs_where_there_is_something_to_compute() {
        let check = check(Box::new(NoopDriver), "noop");
        let linear = check.kinds.iter().find(|k| k.op == "Linear").unwrap();
        let Outcome::Differs { error, limit } = linear.outcome else {
            panic!("{:?}", linear.outcome);
        };
        assert!(error > limit);
        assert!(
            linear
                .outcome
                .obstacle()
                .unwrap()
                .contains("numbers were off")
        );
    }

    #[test]
    fn what_fails_or_is_lost_is_an_outcome_and_the_rest_is_tried() {
        let failing = check(chaos(vec![Fault::FailAfterSubmit(2)]), "chaos");
        let failed = |k: &&CheckedKind| matches!(k.outcome, Outcome::Failed { .. });
        assert_eq!(failing.kinds.iter().filter(failed).count(), 1);
        let agree = |k: &&CheckedKind| matches!(k.outcome, Outcome::Agrees { .. });
        assert_eq!(
            failing.kinds.iter().filter(agree).count(),
            failing.kinds.len() - 1
        );
        // opened again it is lost again at its third
        let lost = check(chaos(vec![Fault::LoseAtSubmit(3)]), "chaos");
        let gone = |k: &&CheckedKind| matches!(k.outcome, Outcome::Lost { .. });
        assert_eq!(lost.kinds.iter().filter(gone).count(), lost.kinds.len() / 3);
    }
}
