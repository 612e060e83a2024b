//! Matrices in the forms that the format has.
//!
//! What a file has in blocks is kept as it is where the format can hold it: `Q4_0` as 4-bit numbers and `Q8_0` and `Q5_0`
//! as 8-bit ones with a scale for 32, exactly. Formats whose scales and minima are themselves numbers of few bits (`Q4_1`,
//! `Q5_1` and the K formats) become numbers of 4 or 8 bits with a scale, and where they have minima an offset, for each of
//! their blocks: those are rounded to the program's precision, which is the error that is added. What is added in all is
//! measured when a package is written.

mod blocks;
mod palette;

use std::fmt;

use anynpu_hal::WeightView;
use anynpu_ir::DType;
use anynpu_ir::block::dequantize;
use half::f16;

use crate::package::{DataType, pack};
use crate::target::words;
use crate::{CoreMlError, DeploymentTarget};

/// How matrices are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightForm {
    /// As the file has them, as near as the target can: see [`Encoding::of`].
    #[default]
    Model,
    /// In the precision of the program.
    Float,
    /// In 8 bits, with a scale for each row.
    Int8,
    /// In 4 bits, with a scale for 32 numbers of a row, or for a row that is no multiple of 32.
    Int4,
    /// By number in a table of 16 numbers for eight rows, or for more of short ones.
    Lut4,
    /// By number in a table of 64 numbers, likewise.
    Lut6,
    /// By number in a table of 256 numbers, likewise.
    Lut8,
}

words!(WeightForm, "form of weights" {
    Model: "model",
    Float: "float",
    Int8: "int8",
    Int4: "int4",
    Lut4: "lut4",
    Lut6: "lut6",
    Lut8: "lut8",
});

/// Numbers that a scale of [`WeightForm::Int4`] is for.
const BLOCK: u32 = 32;
/// Rows that a table is for, where targets have several.
const TABLE_ROWS: u32 = 8;

/// What a matrix is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Numbers in F16 or F32.
    Plain(DataType),
    /// Integers, times a scale for so many of a row, which all of them are a multiple of.
    Scaled {
        /// I4, U4, I8 or U8.
        codes: DataType,
        /// Numbers that a scale is for.
        block: u32,
        /// Whether an offset is taken off each integer before.
        offset: bool,
    },
    /// Numbers of entries of a table for so many rows, which the rows are a multiple of.
    Palette {
        /// U4, U6 or U8.
        codes: DataType,
        /// Rows that a table is for.
        rows: u32,
    },
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Plain(dtype) => f.write_str(dtype.name()),
            Encoding::Scaled {
                codes,
                block,
                offset,
            } => {
                let offset = if *offset { " and an offset" } else { "" };
                write!(f, "{} with a scale{offset} for {block}", codes.name())
            }
            Encoding::Palette { codes, rows } => {
                write!(f, "{} of a table for {rows} rows", codes.name())
            }
        }
    }
}

impl Encoding {
    /// How a matrix of `dtype` with `rows` of `columns` is held in `form`, beside numbers in `float` (F16 or F32).
    ///
    /// [`WeightForm::Model`] for `engine`, the Neural Engine, which has no blocks, is 8 bits with a scale a row; so it is for
    /// targets before iOS 18, which have one table a matrix too.
    ///
    /// # Errors
    /// A form that the target has not.
    pub fn of(
        form: WeightForm,
        dtype: DType,
        [rows, columns]: [u32; 2],
        float: DataType,
        target: DeploymentTarget,
        engine: bool,
    ) -> Result<Encoding, CoreMlError> {
        let scaled = |codes, block, offset| Encoding::Scaled {
            codes,
            block,
            offset,
        };
        let row = scaled(DataType::I8, columns, false);
        let whole = |n: u32| columns > 0 && columns.is_multiple_of(n);
        let table = |codes: DataType| Encoding::Palette {
            codes,
            rows: match target.has_ios18() {
                true => table_rows([rows, columns], codes),
                false => rows,
            },
        };
        let need16 = |encoding| match target.has_ios16() {
            true => Ok(encoding),
            false => Err(CoreMlError::Target {
                what: format!("weights in {form}"),
                needs: "iOS16 or macOS13",
                target: target.to_string(),
            }),
        };
        match form {
            WeightForm::Float => Ok(Encoding::Plain(float)),
            WeightForm::Int8 => need16(row),
            WeightForm::Lut4 => need16(table(DataType::U4)),
            WeightForm::Lut6 => need16(table(DataType::U6)),
            WeightForm::Lut8 => need16(table(DataType::U8)),
            WeightForm::Int4 => {
                target.need_ios18("weights in int4")?;
                let block = if whole(BLOCK) { BLOCK } else { columns };
                Ok(scaled(DataType::I4, block, false))
            }
            WeightForm::Model if !dtype.is_block() || !target.has_ios16() => {
                Ok(Encoding::Plain(float))
            }
            WeightForm::Model if engine || !target.has_ios18() => Ok(row),
            WeightForm::Model => Ok(match dtype {
                DType::Q4_0 => scaled(DataType::I4, 32, false),
                DType::Q4_1 | DType::Q4_K => scaled(DataType::U4, 32, true),
                DType::Q5_0 | DType::Q8_0 => scaled(DataType::I8, 32, false),
                DType::Q5_1 | DType::Q5_K => scaled(DataType::U8, 32, true),
                DType::Q6_K => scaled(DataType::I8, 16, false),
                _ => Encoding::Plain(float),
            }),
        }
    }
}

/// For how many rows there is a table: eight, or more of them, or all, if it would take more than an eighth of what they
/// do.
fn table_rows([rows, columns]: [u32; 2], codes: DataType) -> u32 {
    let table = 16u64 << codes.bits();
    let most = 1u32 << rows.trailing_zeros().min(31);
    let mut count = TABLE_ROWS.min(most);
    let bits = |count: u32| u64::from(count) * u64::from(columns) * u64::from(codes.bits());
    while bits(count) < 8 * table && count < most {
        count *= 2;
    }
    match bits(count) < 8 * table {
        true => rows,
        false => count,
    }
}

/// A matrix as it is held.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// What it is made of.
    pub encoding: Encoding,
    /// Numbers of a row.
    pub columns: usize,
    /// Numbers or integers, packed.
    pub codes: Vec<u8>,
    /// Scales, row by row; of a table its entries. In F16 or F32, see [`Matrix::float`].
    pub scales: Vec<f32>,
    /// Offsets, as many as scales, or none.
    pub offsets: Vec<f32>,
    /// The type of scales, offsets and entries.
    pub float: DataType,
    /// What holding it so has changed.
    pub error: AddedError,
}

/// How far numbers are from what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AddedError {
    /// Sum of the squares of the differences.
    pub off: f64,
    /// Sum of the squares of the numbers.
    pub all: f64,
}

impl AddedError {
    /// The root of the mean square of what was changed, as a share of that of the numbers.
    pub fn share(&self) -> f64 {
        match self.all > 0.0 {
            true => (self.off / self.all).sqrt(),
            false => 0.0,
        }
    }

    /// Adds another.
    pub fn add(&mut self, other: AddedError) {
        self.off += other.off;
        self.all += other.all;
    }

    fn count(&mut self, was: f32, is: f32) {
        self.off += f64::from(is - was).powi(2);
        self.all += f64::from(was).powi(2);
    }
}

/// Where numbers of a weight are read from, and what is told of it in errors.
struct Source<'a> {
    name: &'a str,
    view: &'a WeightView<'a>,
    rows: usize,
    columns: usize,
}

impl Source<'_> {
    fn wrong(&self, why: impl Into<String>) -> CoreMlError {
        CoreMlError::Weight {
            name: self.name.into(),
            why: why.into(),
        }
    }

    /// The bytes of the rows.
    fn row_bytes(&self) -> Result<usize, CoreMlError> {
        let bytes = self.view.dtype.row_bytes(self.columns);
        let bytes = bytes.ok_or_else(|| {
            self.wrong(format!(
                "rows of {} are no whole {}",
                self.columns, self.view.dtype
            ))
        })?;
        match bytes.checked_mul(self.rows) == Some(self.view.bytes.len()) {
            true => Ok(bytes),
            false => Err(self.wrong(format!(
                "{} bytes for {} rows of {} {}, expected {} a row",
                self.view.bytes.len(),
                self.rows,
                self.columns,
                self.view.dtype,
                bytes
            ))),
        }
    }

    /// Calls `each` with the number of each row and what it holds.
    fn rows(
        &self,
        mut each: impl FnMut(usize, &[f32]) -> Result<(), CoreMlError>,
    ) -> Result<(), CoreMlError> {
        let bytes = self.row_bytes()?;
        let mut row = vec![0f32; self.columns];
        for (i, bytes) in self.view.bytes.chunks_exact(bytes.max(1)).enumerate() {
            dequantize(self.view.dtype, bytes, &mut row).map_err(|e| self.wrong(e.to_string()))?;
            each(i, &row)?;
        }
        Ok(())
    }
}

/// `x` as the type holds it.
pub(crate) fn rounded(float: DataType, x: f32) -> f32 {
    match float {
        DataType::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}

impl Matrix {
    /// The weight `name`, of `rows` of `columns`, in `encoding`, its scales in `float`.
    ///
    /// # Errors
    /// Bytes that are not what the weight's type and size say; numbers that F16 has not.
    pub fn of(
        name: &str,
        view: &WeightView<'_>,
        [rows, columns]: [usize; 2],
        encoding: Encoding,
        float: DataType,
    ) -> Result<Matrix, CoreMlError> {
        let source = Source {
            name,
            view,
            rows,
            columns,
        };
        let mut made = Matrix {
            encoding,
            columns,
            codes: Vec::new(),
            scales: Vec::new(),
            offsets: Vec::new(),
            float,
            error: AddedError::default(),
        };
        match encoding {
            Encoding::Plain(dtype) => made.plain(&source, dtype)?,
            Encoding::Scaled {
                codes,
                block,
                offset,
            } => {
                let block = block as usize;
                let exact = blocks::of_file(view.dtype, codes, block, offset);
                match exact {
                    Some(split) => made.split(&source, codes, split)?,
                    None if offset => {
                        return Err(source.wrong(format!("{} in {encoding}", view.dtype)));
                    }
                    None => made.symmetric(&source, codes, block)?,
                }
            }
            Encoding::Palette { codes, rows } => made.palette(&source, codes, rows as usize)?,
        }
        Ok(made)
    }

    fn plain(&mut self, source: &Source<'_>, dtype: DataType) -> Result<(), CoreMlError> {
        source.rows(|r, row| {
            for (c, &x) in row.iter().enumerate() {
                match dtype {
                    DataType::F16 => {
                        let held = f16::from_f32(x);
                        self.fits(source, r, c, x, held.to_f32())?;
                        self.codes.extend(held.to_le_bytes());
                    }
                    _ => {
                        self.fits(source, r, c, x, x)?;
                        self.codes.extend(x.to_le_bytes());
                    }
                }
            }
            Ok(())
        })
    }

    /// Counts `is`, which stands for `was`, and refuses it if it is infinite or no number.
    fn fits(
        &mut self,
        source: &Source<'_>,
        row: usize,
        column: usize,
        was: f32,
        is: f32,
    ) -> Result<(), CoreMlError> {
        if !is.is_finite() {
            return Err(CoreMlError::Overflow {
                name: source.name.into(),
                index: row.saturating_mul(self.columns).saturating_add(column),
                value: was,
            });
        }
        self.error.count(was, is);
        Ok(())
    }

    /// Integers around zero: the largest of a block is the largest integer.
    fn symmetric(
        &mut self,
        source: &Source<'_>,
        codes: DataType,
        block: usize,
    ) -> Result<(), CoreMlError> {
        let most = ((1u32 << (codes.bits() - 1)) - 1) as f32;
        let float = self.float;
        let mut integers = Vec::new();
        source.rows(|r, row| {
            for (b, numbers) in row.chunks(block.max(1)).enumerate() {
                let largest = numbers.iter().fold(0f32, |m, x| m.max(x.abs()));
                // a block of zeros needs a scale as well, and one that F16 has not is too small to matter
                let scale = match rounded(float, largest / most) {
                    scale if scale > 0.0 => scale,
                    _ => 1.0,
                };
                self.scales.push(scale);
                for (c, &x) in numbers.iter().enumerate() {
                    let code = (x / scale).round().clamp(-most, most);
                    self.fits(source, r, b * block + c, x, rounded(float, code * scale))?;
                    integers.push(code as i8 as u8);
                }
            }
            Ok(())
        })?;
        self.codes = pack(&integers, codes.bits());
        Ok(())
    }

    /// The blocks of the file, each split into a scale, an offset and integers.
    fn split(
        &mut self,
        source: &Source<'_>,
        codes: DataType,
        split: blocks::Split,
    ) -> Result<(), CoreMlError> {
        let bytes = source.row_bytes()?;
        let float = self.float;
        let mut was = vec![0f32; source.columns];
        let mut integers = Vec::with_capacity(source.rows.saturating_mul(source.columns));
        let signed = matches!(codes, DataType::I4 | DataType::I8);
        for (r, row) in source.view.bytes.chunks_exact(bytes.max(1)).enumerate() {
            dequantize(source.view.dtype, row, &mut was)
                .map_err(|e| source.wrong(e.to_string()))?;
            let mut c = 0;
            let mut failed = Ok(());
            split(row, &mut |part: blocks::Part<'_>| {
                let scale = rounded(float, part.scale);
                let offset = rounded(float, part.offset);
                self.scales.push(scale);
                if part.has_offset {
                    self.offsets.push(offset);
                }
                for &code in part.codes {
                    let x = if signed {
                        f32::from(code as i8)
                    } else {
                        f32::from(code)
                    };
                    let is = rounded(float, (x - offset) * scale);
                    if failed.is_ok() {
                        let x = was.get(c).copied().unwrap_or(0.0);
                        failed = self.fits(source, r, c, x, is);
                    }
                    c += 1;
                }
                integers.extend_from_slice(part.codes);
            });
            failed?;
        }
        self.codes = pack(&integers, codes.bits());
        Ok(())
    }

    /// Entries of tables: the means of what is nearest to them.
    fn palette(
        &mut self,
        source: &Source<'_>,
        codes: DataType,
        rows: usize,
    ) -> Result<(), CoreMlError> {
        let size = 1usize << codes.bits();
        let float = self.float;
        let mut integers = Vec::with_capacity(source.rows.saturating_mul(source.columns));
        let mut group: Vec<f32> = Vec::new();
        let mut first = 0;
        source.rows(|r, row| {
            if let Some(c) = row.iter().position(|x| !rounded(float, *x).is_finite()) {
                self.fits(source, r, c, row[c], f32::INFINITY)?;
            }
            group.extend_from_slice(row);
            if r + 1 < first + rows && r + 1 < source.rows {
                return Ok(());
            }
            let mut table = palette::table(&group, size);
            table.iter_mut().for_each(|x| *x = rounded(float, *x));
            for (i, &x) in group.iter().enumerate() {
                let code = palette::nearest(&table, x);
                self.fits(source, first, i, x, table[code])?;
                integers.push(code as u8);
            }
            self.scales.extend(&table);
            group.clear();
            first = r + 1;
            Ok(())
        })?;
        self.codes = pack(&integers, codes.bits());
        Ok(())
    }

    /// Bytes that it takes in the file of weights, without what stands between.
    pub fn bytes(&self) -> u64 {
        let floats = (self.scales.len() + self.offsets.len()) as u64;
        self.codes.len() as u64 + floats * u64::from(self.float.bits() / 8)
    }
}

#[cfg(test)]
mod tests;
