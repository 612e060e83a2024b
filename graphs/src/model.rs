//! A model: its graph, its figures and the bytes of its tensors.

use std::borrow::Cow;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use anynpu_ir::{DType, Dim, Graph, Op, SymbolValues, TensorType, ValueId};

use crate::ModelError;
use crate::arch::{self, Architecture, Kind};
use crate::import::gguf::{Gguf, Value};
use crate::import::hugging_face::HuggingFaceModel;

/// Where a model's tensors are; usually a mapped file.
pub trait TensorData: Debug + Send + Sync {
    /// The tensor called `name`: its element type and its bytes, row-major. They are owned where they
    /// were made from what the file has, which is done again for each call.
    fn tensor(&self, name: &str) -> Option<(DType, Cow<'_, [u8]>)>;

    /// The length of the tensor's data, and its first and last bytes, `most` of each or all.
    fn sample(&self, name: &str, most: usize) -> Option<(u64, Vec<u8>, Vec<u8>)> {
        let (_, bytes) = self.tensor(name)?;
        Some(sample(&bytes, &bytes, bytes.len() as u64, most))
    }

    /// Where in a file the bytes of [`TensorData::tensor`] are: its path, the offset and the length. `None` if
    /// they are in no file as they are.
    fn span(&self, name: &str) -> Option<(PathBuf, u64, u64)> {
        let _ = name;
        None
    }

    /// Tells that the tensor will not be read again, so that its memory may be given back.
    fn release(&self, name: &str) {
        let _ = name;
    }
}

/// The length and the ends of data that begins as `first` and ends as `last`.
pub(crate) fn sample(first: &[u8], last: &[u8], len: u64, most: usize) -> (u64, Vec<u8>, Vec<u8>) {
    let first = &first[..first.len().min(most)];
    let last = &last[last.len().saturating_sub(most)..];
    (len, first.to_vec(), last.to_vec())
}

/// A model, ready to be planned and compiled.
#[derive(Clone, Debug)]
pub struct Model {
    graph: Arc<Graph>,
    info: Arc<ModelInfo>,
    data: Arc<dyn TensorData>,
}

/// What a model is, for reports.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Its own name, or the architecture's if it has none.
    pub name: String,
    /// Architecture.
    pub architecture: String,
    /// What it gives.
    pub kind: Kind,
    /// Positions it was trained for.
    pub context_length: u32,
    /// The longest context that its graph is right for, if longer ones need another: see
    /// [`Model::from_gguf_for`].
    pub context_switch: Option<u32>,
    /// Tokens it has logits for.
    pub vocabulary: u32,
    /// Repeated blocks.
    pub layers: u32,
    /// Elements of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of all weights.
    pub parameters: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Bytes of weights that generating one token reads: all but the embedding's other rows.
    pub streamed_bytes_per_token: u64,
    /// Weights by element type, the type with most bytes first.
    pub formats: Vec<FormatShare>,
}

/// The weights of one element type.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct FormatShare {
    /// Name of the type.
    pub dtype: &'static str,
    /// Tensors.
    pub tensors: u32,
    /// Elements.
    pub parameters: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Model {
    /// A model called `name` of `architecture`, its tensors in `data`.
    pub fn new(name: Option<&str>, architecture: Architecture, data: Arc<dyn TensorData>) -> Self {
        let info = ModelInfo::of(name, &architecture);
        Model {
            graph: Arc::new(architecture.graph),
            info: Arc::new(info),
            data,
        }
    }

    /// The model of a GGUF file, whose architecture its metadata names.
    ///
    /// # Errors
    /// As [`crate::arch::build`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        Self::from_gguf_for(gguf, 0)
    }

    /// As [`Model::from_gguf`], for a context of `context` tokens, which matters to models with a
    /// [`ModelInfo::context_switch`].
    ///
    /// # Errors
    /// As [`crate::arch::build`].
    pub fn from_gguf_for(gguf: &Gguf, context: u32) -> Result<Self, ModelError> {
        let architecture = arch::build_for(gguf, context)?;
        let name = match gguf.metadata().get("general.name") {
            Some(Value::String(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        Ok(Model::new(name, architecture, Arc::new(gguf.clone())))
    }

    /// The model of a Hugging Face folder, for a context of `context` tokens, which matters to
    /// models with a [`ModelInfo::context_switch`].
    ///
    /// # Errors
    /// As [`crate::arch::build`], with the folder's own names.
    pub fn from_hugging_face(folder: &HuggingFaceModel, context: u32) -> Result<Self, ModelError> {
        let architecture = arch::build_for(folder, context).map_err(|e| folder.explain(e))?;
        let name = folder.folder().name();
        Ok(Model::new(
            Some(name),
            architecture,
            Arc::new(folder.clone()),
        ))
    }

    /// The same with a graph whose texts may be padded, if it is one of whole texts: it has the input
    /// [`crate::arch::input::PADDING`] besides.
    ///
    /// # Errors
    /// None that the graph did not have before.
    pub fn padded(&self) -> Result<Option<Model>, ModelError> {
        let graph = crate::padding::with_padding(&self.graph)?;
        Ok(graph.map(|graph| Model {
            graph: Arc::new(graph),
            ..self.clone()
        }))
    }

    /// The graph. Its face is described in [`crate::arch`].
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Where its tensors are.
    pub fn data(&self) -> &Arc<dyn TensorData> {
        &self.data
    }

    /// Bytes of KV cache (of every float state) per position, kept in `dtype`.
    pub fn state_bytes_per_position(&self, dtype: DType) -> u64 {
        self.state_bytes(dtype, 1).unwrap_or(u64::MAX)
    }

    /// Bytes of the states for `capacity` positions, float states kept in `dtype`; `None` if more
    /// than memory can be addressed.
    pub fn state_bytes(&self, dtype: DType, capacity: u32) -> Option<u64> {
        let symbols = SymbolValues::step(1, 0, 1, capacity);
        self.graph.states().iter().try_fold(0u64, |sum, state| {
            let declared = state.ty.dtype;
            let kept = if declared.is_float() { dtype } else { declared };
            let bytes = TensorType::new(kept, state.ty.shape.clone()).bytes(&symbols)?;
            sum.checked_add(bytes as u64)
        })
    }

    /// Whether every matrix of the model is F32, so that nothing was rounded away.
    pub fn is_f32(&self) -> bool {
        self.numbers() == DType::F32
    }

    /// The plain type that holds what the matrices of the model hold: F32 if all are, BF16 if one is, else F16, which
    /// the scales of quantised ones are in.
    pub fn numbers(&self) -> DType {
        let types = self.graph.weights().iter().map(|w| self.graph.ty(w.value));
        let mut matrices = types.filter(|ty| ty.shape.rank() >= 2).map(|ty| ty.dtype);
        if matrices.clone().all(|dtype| dtype == DType::F32) {
            return DType::F32;
        }
        match matrices.any(|dtype| dtype == DType::BF16) {
            true => DType::BF16,
            false => DType::F16,
        }
    }
}

impl ModelInfo {
    fn of(name: Option<&str>, a: &Architecture) -> Self {
        let name = name.map(str::trim).filter(|n| !n.is_empty());
        let mut info = ModelInfo {
            name: name.unwrap_or(a.name).to_owned(),
            architecture: a.name.to_owned(),
            kind: a.kind,
            context_length: a.context_length,
            context_switch: a.context_switch,
            vocabulary: a.vocabulary,
            layers: a.layers,
            hidden: a.hidden,
            heads: a.heads,
            kv_heads: a.kv_heads,
            parameters: 0,
            weight_bytes: 0,
            streamed_bytes_per_token: 0,
            formats: Vec::new(),
        };
        for weight in a.graph.weights() {
            let ty = a.graph.ty(weight.value);
            let (parameters, bytes) = sizes(ty);
            info.parameters = info.parameters.saturating_add(parameters);
            info.weight_bytes = info.weight_bytes.saturating_add(bytes);
            let streamed = match only_looked_up(&a.graph, weight.value) {
                true => bytes / first_dim(ty),
                false => bytes,
            };
            info.streamed_bytes_per_token = info.streamed_bytes_per_token.saturating_add(streamed);
            let dtype = ty.dtype.name();
            match info.formats.iter_mut().find(|f| f.dtype == dtype) {
                Some(share) => {
                    share.tensors += 1;
                    share.parameters = share.parameters.saturating_add(parameters);
                    share.bytes = share.bytes.saturating_add(bytes);
                }
                None => info.formats.push(FormatShare {
                    dtype,
                    tensors: 1,
                    parameters,
                    bytes,
                }),
            }
        }
        info.formats.sort_by_key(|f| std::cmp::Reverse(f.bytes));
        info
    }
}

/// Elements and bytes of a weight.
fn sizes(ty: &TensorType) -> (u64, u64) {
    let none = SymbolValues::default();
    let elements = ty.shape.elements(&none).map_or(u64::MAX, |n| n as u64);
    let bytes = ty.bytes(&none).map_or(u64::MAX, |n| n as u64);
    (elements, bytes)
}

fn first_dim(ty: &TensorType) -> u64 {
    let first = ty.shape.dims().first().copied().and_then(Dim::fixed);
    first.unwrap_or(1).max(1).into()
}

/// Whether only rows of the weight are looked up, so that a step doesn't read all of it.
fn only_looked_up(graph: &Graph, weight: ValueId) -> bool {
    let mut readers = graph.nodes().iter().filter(|n| n.inputs.contains(&weight));
    readers.all(|n| matches!(n.op, Op::Embedding | Op::Gather { .. }) && n.inputs[0] == weight)
}

#[cfg(test)]
mod tests {
    use anynpu_ir::Shape;

    use super::*;
    use crate::arch::tests::{Fake, SMALL, llama};

    #[derive(Debug)]
    struct NoData;

    impl TensorData for NoData {
        fn tensor(&self, _: &str) -> Option<(DType, Cow<'_, [u8]>)> {
            None
        }
    }

    fn model(file: &Fake) -> Model {
        Model::new(None, arch::build(file).unwrap(), Arc::new(NoData))
    }

    fn with(mut file: Fake, name: &str, dtype: DType, dims: &[u32]) -> Fake {
        let ty = TensorType::new(dtype, Shape::fixed(dims));
        file.tensors.insert(name.into(), ty);
        file
    }

    #[test]
    fn parameters_and_bytes_are_those_of_the_tensors() {
        let m = model(&llama(SMALL));
        // 17·32 embedding, 32 final norm, per layer 2 norms, q, o 32×32, k, v 16×32, 3 × 24×32
        let layer = 2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 24 * 32;
        let parameters = 17 * 32 + 32 + 2 * layer;
        assert_eq!(m.info().parameters, parameters);
        assert_eq!(m.info().weight_bytes, 4 * parameters);
        assert_eq!(m.info().formats.len(), 1);
        assert_eq!(m.info().name, "llama");
        assert!(m.is_f32());
    }

    #[test]
    fn a_tied_table_is_streamed_whole_and_an_untied_one_by_the_row() {
        let tied = model(&llama(SMALL));
        assert_eq!(
            tied.info().streamed_bytes_per_token,
            tied.info().weight_bytes
        );
        let file = with(llama(SMALL), "output.weight", DType::F32, &[17, 32]);
        let untied = model(&file);
        let unread = 16 * 32 * 4;
        let streamed = untied.info().weight_bytes - unread;
        assert_eq!(untied.info().streamed_bytes_per_token, streamed);
    }

    #[test]
    fn the_mix_of_formats_is_listed_by_size() {
        let file = with(llama(SMALL), "token_embd.weight", DType::Q8_0, &[17, 32]);
        let m = model(&file);
        let mix: Vec<_> = m
            .info()
            .formats
            .iter()
            .map(|f| (f.dtype, f.tensors))
            .collect();
        assert_eq!(mix, [("f32", 19), ("q8_0", 1)]);
        assert_eq!(m.info().formats[1].bytes, 17 * 34);
        assert!(!m.is_f32());
    }

    #[test]
    fn state_bytes_follow_the_capacity_and_the_kept_type() {
        let m = model(&llama(SMALL));
        // 2 layers of keys and values, 2 heads of 8
        assert_eq!(m.state_bytes_per_position(DType::F16), 2 * 2 * 2 * 8 * 2);
        assert_eq!(
            m.state_bytes(DType::F32, 100),
            Some(100 * 2 * 2 * 2 * 8 * 4)
        );
    }
}
