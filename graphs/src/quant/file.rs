//! Writing a model again with other types.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anynpu_ir::DType;
use anynpu_ir::block::{self, BlockError};
use serde::Serialize;
use thiserror::Error;

use super::implied::implied_importance;
use super::mixture::{Choice, Rules};
use super::source::{FILE_TYPE, QUANTIZATION_VERSION, QuantizeSource, SourceTensor};
use super::{Imatrix, ImatrixError, Mixture, QuantizeError, quantize_row_searched};
use crate::import::gguf::{GgmlType, GgufError, GgufWriteError, GgufWriter, TensorWriter};

/// A model that can't be written with other types.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuantizeFileError {
    /// The model can't be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The importance matrix doesn't fit the model.
    #[error(transparent)]
    Imatrix(#[from] ImatrixError),
    /// A row can't be had in the type chosen.
    #[error("tensor '{tensor}', row {row}: {source}")]
    Row {
        /// The tensor.
        tensor: String,
        /// The row.
        row: u64,
        /// What is wrong with it.
        source: QuantizeError,
    },
    /// A tensor that can't be decoded.
    #[error("tensor '{tensor}': {source}")]
    Decode {
        /// The tensor.
        tensor: String,
        /// Why not.
        source: BlockError,
    },
    /// A tensor that was there when the model was opened.
    #[error("tensor '{tensor}' can't be read any more; were the model's files changed meanwhile?")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor of a type with a layout that is not known.
    #[error("tensor '{tensor}' is {found}, which can't be decoded or copied")]
    Type {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: GgmlType,
    },
    /// One part of a model that is split into several files.
    #[error("the model is split into {parts} files; join them into one first")]
    Split {
        /// How many.
        parts: u64,
    },
    /// The output can't be written.
    #[error("writing {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why not.
        source: GgufWriteError,
    },
    /// The output is the input.
    #[error("{path} is the model that is read; name another file to write")]
    Same {
        /// The file.
        path: String,
    },
    /// A worker thread died, which only a fault of this program can cause.
    #[error("a quantising thread ended early in tensor '{tensor}'")]
    Thread {
        /// The tensor.
        tensor: String,
    },
    /// The caller asked to stop.
    #[error("quantising was cancelled")]
    Cancelled,
}

/// How to quantise a model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// The types.
    pub mixture: Mixture,
    /// How much each column matters; all alike if not given.
    pub imatrix: Option<Imatrix>,
    /// Threads; all cores if not said. The bytes don't depend on it.
    pub threads: Option<NonZero<usize>>,
}

impl QuantizeOptions {
    /// With all cores and without an importance matrix.
    pub fn new(mixture: Mixture) -> Self {
        QuantizeOptions {
            mixture,
            imatrix: None,
            threads: None,
        }
    }

    /// Sets the importance matrix.
    #[must_use]
    pub fn imatrix(mut self, imatrix: Imatrix) -> Self {
        self.imatrix = Some(imatrix);
        self
    }

    /// Sets the number of threads.
    #[must_use]
    pub fn threads(mut self, threads: NonZero<usize>) -> Self {
        self.threads = Some(threads);
        self
    }
}

/// How far quantising has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuantizeProgress {
    /// Elements written.
    pub done: u64,
    /// Elements of all tensors.
    pub total: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QuantizeReport {
    /// Name of the mixture.
    #[serde(rename = "type")]
    pub mixture: &'static str,
    /// Bytes of the model read, header included.
    pub input_bytes: u64,
    /// Bytes written, header included.
    pub output_bytes: u64,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bits of tensor data an element.
    pub bits_per_weight: f64,
    /// Tensors by the type they have now, most bytes first.
    pub formats: Vec<FormatQuality>,
    /// Every tensor, in the file's order.
    pub tensors: Vec<TensorQuality>,
    /// The importance matrix, if one was used.
    pub imatrix: Option<ImatrixUse>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The tensors of one type.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FormatQuality {
    /// Name of the type.
    pub dtype: &'static str,
    /// Tensors.
    pub tensors: u32,
    /// Elements.
    pub parameters: u64,
    /// Bytes.
    pub bytes: u64,
    /// Root mean square error over that of the values, of all its tensors together.
    pub relative_rmse: f64,
    /// The tensor with the largest relative error, if any has one.
    pub worst: Option<String>,
    /// Its relative error.
    pub worst_relative_rmse: f64,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorQuality {
    /// Its name.
    pub name: String,
    /// Name of the type it had.
    pub from: String,
    /// Name of the type it has.
    pub to: String,
    /// The type it should have had, where its rows aren't whole blocks of that.
    pub instead_of: Option<&'static str>,
    /// Elements.
    pub parameters: u64,
    /// Bytes now.
    pub bytes: u64,
    /// Root mean square error over that of the values; 0 if it was copied.
    pub relative_rmse: f64,
    /// What its columns were weighted by, if by anything.
    pub weighting: Option<Weighting>,
}

/// What says how much a column matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Weighting {
    /// An importance matrix.
    Imatrix,
    /// The weights of the norm whose output the matrix reads.
    Norm,
}

/// What was used of an importance matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ImatrixUse {
    /// The file.
    pub file: String,
    /// Entries it has.
    pub entries: usize,
    /// Quantised tensors that it has an entry for.
    pub used: usize,
    /// Quantised tensors that it has none for.
    pub missing: Vec<String>,
}

/// Writes `source` with other types to `path`, which is there whole or not at all: it is written
/// beside its place and moved there at the end. One tensor is worked on at a time; of those of a
/// folder that GGUF has in another form a copy is in memory, of others a part. `progress` stops the work by returning [`ControlFlow::Break`].
///
/// # Errors
/// A source that is split or has tensors that can't be decoded, values that a type can't hold, an
/// importance matrix of another model, an output that can't be written.
pub fn quantize_file<'a>(
    source: impl Into<QuantizeSource<'a>>,
    path: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
) -> Result<QuantizeReport, QuantizeFileError> {
    let source = source.into();
    if source.is_at(path) {
        return Err(QuantizeFileError::Same {
            path: path.display().to_string(),
        });
    }
    let failed = |source: GgufWriteError| QuantizeFileError::Write {
        path: path.display().to_string(),
        source,
    };
    let job = Job::plan(source, options).map_err(|e| e.at(path))?;
    let (part, file) = PartFile::beside(path).map_err(|e| failed(e.into()))?;
    let out = Counted::new(BufWriter::with_capacity(1 << 20, file));
    let (report, out) = job.write(out, progress).map_err(|e| e.at(path))?;
    let file = out
        .inner
        .into_inner()
        .map_err(|e| failed(e.into_error().into()))?;
    file.sync_all().map_err(|e| failed(e.into()))?;
    part.keep(path).map_err(|e| failed(e.into()))?;
    Ok(report)
}

/// Writes `source` with other types to `out`. As [`quantize_file`] otherwise.
///
/// # Errors
/// As [`quantize_file`].
pub fn quantize_gguf<'a, W: Write>(
    source: impl Into<QuantizeSource<'a>>,
    out: W,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
) -> Result<(QuantizeReport, W), QuantizeFileError> {
    let job = Job::plan(source.into(), options)?;
    let (report, out) = job.write(Counted::new(out), progress)?;
    Ok((report, out.inner))
}

impl QuantizeFileError {
    /// The same with the path of the output, where it was not known.
    fn at(self, path: &Path) -> Self {
        match self {
            QuantizeFileError::Write { source, .. } => QuantizeFileError::Write {
                path: path.display().to_string(),
                source,
            },
            other => other,
        }
    }
}

impl From<GgufWriteError> for QuantizeFileError {
    fn from(source: GgufWriteError) -> Self {
        QuantizeFileError::Write {
            path: "the output".into(),
            source,
        }
    }
}

/// One tensor's part of the work.
struct Task<'a> {
    tensor: SourceTensor,
    /// `None`: the bytes are copied.
    to: Option<(DType, DType)>,
    instead_of: Option<DType>,
    weights: Option<Weights<'a>>,
}

/// How much the columns of a tensor matter, and who says so.
struct Weights<'a> {
    /// Of one matrix, or of each of several one after the other.
    values: Cow<'a, [f32]>,
    from: Weighting,
}

/// A model, what becomes of each tensor, and the header of the result.
struct Job<'a> {
    source: QuantizeSource<'a>,
    options: &'a QuantizeOptions,
    tasks: Vec<Task<'a>>,
    header: GgufWriter,
    imatrix: Option<ImatrixUse>,
}

/// The version of the block formats' layouts.
const LAYOUT_VERSION: u32 = 2;

impl<'a> Job<'a> {
    fn plan(
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

    fn write<W: Write>(
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

/// Squared errors and squared values of a tensor.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    error: f64,
    value: f64,
}

impl Errors {
    fn relative(self) -> f64 {
        match self.value > 0.0 {
            true => (self.error / self.value).sqrt(),
            false => 0.0,
        }
    }
}

impl Task<'_> {
    fn is_measured(&self) -> bool {
        let from = self.weights.as_ref().map(|w| w.from);
        from == Some(Weighting::Imatrix)
    }

    /// The weights of a matrix's columns.
    fn weights(&self, matrix: u64, columns: usize) -> Option<&[f32]> {
        let values = &self.weights.as_ref()?.values;
        let matrices = (values.len() / columns).max(1);
        let at = matrix as usize % matrices * columns;
        values.get(at..at + columns)
    }

    fn bytes(&self) -> u64 {
        let columns = self.tensor.columns();
        match self.to {
            Some((_, to)) => {
                let blocks = self.tensor.elements() / columns * (columns / to.block_len() as u64);
                blocks * to.block_bytes() as u64
            }
            None => self.tensor.bytes.unwrap_or(0),
        }
    }

    fn quality(&self, errors: Errors) -> TensorQuality {
        let from = self.tensor.ggml_type;
        let from = from.name().unwrap_or("unknown").to_lowercase();
        TensorQuality {
            name: self.tensor.name.clone(),
            to: self.to.map_or(from.clone(), |(_, to)| to.name().to_owned()),
            from,
            instead_of: self.instead_of.map(DType::name),
            parameters: self.tensor.elements(),
            bytes: self.bytes(),
            relative_rmse: errors.relative(),
            weighting: self.weights.as_ref().map(|w| w.from),
        }
    }
}

fn formats(tasks: &[Task<'_>], tensors: &[TensorQuality], errors: &[Errors]) -> Vec<FormatQuality> {
    let mut formats: Vec<(FormatQuality, Errors)> = Vec::new();
    for ((task, tensor), errors) in tasks.iter().zip(tensors).zip(errors) {
        let from = task.tensor.ggml_type;
        let ours = task.to.map(|(_, to)| to).or(from.dtype());
        let dtype = match ours {
            Some(dtype) => dtype.name(),
            None => from.name().unwrap_or("unknown"),
        };
        let known = formats.iter().position(|(f, _)| f.dtype == dtype);
        let at = known.unwrap_or_else(|| {
            let format = FormatQuality {
                dtype,
                tensors: 0,
                parameters: 0,
                bytes: 0,
                relative_rmse: 0.0,
                worst: None,
                worst_relative_rmse: 0.0,
            };
            formats.push((format, Errors::default()));
            formats.len() - 1
        });
        let (format, sum) = &mut formats[at];
        format.tensors += 1;
        format.parameters += tensor.parameters;
        format.bytes += tensor.bytes;
        sum.error += errors.error;
        sum.value += errors.value;
        format.relative_rmse = sum.relative();
        if tensor.relative_rmse > format.worst_relative_rmse {
            format.worst = Some(tensor.name.clone());
            format.worst_relative_rmse = tensor.relative_rmse;
        }
    }
    let mut formats: Vec<FormatQuality> = formats.into_iter().map(|(f, _)| f).collect();
    formats.sort_by_key(|f| std::cmp::Reverse(f.bytes));
    formats
}

fn warnings(
    source: QuantizeSource<'_>,
    tasks: &[Task<'_>],
    imatrix: Option<&ImatrixUse>,
) -> Vec<String> {
    let mut warnings = source.warnings().to_vec();
    let again = |t: &&Task<'_>| {
        t.to.is_some_and(|(from, to)| from.is_block() && to.is_block())
    };
    let again = tasks.iter().filter(again).count();
    if again > 0 {
        warnings.push(format!(
            "{again} tensors were quantised already, so their errors add up; quantise from F32, \
             F16 or BF16 where you can"
        ));
    }
    for task in tasks {
        if let (Some(wanted), Some((_, to))) = (task.instead_of, task.to) {
            let columns = task.tensor.columns();
            warnings.push(format!(
                "tensor '{}' is {to} instead of {wanted}: its rows of {columns} elements are no \
                 multiple of {}",
                task.tensor.name,
                wanted.block_len()
            ));
        }
    }
    if let Some(unknown) = imatrix.filter(|i| !i.missing.is_empty()) {
        warnings.push(format!(
            "the importance matrix says nothing of {} of the quantised tensors, e.g. '{}'",
            unknown.missing.len(),
            unknown.missing[0]
        ));
    }
    warnings
}

/// Elements of a tensor that are worked on at a time.
const SLAB: usize = 4 << 20;

/// Converts a tensor, part by part, the rows of a part shared among threads.
fn convert<W: Write>(
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

/// Counts what is written.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W> Counted<W> {
    fn new(inner: W) -> Self {
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

/// A file that is removed unless it is kept.
struct PartFile {
    path: PathBuf,
    kept: bool,
}

impl PartFile {
    /// A new file in the folder of `path`.
    fn beside(path: &Path) -> io::Result<(Self, File)> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
        let mut tries = 0;
        loop {
            let mut part = name.to_owned();
            part.push(format!(".{}-{tries}.part", std::process::id()));
            let part = path.with_file_name(part);
            match OpenOptions::new().write(true).create_new(true).open(&part) {
                Ok(file) => {
                    let part = PartFile {
                        path: part,
                        kept: false,
                    };
                    return Ok((part, file));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < 100 => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Moves it to its place.
    fn keep(mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "unfinished file not removed");
        }
    }
}
