//! How a model is loaded.

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use anynpu_graphs::Model;
use anynpu_ir::{DType, TensorType};

use crate::plan::{Objective, Placement};
use crate::{CancelToken, RuntimeError};

/// The type that the KV cache is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvType {
    /// F32 for F32 models and for small caches ([`SMALL_CACHE`]); else F16.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// Blocks of 32 8-bit numbers and a 16-bit scale, for models whose heads are a multiple of 32 wide.
    Q8_0,
}

/// Bytes up to which an F32 cache is small: it costs little, and rounding it can be the largest
/// error of a small model.
pub const SMALL_CACHE: u64 = 16 << 20;

impl KvType {
    /// The type for `model` with a context of `context` tokens.
    pub fn resolve(self, model: &Model, context: u32) -> DType {
        let small = || {
            let bytes = model.state_bytes(DType::F32, context);
            bytes.is_some_and(|b| b <= SMALL_CACHE)
        };
        match self {
            KvType::F32 => DType::F32,
            KvType::F16 => DType::F16,
            KvType::Q8_0 => DType::Q8_0,
            KvType::Auto if model.is_f32() || small() => DType::F32,
            KvType::Auto => DType::F16,
        }
    }

    /// As [`KvType::resolve`].
    ///
    /// # Errors
    /// [`RuntimeError::KvHeadDim`] for a type whose blocks the heads of `model` do not fill.
    pub(crate) fn resolve_for(self, model: &Model, context: u32) -> Result<DType, RuntimeError> {
        let dtype = self.resolve(model, context);
        require_whole_blocks(model, dtype)?;
        Ok(dtype)
    }
}

/// Fails unless each row of the KV cache of `model` is whole blocks of `dtype`.
pub(crate) fn require_whole_blocks(model: &Model, dtype: DType) -> Result<(), RuntimeError> {
    let block = dtype.block_len() as u32;
    let head_dim = |ty: &TensorType| ty.shape.last().and_then(|d| d.fixed());
    let mut states = model.graph().states().iter();
    let unfit = states.find(|s| {
        let blocks = dtype.is_block() && s.ty.dtype.is_float();
        blocks && head_dim(&s.ty).is_none_or(|n| n % block != 0)
    });
    match unfit {
        Some(state) => Err(RuntimeError::KvHeadDim {
            dtype,
            state: state.name.clone(),
            found: head_dim(&state.ty).map_or_else(|| "of no fixed size".into(), |n| n.to_string()),
            block,
        }),
        None => Ok(()),
    }
}

impl FromStr for KvType {
    type Err = RuntimeError;

    fn from_str(s: &str) -> Result<Self, RuntimeError> {
        match s {
            "auto" => Ok(KvType::Auto),
            "f32" => Ok(KvType::F32),
            "f16" => Ok(KvType::F16),
            "q8_0" => Ok(KvType::Q8_0),
            _ => Err(RuntimeError::Option {
                option: "kv type",
                found: format!("'{s}'"),
                expected: "auto, f32, f16 or q8_0".into(),
            }),
        }
    }
}

/// What devices may compute in. All may in F32. Nodes that are pinned to a device run there whatever it computes in,
/// with a warning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// The type of the model's numbers ([`Model::numbers`]).
    #[default]
    Model,
    /// F32 alone.
    F32,
    /// BF16 as well.
    Bf16,
    /// F16 as well.
    F16,
}

impl Precision {
    /// A type narrower than F32 in which products of `model` may be computed by a device that has the choice. It is
    /// not F16 where that is not asked for, as what a model multiplies its numbers by may be too large for that type.
    pub(crate) fn of_products(self, model: &Model) -> Option<DType> {
        match self {
            Precision::Model => Some(model.numbers()).filter(|&n| n == DType::BF16),
            Precision::F32 => None,
            Precision::Bf16 => Some(DType::BF16),
            Precision::F16 => Some(DType::F16),
        }
    }

    /// Whether nodes of `model` may be computed in `dtype`.
    pub fn permits(self, model: &Model, dtype: DType) -> bool {
        match dtype {
            DType::F32 => true,
            DType::BF16 if self == Precision::Bf16 => true,
            DType::F16 if self == Precision::F16 => true,
            dtype => self != Precision::F32 && dtype == model.numbers(),
        }
    }
}

impl FromStr for Precision {
    type Err = RuntimeError;

    fn from_str(s: &str) -> Result<Self, RuntimeError> {
        match s {
            "model" => Ok(Precision::Model),
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            "f16" => Ok(Precision::F16),
            _ => Err(RuntimeError::Option {
                option: "precision",
                found: format!("'{s}'"),
                expected: "model, f32, bf16 or f16".into(),
            }),
        }
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// What is being done.
    pub stage: LoadStage,
    /// Parts of the stage that are done.
    pub done: u64,
    /// Parts of the stage.
    pub total: u64,
}

/// A stage of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadStage {
    /// Reading the file's metadata.
    Read,
    /// Planning.
    Plan,
    /// Preparing weights on the devices.
    Compile,
}

/// Told how far loading has come; stops it by returning [`ControlFlow::Break`].
pub type ProgressFn = Box<dyn FnMut(LoadProgress) -> ControlFlow<()> + Send>;

/// How to load a model.
#[derive(Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Tokens the context holds; [`OpenModel::default_context`](crate::OpenModel::default_context) if not said.
    pub context: Option<u32>,
    /// Type of the KV cache.
    pub kv_type: KvType,
    /// What devices may compute in.
    pub precision: Precision,
    /// Where nodes run.
    pub placement: Placement,
    /// Most tokens of one step of prefill; `ANYNPU_PREFILL_CHUNK` if not said.
    pub prefill_chunk: Option<u32>,
    /// Prompt length that the plan's times assume; 512 or the context if not said.
    pub prompt: Option<u32>,
    /// Number of generated tokens that the plan is the best for; 128 if not said.
    pub tokens: Option<u32>,
    /// What the plan is to be the best in.
    pub objective: Objective,
    /// Most bytes of weights and KV caches that devices may hold, by name. Others may hold what they say
    /// themselves.
    pub budgets: Vec<(String, u64)>,
    /// Starts on the devices that run the whole op set, and compiles for the others in the background: sessions
    /// move between two tokens when that is done.
    pub background: bool,
    /// Tries one node of each kind on every device that does not run the whole op set, beside one that does
    /// ([`Runtime::self_check`](crate::Runtime::self_check)), and keeps kinds away from where they go wrong.
    pub self_check: bool,
    /// Told how far loading has come.
    pub progress: Option<ProgressFn>,
    /// Stops loading from elsewhere.
    pub cancel: CancelToken,
}

/// What [`LoadOptions`] say of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Wishes {
    pub kv_type: KvType,
    pub placement: Placement,
    pub prefill_chunk: Option<u32>,
    pub prompt: Option<u32>,
    pub tokens: Option<u32>,
    pub objective: Objective,
    pub budgets: Vec<(String, u64)>,
}

impl LoadOptions {
    /// What they say of the plan.
    pub(crate) fn wishes(&self) -> Wishes {
        Wishes {
            kv_type: self.kv_type,
            placement: self.placement.clone(),
            prefill_chunk: self.prefill_chunk,
            prompt: self.prompt,
            tokens: self.tokens,
            objective: self.objective,
            budgets: self.budgets.clone(),
        }
    }

    /// Defaults.
    pub fn new() -> Self {
        LoadOptions::default()
    }

    /// Sets the context.
    #[must_use]
    pub fn context(mut self, tokens: u32) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Sets the type of the KV cache.
    #[must_use]
    pub fn kv_type(mut self, kv_type: KvType) -> Self {
        self.kv_type = kv_type;
        self
    }

    /// Sets where nodes run.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets what is told of the progress.
    #[must_use]
    pub fn progress(
        mut self,
        told: impl FnMut(LoadProgress) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        self.progress = Some(Box::new(told));
        self
    }

    /// Sets what stops loading from elsewhere.
    #[must_use]
    pub fn cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// Tells of progress; an error if loading is to stop.
    pub(crate) fn tell(
        &mut self,
        stage: LoadStage,
        done: u64,
        total: u64,
    ) -> Result<(), RuntimeError> {
        let progress = LoadProgress { stage, done, total };
        let stop = self
            .progress
            .as_mut()
            .is_some_and(|told| told(progress).is_break());
        match stop || self.cancel.is_cancelled() {
            true => Err(RuntimeError::Cancelled { what: "loading" }),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("context", &self.context)
            .field("kv_type", &self.kv_type)
            .field("precision", &self.precision)
            .field("placement", &self.placement)
            .field("prefill_chunk", &self.prefill_chunk)
            .field("prompt", &self.prompt)
            .field("tokens", &self.tokens)
            .field("objective", &self.objective)
            .field("budgets", &self.budgets)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{llama_with_heads_of, tiny_llama};
    use crate::{OpenModel, Runtime};

    #[test]
    fn the_kv_type_follows_the_model_unless_said() {
        let model = tiny_llama(1);
        assert_eq!(KvType::Auto.resolve(&model, 64), DType::F32);
        assert_eq!(
            "f16".parse::<KvType>().unwrap().resolve(&model, 64),
            DType::F16
        );
        let e = "q4".parse::<KvType>().unwrap_err().to_string();
        assert_eq!(e, "kv type is 'q4'; expected auto, f32, f16 or q8_0");
    }

    #[test]
    fn a_cache_in_blocks_needs_heads_that_fill_them() {
        let q8_0: KvType = "q8_0".parse().unwrap();
        let fitting = llama_with_heads_of(32, 1);
        assert_eq!(q8_0.resolve_for(&fitting, 64).unwrap(), DType::Q8_0);
        let narrow = tiny_llama(1);
        let e = q8_0.resolve_for(&narrow, 64).unwrap_err();
        assert!(matches!(e, RuntimeError::KvHeadDim { .. }));
        let e = e.to_string();
        for part in ["head dimension", " is 8,", "32 elements", "q8_0", "f16"] {
            assert!(e.contains(part), "{part}: {e}");
        }
        let options = LoadOptions::new().kv_type(q8_0);
        let runtime = Runtime::builder().drivers(vec![Box::new(anynpu_cpu::CpuDriver)]);
        let loaded = runtime.build().unwrap();
        let loaded = loaded.load_open(OpenModel::new(narrow, None), options);
        assert!(matches!(loaded, Err(RuntimeError::KvHeadDim { .. })));
    }
}
