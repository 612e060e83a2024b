//! Runs lowered programs.
#![allow(unsafe_code)] // reads and writes the buffers a submission binds

mod experts;
mod fallback;
mod state;

use std::sync::Arc;

use anynpu_hal::{Buffer, BufferDesc, HalError, HostBuffer, Submission};
use anynpu_ir::{DType, Dim, Shape, Symbol, SymbolValues};

use crate::device::CpuModule;
use crate::kernels::{GatedLinear, KernelError, Kernels, Linear, Scratch, ops};
use crate::place::Place;
use crate::pool::Pool;
use crate::program::{Operand, Program, Step};

/// Memory that a device's submissions share, one at a time.
#[derive(Debug)]
pub(crate) struct Workspace {
    arena: Option<HostBuffer>,
    scratch: Scratch,
    /// Buffers of the submission under way, and whether it writes them.
    bound: Vec<(usize, bool)>,
}

impl Workspace {
    /// A workspace without room for anything.
    pub fn new() -> Result<Self, KernelError> {
        Ok(Workspace {
            arena: None,
            scratch: Scratch::with_capacity(0)?,
            bound: Vec::new(),
        })
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let arena = self.arena.as_ref().map_or(0, |a| a.len());
        (arena + self.scratch.capacity()) as u64
    }

    /// Makes room for `program`, so that running it allocates nothing.
    pub fn reserve(&mut self, program: &Program, pool: &Pool) -> Result<(), HalError> {
        if self
            .arena
            .as_ref()
            .is_none_or(|a| a.len() < program.arena_bytes)
        {
            self.arena = None;
            let desc = BufferDesc::host("arena", program.arena_bytes);
            self.arena = Some(HostBuffer::new(desc)?);
        }
        let bytes = program.scratch_bytes(pool);
        if self.scratch.capacity() < bytes {
            self.scratch = Scratch::with_capacity(bytes).map_err(kernel_error)?;
        }
        Ok(())
    }

    /// Runs one entry to its end.
    pub fn run(
        &mut self,
        module: &CpuModule,
        submission: &Submission<'_>,
        kernels: &Kernels,
        pool: &Pool,
    ) -> Result<(), HalError> {
        let program = &module.programs[submission.entry];
        check_symbols(program, &submission.symbols)?;
        check_buffers(submission, &mut self.bound)?;
        self.reserve(program, pool)?;
        let frame = Frame {
            arena: self.arena.as_ref(),
            submission,
            module,
            program,
        };
        for step in &program.steps {
            // SAFETY: sizes and disjointness of all bound buffers were checked, placement keeps
            // live values of the arena apart, and the workspace is locked by this submission.
            unsafe { frame.step(step, kernels, pool, &mut self.scratch)? }
        }
        Ok(())
    }
}

fn invalid(what: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> HalError {
    HalError::InvalidUse {
        call: "submit",
        what: what.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}

fn kernel_error(error: KernelError) -> HalError {
    match error {
        KernelError::OutOfMemory { bytes } => HalError::OutOfMemory {
            device: "cpu".into(),
            bytes: bytes as u64,
            what: "scratch of kernels".into(),
        },
        e => invalid("operands of a kernel", e, "operands that fit"),
    }
}

fn check_symbols(program: &Program, symbols: &SymbolValues) -> Result<(), HalError> {
    for s in (0..Symbol::COUNT as u16).map(Symbol) {
        let (found, limit) = (symbols.get(s), program.limits.get(s));
        if found > limit {
            let what = format!("symbol {}", s.name());
            return Err(invalid(
                what,
                found,
                format!("at most {limit}, as compiled"),
            ));
        }
    }
    Ok(())
}

/// Every bound buffer is host memory, and what is written overlaps nothing else. `bound` is room for it.
fn check_buffers(s: &Submission<'_>, bound: &mut Vec<(usize, bool)>) -> Result<(), HalError> {
    let all = || s.outputs.iter().chain(s.states).chain(s.inputs);
    let written = s.outputs.len() + s.states.len();
    let address = |buffer: &Arc<dyn Buffer>| Arc::as_ptr(buffer).cast::<()>().addr();
    bound.clear();
    for (at, buffer) in all().enumerate() {
        host(buffer)?;
        bound.push((address(buffer), at < written));
    }
    bound.sort_unstable();
    let twice = |pair: &[(usize, bool)]| match *pair {
        [(a, one), (b, other)] => (a == b && (one || other)).then_some(a),
        _ => None,
    };
    match bound.windows(2).find_map(twice) {
        None => Ok(()),
        Some(at) => {
            let name = all().find(|b| address(b) == at);
            let name = name.map_or("?", |b| b.desc().name.as_str());
            let what = format!("buffer '{name}'");
            Err(invalid(what, "bound twice", "bound once, being written"))
        }
    }
}

fn host(buffer: &Arc<dyn Buffer>) -> Result<&HostBuffer, HalError> {
    buffer.as_any().downcast_ref::<HostBuffer>().ok_or_else(|| {
        let what = format!("buffer '{}'", buffer.desc().name);
        invalid(
            what,
            format!("{:?} memory", buffer.desc().kind),
            "host memory",
        )
    })
}

/// One run of a program.
struct Frame<'a> {
    arena: Option<&'a HostBuffer>,
    submission: &'a Submission<'a>,
    module: &'a CpuModule,
    program: &'a Program,
}

impl<'a> Frame<'a> {
    fn symbols(&self) -> &SymbolValues {
        &self.submission.symbols
    }

    /// Elements of `shape` without its last axis, and of its last axis.
    fn rows_cols(&self, shape: &Shape) -> (usize, usize) {
        let resolve = |d: &Dim| d.resolve(self.symbols()) as usize;
        match shape.dims() {
            [] => (1, 1),
            [lead @ .., last] => (lead.iter().map(resolve).product(), resolve(last)),
        }
    }

    /// Start and size in bytes of an operand that is not a weight.
    fn memory(&self, operand: &Operand) -> Result<(*mut u8, usize), HalError> {
        let bytes = operand.ty.bytes(self.symbols());
        let bytes =
            bytes.ok_or_else(|| invalid("size of a value", &operand.ty, "one that fits"))?;
        let (buffer, offset) = match operand.place {
            Place::Arena(offset) => (
                self.arena
                    .ok_or_else(|| invalid("arena", "absent", "reserved when compiled"))?,
                offset,
            ),
            Place::Input(i) => (host(&self.submission.inputs[i])?, 0),
            Place::Output(i) => (host(&self.submission.outputs[i])?, 0),
            Place::Weight(_) => return Err(invalid("operand", "a weight", "a computed value")),
        };
        if offset + bytes > buffer.len() {
            let expected = format!("{} bytes of '{}'", buffer.len(), buffer.desc().name);
            return Err(invalid(
                "value",
                format!("{bytes} bytes at {offset}"),
                expected,
            ));
        }
        // SAFETY: the offset was just checked against the buffer's size.
        Ok((unsafe { buffer.as_ptr().add(offset) }, bytes))
    }

    /// # Safety
    /// Nothing may write the operand's memory while the slice lives.
    unsafe fn read<T: Plain>(&self, operand: &Operand) -> Result<&'a [T], HalError> {
        debug_assert_eq!(operand.ty.dtype, T::DTYPE);
        let (start, bytes) = self.memory(operand)?;
        // SAFETY: memory is at least 64-byte aligned, was zeroed when allocated, holds `bytes`,
        // and any bit pattern is a valid `T`; the caller vouches for the absence of writers.
        Ok(unsafe { std::slice::from_raw_parts(start.cast(), bytes / size_of::<T>()) })
    }

    /// # Safety
    /// Nothing else may touch the operand's memory while the slice lives.
    unsafe fn write<T: Plain>(&self, operand: &Operand) -> Result<&'a mut [T], HalError> {
        debug_assert_eq!(operand.ty.dtype, T::DTYPE);
        let (start, bytes) = self.memory(operand)?;
        // SAFETY: as in `read`, with exclusive access vouched for by the caller.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), bytes / size_of::<T>()) })
    }

    /// Cosines and sines of a rotary table, `tokens × dims/2` each.
    ///
    /// # Safety
    /// As [`Frame::write`].
    unsafe fn table(
        &self,
        table: usize,
        tokens: usize,
    ) -> Result<(&'a mut [f32], &'a mut [f32]), HalError> {
        let table = &self.program.tables[table];
        let pairs = table.frequencies.len();
        let arena = self
            .arena
            .ok_or_else(|| invalid("arena", "absent", "reserved when compiled"))?;
        if tokens > table.max_tokens {
            return Err(invalid(
                "positions",
                tokens,
                format!("at most {}", table.max_tokens),
            ));
        }
        // SAFETY: the table was given 2 · max_tokens · pairs floats at its offset, aligned to 64
        // bytes, past everything the placement uses.
        let all = unsafe {
            let start = arena.as_ptr().add(table.offset).cast::<f32>();
            std::slice::from_raw_parts_mut(start, 2 * table.max_tokens * pairs)
        };
        let (cos, sin) = all.split_at_mut(table.max_tokens * pairs);
        Ok((&mut cos[..tokens * pairs], &mut sin[..tokens * pairs]))
    }

    /// # Safety
    /// All bound buffers were checked, and no one else uses them or the arena.
    unsafe fn step(
        &self,
        step: &Step,
        kernels: &Kernels,
        pool: &Pool,
        scratch: &mut Scratch,
    ) -> Result<(), HalError> {
        let weights = &self.module.weights;
        // SAFETY: for every `read` and `write` below, placement gives the operands and results of
        // one step disjoint memory, and nothing else runs in it.
        unsafe {
            match step {
                Step::Linear { x, targets } => {
                    let (tokens, _) = self.rows_cols(&x.ty.shape);
                    let x = self.read::<f32>(x)?;
                    let mut products: smallvec::SmallVec<[Linear<'_>; 8]> = targets
                        .iter()
                        .map(|t| {
                            Ok(Linear {
                                weights: weights.matrix(t.weight),
                                bias: t.bias.map(|b| weights.vector(b)),
                                plus: t.plus.as_ref().map(|p| self.read(p)).transpose()?,
                                out: self.write::<f32>(&t.out)?,
                            })
                        })
                        .collect::<Result<_, HalError>>()?;
                    kernels
                        .matmul_many(pool, &mut products, x, tokens, scratch)
                        .map_err(kernel_error)?;
                }
                Step::GatedLinear {
                    act,
                    x,
                    weights: of,
                    bias,
                    out,
                } => {
                    let (tokens, _) = self.rows_cols(&x.ty.shape);
                    let gated = GatedLinear {
                        act: *act,
                        weights: of.map(|w| weights.matrix(w)),
                        bias: bias.map(|b| b.map(|b| weights.vector(b))),
                        out: self.write::<f32>(out)?,
                    };
                    kernels
                        .gated_matmul(pool, gated, self.read::<f32>(x)?, tokens, scratch)
                        .map_err(kernel_error)?;
                }
                Step::Experts {
                    x,
                    weight,
                    ids,
                    out,
                    gathered,
                } => self.experts(x, *weight, ids, out, *gathered, kernels, pool, scratch)?,
                Step::Embedding { table, ids, out } => {
                    let view = weights.raw(&self.program.graph, *table)?;
                    let (_, cols) = self.rows_cols(&out.ty.shape);
                    let row_bytes = view.dtype.row_bytes(cols).unwrap_or(0);
                    let rows = view.bytes.len().checked_div(row_bytes).unwrap_or(0);
                    let ids = self.read::<i32>(ids)?;
                    let out = self.write::<f32>(out)?;
                    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(cols.max(1))) {
                        let row = index("token id", id, rows)? * row_bytes;
                        anynpu_ir::block::dequantize(
                            view.dtype,
                            &view.bytes[row..row + row_bytes],
                            out,
                        )
                        .map_err(|e| invalid("embedding row", e, "whole blocks"))?;
                    }
                }
                Step::RmsNorm {
                    x,
                    weight,
                    eps,
                    out,
                } => {
                    let (x, out) = (self.read::<f32>(x)?, self.write::<f32>(out)?);
                    kernels
                        .rms_norm(pool, x, weights.vector(*weight), *eps, out)
                        .map_err(kernel_error)?;
                }
                Step::LayerNorm {
                    x,
                    gamma,
                    beta,
                    eps,
                    out,
                } => {
                    let (x, out) = (self.read::<f32>(x)?, self.write::<f32>(out)?);
                    let beta = beta.map(|b| weights.vector(b));
                    kernels
                        .layer_norm(pool, x, weights.vector(*gamma), beta, *eps, out)
                        .map_err(kernel_error)?;
                }
                Step::RopeTable { table, positions } => {
                    let positions = self.read::<i32>(positions)?;
                    let (cos, sin) = self.table(*table, positions.len())?;
                    let table = &self.program.tables[*table];
                    ops::rope_table(positions, &table.frequencies, table.magnitude, cos, sin)
                        .map_err(kernel_error)?;
                }
                Step::Rope {
                    x,
                    table,
                    style,
                    dims,
                    out,
                } => {
                    let dims_of = x.ty.shape.dims();
                    let resolve = |i: usize| dims_of[i].resolve(self.symbols()) as usize;
                    let (tokens, heads, head_dim) = (resolve(0), resolve(1), resolve(2));
                    let (cos, sin) = self.table(*table, tokens)?;
                    let (x, out) = (self.read::<f32>(x)?, self.write::<f32>(out)?);
                    let layout = ops::RopeLayout {
                        heads,
                        head_dim,
                        dims: *dims as usize,
                        style: *style,
                    };
                    kernels
                        .rope(pool, x, cos, sin, &layout, out)
                        .map_err(kernel_error)?;
                }
                Step::KvAppend { rows, state, at } => {
                    self.append(self.read::<f32>(rows)?, rows, *state, *at)?;
                }
                Step::Attention(step) => self.attention(step, kernels, pool, scratch)?,
                Step::Activation { act, x, out } => {
                    kernels
                        .activation(pool, *act, self.read::<f32>(x)?, self.write::<f32>(out)?)
                        .map_err(kernel_error)?;
                }
                Step::Gated { act, gate, up, out } => {
                    let (gate, up) = (self.read::<f32>(gate)?, self.read::<f32>(up)?);
                    kernels
                        .gated_activation(pool, *act, gate, up, self.write::<f32>(out)?)
                        .map_err(kernel_error)?;
                }
                Step::SoftCap { cap, x, out } => {
                    kernels
                        .soft_cap(pool, *cap, self.read::<f32>(x)?, self.write::<f32>(out)?)
                        .map_err(kernel_error)?;
                }
                Step::Softmax { x, out } => {
                    let (_, cols) = self.rows_cols(&x.ty.shape);
                    kernels
                        .softmax(pool, self.read::<f32>(x)?, cols, self.write::<f32>(out)?)
                        .map_err(kernel_error)?;
                }
                Step::Scale { factor, x, out } => {
                    kernels
                        .scale(pool, *factor, self.read::<f32>(x)?, self.write::<f32>(out)?)
                        .map_err(kernel_error)?;
                }
                Step::Split { x, parts } => {
                    let (rows, cols) = self.rows_cols(&x.ty.shape);
                    let x = self.read::<f32>(x)?;
                    let mut from = 0;
                    for part in parts {
                        let (_, width) = self.rows_cols(&part.ty.shape);
                        let out = self.write::<f32>(part)?;
                        for row in 0..rows {
                            out[row * width..][..width]
                                .copy_from_slice(&x[row * cols + from..][..width]);
                        }
                        from += width;
                    }
                }
                Step::Arithmetic { op, a, b, out } => {
                    let (a, b) = (self.read::<f32>(a)?, self.read::<f32>(b)?);
                    kernels
                        .arithmetic(pool, *op, a, b, self.write::<f32>(out)?)
                        .map_err(kernel_error)?;
                }
                Step::RowArithmetic { op, a, b, out } => {
                    let (a, b) = (self.read::<f32>(a)?, weights.vector(*b));
                    kernels
                        .row_arithmetic(pool, *op, a, b, self.write::<f32>(out)?)
                        .map_err(kernel_error)?;
                }
                Step::GatherRows { data, rows, out } => {
                    let (count, cols) = self.rows_cols(&data.ty.shape);
                    let first = data.ty.shape.dims().first();
                    let first = first.map_or(1, |d| d.resolve(self.symbols()) as usize);
                    let width = (count * cols).checked_div(first).unwrap_or(0);
                    let data = self.read::<f32>(data)?;
                    let rows = self.read::<i32>(rows)?;
                    let out = self.write::<f32>(out)?;
                    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width.max(1))) {
                        let at = index("output row", row, first)? * width;
                        out.copy_from_slice(&data[at..at + width]);
                    }
                }
                Step::Copy { from, out } => {
                    let ((from, bytes), (to, _)) = (self.memory(from)?, self.memory(out)?);
                    if from != to {
                        std::ptr::copy_nonoverlapping(from, to, bytes);
                    }
                }
                Step::Reference { node } => self.reference(*node)?,
            }
        }
        Ok(())
    }
}

/// A row index that is in range.
fn index(what: &str, value: i32, limit: usize) -> Result<usize, HalError> {
    usize::try_from(value)
        .ok()
        .filter(|&i| i < limit)
        .ok_or_else(|| invalid(what, value, format!("0 to {}", limit.saturating_sub(1))))
}

/// Element types that may be read from zeroed or foreign bytes.
trait Plain: Copy {
    const DTYPE: DType;
}

impl Plain for f32 {
    const DTYPE: DType = DType::F32;
}

impl Plain for i32 {
    const DTYPE: DType = DType::I32;
}
