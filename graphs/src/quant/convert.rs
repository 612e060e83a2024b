//! Converting a tensor: a part at a time, its rows by several threads.

use std::io::Write;
use std::sync::Mutex;

use anynpu_ir::DType;
use anynpu_ir::block::{self, BlockError};

use super::file::QuantizeFileError;
use super::job::Task;
use super::{QuantizeError, quantize_row_searched};
use crate::import::gguf::TensorWriter;

/// Elements of a tensor that are worked on at a time.
const SLAB: usize = 4 << 20;

/// Converts a tensor, part by part, the rows of a part shared among threads.
pub(super) fn convert<W: Write>(
    task: &Task<'_>,
    (from, to): (DType, DType),
    bytes: &[u8],
    threads: usize,
    data: &mut TensorWriter<W>,
    advance: &mut dyn FnMut(u64) -> Result<(), QuantizeFileError>,
) -> Result<Errors, QuantizeFileError> {
    let name = task.tensor.name.as_str();
    let columns = task.tensor.columns() as usize;
    let per_matrix = task.tensor.dims.get(1).copied().unwrap_or(1);
    // Whole blocks both: the reader checked the source's rows, the rules chose the target by them.
    let (Some(read), Some(written)) = (from.row_bytes(columns), to.row_bytes(columns)) else {
        let source = QuantizeError::PartialBlock {
            dtype: to,
            elements: columns,
        };
        return Err(QuantizeFileError::Row {
            tensor: name.to_owned(),
            row: 0,
            source,
        });
    };
    let slab_rows = (SLAB / columns).max(1);
    let share = slab_rows.div_ceil(8 * threads).max(1);
    let mut out = vec![0; slab_rows.min(bytes.len() / read) * written];
    let mut total = Errors::default();
    for (slab, input) in bytes.chunks(slab_rows * read).enumerate() {
        let count = input.len() / read;
        let output = &mut out[..count * written];
        let mut errors = vec![Errors::default(); count];
        let work = input
            .chunks(share * read)
            .zip(output.chunks_mut(share * written))
            .zip(errors.chunks_mut(share))
            .enumerate();
        let work = Mutex::new(work);
        let failure = Mutex::new(None);
        let worker = || {
            let mut rows = Rows::new(columns, from, to);
            loop {
                let next = work.lock().ok().and_then(|mut w| w.next());
                let Some((i, ((input, output), errors))) = next else {
                    return;
                };
                let first = slab * slab_rows + i * share;
                let parts = input
                    .chunks(read)
                    .zip(output.chunks_mut(written))
                    .zip(errors);
                for (row, ((input, output), errors)) in (first as u64..).zip(parts) {
                    let weights = task.weights(row / per_matrix, columns);
                    match rows.convert(input, weights, output) {
                        Ok(found) => *errors = found,
                        Err(problem) => {
                            // The earliest row's problem is told, whoever comes first.
                            if let Ok(mut known) = failure.lock()
                                && known.as_ref().is_none_or(|(at, _)| row < *at)
                            {
                                *known = Some((row, problem));
                            }
                            break;
                        }
                    }
                }
            }
        };
        let ended = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(count.div_ceil(share)))
                .map(|_| scope.spawn(worker))
                .collect();
            worker();
            others.into_iter().all(|t| t.join().is_ok())
        });
        let failure = failure.into_inner();
        match failure {
            Ok(None) if ended => {}
            Ok(Some((row, problem))) => return Err(problem.of(name, row)),
            _ => {
                return Err(QuantizeFileError::Thread {
                    tensor: name.to_owned(),
                });
            }
        }
        for row in &errors {
            total.error += row.error;
            total.value += row.value;
        }
        data.append(name, output)?;
        advance((count * columns) as u64)?;
    }
    Ok(total)
}

/// Squared errors and squared values of a tensor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Errors {
    pub error: f64,
    pub value: f64,
}

impl Errors {
    /// Root mean square error over that of the values.
    pub fn relative(self) -> f64 {
        match self.value > 0.0 {
            true => (self.error / self.value).sqrt(),
            false => 0.0,
        }
    }
}

enum RowProblem {
    Decode(BlockError),
    Quantize(QuantizeError),
}

impl RowProblem {
    fn of(self, tensor: &str, row: u64) -> QuantizeFileError {
        let tensor = tensor.to_owned();
        match self {
            RowProblem::Decode(source) => QuantizeFileError::Decode { tensor, source },
            RowProblem::Quantize(source) => QuantizeFileError::Row {
                tensor,
                row,
                source,
            },
        }
    }
}

/// Room for one row before and after.
struct Rows {
    from: DType,
    to: DType,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Rows {
    fn new(columns: usize, from: DType, to: DType) -> Self {
        Rows {
            from,
            to,
            x: vec![0.0; columns],
            y: vec![0.0; columns],
        }
    }

    fn convert(
        &mut self,
        input: &[u8],
        weights: Option<&[f32]>,
        output: &mut [u8],
    ) -> Result<Errors, RowProblem> {
        block::dequantize(self.from, input, &mut self.x).map_err(RowProblem::Decode)?;
        quantize_row_searched(self.to, &self.x, weights, output).map_err(RowProblem::Quantize)?;
        block::dequantize(self.to, output, &mut self.y).map_err(RowProblem::Decode)?;
        let mut errors = Errors::default();
        for (&x, &y) in self.x.iter().zip(&self.y) {
            let (x, y) = (f64::from(x), f64::from(y));
            errors.error += (x - y) * (x - y);
            errors.value += x * x;
        }
        Ok(errors)
    }
}
