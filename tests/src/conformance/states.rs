//! States and steps that follow each other.

use std::sync::Arc;

use anynpu_cpu::reference::{StateDataMut, StateStore, States, Tensor};
use anynpu_hal::HalError;
use anynpu_ir::{
    AttentionKv, DType, Dim, Graph, GraphError, Op, Shape, StateId, Symbol, SymbolValues,
    TensorType,
};

use super::bounds::{Bound, Class, compute, magnitude};
use super::job::{Given, Job, Named, at_most, claimed_but, exact, obstacle, sizes};
use super::outcome::{Check, Stop, refused};
use super::sample::reference;
use super::suite::{Context, TestCase};
use super::values::Values;
use crate::cases::tensor;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const D: usize = 32;

/// The cases `states/…`.
pub(super) fn cases() -> Vec<TestCase> {
    let case = |name: &str, op, check: fn(&Context) -> Check| {
        TestCase::new(format!("states/{name}"), Some(op), check)
    };
    vec![
        case("append_then_attend", "Attention", |c| {
            step(c, None, DType::F32)
        }),
        case("append_then_attend_window", "Attention", |c| {
            step(c, Some(3), DType::F32)
        }),
        case("append_then_attend_f16", "Attention", |c| {
            step(c, None, DType::F16)
        }),
        case("append_then_attend_bf16", "Attention", |c| {
            step(c, None, DType::BF16)
        }),
        case("append_then_attend_q8_0", "Attention", |c| {
            step(c, None, DType::Q8_0)
        }),
        case("chunked_as_whole", "KvAppend", chunked),
        case("decode_token_by_token", "Attention", decode),
        case("repeated_step", "KvAppend", repeated),
        case("append_at_a_fixed_row", "KvAppend", |c| {
            append(c, Dim::Fixed(3), 0)
        }),
        case("append_along_the_middle_axis", "KvAppend", |c| {
            append(c, Dim::Fixed(1), 1)
        }),
        case("append_past_the_end", "KvAppend", past_the_end),
        case("read_all_rows", "StateRead", read),
    ]
}

fn fault(e: impl std::fmt::Display) -> Stop {
    Stop::failed(format!("no graph: {e}"), "a graph")
}

/// Appends keys and values and attends to all rows so far.
fn layer(window: Option<u32>) -> Result<Arc<Graph>, Stop> {
    let build = || -> Result<Graph, GraphError> {
        let mut g = Graph::new("layer");
        let ty = |first: Dim, heads: usize| {
            let dims = [first, Dim::Fixed(heads as u32), Dim::Fixed(D as u32)];
            TensorType::new(DType::F32, dims)
        };
        let q = g.add_input("q", ty(Dim::TOKENS, HEADS))?;
        let k = g.add_input("k", ty(Dim::TOKENS, KV_HEADS))?;
        let v = g.add_input("v", ty(Dim::TOKENS, KV_HEADS))?;
        let positions = TensorType::new(DType::I32, [Dim::TOKENS]);
        let positions = g.add_input("positions", positions)?;
        let keys = g.add_state("keys", ty(Dim::CAPACITY, KV_HEADS), 0)?;
        let values = g.add_state("values", ty(Dim::CAPACITY, KV_HEADS), 0)?;
        for (name, state, rows) in [("append_k", keys, k), ("append_v", values, v)] {
            let at = Dim::CACHED;
            g.add_node(name, Op::KvAppend { state, at }, &[rows])?;
        }
        let attention = Op::Attention {
            kv: AttentionKv::State { k: keys, v: values },
            causal: true,
            mask: false,
            scale: 0.125,
            soft_cap: None,
            window,
        };
        let y = g.add("y", attention, &[q, positions])?;
        g.set_output(y)?;
        Ok(g)
    };
    build().map(Arc::new).map_err(fault)
}

/// The layer's operands: rows `first..first + tokens` of one long sequence.
fn rows(context: &Context, symbols: &SymbolValues) -> Vec<Tensor> {
    let (first, n) = (symbols.get(Symbol::CACHED), symbols.get(Symbol::TOKENS));
    let row = |name: &str, heads: usize| {
        let all = (first..first + n).flat_map(|t| {
            Values::new(context.options().seed, &format!("{name} {t}")).floats(heads * D)
        });
        tensor(&[n as usize, heads, D], all.collect::<Vec<_>>())
    };
    let positions: Vec<i32> = (first..first + n).map(|p| p as i32).collect();
    vec![
        row("q", HEADS),
        row("k", KV_HEADS),
        row("v", KV_HEADS),
        tensor(&[n as usize], positions),
    ]
}

/// A step of the layer whose states hold what is there before it.
fn job(
    context: &Context,
    graph: &Arc<Graph>,
    symbols: SymbolValues,
    dtype: DType,
) -> Result<Job, Stop> {
    let inputs = rows(context, &symbols);
    let mut job =
        Job::whole(graph.clone(), &inputs, Arc::new(Named::default()), symbols).map_err(fault)?;
    job.state_dtype = dtype;
    job.states = StateStore::kept(graph, &symbols, Some(dtype)).map_err(fault)?;
    let cached = symbols.get(Symbol::CACHED);
    if cached > 0 {
        // rows before the step, by the reference
        let mut before = symbols;
        before.set(Symbol::CACHED, 0);
        before.set(Symbol::TOKENS, cached);
        let inputs = rows(context, &before);
        let none = Arc::new(Named::default());
        let mut earlier = Job::whole(graph.clone(), &inputs, none, before).map_err(fault)?;
        earlier.state_dtype = dtype;
        earlier.states = job.states.clone();
        let given = reference(&earlier)?;
        fill(&mut job.states, graph, &given.states);
    }
    Ok(job)
}

/// Puts `bytes` into the states, one after the other.
pub(crate) fn fill(states: &mut StateStore, graph: &Graph, bytes: &[Vec<u8>]) {
    for (i, from) in bytes.iter().enumerate().take(graph.states().len()) {
        if let Some(state) = states.get_mut(StateId(i as u32))
            && let StateDataMut::Raw { bytes, .. } = state.data
        {
            bytes.copy_from_slice(from);
        }
    }
}

fn claim(context: &Context, job: &Job) -> Check {
    match obstacle(context.device(), &job.run())? {
        Some(why) => Err(Stop::NotClaimed(why)),
        None => Ok(()),
    }
}

/// Compares results, and states: rows of the step within the bound, all others bit for bit.
fn compare(context: &Context, job: &Job, found: &Given, expected: &Given) -> Check {
    let computed = compute(context.capabilities());
    let bound = |class, scale| Bound {
        class,
        computed,
        scale,
    };
    for (i, (found, expected)) in found.outputs.iter().zip(&expected.outputs).enumerate() {
        bound(Class::Composite, magnitude(expected)).check(
            &format!("output {i}"),
            found,
            expected,
        )?;
    }
    let before = job.states.clone();
    for (i, (found, expected)) in found.states.iter().zip(&expected.states).enumerate() {
        if found == expected {
            continue;
        }
        let id = StateId(i as u32);
        let Some(state) = before.get(id) else {
            continue;
        };
        let (shape, axis) = (state.tensor.shape().to_vec(), state.axis as usize);
        let own = state
            .tensor
            .to_tensor()
            .map(|t| t.to_bytes())
            .unwrap_or_default();
        let row: usize = own.len() / shape[..=axis].iter().product::<usize>().max(1);
        for (at, ((found, expected), before)) in found
            .chunks(row.max(1))
            .zip(expected.chunks(row.max(1)))
            .zip(own.chunks(row.max(1)))
            .enumerate()
        {
            // a row that the reference left is not the step's
            if found != expected && before == expected {
                return Err(Stop::failed(
                    format!("row {} of state {i} was changed", at % shape[axis].max(1)),
                    "rows outside of the step as they were",
                ));
            }
        }
        let read = |bytes: &[u8]| {
            let tensor = Tensor::from_bytes(state.tensor.dtype(), &shape[..], bytes);
            let values = tensor.and_then(|t| t.to_f32()).map_err(fault)?;
            Ok::<_, Stop>(crate::cases::tensor(&shape, values))
        };
        let (found, expected) = (read(found)?, read(expected)?);
        let class = match state.tensor.dtype().is_block() {
            true => Class::Blocks,
            false => Class::Rounded,
        };
        let narrow = state.tensor.dtype();
        let own = Bound {
            class,
            computed: if narrow.is_float() && narrow != DType::F32 {
                narrow
            } else {
                computed
            },
            scale: magnitude(&expected),
        };
        own.check(&format!("state {i}"), &found, &expected)?;
    }
    Ok(())
}

fn step(context: &Context, window: Option<u32>, dtype: DType) -> Check {
    let graph = layer(window)?;
    let symbols = sizes(context.capabilities(), 4, 3, 1, 12);
    let job = job(context, &graph, symbols, dtype)?;
    claim(context, &job)?;
    let module = match job.compile(context.device()) {
        Ok(module) => module,
        // there is no verdict on the type that states are kept in; F32 and F16 are required
        Err(e @ (HalError::CompileRejected { .. } | HalError::InvalidUse { .. }))
            if !matches!(dtype, DType::F32 | DType::F16) =>
        {
            return Err(Stop::NotClaimed(format!("states in {dtype}: {e}")));
        }
        Err(e) => return Err(claimed_but(&e, "compile")),
    };
    let found = job.run_module(context.bench(), &module, 0)?;
    let mut expected = reference(&job)?;
    if dtype.is_block() {
        // attention over rows in blocks may read them in blocks
        let scale = expected.outputs.iter().map(magnitude).fold(0.0, f64::max);
        let bound = Bound {
            class: Class::Blocks,
            computed: compute(context.capabilities()),
            scale,
        };
        for (found, expected) in found.outputs.iter().zip(&expected.outputs) {
            bound.check("output 0", found, expected)?;
        }
        expected.outputs.clear();
    }
    compare(context, &job, &found, &expected)
}

/// Runs steps of these sizes one after the other and gives the last results and the states.
fn steps(context: &Context, parts: &[u32], capacity: u32) -> Result<(Job, Given), Stop> {
    let graph = layer(None)?;
    let limits = SymbolValues::step(parts.iter().sum(), capacity, 1, capacity);
    let mut cached = 0;
    let (mut states, mut last): (Option<Vec<Vec<u8>>>, _) = (None, None);
    for &tokens in parts {
        let symbols = SymbolValues::step(tokens, cached, 1, capacity);
        let mut job = job(context, &graph, symbols, DType::F32)?;
        claim(context, &job)?;
        job.bounds = match context.capabilities().features.dynamic_shapes {
            true => at_most(&limits),
            false => exact(&symbols),
        };
        if let Some(states) = &states {
            fill(&mut job.states, &graph, states);
        }
        let place = format!("{tokens} tokens after {cached}");
        let given = job.run_on(context.bench()).map_err(|e| e.at(&place))?;
        let expected = reference(&job)?;
        compare(context, &job, &given, &expected).map_err(|e| e.at(&place))?;
        states = Some(given.states.clone());
        last = Some((job, given));
        cached += tokens;
    }
    last.ok_or_else(|| fault("no steps"))
}

/// Sizes that steps may have.
fn allowed(context: &Context, wanted: &[u32], capacity: u32) -> Option<u32> {
    let fixed = context.capabilities().fixed_shapes.as_ref();
    let Some(fixed) = fixed else {
        return Some(capacity);
    };
    let tokens = |n: &u32| fixed.tokens.is_empty() || fixed.tokens.contains(n);
    let capacity = match fixed.capacities.is_empty() {
        true => Some(capacity),
        false => fixed
            .capacities
            .iter()
            .copied()
            .filter(|&c| c >= capacity)
            .min(),
    };
    capacity.filter(|_| wanted.iter().all(tokens))
}

fn chunked(context: &Context) -> Check {
    let one = sizes(context.capabilities(), 2, 0, 1, 12).get(Symbol::TOKENS);
    let whole = context.capabilities().fixed_shapes.as_ref();
    let whole = match whole.map(|f| f.tokens.as_slice()) {
        Some(tokens) if !tokens.is_empty() => tokens.iter().copied().find(|&t| t == 4 * one),
        _ => Some(4 * one),
    };
    let Some(whole) = whole else {
        return Err(Stop::Skipped(
            "its numbers of tokens are no multiples of each other".into(),
        ));
    };
    let Some(capacity) = allowed(context, &[one, whole], whole + 2) else {
        return Err(Stop::Skipped("no size of states fits the steps".into()));
    };
    let (job, whole) = steps(context, &[whole], capacity)?;
    let (_, chunked) = steps(context, &[one; 4], capacity)?;
    compare(
        context,
        &job,
        &Given {
            outputs: Vec::new(),
            states: chunked.states,
        },
        &Given {
            outputs: Vec::new(),
            states: whole.states,
        },
    )
}

fn decode(context: &Context) -> Check {
    match allowed(context, &[1], 12) {
        Some(capacity) => steps(context, &[1; 6], capacity).map(|_| ()),
        None => Err(Stop::Skipped("it takes no steps of one token".into())),
    }
}

/// A step run again gives the same bits and leaves the same states.
fn repeated(context: &Context) -> Check {
    let graph = layer(None)?;
    let symbols = sizes(context.capabilities(), 2, 3, 1, 12);
    let job = job(context, &graph, symbols, DType::F32)?;
    claim(context, &job)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let first = job.run_module(context.bench(), &module, 0)?;
    let mut again = job.clone();
    fill(&mut again.states, &graph, &first.states);
    let again = again.run_module(context.bench(), &module, 0)?;
    match first.outputs == again.outputs && first.states == again.states {
        true => Ok(()),
        false => Err(Stop::failed(
            "other bits by a step run again",
            "the same bits",
        )),
    }
}

/// A graph of one op on the state `s`, of shape `[6, 5, D]`.
fn single(
    axis: u32,
    build: impl FnOnce(&mut Graph, StateId) -> Result<(), GraphError>,
) -> Result<Arc<Graph>, Stop> {
    let mut g = Graph::new("state");
    let ty = TensorType::new(DType::F32, Shape::fixed(&[6, 5, D as u32]));
    let state = g.add_state("s", ty, axis).map_err(fault)?;
    build(&mut g, state).map_err(fault)?;
    Ok(Arc::new(g))
}

fn appending(axis: u32, at: Dim, n: u32) -> Result<Arc<Graph>, Stop> {
    single(axis, |g, state| {
        let mut dims = [6, 5, D as u32];
        dims[axis as usize] = n;
        let rows = g.add_input("rows", TensorType::new(DType::F32, Shape::fixed(&dims)))?;
        g.add_node("append", Op::KvAppend { state, at }, &[rows])?;
        Ok(())
    })
}

/// A job of a graph on a state that holds numbers.
fn on_state(context: &Context, graph: &Arc<Graph>) -> Result<Job, Stop> {
    let symbols = sizes(context.capabilities(), 0, 0, 0, 6);
    let mut values = Values::new(context.options().seed, "state");
    let inputs = graph.inputs().iter();
    let inputs: Vec<Tensor> = inputs
        .map(|&id| values.tensor(DType::F32, &graph.ty(id).shape.resolve(&symbols)))
        .collect();
    let mut job =
        Job::whole(graph.clone(), &inputs, Arc::new(Named::default()), symbols).map_err(fault)?;
    let held = values.tensor(DType::F32, &[6, 5, D]).to_bytes();
    fill(&mut job.states, graph, &[held]);
    Ok(job)
}

fn append(context: &Context, at: Dim, axis: u32) -> Check {
    let graph = appending(axis, at, 2)?;
    let job = on_state(context, &graph)?;
    claim(context, &job)?;
    let found = job.run_on(context.bench())?;
    compare(context, &job, &found, &reference(&job)?)
}

fn past_the_end(context: &Context) -> Check {
    let graph = appending(0, Dim::Fixed(5), 3)?;
    let job = on_state(context, &graph)?;
    claim(context, &job)?;
    let module = match job.compile(context.device()) {
        Ok(module) => module,
        Err(e @ (HalError::DeviceLost { .. } | HalError::Timeout { .. })) => return Err(e.into()),
        // known when compiling
        Err(_) => return Ok(()),
    };
    let info = job.described(&*module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    let before = binding.states()?;
    refused(
        binding.run(context.bench(), &module, 0),
        "rows past the state's end",
    )?;
    binding.check_bounds()?;
    match binding.states()? == before {
        true => Ok(()),
        false => Err(Stop::failed("a state that was written", "nothing written")),
    }
}

fn read(context: &Context) -> Check {
    let graph = single(0, |g, state| {
        let all = g.add("all", Op::StateRead { state }, &[])?;
        g.set_output(all)
    })?;
    let job = on_state(context, &graph)?;
    claim(context, &job)?;
    let found = job.run_on(context.bench())?;
    compare(context, &job, &found, &reference(&job)?)
}
