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
use anynpu_ir::{DType, Graph, Node, NodeId, Op, Symbol, SymbolValues, TensorType, weight_dtype};
use serde::Serialize;

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
    /// Their op.
    pub op: &'static str,
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
#[derive(Clone, Debug, PartialEq, Serialize)]
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
        /// The largest difference over the largest number.
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
/// Rows of a trial, where the device takes any number.
const ROWS: u32 = 8;
/// Longest time of a trial.
const LONGEST: Duration = Duration::from_secs(60);

impl Runtime {
    /// Runs one node of each kind that `open` has on `device` and on a device that runs everything, with the
    /// model's weights and made-up inputs, and compares.
    ///
    /// # Errors
    /// No such device, no other one to compare with, weights that can't be read. What the device itself does
    /// wrong is an outcome.
    pub fn self_check(&self, open: &OpenModel, device: &str) -> Result<SelfCheck, RuntimeError> {
        let devices = self.devices();
        let named = devices.iter().find(|d| d.info().name == device);
        let names = || -> String {
            let names: Vec<&str> = devices.iter().map(|d| d.info().name.as_str()).collect();
            names.join(", ")
        };
        let tried = named.ok_or_else(|| RuntimeError::UnknownDevice {
            what: "the self-check".into(),
            device: device.into(),
            devices: names(),
        })?;
        let baseline =
            |d: &&Arc<dyn Device>| d.capabilities().features.baseline && d.info().name != device;
        let against = devices.iter().find(baseline);
        let against = against.ok_or_else(|| RuntimeError::NoDevice {
            why: format!("none to compare '{device}' with; in use: {}", names()),
        })?;
        let graph = open.model().graph();
        let weights = crate::exec::weights_of(open.model());
        let verdicts = tried.support(&graph.whole());
        let mut kinds: Vec<(String, CheckedKind)> = Vec::new();
        for (n, node) in graph.nodes().iter().enumerate() {
            let id = NodeId(n as u32);
            let signature = signature(graph, node);
            if let Some((_, kind)) = kinds.iter_mut().find(|(s, _)| *s == signature) {
                kind.nodes.push(id);
                continue;
            }
            let outcome = match verdicts.get(n) {
                Some(Support::No(reason)) => Outcome::Refused {
                    why: reason.to_string(),
                },
                _ => compare(graph, id, tried, against, &weights)?,
            };
            let kind = CheckedKind {
                op: node.op.name(),
                weights: weight_dtype(graph, node).map(|d| d.name()),
                node: node.name.clone(),
                nodes: vec![id],
                outcome,
            };
            kinds.push((signature, kind));
        }
        Ok(SelfCheck {
            device: device.to_owned(),
            against: against.info().name.clone(),
            kinds: kinds.into_iter().map(|(_, kind)| kind).collect(),
        })
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

/// The largest difference over the largest number; infinite where bytes that are no numbers differ.
fn difference(expected: &Results, found: &Results) -> f64 {
    let (mut most, mut largest) = (0f64, f64::MIN_POSITIVE);
    for ((dtype, a), (other, b)) in expected.values.iter().zip(&found.values) {
        if dtype != other || a.len() != b.len() {
            return f64::INFINITY;
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
    most / largest
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
        let lost = check(chaos(vec![Fault::LoseAtSubmit(3)]), "chaos");
        let gone = |k: &&CheckedKind| matches!(k.outcome, Outcome::Lost { .. });
        assert_eq!(lost.kinds.iter().filter(gone).count(), lost.kinds.len() - 2);
    }
}
