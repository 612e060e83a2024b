//! The weights of a module: matrices packed for the kernels, small ones as f32.

use std::borrow::Cow;
use std::sync::Arc;

use anynpu_hal::{HalError, MemoryNeed, WeightSource, WeightView};
use anynpu_ir::{DType, Dim, Graph, Symbol, SymbolValues, TensorType, ValueDef, WeightId};

use crate::kernels::{KernelError, PackedMatrix};
use crate::pool::Pool;
use crate::program::{Program, Step};

/// Weights of a module, by [`WeightId`].
#[derive(Debug)]
pub(crate) struct Weights {
    pub source: Arc<dyn WeightSource>,
    packed: Vec<Option<PackedMatrix>>,
    experts: Vec<Vec<PackedMatrix>>,
    vectors: Vec<Option<Vec<f32>>>,
}

/// How matrices are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// As they are.
    AsHeld,
    /// For products in BF16, those in float types, rounded to it.
    Bf16,
    /// For products in BF16, those that are in it.
    Bf16OfBf16,
    /// For products in F16, those that are in it.
    F16,
}

impl Packing {
    /// Whether matrices of that type are rounded to BF16.
    fn rounds(self, held: DType) -> bool {
        match self {
            Packing::AsHeld | Packing::F16 => false,
            Packing::Bf16 => held.is_float(),
            Packing::Bf16OfBf16 => held == DType::BF16,
        }
    }

    /// Bytes that a matrix takes.
    fn bytes(self, held: DType, rows: usize, cols: usize) -> usize {
        let bytes = match self.rounds(held) {
            true => PackedMatrix::rounded_bytes(rows, cols),
            false => PackedMatrix::packed_bytes(held, rows, cols),
        };
        bytes.unwrap_or(0)
    }

    fn pack(
        self,
        pool: &Pool,
        held: DType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix, KernelError> {
        if self == Packing::F16 && held == DType::F16 {
            return PackedMatrix::narrow(pool, rows, cols, bytes);
        }
        match self.rounds(held) {
            true => PackedMatrix::round(pool, held, rows, cols, bytes),
            false => PackedMatrix::pack(pool, held, rows, cols, bytes),
        }
    }
}

impl Weights {
    /// A type narrower than F32 that products with any of the matrices are computed in.
    pub fn rounds_to(&self) -> Option<DType> {
        let experts = self.experts.iter().flatten();
        let mut all = self.packed.iter().flatten().chain(experts);
        all.find_map(PackedMatrix::rounds_to)
    }

    /// The packed matrix of a `Linear` weight. Panics if lowering did not pack it.
    pub fn matrix(&self, id: WeightId) -> &PackedMatrix {
        self.packed[id.index()]
            .as_ref()
            .expect("packed when lowered")
    }

    /// The packed matrices of an `ExpertLinear` weight; none if lowering did not pack it.
    pub fn experts(&self, id: WeightId) -> &[PackedMatrix] {
        &self.experts[id.index()]
    }

    /// The f32 data of a small weight. Panics if lowering did not read it.
    pub fn vector(&self, id: WeightId) -> &[f32] {
        self.vectors[id.index()]
            .as_deref()
            .expect("read when lowered")
    }

    /// A weight in its file's format.
    pub fn raw<'a>(&'a self, graph: &'a Graph, id: WeightId) -> Result<WeightView<'a>, HalError> {
        raw_weight(graph, self.source.as_ref(), id)
    }

    pub fn resident_bytes(&self) -> u64 {
        let packed = self
            .packed
            .iter()
            .flatten()
            .chain(self.experts.iter().flatten())
            .map(|m| m.resident_bytes() as u64);
        let vectors = self.vectors.iter().flatten().map(|v| 4 * v.len() as u64);
        packed.chain(vectors).sum()
    }
}

/// A weight's bytes, checked against its declared type.
fn raw_weight<'a>(
    graph: &'a Graph,
    source: &'a dyn WeightSource,
    id: WeightId,
) -> Result<WeightView<'a>, HalError> {
    let weight = graph.weight(id);
    let ty = graph.ty(weight.value);
    let view = match &weight.inline {
        Some(data) => WeightView {
            dtype: ty.dtype,
            bytes: Cow::Borrowed(data),
        },
        None => source.weight(&weight.name)?,
    };
    let expected = ty.bytes(&SymbolValues::default());
    if view.dtype != ty.dtype || Some(view.bytes.len()) != expected {
        return Err(HalError::Weight {
            name: weight.name.clone(),
            why: format!(
                "its source holds {} bytes of {}, the graph declares {ty}",
                view.bytes.len(),
                view.dtype
            ),
        });
    }
    Ok(view)
}

/// Packs the matrices and reads the vectors that the programs' steps name.
pub(crate) fn load_weights(
    graph: &Graph,
    programs: &[Program],
    source: Arc<dyn WeightSource>,
    packing: Packing,
    pool: &Pool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Weights, HalError> {
    let mut packed: Vec<Option<PackedMatrix>> = graph.weights().iter().map(|_| None).collect();
    let mut experts: Vec<Vec<PackedMatrix>> = graph.weights().iter().map(|_| Vec::new()).collect();
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; graph.weights().len()];
    let steps = || programs.iter().flat_map(|p| &p.steps);
    let total = steps()
        .map(|s| match s {
            Step::Experts { .. } => 1,
            _ => s.matrices().len() as u64,
        })
        .sum();
    let mut done = 0;
    for step in steps() {
        let mut small: [Option<WeightId>; 2] = [None; 2];
        for (weight, bias) in step.matrices() {
            if !progress(done, total) {
                return Err(HalError::Cancelled {
                    what: "packing weights".into(),
                });
            }
            done += 1;
            pack(graph, source.as_ref(), weight, packing, pool, &mut packed)?;
            if let Some(bias) = bias {
                read_vector(graph, source.as_ref(), bias, &mut vectors)?;
            }
        }
        match step {
            Step::Experts { weight, .. } => {
                if !progress(done, total) {
                    return Err(HalError::Cancelled {
                        what: "packing weights".into(),
                    });
                }
                done += 1;
                if experts[weight.index()].is_empty() {
                    experts[weight.index()] =
                        pack_experts(graph, source.as_ref(), *weight, packing, pool)?;
                }
            }
            Step::RowArithmetic { b, .. } => small[0] = Some(*b),
            Step::RmsNorm { weight, .. } => small[0] = Some(*weight),
            Step::LayerNorm { gamma, beta, .. } => small = [Some(*gamma), *beta],
            _ => {}
        }
        for id in small.into_iter().flatten() {
            read_vector(graph, source.as_ref(), id, &mut vectors)?;
        }
    }
    progress(total, total);
    Ok(Weights {
        source,
        packed,
        experts,
        vectors,
    })
}

/// The memory that loading the same weights takes.
pub(crate) fn weights_need(graph: &Graph, programs: &[Program], packing: Packing) -> MemoryNeed {
    let mut need = MemoryNeed::default();
    let mut seen = vec![false; graph.weights().len()];
    let mut in_place = vec![0; graph.weights().len()];
    for program in programs {
        for step in &program.steps {
            let mut once = |id: WeightId| !std::mem::replace(&mut seen[id.index()], true);
            for (weight, bias) in step.matrices() {
                if once(weight) {
                    packed_need(graph, weight, packing, &mut need);
                }
                if let Some(bias) = bias.filter(|&b| once(b)) {
                    need.resident += vector_bytes(graph, bias);
                }
            }
            match step {
                Step::Experts { weight, .. } if once(*weight) => {
                    packed_need(graph, *weight, packing, &mut need);
                }
                Step::RmsNorm { weight, .. } | Step::RowArithmetic { b: weight, .. }
                    if once(*weight) =>
                {
                    need.resident += vector_bytes(graph, *weight);
                }
                Step::LayerNorm { gamma, beta, .. } => {
                    for id in [Some(*gamma), *beta].into_iter().flatten() {
                        if once(id) {
                            need.resident += vector_bytes(graph, id);
                        }
                    }
                }
                Step::Embedding { table, .. } => {
                    let rows = program.limits.get(Symbol::CAPACITY).into();
                    in_place[table.index()] = looked_up_bytes(graph, *table, rows);
                }
                Step::Reference { node } => {
                    for &value in &graph.node(*node).inputs {
                        if let ValueDef::Weight(id) = graph.value(value).def {
                            in_place[id.index()] = file_bytes(graph, id);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    need.in_place = in_place.iter().sum();
    need
}

/// A matrix, or a list of them, that is packed: while that is done the file's bytes are held too.
fn packed_need(graph: &Graph, id: WeightId, packing: Packing, need: &mut MemoryNeed) {
    let ty = graph.ty(graph.weight(id).value);
    let dims: Vec<usize> = ty.shape.resolve(&SymbolValues::default());
    if let [lead @ .., rows, cols] = &dims[..] {
        let each = packing.bytes(ty.dtype, *rows, *cols);
        let count: usize = lead.iter().product();
        need.resident += each.saturating_mul(count) as u64;
    }
    need.transient = need.transient.max(file_bytes(graph, id));
}

fn vector_bytes(graph: &Graph, id: WeightId) -> u64 {
    let shape = &graph.ty(graph.weight(id).value).shape;
    4 * shape.elements(&SymbolValues::default()).unwrap_or(0) as u64
}

fn file_bytes(graph: &Graph, id: WeightId) -> u64 {
    let ty = graph.ty(graph.weight(id).value);
    ty.bytes(&SymbolValues::default()).unwrap_or(0) as u64
}

/// The most of a table that looking up `rows` rows holds: whole pages around each.
fn looked_up_bytes(graph: &Graph, id: WeightId, rows: u64) -> u64 {
    const PAGE: u64 = 4096;
    let all = file_bytes(graph, id);
    let ty = graph.ty(graph.weight(id).value);
    let count = ty.shape.dims().first().copied().and_then(Dim::fixed);
    let row = all / u64::from(count.unwrap_or(1).max(1));
    all.min(rows.saturating_mul(row.next_multiple_of(PAGE) + PAGE))
}

fn pack(
    graph: &Graph,
    source: &dyn WeightSource,
    id: WeightId,
    packing: Packing,
    pool: &Pool,
    packed: &mut [Option<PackedMatrix>],
) -> Result<(), HalError> {
    if packed[id.index()].is_some() {
        return Ok(());
    }
    let view = raw_weight(graph, source, id)?;
    let weight = graph.weight(id);
    let shape = matrix_shape(graph.ty(weight.value));
    let (rows, cols) = shape.ok_or_else(|| HalError::Weight {
        name: weight.name.clone(),
        why: format!("{} is not a matrix", graph.ty(weight.value)),
    })?;
    let matrix = packing.pack(pool, view.dtype, rows, cols, &view.bytes);
    let matrix = matrix.map_err(|e| HalError::Weight {
        name: weight.name.clone(),
        why: e.to_string(),
    })?;
    packed[id.index()] = Some(matrix);
    source.release(&weight.name);
    Ok(())
}

/// Packs the matrices of a weight `[experts, rows, cols]`, each by itself.
fn pack_experts(
    graph: &Graph,
    source: &dyn WeightSource,
    id: WeightId,
    packing: Packing,
    pool: &Pool,
) -> Result<Vec<PackedMatrix>, HalError> {
    let view = raw_weight(graph, source, id)?;
    let weight = graph.weight(id);
    let failed = |why: String| HalError::Weight {
        name: weight.name.clone(),
        why,
    };
    let ty = graph.ty(weight.value);
    let [Dim::Fixed(experts), Dim::Fixed(rows), Dim::Fixed(cols)] = *ty.shape.dims() else {
        return Err(failed(format!("{ty} is not a list of matrices")));
    };
    let matrix = |bytes| {
        let packed = packing.pack(pool, view.dtype, rows as usize, cols as usize, bytes);
        packed.map_err(|e| failed(e.to_string()))
    };
    let each = view.bytes.len() / (experts as usize).max(1);
    let packed = match each {
        0 => (0..experts).map(|_| matrix(&[][..])).collect(),
        _ => view.bytes.chunks_exact(each).map(matrix).collect(),
    };
    source.release(&weight.name);
    packed
}

fn matrix_shape(ty: &TensorType) -> Option<(usize, usize)> {
    match ty.shape.dims() {
        [Dim::Fixed(rows), Dim::Fixed(cols)] => Some((*rows as usize, *cols as usize)),
        _ => None,
    }
}

fn read_vector(
    graph: &Graph,
    source: &dyn WeightSource,
    id: WeightId,
    vectors: &mut [Option<Vec<f32>>],
) -> Result<(), HalError> {
    if vectors[id.index()].is_none() {
        vectors[id.index()] = Some(dequantized(graph, source, id)?);
    }
    Ok(())
}

/// A weight's data as f32.
pub(crate) fn dequantized(
    graph: &Graph,
    source: &dyn WeightSource,
    id: WeightId,
) -> Result<Vec<f32>, HalError> {
    let view = raw_weight(graph, source, id)?;
    let ty = graph.ty(graph.weight(id).value);
    let mut data = vec![0.0; ty.shape.elements(&SymbolValues::default()).unwrap_or(0)];
    anynpu_ir::block::dequantize(view.dtype, &view.bytes, &mut data).map_err(|e| {
        HalError::Weight {
            name: graph.weight(id).name.clone(),
            why: e.to_string(),
        }
    })?;
    Ok(data)
}
