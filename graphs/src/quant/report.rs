//! What quantising a model comes to: sizes, errors, warnings.

use anynpu_ir::DType;
use serde::Serialize;

use super::convert::Errors;
use super::job::Task;
use super::source::QuantizeSource;

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

impl Task<'_> {
    /// What became of it, with what its rows are off by.
    pub(super) fn quality(&self, errors: Errors) -> TensorQuality {
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

/// The tensors by the type they have now, most bytes first.
pub(super) fn formats(
    tasks: &[Task<'_>],
    tensors: &[TensorQuality],
    errors: &[Errors],
) -> Vec<FormatQuality> {
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

/// What the user should know of the result.
pub(super) fn warnings(
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
