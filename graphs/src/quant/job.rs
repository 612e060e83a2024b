//! What becomes of each tensor of a model, and writing it.

use std::borrow::Cow;
use std::io::{self, Write};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;

use anynpu_ir::{DType, block};

use super::convert::{Errors, convert};
use super::file::{QuantizeFileError, QuantizeOptions, QuantizeProgress};
use super::implied::implied_importance;
use super::mixture::{Choice, Rules};
use super::report::{ImatrixUse, QuantizeReport, Weighting, formats, warnings};
use super::source::{FILE_TYPE, QUANTIZATION_VERSION, QuantizeSource, SourceTensor};
use super::{Imatrix, ImatrixError};
use crate::import::gguf::{GgmlType, GgufWriteError, GgufWriter};

/// A model, what becomes of each tensor, and the header of the result.
pub(super) struct Job<'a> {
    source: QuantizeSource<'a>,
    options: &'a QuantizeOptions,
    tasks: Vec<Task<'a>>,
    header: GgufWriter,
    imatrix: Option<ImatrixUse>,
}

/// The version of the block formats' layouts.
const LAYOUT_VERSION: u32 = 2;

impl<'a> Job<'a> {
    /// Decides what becomes of each tensor.
    pub fn plan(
        source: QuantizeSource<'a>,
        options: &'a QuantizeOptions,
    ) -> Result<Self, QuantizeFileError> {
        let parts = source.parts();
        if parts > 1 {
            return Err(QuantizeFileError::Split { parts });
        }
        let tensors = source.tensors();
        let names = tensors.iter().map(|t| t.name.as_str());
        let imatrix = options.imatrix.is_some();
        let rules = Rules::new(source.file(), names, options.mixture, imatrix);
        let mut tasks = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            tasks.push(task(source, tensor, &rules, options.imatrix.as_ref())?);
        }
        let imatrix = match &options.imatrix {
            Some(imatrix) => Some(imatrix_use(imatrix, &tasks)?),
            None => None,
        };
        let header = header(source, options, &tasks, imatrix.as_ref())?;
        Ok(Job {
            source,
            options,
            tasks,
            header,
            imatrix,
        })
    }

    /// Writes the header and every tensor.
    pub fn write<W: Write>(
        self,
        out: Counted<W>,
        progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
    ) -> Result<(QuantizeReport, Counted<W>), QuantizeFileError> {
        let total = self.tasks.iter().map(|t| t.tensor.elements()).sum();
        let mut done = 0u64;
        let mut advance = |elements: u64| {
            done += elements;
            match progress(QuantizeProgress { done, total }) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(QuantizeFileError::Cancelled),
            }
        };
        advance(0)?;
        let threads = self
            .options
            .threads
            .or(std::thread::available_parallelism().ok());
        let threads = threads.map_or(1, NonZero::get);
        let mut data = self.header.begin(out)?;
        let mut tensors = Vec::with_capacity(self.tasks.len());
        let mut sums = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let errors = match task.to {
                None => {
                    data.append(&task.tensor.name, &self.source.data(&task.tensor.name)?)?;
                    advance(task.tensor.elements())?;
                    Errors::default()
                }
                Some(types) => {
                    let bytes = self.source.data(&task.tensor.name)?;
                    convert(task, types, &bytes, threads, &mut data, &mut advance)?
                }
            };
            self.source.release(&task.tensor.name);
            tensors.push(task.quality(errors));
            sums.push(errors);
        }
        let out = data.finish()?;
        let report = QuantizeReport {
            mixture: self.options.mixture.name(),
            input_bytes: self.source.bytes(),
            output_bytes: out.bytes,
            parameters: total,
            bits_per_weight: 8.0 * tensors.iter().map(|t| t.bytes as f64).sum::<f64>()
                / total.max(1) as f64,
            formats: formats(&self.tasks, &tensors, &sums),
            warnings: warnings(self.source, &self.tasks, self.imatrix.as_ref()),
            tensors,
            imatrix: self.imatrix,
        };
        Ok((report, out))
    }
}

/// One tensor's part of the work.
pub(super) struct Task<'a> {
    pub tensor: SourceTensor,
    /// The type it has and the one it gets; `None`: the bytes are copied.
    pub to: Option<(DType, DType)>,
    /// The type it should have had.
    pub instead_of: Option<DType>,
    pub weights: Option<Weights<'a>>,
}

/// How much the columns of a tensor matter, and who says so.
pub(super) struct Weights<'a> {
    /// Of one matrix, or of each of several one after the other.
    pub values: Cow<'a, [f32]>,
    pub from: Weighting,
}

impl Task<'_> {
    fn is_measured(&self) -> bool {
        let from = self.weights.as_ref().map(|w| w.from);
        from == Some(Weighting::Imatrix)
    }

    /// The weights of a matrix's columns.
    pub fn weights(&self, matrix: u64, columns: usize) -> Option<&[f32]> {
        let values = &self.weights.as_ref()?.values;
        let matrices = (values.len() / columns).max(1);
        let at = matrix as usize % matrices * columns;
        values.get(at..at + columns)
    }

    /// Bytes once written.
    pub fn bytes(&self) -> u64 {
        let columns = self.tensor.columns();
        match self.to {
            Some((_, to)) => {
                let blocks = self.tensor.elements() / columns * (columns / to.block_len() as u64);
                blocks * to.block_bytes() as u64
            }
            None => self.tensor.bytes.unwrap_or(0),
        }
    }
}

fn task<'a>(
    source: QuantizeSource<'a>,
    tensor: SourceTensor,
    rules: &Rules,
    imatrix: Option<&'a Imatrix>,
) -> Result<Task<'a>, QuantizeFileError> {
    let dims = &tensor.dims;
    let (to, instead_of) = match rules.choose(&tensor.name, dims) {
        // as converters of folders write routers
        Choice::Keep if source.is_folder() => (Some(DType::F32), None),
        Choice::Keep => (None, None),
        Choice::To(dtype) => (Some(dtype), None),
        Choice::Instead { wanted, to } => (Some(to), Some(wanted)),
    };
    let from = tensor.ggml_type;
    let unknown = |tensor: &SourceTensor| QuantizeFileError::Type {
        tensor: tensor.name.clone(),
        found: from,
    };
    let is_table = from.dtype().is_some_and(|d| !block::is_decodable(d));
    let Some(to) = to.filter(|&to| GgmlType::of(to) != Some(from) && !is_table) else {
        // Bytes of an unknown length can't be copied either.
        if tensor.bytes.is_none() {
            return Err(unknown(&tensor));
        }
        return Ok(Task {
            tensor,
            to: None,
            instead_of,
            weights: None,
        });
    };
    let columns = tensor.columns();
    let matrices = dims.iter().skip(2).product();
    let measured = match imatrix {
        Some(imatrix) if to.is_block() => imatrix.weights(&tensor.name, columns, matrices)?,
        _ => None,
    };
    let weights = match measured {
        Some(values) => Some(Weights {
            values: values.into(),
            from: Weighting::Imatrix,
        }),
        None if to.is_block() => {
            let implied = implied_importance(source, &tensor.name, columns);
            implied.map(|values| Weights {
                values: values.into(),
                from: Weighting::Norm,
            })
        }
        None => None,
    };
    Ok(Task {
        to: Some((from.dtype().ok_or_else(|| unknown(&tensor))?, to)),
        tensor,
        instead_of,
        weights,
    })
}

fn imatrix_use(imatrix: &Imatrix, tasks: &[Task<'_>]) -> Result<ImatrixUse, ImatrixError> {
    let quantized = |t: &&Task<'_>| t.to.is_some_and(|(_, to)| to.is_block());
    let missing: Vec<String> = tasks
        .iter()
        .filter(quantized)
        .filter(|t| !t.is_measured())
        .map(|t| t.tensor.name.clone())
        .collect();
    let used = tasks.iter().filter(|t| t.is_measured()).count();
    if used == 0 && !missing.is_empty() {
        return Err(imatrix.none_used());
    }
    Ok(ImatrixUse {
        file: imatrix.file().to_owned(),
        entries: imatrix.len(),
        used,
        missing,
    })
}

/// The header: the source's metadata with what changed.
fn header(
    source: QuantizeSource<'_>,
    options: &QuantizeOptions,
    tasks: &[Task<'_>],
    imatrix: Option<&ImatrixUse>,
) -> Result<GgufWriter, GgufWriteError> {
    let mut plan = source.header()?;
    plan.set(FILE_TYPE, &options.mixture.file_type())?;
    plan.set(QUANTIZATION_VERSION, &LAYOUT_VERSION)?;
    if let (Some(imatrix), Some(used)) = (&options.imatrix, imatrix) {
        let name = Path::new(imatrix.file()).file_name();
        let name = name.map_or(imatrix.file().into(), |n| n.to_string_lossy());
        plan.set("quantize.imatrix.file", &*name)?;
        if let Some(dataset) = imatrix.datasets().first() {
            plan.set("quantize.imatrix.dataset", dataset)?;
        }
        plan.set("quantize.imatrix.entries_count", &(used.entries as u32))?;
        if let Some(chunks) = imatrix.chunks() {
            plan.set("quantize.imatrix.chunks_count", &chunks)?;
        }
    }
    for task in tasks {
        let tensor = &task.tensor;
        let to = task.to.and_then(|(_, to)| GgmlType::of(to));
        let ty = to.unwrap_or(tensor.ggml_type);
        plan.tensor_of_type(&tensor.name, ty, &tensor.dims)?;
    }
    Ok(plan)
}

/// Counts what is written.
pub(super) struct Counted<W> {
    pub inner: W,
    pub bytes: u64,
}

impl<W> Counted<W> {
    pub fn new(inner: W) -> Self {
        Counted { inner, bytes: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
