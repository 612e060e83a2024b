//! Weights as constants of a program.

use std::borrow::Cow;
use std::ops::Range;

use anynpu_hal::WeightView;
use anynpu_ir::block::dequantize;
use anynpu_ir::{DType, Node, Op, ValueDef, ValueId};
use half::f16;

use super::Lowering;
use crate::CoreMlError;
use crate::package::{BlobRef, DataType, Literal, Tensor};
use crate::weights::{Encoding, Matrix, WeightForm};

/// Fewer elements than this stand in the program itself, as coremltools has it.
const IN_PROGRAM: usize = 10;

impl Lowering<'_> {
    /// Whether `value` is a weight or a constant of the graph.
    pub(super) fn is_weight(&self, value: ValueId) -> bool {
        matches!(self.graph.value(value).def, ValueDef::Weight(_))
    }

    /// The name and contents of the weight `value`.
    fn contents(&self, value: ValueId) -> Result<(String, WeightView<'_>), CoreMlError> {
        let of = self.graph.value(value);
        let inline = match of.def {
            ValueDef::Weight(weight) => self.graph.weight(weight).inline.as_deref(),
            _ => None,
        };
        let view = match inline {
            Some(bytes) => WeightView {
                dtype: of.ty.dtype,
                bytes: Cow::Borrowed(bytes),
            },
            None => self.weights.weight(&of.name)?,
        };
        Ok((of.name.clone(), view))
    }

    /// The numbers of the weight `value`.
    pub(super) fn numbers_of(&self, value: ValueId) -> Result<Vec<f32>, CoreMlError> {
        let (name, view) = self.contents(value)?;
        let count = self.dims(value).iter().map(|n| *n as usize).product();
        let mut numbers = vec![0f32; count];
        dequantize(view.dtype, &view.bytes, &mut numbers).map_err(|e| CoreMlError::Weight {
            name,
            why: e.to_string(),
        })?;
        Ok(numbers)
    }

    /// The weight `value` as a constant of `dims`, its own or as many elements: matrices in the form that is wanted, all
    /// else in the program's precision.
    pub(super) fn weight(&mut self, value: ValueId, dims: &[u32]) -> Result<Tensor, CoreMlError> {
        let dtype = self.graph.ty(value).dtype;
        match dtype {
            DType::I32 | DType::Bool => self.whole_numbers(value, dims),
            _ => {
                let own = self.dims(value);
                let rows = 0..own.first().copied().unwrap_or(1);
                let float = self.float;
                self.rows_as(value, rows, dims, float)
            }
        }
    }

    /// Whether `value`, of `dims`, is one matrix or several for products and look-ups. Filters of convolutions are not.
    fn is_matrix(&self, value: ValueId, dims: &[u32]) -> bool {
        let filters = |node: &Node| {
            matches!(node.op, Op::Conv1d { .. } | Op::Conv2d { .. })
                && node.inputs.get(1) == Some(&value)
        };
        let wide = dims.iter().all(|n| *n > 1);
        matches!(dims.len(), 2 | 3) && wide && !self.graph.nodes().iter().any(filters)
    }

    /// A constant of the graph that is no floating point.
    fn whole_numbers(&mut self, value: ValueId, dims: &[u32]) -> Result<Tensor, CoreMlError> {
        let (name, view) = self.contents(value)?;
        let numbers: Vec<i32> = match view.dtype {
            DType::I32 => {
                let (whole, _) = view.bytes.as_chunks::<4>();
                whole.iter().map(|b| i32::from_le_bytes(*b)).collect()
            }
            _ => view.bytes.iter().map(|b| i32::from(*b != 0)).collect(),
        };
        let bool = view.dtype == DType::Bool;
        let count: u64 = dims.iter().map(|n| u64::from(*n)).product();
        if numbers.len() as u64 != count {
            let why = format!(
                "{} elements of {}, expected {count}",
                numbers.len(),
                view.dtype
            );
            return Err(CoreMlError::Weight { name, why });
        }
        let literal = match (&numbers[..], bool, dims.is_empty()) {
            ([one], true, true) => Literal::Bool(*one != 0),
            ([one], false, true) => Literal::I32(*one),
            (all, true, _) => Literal::Bools(all.iter().map(|x| *x != 0).collect()),
            (_, false, _) => Literal::I32s(numbers),
        };
        let made = self.f.constant(literal)?;
        self.reshape(&name, made, dims)
    }

    /// Rows of the weight `value`, along its first axis, as a constant of `dims`: of a matrix in the form that is
    /// wanted, of anything else in `float`.
    pub(super) fn rows_as(
        &mut self,
        value: ValueId,
        rows: Range<u32>,
        dims: &[u32],
        float: DataType,
    ) -> Result<Tensor, CoreMlError> {
        let key = (value, [rows.start, rows.end], dims.to_vec(), float);
        if let Some(&known) = self.constants.get(&key) {
            return Ok(known);
        }
        let own = self.dims(value);
        let name = self.graph.value(value).name.clone();
        let columns = own.last().copied().unwrap_or(1);
        // rows of the matrix for each of the first axis
        let each: u32 = own.iter().skip(1).rev().skip(1).product();
        let (first, count) = match own.len() {
            0 | 1 => (0, 1),
            _ => (rows.start * each, (rows.end - rows.start) * each),
        };
        let form = match self.is_matrix(value, &own) {
            true => self.form.weights,
            false => WeightForm::Float,
        };
        // tables and scales are for rows of one matrix, of which there may be several
        let shape = [
            own.iter().rev().nth(1).map_or(1, |n| (*n).min(count)),
            columns,
        ];
        let dtype = self.graph.ty(value).dtype;
        let target = self.f.target();
        let encoding = Encoding::of(form, dtype, shape, float, target, self.form.engine)?;
        let made = match encoding {
            Encoding::Plain(dtype) if (count as usize * columns as usize) < IN_PROGRAM => {
                let numbers = self.numbers_of(value)?;
                // constants of the graph itself may be infinite, as in masks; the Neural Engine has no such numbers
                let infinite = self.is_inline(value) && !self.form.engine;
                let beyond =
                    |x: &f32| !(f16::from_f32(*x).is_finite() || infinite && x.is_infinite());
                if let (DataType::F16, Some(index)) = (dtype, numbers.iter().position(beyond)) {
                    let value = numbers[index];
                    return Err(CoreMlError::Overflow { name, index, value });
                }
                match dims.is_empty() {
                    true => self.number(numbers[0])?,
                    false => {
                        let literal = Literal::Floats(dtype, dims.to_vec(), numbers);
                        self.f.constant(literal)?
                    }
                }
            }
            _ => self.blobs(
                value,
                &name,
                [first, count, columns],
                dims,
                (encoding, float),
            )?,
        };
        self.constants.insert(key, made);
        Ok(made)
    }

    /// Whether `value` is a constant that the graph itself has.
    fn is_inline(&self, value: ValueId) -> bool {
        match self.graph.value(value).def {
            ValueDef::Weight(weight) => self.graph.weight(weight).inline.is_some(),
            _ => false,
        }
    }

    /// The matrix of rows `first..first + count` of `columns` in the file of weights, and the constant of it.
    fn blobs(
        &mut self,
        value: ValueId,
        name: &str,
        [first, count, columns]: [u32; 3],
        dims: &[u32],
        (encoding, float): (Encoding, DataType),
    ) -> Result<Tensor, CoreMlError> {
        let part =
            |what: &str| format!("{name} {first}+{count} {encoding} {} {what}", float.name());
        if self.package.find_blob(&part("codes")).is_none() {
            let (_, whole) = self.contents(value)?;
            let wrong = |why: String| CoreMlError::Weight {
                name: name.into(),
                why,
            };
            let row = whole.dtype.row_bytes(columns as usize);
            let range = row.and_then(|row| {
                let start = row.checked_mul(first as usize)?;
                Some(start..start.checked_add(row.checked_mul(count as usize)?)?)
            });
            let bytes = range.clone().and_then(|range| whole.bytes.get(range));
            let bytes = bytes.ok_or_else(|| {
                wrong(format!(
                    "bytes {range:?} of its rows are not within its {}",
                    whole.bytes.len()
                ))
            })?;
            let view = WeightView {
                dtype: whole.dtype,
                bytes: Cow::Borrowed(bytes),
            };
            let shape = [count as usize, columns as usize];
            let held = Matrix::of(name, &view, shape, encoding, float)?;
            let elements = u64::from(count) * u64::from(columns);
            let (codes, written) = match encoding {
                Encoding::Plain(dtype) => (dtype, elements),
                // before iOS 18 they are bytes, whatever they hold
                Encoding::Palette { .. } if !self.f.target().has_ios18() => {
                    (DataType::U8, held.codes.len() as u64)
                }
                Encoding::Scaled { codes, .. } | Encoding::Palette { codes, .. } => {
                    (codes, elements)
                }
            };
            let floats = |x: &[f32]| -> Vec<u8> {
                match float {
                    DataType::F16 => x
                        .iter()
                        .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                        .collect(),
                    _ => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
                }
            };
            self.totals
                .add(encoding, elements, held.bytes(), held.error);
            self.package
                .append_blob(&part("codes"), codes, written, &held.codes)?;
            for (what, x) in [("scales", &held.scales), ("offsets", &held.offsets)] {
                if !x.is_empty() {
                    let bytes = floats(x);
                    self.package
                        .append_blob(&part(what), float, x.len() as u64, &bytes)?;
                }
            }
        }
        let at = |l: &Self, what: &str, dtype: DataType, dims: Vec<u32>| {
            let offset = l.package.find_blob(&part(what));
            let offset = offset.ok_or_else(|| CoreMlError::Weight {
                name: name.into(),
                why: format!("its {what} are not in the file of weights"),
            })?;
            Ok::<BlobRef, CoreMlError>(BlobRef {
                dtype,
                dims,
                offset,
            })
        };
        match encoding {
            Encoding::Plain(dtype) => {
                let blob = at(self, "codes", dtype, dims.to_vec())?;
                self.f.weight(name, &blob)
            }
            Encoding::Scaled {
                codes,
                block,
                offset,
            } => {
                // columns are the last dimension that is not 1 at the end
                let axis = column_axis(dims, columns);
                let mut scales = dims.to_vec();
                scales[axis] = columns / block;
                if !self.f.target().has_ios18() {
                    let data = at(self, "codes", codes, dims.to_vec())?;
                    let scale = at(self, "scales", float, vec![count])?;
                    let blobs = [("quantized_data", data), ("scale", scale)];
                    let literals = [("zero_point", Literal::I8(0)), ("axis", Literal::I32(0))];
                    let kind = "constexpr_affine_dequantize";
                    return self
                        .f
                        .compressed(kind, name, &blobs, &literals, float, dims);
                }
                let mut blobs = vec![
                    ("data", at(self, "codes", codes, dims.to_vec())?),
                    ("scale", at(self, "scales", float, scales.clone())?),
                ];
                if offset {
                    blobs.push(("offset", at(self, "offsets", float, scales)?));
                }
                let kind = "constexpr_blockwise_shift_scale";
                self.f.compressed(kind, name, &blobs, &[], float, dims)
            }
            Encoding::Palette { codes, rows } => {
                let size = 1u32 << codes.bits();
                let kind = "constexpr_lut_to_dense";
                if !self.f.target().has_ios18() {
                    let elements = u64::from(count) * u64::from(columns);
                    let packed = (elements * u64::from(codes.bits())).div_ceil(8) as u32;
                    let indices = at(self, "codes", DataType::U8, vec![packed])?;
                    let lut = at(self, "scales", float, vec![size])?;
                    let blobs = [("indices", indices), ("lut", lut)];
                    let literals = [("shape", Literal::U32s(dims.to_vec()))];
                    return self
                        .f
                        .compressed(kind, name, &blobs, &literals, float, dims);
                }
                let row_axis = column_axis(dims, columns).saturating_sub(1);
                let mut tables = dims.to_vec();
                tables[row_axis] /= rows;
                tables[row_axis + 1..].fill(1);
                tables.extend([size, 1]);
                let indices = at(self, "codes", codes, dims.to_vec())?;
                let lut = at(self, "scales", float, tables)?;
                let blobs = [("indices", indices), ("lut", lut)];
                self.f.compressed(kind, name, &blobs, &[], float, dims)
            }
        }
    }
}

/// The axis of `dims` that a matrix has its columns along.
fn column_axis(dims: &[u32], columns: u32) -> usize {
    dims.iter().rposition(|n| *n == columns).unwrap_or(0)
}
