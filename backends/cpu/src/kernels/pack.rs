//! Weights laid out for the kernels, once, when a model is loaded.
//!
//! Rows are taken in groups of 16, so that lane `r` of a vector works on row `16·g + r`; a last
//! group that is not full is filled with zero weights. Blocks of 32 columns of a group follow one
//! another, groups follow one another, so a product reads memory from front to back.
//!
//! ```text
//! block formats: three planes
//!
//!   codes   group 0: | block 0 | block 1 | …          group 1: | …
//!   scales  group 0: | block 0 | block 1 | …          group 1: | …
//!   supers  group 0: | blocks 0..8 | blocks 8..16 | … group 1: | …       (K-quants only)
//!
//! one block of codes, 16 rows × 32 columns, in vectors of 64 bytes: byte 4·r + c of quad j is the
//! code of row r, column 4·j + c.
//!
//!   4 bits   256 bytes: 4 vectors; low nibbles of vector i are quad i, high nibbles quad i + 4
//!   5 bits   + 64: bit j of byte 4·r + c is bit 4 of quad j
//!   6 bits   + 128: 2 vectors; bits 2·(j mod 4) and 2·(j mod 4) + 1 of vector j / 4 are bits 4, 5
//!            of quad j
//!   8 bits   512 bytes: 8 vectors, vector j is quad j
//!
//!   format        codes  scales of a block                supers             bytes of 32 weights
//!   Q4_0            256  d[16] binary16                                      18
//!   Q4_1            256  d[16], m[16] binary16                               20
//!   Q5_0            320  d[16] binary16                                      22
//!   Q5_1            320  d[16], m[16] binary16                               24
//!   Q8_0            512  d[16] binary16                                      34
//!   Q4_K            256  scale[16], min[16], 6 bits each  d[16], −dmin[16]   18.5
//!                        in a byte                        binary16
//!   Q5_K            320  as Q4_K                          as Q4_K            22.5
//!   Q6_K            384  scale[2][16] signed bytes, one   d[16] binary16     26.25
//!                        for each half of the block
//!
//! F32, F16, BF16: one plane, the 16 rows' elements of column k side by side
//!
//!   group 0: | w[0..16][0] | w[0..16][1] | …          group 1: | …
//!
//! rounded to BF16: one plane, pairs of columns, the last filled up with zeros; elements below 2⁻¹²⁶ are zero
//!
//!   group 0: | w[0][0] w[0][1] w[1][0] w[1][1] … w[15][1] | w[0][2] w[0][3] … | …    group 1: | …
//! ```

use std::fmt;

use anynpu_ir::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use anynpu_hal::ZeroedMemory;

use super::buffer::{ALIGN, Shared, zeroed};
use super::{KernelError, check_weights, raw};
use crate::pool::Pool;

/// Rows of a group.
pub(super) const ROWS: usize = 16;
/// Blocks of 32 that share a record of the supers plane.
pub(super) const SUPER: usize = 8;

/// Bytes of the planes' records: codes of a block (of a column, for plain formats), scales of a
/// block, and a K-quant's supers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    pub codes: usize,
    pub scales: usize,
    pub supers: usize,
}

impl Records {
    /// Of a pair of columns of a matrix that is rounded.
    const ROUNDED: Records = Records {
        codes: 64,
        scales: 0,
        supers: 0,
    };

    pub(super) const fn of(dtype: DType) -> Option<Records> {
        let (codes, scales, supers) = match dtype {
            DType::F32 => (64, 0, 0),
            DType::F16 | DType::BF16 => (32, 0, 0),
            DType::Q4_0 => (256, 32, 0),
            DType::Q4_1 => (256, 64, 0),
            DType::Q5_0 => (320, 32, 0),
            DType::Q5_1 => (320, 64, 0),
            DType::Q8_0 => (512, 32, 0),
            DType::Q4_K => (256, 32, 64),
            DType::Q5_K => (320, 32, 64),
            DType::Q6_K => (384, 32, 32),
            _ => return None,
        };
        Some(Records {
            codes,
            scales,
            supers,
        })
    }
}

/// A matrix `[rows, cols]` of weights in the layout that [`super::Kernels::matmul`] reads. The
/// layout is the same for every processor.
pub struct PackedMatrix {
    dtype: DType,
    rounds_to: Option<DType>,
    rows: usize,
    cols: usize,
    records: Records,
    /// Records of codes in a group.
    steps: usize,
    scales_at: usize,
    supers_at: usize,
    data: ZeroedMemory,
}

impl PackedMatrix {
    /// Packs `rows` rows of `cols` elements, held as a file holds them: row after row, each a whole
    /// number of blocks, little-endian, at any alignment.
    ///
    /// # Errors
    /// [`KernelError::DType`] if the type is not a float or block format,
    /// [`KernelError::PartialBlock`] if `cols` is not a whole number of blocks,
    /// [`KernelError::Size`] if `bytes` has another length than the shape says, and
    /// [`KernelError::OutOfMemory`].
    pub fn pack(
        pool: &Pool,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix, KernelError> {
        Self::pack_as(pool, dtype, None, rows, cols, bytes)
    }

    /// As [`PackedMatrix::pack`] of F32, F16 or BF16, but rounded to BF16, to be multiplied by activations
    /// that are rounded too.
    ///
    /// # Errors
    /// As there; [`KernelError::DType`] for other types.
    pub fn round(
        pool: &Pool,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix, KernelError> {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => {
                Self::pack_as(pool, dtype, Some(DType::BF16), rows, cols, bytes)
            }
            _ => Err(KernelError::DType { dtype }),
        }
    }

    /// As [`PackedMatrix::pack`] of F16, to be multiplied by activations that are rounded to F16.
    ///
    /// # Errors
    /// As there.
    pub fn narrow(
        pool: &Pool,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix, KernelError> {
        Self::pack_as(pool, DType::F16, Some(DType::F16), rows, cols, bytes)
    }

    fn pack_as(
        pool: &Pool,
        held: DType,
        rounds_to: Option<DType>,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix, KernelError> {
        let row_bytes = check_weights(held, rows, cols, bytes)?;
        let rounded = rounds_to == Some(DType::BF16);
        let dtype = if rounded { DType::BF16 } else { held };
        let (records, steps) = if rounded {
            (Records::ROUNDED, cols.div_ceil(2))
        } else {
            let records = Records::of(dtype).ok_or(KernelError::DType { dtype })?;
            (records, steps(dtype, cols))
        };
        let groups = rows.div_ceil(ROWS);
        let layout = Self::planes(records, groups, steps);
        let (scales_at, supers_at, end) =
            layout.ok_or(KernelError::OutOfMemory { bytes: usize::MAX })?;
        let mut packed = PackedMatrix {
            dtype,
            rounds_to,
            rows,
            cols,
            records,
            steps,
            scales_at,
            supers_at,
            data: zeroed(end)?,
        };
        let data = Shared::new(packed.data.as_mut_slice());
        pool.run(groups, |g| {
            let first = g * ROWS;
            let rows = &bytes[first * row_bytes..][..row_bytes * ROWS.min(rows - first)];
            // SAFETY: the three ranges belong to group `g` alone, each group is packed by one
            // task, and `packed.data` stays borrowed by `data` until the pool is done.
            let (codes, scales, supers) = unsafe {
                let part = |at: usize, len: usize| data.slice(at + g * len, len);
                (
                    part(0, steps * records.codes),
                    part(scales_at, steps * records.scales),
                    part(supers_at, steps / SUPER * records.supers),
                )
            };
            if rounded && held == DType::BF16 {
                pack_pairs(rows, row_bytes, codes);
            } else if rounded {
                pack_pairs(&round_elements(held, rows), 2 * cols, codes);
            } else if dtype.is_block() {
                pack_blocks(dtype, records, rows, row_bytes, codes, scales, supers);
            } else if dtype == DType::F32 {
                pack_plain::<4>(rows, row_bytes, codes);
            } else {
                pack_plain::<2>(rows, row_bytes, codes);
            }
        });
        Ok(packed)
    }

    /// Bytes that packing `rows` rows of `cols` elements takes; `None` for a type that isn't packed
    /// or more than can be addressed.
    pub fn packed_bytes(dtype: DType, rows: usize, cols: usize) -> Option<usize> {
        let steps = steps(dtype, cols);
        let layout = Self::planes(Records::of(dtype)?, rows.div_ceil(ROWS), steps);
        layout.map(|(_, _, end)| end)
    }

    /// Bytes that rounding `rows` rows of `cols` elements takes; `None` for more than can be addressed.
    pub fn rounded_bytes(rows: usize, cols: usize) -> Option<usize> {
        let layout = Self::planes(Records::ROUNDED, rows.div_ceil(ROWS), cols.div_ceil(2));
        layout.map(|(_, _, end)| end)
    }

    /// Where the planes of scales and of supers start, and where the last ends.
    fn planes(records: Records, groups: usize, steps: usize) -> Option<(usize, usize, usize)> {
        let plane = |records: usize, bytes: usize| {
            let size = groups.checked_mul(records)?.checked_mul(bytes)?;
            size.checked_next_multiple_of(ALIGN)
        };
        let scales_at = plane(steps, records.codes)?;
        let supers_at = scales_at.checked_add(plane(steps, records.scales)?)?;
        let end = supers_at.checked_add(plane(steps / SUPER, records.supers)?)?;
        Some((scales_at, supers_at, end))
    }

    /// What the activations are rounded to that it is multiplied by, if they are: BF16 ([`PackedMatrix::round`]) or
    /// F16 ([`PackedMatrix::narrow`]).
    pub fn rounds_to(&self) -> Option<DType> {
        self.rounds_to
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of rows: outputs of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: inputs of a product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Memory held, in bytes.
    pub fn resident_bytes(&self) -> usize {
        self.data.len()
    }

    /// Groups of 16 rows.
    pub(super) fn groups(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Group `g`'s records of codes, of scales and of supers.
    #[inline(always)]
    pub(super) fn group(&self, g: usize) -> (&[u8], &[u8], &[u8]) {
        let part = |at: usize, len: usize| &self.data.as_slice()[at + g * len..][..len];
        (
            part(0, self.steps * self.records.codes),
            part(self.scales_at, self.steps * self.records.scales),
            part(self.supers_at, self.steps / SUPER * self.records.supers),
        )
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedMatrix")
            .field("dtype", &self.dtype)
            .field("rows", &self.rows)
            .field("cols", &self.cols)
            .field("resident_bytes", &self.resident_bytes())
            .finish()
    }
}

/// Records of codes in a group of `cols` columns.
const fn steps(dtype: DType, cols: usize) -> usize {
    if dtype.is_block() { cols / 32 } else { cols }
}

/// F16 or F32 elements as the nearest BF16.
fn round_elements(held: DType, elements: &[u8]) -> Vec<u8> {
    const AT_ONCE: usize = 256;
    let mut out = Vec::with_capacity(elements.len() / held.block_bytes() * 2);
    for some in elements.chunks(AT_ONCE * held.block_bytes()) {
        let (mut wide, mut rounded) = ([0.0; AT_ONCE], [bf16::ZERO; AT_ONCE]);
        let count = some.len() / held.block_bytes();
        match held {
            DType::F16 => {
                let mut halves = [f16::ZERO; AT_ONCE];
                for (half, &bytes) in halves.iter_mut().zip(some.as_chunks().0) {
                    *half = f16::from_le_bytes(bytes);
                }
                halves.convert_to_f32_slice(&mut wide);
            }
            _ => {
                for (wide, &bytes) in wide.iter_mut().zip(some.as_chunks().0) {
                    *wide = f32::from_le_bytes(bytes);
                }
            }
        }
        rounded.convert_from_f32_slice(&wide);
        out.extend(rounded[..count].iter().flat_map(|x| x.to_le_bytes()));
    }
    out
}

/// Packs one group of BF16 in pairs.
fn pack_pairs(rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    if row_bytes == 0 {
        return;
    }
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (pair, record) in row.chunks(4).zip(out.chunks_exact_mut(4 * ROWS)) {
            for (element, slot) in pair
                .chunks_exact(2)
                .zip(record[4 * r..].chunks_exact_mut(2))
            {
                let mut bits = u16::from_le_bytes([element[0], element[1]]);
                if bits & 0x7f80 == 0 {
                    bits &= 0x8000;
                }
                slot.copy_from_slice(&bits.to_ne_bytes());
            }
        }
    }
}

/// Transposes one group of plain elements of `SIZE` bytes.
fn pack_plain<const SIZE: usize>(rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    /// Of a row at a time: a cache line, so that what 16 rows of them become stays in the nearest cache.
    const BYTES: usize = 64;
    let (columns, _) = out.as_chunks_mut::<SIZE>();
    let (columns, _) = columns.as_chunks_mut::<ROWS>();
    for (i, columns) in columns.chunks_mut(BYTES / SIZE).enumerate() {
        for (r, row) in rows.chunks_exact(row_bytes).enumerate().take(ROWS) {
            let (elements, _) = row[i * BYTES..].as_chunks::<SIZE>();
            for (column, element) in columns.iter_mut().zip(elements) {
                column[r] = *element;
                // The kernels read native numbers; files hold little-endian ones.
                if cfg!(target_endian = "big") {
                    column[r].reverse();
                }
            }
        }
    }
}

/// Packs one group of a block format.
fn pack_blocks(
    dtype: DType,
    records: Records,
    rows: &[u8],
    row_bytes: usize,
    codes: &mut [u8],
    scales: &mut [u8],
    supers: &mut [u8],
) {
    if row_bytes == 0 {
        return;
    }
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        let blocks = codes
            .chunks_exact_mut(records.codes)
            .zip(scales.chunks_exact_mut(records.scales));
        for (b, (codes, scales)) in blocks.enumerate() {
            let fields = raw::fields(dtype, row, b);
            pack_codes(&fields.codes, r, codes);
            let d = fields.d.to_ne_bytes();
            match dtype {
                DType::Q4_K | DType::Q5_K | DType::Q6_K => {
                    scales[r] = fields.sub[0];
                    scales[ROWS + r] = fields.sub[1];
                    if b % SUPER == 0 {
                        let record = &mut supers[b / SUPER * records.supers..];
                        record[2 * r..][..2].copy_from_slice(&d);
                        if dtype != DType::Q6_K {
                            // The minimum is subtracted: its scale is held negated.
                            let m = (fields.m ^ 0x8000).to_ne_bytes();
                            record[2 * (ROWS + r)..][..2].copy_from_slice(&m);
                        }
                    }
                }
                _ => {
                    scales[2 * r..][..2].copy_from_slice(&d);
                    if raw::has_min(dtype) {
                        let m = fields.m.to_ne_bytes();
                        scales[2 * (ROWS + r)..][..2].copy_from_slice(&m);
                    }
                }
            }
        }
    }
}

/// Puts one row's 32 codes into a block's record.
fn pack_codes(codes: &[u8; 32], r: usize, record: &mut [u8]) {
    if record.len() == 512 {
        for (quad, out) in codes.chunks_exact(4).zip(record.chunks_exact_mut(64)) {
            out[4 * r..][..4].copy_from_slice(quad);
        }
        return;
    }
    let (nibbles, high) = record.split_at_mut(256);
    for (i, vector) in nibbles.chunks_exact_mut(64).enumerate() {
        for (c, out) in vector[4 * r..][..4].iter_mut().enumerate() {
            *out = codes[4 * i + c] & 15 | codes[16 + 4 * i + c] << 4;
        }
    }
    let bits = high.len() / 64;
    if bits == 0 {
        return;
    }
    let quads = 8 / bits;
    for (h, vector) in high.chunks_exact_mut(64).enumerate() {
        for (c, out) in vector[4 * r..][..4].iter_mut().enumerate() {
            for j in 0..quads {
                *out |= (codes[4 * (h * quads + j) + c] >> 4) << (bits * j);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_weights_are_those_of_a_file_in_bf16() {
        let pool = Pool::new(1).unwrap();
        let (rows, cols) = (18, 7);
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
        let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        let bytes_of = |bf16s: Vec<bf16>| -> Vec<u8> {
            bf16s.into_iter().flat_map(bf16::to_le_bytes).collect()
        };
        let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let half: Vec<u8> = halves.iter().flat_map(|v| v.to_le_bytes()).collect();
        let from_wide = values.iter().map(|&v| bf16::from_f32(v)).collect();
        let from_half = halves.iter().map(|v| bf16::from_f32(v.to_f32())).collect();
        for (dtype, bytes, expected) in [
            (DType::F32, wide, bytes_of(from_wide)),
            (DType::F16, half, bytes_of(from_half)),
        ] {
            let rounded = PackedMatrix::round(&pool, dtype, rows, cols, &bytes).unwrap();
            let packed = PackedMatrix::round(&pool, DType::BF16, rows, cols, &expected).unwrap();
            assert_eq!(rounded.data.as_slice(), packed.data.as_slice());
            assert!(rounded.dtype() == DType::BF16 && rounded.rounds_to() == Some(DType::BF16));
            assert_eq!(
                Some(rounded.resident_bytes()),
                PackedMatrix::rounded_bytes(rows, cols)
            );
        }
        assert!(PackedMatrix::round(&pool, DType::Q8_0, 1, 32, &[0; 34]).is_err());
    }

    #[test]
    fn packed_weights_are_as_compact_as_the_module_says() {
        let pool = Pool::new(1).unwrap();
        for (dtype, bytes_of_32) in [
            (DType::F32, 128.0),
            (DType::F16, 64.0),
            (DType::BF16, 64.0),
            (DType::Q4_0, 18.0),
            (DType::Q4_1, 20.0),
            (DType::Q5_0, 22.0),
            (DType::Q5_1, 24.0),
            (DType::Q8_0, 34.0),
            (DType::Q4_K, 18.5),
            (DType::Q5_K, 22.5),
            (DType::Q6_K, 26.25),
        ] {
            let (rows, cols) = (32, 512);
            let bytes = vec![0; rows * dtype.row_bytes(cols).unwrap()];
            let packed = PackedMatrix::pack(&pool, dtype, rows, cols, &bytes).unwrap();
            let expected = bytes_of_32 * (rows * cols / 32) as f64;
            assert_eq!(packed.resident_bytes() as f64, expected, "{dtype}");
        }
    }

    #[test]
    fn wrong_shapes_and_types_are_refused() {
        let pool = Pool::new(1).unwrap();
        let pack = |dtype, rows, cols, len| {
            PackedMatrix::pack(&pool, dtype, rows, cols, &vec![0; len]).unwrap_err()
        };
        assert!(matches!(
            pack(DType::I32, 1, 4, 16),
            KernelError::DType { dtype: DType::I32 }
        ));
        assert!(matches!(
            pack(DType::Q4_0, 2, 33, 36),
            KernelError::PartialBlock { cols: 33, .. }
        ));
        assert!(matches!(
            pack(DType::Q4_0, 2, 32, 35),
            KernelError::Size { found: 35, .. }
        ));
        assert!(matches!(
            pack(DType::F32, usize::MAX, 2, 0),
            KernelError::Overflow { .. }
        ));
    }
}
