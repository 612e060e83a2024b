//! Runs an entry: node by node, on candle's tensors.

mod attention;
mod elementwise;
mod layout;
mod linear;
mod state;

use std::sync::Arc;

use anynpu_hal::{EntryInfo, HalError, Submission};
use anynpu_ir::{Dim, Graph, Node, Op, Symbol, SymbolValues, ValueId};
use candle_core::{DType, Device, Tensor};

use crate::compile::Program;
use crate::{Fault, NAME, memory, tensors};
use state::Home;

/// Runs `program` on what `submission` binds, which [`Submission::check`] has passed. Results are written when all
/// nodes are done.
pub(crate) fn run(
    program: &Program,
    info: &EntryInfo,
    submission: &Submission<'_>,
) -> Result<(), HalError> {
    let symbols = &submission.symbols;
    check_symbols(program, symbols)?;
    check_apart(submission)?;
    let graph = &*program.graph;
    let homes = state::homes(graph, info, submission)?;
    let nodes = &graph.nodes()[program.nodes.start as usize..program.nodes.end as usize];
    check_room(graph, nodes, symbols)?;

    let mut frame = Frame {
        graph,
        symbols,
        homes: &homes,
        values: vec![None; graph.values().len()],
    };
    for (value, tensor) in &program.weights {
        frame.values[value.index()] = Some(tensor.clone());
    }
    for (port, buffer) in info.inputs.iter().zip(submission.inputs) {
        let ty = &port.ty;
        let bytes = memory::read(&**buffer, 0, ty.bytes(symbols).unwrap_or(0))?;
        let shape = ty.shape.resolve(symbols);
        let tensor = tensors::tensor(ty.dtype, &shape, &bytes);
        let name = &graph.value(port.value).name;
        let tensor = tensor.map_err(|e| e.of(format!("operand '{name}'")))?;
        frame.values[port.value.index()] = Some(tensor);
    }
    for node in nodes {
        frame.node(node)?;
    }
    for (port, buffer) in info.outputs.iter().zip(submission.outputs) {
        let name = &graph.value(port.value).name;
        let failed = |e: Fault| e.of(format!("result '{name}'"));
        let bytes = tensors::bytes(&frame.value(port.value).map_err(failed)?).map_err(failed)?;
        memory::write(&**buffer, 0, &bytes)?;
    }
    Ok(())
}

fn check_symbols(program: &Program, symbols: &SymbolValues) -> Result<(), HalError> {
    for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
        let (found, limit) = (symbols.get(symbol), program.limits.get(symbol));
        if found > limit {
            return Err(HalError::InvalidUse {
                call: "submit",
                what: format!("symbol {}", symbol.name()),
                found: found.to_string(),
                expected: format!("at most {limit}, as compiled"),
            });
        }
    }
    Ok(())
}

/// What is written is bound once.
fn check_apart(s: &Submission<'_>) -> Result<(), HalError> {
    let all = || s.outputs.iter().chain(s.states).chain(s.inputs);
    let written = s.outputs.len() + s.states.len();
    for (i, a) in all().take(written).enumerate() {
        if let Some(b) = all().skip(i + 1).find(|b| Arc::ptr_eq(a, b)) {
            return Err(HalError::InvalidUse {
                call: "submit",
                what: format!("buffer '{}'", b.desc().name),
                found: "bound twice".into(),
                expected: "bound once, being written".into(),
            });
        }
    }
    Ok(())
}

/// Fails where the results of all nodes do not fit in memory together, as candle ends the process then.
fn check_room(graph: &Graph, nodes: &[Node], symbols: &SymbolValues) -> Result<(), HalError> {
    let types = nodes.iter().flat_map(|n| &n.outputs).map(|&v| graph.ty(v));
    let mut bytes = types.map(|ty| ty.bytes(symbols));
    let total = bytes.try_fold(0usize, |sum, bytes| sum.checked_add(bytes?));
    match total {
        Some(total) if Vec::<u8>::new().try_reserve_exact(total).is_ok() => Ok(()),
        _ => Err(HalError::OutOfMemory {
            device: NAME.into(),
            bytes: total.map_or(u64::MAX, |n| n as u64),
            what: "results of nodes".into(),
        }),
    }
}

/// One run of a program.
struct Frame<'a> {
    graph: &'a Graph,
    symbols: &'a SymbolValues,
    homes: &'a [Home<'a>],
    values: Vec<Option<Tensor>>,
}

impl Frame<'_> {
    fn value(&self, id: ValueId) -> Result<Tensor, Fault> {
        self.values[id.index()].clone().ok_or_else(|| {
            Fault::operand(
                format!("value '{}'", self.graph.value(id).name),
                "absent".into(),
                "bound, or made by an earlier node".into(),
            )
        })
    }

    /// Runs one node and keeps its results.
    fn node(&mut self, node: &Node) -> Result<(), HalError> {
        let failed = |e: Fault| e.of(format!("{} '{}'", node.op.name(), node.name));
        let operands = node.inputs.iter().map(|&v| self.value(v));
        let call = Call {
            node,
            graph: self.graph,
            symbols: self.symbols,
            homes: self.homes,
            operands: operands.collect::<Result<_, _>>().map_err(failed)?,
        };
        let results = call.results().map_err(failed)?;
        for (at, (&value, tensor)) in node.outputs.iter().zip(results).enumerate() {
            let (kept, shape) = call.result(at);
            if tensor.dtype() != kept || tensor.dims() != shape {
                let found = format!("{:?} {:?}", tensor.dtype(), tensor.dims());
                let ty = format!("{kept:?} {shape:?}");
                return Err(failed(Fault::operand("result".into(), found, ty)));
            }
            self.values[value.index()] = Some(tensor);
        }
        Ok(())
    }
}

/// One node with its operands.
struct Call<'a> {
    node: &'a Node,
    graph: &'a Graph,
    symbols: &'a SymbolValues,
    homes: &'a [Home<'a>],
    operands: Vec<Tensor>,
}

impl Call<'_> {
    /// Operand `i`, which the graph's inference has shown to exist.
    fn operand(&self, i: usize) -> Result<&Tensor, Fault> {
        self.operands.get(i).ok_or_else(|| {
            let found = format!("{} operands", self.operands.len());
            Fault::operand("operands".into(), found, format!("operand {i}"))
        })
    }

    /// Operand `i`, of floats, as F32.
    fn float(&self, i: usize) -> Result<Tensor, Fault> {
        Ok(self.operand(i)?.to_dtype(DType::F32)?)
    }

    /// Operand `i` as F32, if given.
    fn optional(&self, i: usize) -> Result<Option<Tensor>, Fault> {
        match i < self.operands.len() {
            true => self.float(i).map(Some),
            false => Ok(None),
        }
    }

    /// The element type that candle keeps result `at` in, and its shape.
    fn result(&self, at: usize) -> (DType, Vec<usize>) {
        let ty = self.graph.ty(self.node.outputs[at]);
        let kept = tensors::kept(ty.dtype).unwrap_or(DType::F32);
        (kept, ty.shape.resolve(self.symbols))
    }

    /// Shape of the first result.
    fn shape(&self) -> Vec<usize> {
        self.result(0).1
    }

    fn size(&self, dim: Dim) -> usize {
        dim.resolve(self.symbols) as usize
    }

    /// Operand `i`, whole numbers, each below `limit`.
    fn indices(&self, i: usize, what: &str, limit: usize) -> Result<Vec<u32>, Fault> {
        let values = tensors::integers(self.operand(i)?)?;
        let checked = values.into_iter().map(|index| {
            let fits = usize::try_from(index).is_ok_and(|n| n < limit);
            let small = u32::try_from(index).ok().filter(|_| fits);
            small.ok_or_else(|| {
                let expected = match limit {
                    0 => "none, as there are no rows".to_owned(),
                    n => format!("0 to {}", n - 1),
                };
                Fault::operand(
                    format!("{what} of '{}'", self.node.name),
                    index.to_string(),
                    expected,
                )
            })
        });
        checked.collect()
    }

    fn results(&self) -> Result<Vec<Tensor>, Fault> {
        let types = (0..self.node.outputs.len()).map(|at| self.result(at));
        let types: Vec<(DType, Vec<usize>)> = types.collect();
        if !types.is_empty() && types.iter().all(|(_, shape)| shape.contains(&0)) {
            // candle has no reductions of nothing
            let empty =
                |(dtype, shape): (DType, Vec<usize>)| Tensor::zeros(shape, dtype, &Device::Cpu);
            return Ok(types.into_iter().map(empty).collect::<Result<_, _>>()?);
        }
        let one = |tensor: Result<Tensor, Fault>| tensor.map(|t| vec![t]);
        match &self.node.op {
            Op::Linear => one(linear::linear(self)),
            Op::MatMul {
                transpose_a,
                transpose_b,
            } => one(linear::matmul(self, *transpose_a, *transpose_b)),
            Op::Embedding => one(linear::embedding(self)),
            Op::RmsNorm { eps } => one(linear::rms_norm(self, *eps)),
            Op::LayerNorm { eps } => one(linear::layer_norm(self, *eps)),
            Op::Rope {
                style,
                dims,
                base,
                scaling,
            } => one(attention::rope(self, *style, *dims, *base, *scaling)),
            Op::Attention {
                kv,
                causal,
                mask,
                scale,
                soft_cap,
                window,
            } => {
                let form = attention::Form {
                    causal: *causal,
                    mask: *mask,
                    scale: *scale,
                    soft_cap: *soft_cap,
                    window: *window,
                };
                one(attention::attention(self, *kv, &form))
            }
            Op::KvAppend { state, at } => {
                state::append(self, *state, self.size(*at))?;
                Ok(Vec::new())
            }
            Op::StateRead { state } => one(state::read(self, *state)),
            Op::Softmax { axis } => one(elementwise::softmax(self, *axis as usize)),
            Op::Unary(f) => one(elementwise::unary(self, *f)),
            Op::Activation(f) => one(elementwise::activation(self, *f)),
            Op::GatedActivation(f) => one(elementwise::gated(self, *f)),
            Op::SoftCap { cap } => one(elementwise::soft_cap(self, *cap)),
            Op::Binary(f) => one(elementwise::binary(self, *f)),
            Op::Select => one(elementwise::select(self)),
            Op::Reduce {
                op,
                axes,
                keep_dims,
            } => one(elementwise::reduce(self, *op, axes, *keep_dims)),
            Op::Gather { axis } => one(layout::gather(self, *axis as usize)),
            Op::Reshape { .. } => one(layout::reshape(self)),
            Op::Transpose { perm } => one(layout::transpose(self, perm)),
            Op::Broadcast { .. } => one(layout::broadcast(self)),
            Op::Slice {
                axis,
                start,
                end,
                step,
            } => one(layout::slice(self, *axis as usize, [*start, *end, *step])),
            Op::Concat { axis } => one(layout::concat(self, *axis as usize)),
            Op::Split { axis, sizes } => layout::split(self, *axis as usize, sizes),
            _ => Err(self.unclaimed()),
        }
    }

    /// The op, or its function, is none that was claimed.
    fn unclaimed(&self) -> Fault {
        Fault::operand(
            format!("op of '{}'", self.node.name),
            self.node.op.name().into(),
            "one that was claimed".into(),
        )
    }
}
