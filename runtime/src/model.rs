//! A loaded model: its plan, its compiled form.

use std::sync::Arc;
use std::time::Instant;

use anynpu_graphs::arch::{Kind, MetaValue};
use anynpu_graphs::{Model, ModelInfo};
use anynpu_hal::{HalError, Support};
use anynpu_ir::DType;
use parking_lot::Mutex;
use serde::Serialize;

use crate::exec::{Limits, Program, output_width};
use crate::load_options::require_whole_blocks;
use crate::memory::MemoryPlan;
use crate::plan::{Because, DeviceIndex, NodeWhy, PlanReport, PlanRequest, PlanSet, Refusal, plan};
use crate::tokenize::Tokenizer;
use crate::{
    Embedder, LoadOptions, LoadStage, ModelSource, OpenModel, Pooling, Runtime, RuntimeError,
    Session, SessionOptions, memory,
};

/// A node that was not pinned and does not run on the most preferred device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fallback {
    /// The node.
    pub node: String,
    /// The most preferred device.
    pub wanted: String,
    /// The device that runs it.
    pub ran_on: String,
    /// Why.
    pub reason: String,
}

/// A model on its devices. Clones share it, and so do its sessions.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    open: OpenModel,
    plans: PlanSet,
    context: u32,
    chunk: u32,
    state_dtype: DType,
    memory: MemoryPlan,
    /// Compiled forms, by the type of the KV cache and the capacity: weights exist once a form.
    programs: Mutex<Vec<Arc<Program>>>,
    load_ms: f64,
    compile_ms: f64,
    fallbacks: Vec<Fallback>,
    warnings: Vec<String>,
}

impl Runtime {
    /// Loads a model: reads, plans and compiles it.
    ///
    /// # Errors
    /// A file that can't be used, pins that can't be kept, too little memory, a device that fails,
    /// or [`RuntimeError::Cancelled`].
    pub fn load(
        &self,
        source: impl Into<ModelSource>,
        mut options: LoadOptions,
    ) -> Result<LoadedModel, RuntimeError> {
        let started = Instant::now();
        options.tell(LoadStage::Read, 0, 1)?;
        let open = OpenModel::open(source)?;
        options.tell(LoadStage::Read, 1, 1)?;
        self.place(open, started, options)
    }

    /// Loads a model that was read already.
    ///
    /// # Errors
    /// As [`Runtime::load`].
    pub fn load_open(
        &self,
        open: OpenModel,
        options: LoadOptions,
    ) -> Result<LoadedModel, RuntimeError> {
        self.place(open, Instant::now(), options)
    }

    /// Plans a model without compiling it.
    ///
    /// # Errors
    /// Pins that can't be kept, nodes that no device runs.
    pub fn plan(&self, open: &OpenModel, options: &LoadOptions) -> Result<PlanSet, RuntimeError> {
        let context = context(open, options)?;
        self.plan_without(open, options, context, &[])
    }

    /// The memory that loading `open` as `options` say would take, without loading it.
    ///
    /// # Errors
    /// As [`Runtime::plan`].
    pub fn memory(
        &self,
        open: &OpenModel,
        options: &LoadOptions,
    ) -> Result<MemoryPlan, RuntimeError> {
        let context = context(open, options)?;
        let plans = self.plan_without(open, options, context, &[])?;
        let (limits, state_dtype) = self.limits(open, options, context)?;
        let limits = limits.for_steps(&plans.sizes);
        Program::memory(
            open.model(),
            &plans,
            self.open_devices(),
            limits,
            state_dtype,
        )
    }

    /// The sizes that `open` is compiled for, and the type of its states.
    fn limits(
        &self,
        open: &OpenModel,
        options: &LoadOptions,
        context: u32,
    ) -> Result<(Limits, DType), RuntimeError> {
        let chunk = match open.model().info().kind {
            Kind::Decoder => self.chunk(options)?,
            // every token sees every other
            _ => context,
        };
        let width = output_width(open.model().graph())?;
        let state_dtype = options.kv_type.resolve_for(open.model(), context)?;
        Ok((Limits::new(chunk, context, width), state_dtype))
    }

    fn plan_without(
        &self,
        open: &OpenModel,
        options: &LoadOptions,
        context: u32,
        refused: &[Refusal],
    ) -> Result<PlanSet, RuntimeError> {
        let chunk = self.chunk(options)?;
        let request = PlanRequest {
            placement: &options.placement,
            prompt: options.prompt.unwrap_or(DEFAULT_PROMPT.min(context)),
            tokens: options.tokens.unwrap_or(DEFAULT_TOKENS),
            chunk: chunk.min(context),
            context,
            state_dtype: options.kv_type.resolve_for(open.model(), context)?,
            refused,
            objective: options.objective,
            budgets: &options.budgets,
            cost: self.cost(),
        };
        plan(open.model().graph(), &self.devices(), &request)
    }

    fn chunk(&self, options: &LoadOptions) -> Result<u32, RuntimeError> {
        match options.prefill_chunk {
            Some(0) => Err(RuntimeError::Option {
                option: "prefill chunk",
                found: "0".into(),
                expected: "1 or more tokens".into(),
            }),
            Some(n) => Ok(n),
            None => Ok(self.knobs().prefill_chunk.0),
        }
    }

    fn place(
        &self,
        open: OpenModel,
        started: Instant,
        mut options: LoadOptions,
    ) -> Result<LoadedModel, RuntimeError> {
        let context = context(&open, &options)?;
        let open = open.for_context(context)?;
        let (limits, state_dtype) = self.limits(&open, &options, context)?;
        let (mut refused, mut first) = (Vec::new(), None);
        let load_ms = milliseconds(started);
        let started = Instant::now();
        let (plans, program, memory) = loop {
            options.tell(LoadStage::Plan, 0, 1)?;
            let plans = self.plan_without(&open, &options, context, &refused)?;
            options.tell(LoadStage::Plan, 1, 1)?;
            first.get_or_insert_with(|| plans.clone());
            let limits = limits.for_steps(&plans.sizes);
            let devices = self.open_devices();
            let planned = Program::memory(open.model(), &plans, devices, limits, state_dtype)?;
            require_memory(&planned, open.model(), state_dtype, context)?;
            let mut tell = |done, total| options.tell(LoadStage::Compile, done, total).is_ok();
            let program = Program::compile(
                open.model(),
                &plans,
                self.open_devices(),
                limits,
                state_dtype,
                self.cache(),
                &mut tell,
            );
            match program {
                Ok(program) => break (plans, program, planned),
                Err(e) => refused.extend(new_refusals(e, &refused)?),
            }
        };
        let mut warnings = self.warnings().to_vec();
        warnings.extend(self.cache().into_iter().flat_map(|c| c.take_notes()));
        let trained = open.model().info().context_length;
        if context > trained {
            warnings.push(format!(
                "the context of {context} tokens is longer than the {trained} that the model was trained for"
            ));
        }
        if state_dtype != DType::F32 && open.model().is_f32() {
            warnings.push(format!(
                "the model is f32, but its KV cache is kept in {state_dtype}"
            ));
        }
        Ok(LoadedModel {
            inner: Arc::new(Inner {
                runtime: self.clone(),
                fallbacks: fallbacks(open.model(), first.as_ref().unwrap_or(&plans), &plans),
                open,
                plans,
                context,
                chunk: self.chunk(&options)?,
                state_dtype,
                memory,
                programs: Mutex::new(vec![Arc::new(program)]),
                load_ms,
                compile_ms: milliseconds(started),
                warnings,
            }),
        })
    }
}

/// Prompt length that estimates assume if none is given.
const DEFAULT_PROMPT: u32 = 512;
/// Generated tokens that plans are made for if none are given.
const DEFAULT_TOKENS: u32 = 128;

fn context(open: &OpenModel, options: &LoadOptions) -> Result<u32, RuntimeError> {
    let context = options.context.unwrap_or_else(|| open.default_context());
    let info = open.model().info();
    if info.kind != Kind::Decoder && context > info.context_length {
        return Err(RuntimeError::Option {
            option: "context",
            found: context.to_string(),
            expected: format!(
                "at most the {} positions the model has",
                info.context_length
            ),
        });
    }
    match context {
        1..=MAX_CONTEXT => Ok(context),
        _ => Err(RuntimeError::Option {
            option: "context",
            found: context.to_string(),
            expected: format!("from 1 to {MAX_CONTEXT} tokens"),
        }),
    }
}

/// Positions are 32-bit signed integers.
const MAX_CONTEXT: u32 = i32::MAX as u32;

/// Fails unless the KV cache of `context` tokens fits in memory.
fn require_context(model: &Model, dtype: DType, context: u32) -> Result<(), RuntimeError> {
    let row = model.state_bytes_per_position(dtype);
    memory::require(
        format!("a context of {context} tokens (a {dtype} KV cache of {row} bytes a token)"),
        model.state_bytes(dtype, context),
        match memory::available_bytes().unwrap_or(0) / row.max(1) {
            0 => "no context fits".to_owned(),
            fits => format!("lower the context to at most {fits} tokens"),
        },
    )
}

/// Fails unless what `plan` needs can be had; the error tells what would fit.
fn require_memory(
    plan: &MemoryPlan,
    model: &Model,
    dtype: DType,
    context: u32,
) -> Result<(), RuntimeError> {
    let available = memory::available_bytes().unwrap_or(isize::MAX as u64);
    let needed = plan.needed();
    if needed <= available {
        return Ok(());
    }
    let rest = available.saturating_sub(needed.saturating_sub(plan.kv));
    let remedy = smaller_cache(model, dtype, context, rest).unwrap_or_else(|| {
        format!(
            "its weights alone take {} bytes: use a model with smaller or more quantised weights",
            plan.weights()
        )
    });
    let what = format!(
        "'{}' with a context of {context} tokens (a {dtype} KV cache of {} bytes)",
        model.info().name,
        plan.kv
    );
    memory::require(what, Some(needed), remedy)
}

/// The contexts for which a KV cache in `dtype`, or in a smaller type, takes at most `rest` bytes;
/// `None` if no type has any.
fn smaller_cache(model: &Model, dtype: DType, context: u32, rest: u64) -> Option<String> {
    let fits = |dtype| {
        let row = model.state_bytes_per_position(dtype).max(1);
        (rest / row).min(context.into())
    };
    let own = fits(dtype);
    let mut most = own;
    let mut ways = Vec::new();
    if own > 0 {
        ways.push(format!("lower the context to {own} tokens"));
    }
    for (other, article) in [(DType::F16, "an"), (DType::Q8_0, "a")] {
        let tokens = fits(other);
        if tokens <= most || require_whole_blocks(model, other).is_err() {
            continue;
        }
        most = tokens;
        let cache = format!("with {article} {other} KV cache (--kv-type {other})");
        ways.push(match tokens == u64::from(context) {
            true => format!("load it {cache}"),
            false => format!("lower the context to {tokens} tokens {cache}"),
        });
    }
    (!ways.is_empty()).then(|| ways.join(", or "))
}

/// The nodes that a device refused to compile, or the error if that is not what happened or
/// nothing of it is new: each round of planning must exclude something.
fn new_refusals(e: RuntimeError, known: &[Refusal]) -> Result<Vec<Refusal>, RuntimeError> {
    match e {
        RuntimeError::Device(HalError::CompileRejected { device, nodes }) => {
            let refusal = |(node, reason)| Refusal {
                device: device.clone(),
                node,
                reason,
            };
            let mut new: Vec<Refusal> = nodes.iter().cloned().map(refusal).collect();
            new.retain(|n| {
                known
                    .iter()
                    .all(|k| (&k.device, k.node) != (&n.device, n.node))
            });
            match new.is_empty() {
                true => Err(HalError::CompileRejected { device, nodes }.into()),
                false => Ok(new),
            }
        }
        RuntimeError::Device(HalError::Cancelled { .. }) => {
            Err(RuntimeError::Cancelled { what: "loading" })
        }
        other => Err(other),
    }
}

/// The nodes that don't run where they were wanted, each with the reason: those that the `first` plan put
/// elsewhere before a device refused to compile it, and those that the most preferred device says no to.
fn fallbacks(model: &Model, first: &PlanSet, plans: &PlanSet) -> Vec<Fallback> {
    let name = |why: &NodeWhy| model.graph().node(why.node).name.clone();
    let refusal = |why: &NodeWhy, device: DeviceIndex| match why.verdicts.get(device.0) {
        Some(Support::No(reason)) => Some(reason.to_string()),
        _ => None,
    };
    let nodes = || first.decode.why.iter().zip(&plans.decode.why);
    let refused_by = |device: DeviceIndex| {
        let refused = nodes().find(|(_, now)| refusal(now, device).is_some());
        refused.map_or_else(|| "another node".into(), |(_, now)| name(now))
    };
    let entry = |(then, now): (&NodeWhy, &NodeWhy)| {
        let wanted = match then.device != now.device {
            true => then.device,
            false => DeviceIndex(0),
        };
        let pinned = matches!(now.because, Because::Pinned(_));
        let refusal = refusal(now, wanted);
        if pinned || now.device == wanted || (then.device == now.device && refusal.is_none()) {
            return None;
        }
        let device = plans.devices[wanted.0].clone();
        Some(Fallback {
            node: name(now),
            ran_on: plans.devices[now.device.0].clone(),
            reason: refusal.unwrap_or_else(|| {
                format!(
                    "kept with the others, as '{device}' refused {}",
                    refused_by(wanted)
                )
            }),
            wanted: device,
        })
    };
    nodes().filter_map(entry).collect()
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl LoadedModel {
    /// The model as it was read.
    pub fn open(&self) -> &OpenModel {
        &self.inner.open
    }

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        self.inner.open.model().info()
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// What is wrong with the model's vocabulary.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>, RuntimeError> {
        self.inner.open.tokenizer()
    }

    /// The runtime it is loaded on.
    pub fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    /// Where its nodes run and why.
    pub fn plans(&self) -> &PlanSet {
        &self.inner.plans
    }

    /// The plans in the form of the command line's JSON.
    pub fn plan_report(&self) -> PlanReport {
        self.inner.plans.report(self.inner.open.model().graph())
    }

    /// Nodes that were not pinned and do not run on the most preferred device.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.inner.fallbacks
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Tokens that the context of a session holds if the session doesn't say.
    pub fn context(&self) -> u32 {
        self.inner.context
    }

    /// The type that the KV cache is kept in.
    pub fn kv_dtype(&self) -> DType {
        self.inner.state_dtype
    }

    /// Memory that it and a session of its context need, as planned before it was loaded.
    pub fn memory(&self) -> &MemoryPlan {
        &self.inner.memory
    }

    /// Milliseconds that reading the model took.
    pub fn load_ms(&self) -> f64 {
        self.inner.load_ms
    }

    /// Milliseconds that planning and compiling took.
    pub fn compile_ms(&self) -> f64 {
        self.inner.compile_ms
    }

    /// Opens a session: a context of its own over the shared weights.
    ///
    /// A context larger than the model was loaded with compiles it again.
    ///
    /// # Errors
    /// A context out of range, too little memory, a device that fails.
    pub fn session(&self, options: SessionOptions) -> Result<Session, RuntimeError> {
        Session::open(self.clone(), options)
    }

    /// Fails unless the model is of one of `kinds`, which `what` needs.
    pub(crate) fn require_kind(
        &self,
        what: &'static str,
        kinds: &[Kind],
    ) -> Result<(), RuntimeError> {
        let name = |kind| match kind {
            Kind::Decoder => "a decoder",
            Kind::Encoder => "an encoder",
            Kind::Classifier => "a classifier",
            _ => "of another kind",
        };
        let kind = self.info().kind;
        match kinds.contains(&kind) {
            true => Ok(()),
            false => Err(RuntimeError::Kind {
                what,
                found: name(kind),
                expected: kinds.first().copied().map_or("another", name),
            }),
        }
    }

    /// How the model's file says that its tokens' vectors become one.
    pub fn pooling(&self) -> Option<Pooling> {
        let key = format!("{}.pooling_type", self.info().architecture);
        // as numbered by GGUF's `{arch}.pooling_type`
        match self.inner.open.metadata(&key) {
            Some(MetaValue::Unsigned(1) | MetaValue::Signed(1)) => Some(Pooling::Mean),
            Some(MetaValue::Unsigned(2) | MetaValue::Signed(2)) => Some(Pooling::Cls),
            _ => None,
        }
    }

    /// Gives back memory that can be had again when it is needed: compiled forms that no session
    /// uses, and the devices' scratch. For a system that tells of memory pressure. Gives the bytes
    /// that were freed.
    pub fn trim(&self) -> u64 {
        let mut freed = 0;
        let mut programs = self.inner.programs.lock();
        let mut first = true;
        programs.retain(|p| {
            // the form the model was loaded with stays
            let keep = std::mem::take(&mut first) || Arc::strong_count(p) > 1;
            if !keep {
                freed += p.resident_bytes();
            }
            keep
        });
        drop(programs);
        let devices = self.inner.runtime.open_devices().iter();
        freed + devices.map(|d| d.device().trim()).sum::<u64>()
    }

    /// Opens an embedder over the shared weights.
    ///
    /// # Errors
    /// A model that is not an encoder, a device that fails.
    pub fn embedder(&self) -> Result<Embedder, RuntimeError> {
        Embedder::open(self.clone())
    }

    /// The compiled form for a context of `capacity` tokens.
    pub(crate) fn program(&self, capacity: u32) -> Result<Arc<Program>, RuntimeError> {
        let inner = &*self.inner;
        let mut programs = inner.programs.lock();
        if let Some(program) = programs.iter().find(|p| p.limits().capacity >= capacity) {
            return Ok(program.clone());
        }
        let model = inner.open.model();
        if let Some(rows) = inner.plans.sizes.capacity {
            return Err(RuntimeError::Option {
                option: "context",
                found: capacity.to_string(),
                expected: format!(
                    "at most {rows} tokens, as the model was loaded for; load it for {capacity} instead"
                ),
            });
        }
        let program = Arc::new(Program::compile(
            model,
            &inner.plans,
            inner.runtime.open_devices(),
            Limits::new(inner.chunk, capacity, output_width(model.graph())?),
            inner.state_dtype,
            inner.runtime.cache(),
            &mut |_, _| true,
        )?);
        programs.push(program.clone());
        Ok(program)
    }

    /// Fails unless a session of `context` tokens fits in memory.
    pub(crate) fn require_context(&self, context: u32) -> Result<(), RuntimeError> {
        let options = LoadOptions {
            context: Some(context),
            ..LoadOptions::default()
        };
        let context = self::context(&self.inner.open, &options)?;
        let model = self.inner.open.model();
        if let Some(switch) = model.info().context_switch.filter(|&s| context > s) {
            return Err(RuntimeError::Option {
                option: "context",
                found: context.to_string(),
                expected: format!(
                    "at most {switch} tokens, as the model was loaded for; load it for {context} instead"
                ),
            });
        }
        require_context(model, self.inner.state_dtype, context)
    }
}

#[cfg(test)]
mod tests {
    use anynpu_hal::{Reason, ReasonCode};
    use anynpu_ir::NodeId;

    use super::*;
    use crate::KvType;
    use crate::testing::{CONTEXT, llama_with_heads_of, tiny_llama};

    #[test]
    fn only_refusals_that_are_new_lead_to_another_plan() {
        let refuse = |nodes: &[u32]| {
            let reason = Reason::new(ReasonCode::VendorRejected, "no");
            RuntimeError::Device(HalError::CompileRejected {
                device: "npu".into(),
                nodes: nodes.iter().map(|&n| (NodeId(n), reason.clone())).collect(),
            })
        };
        let first = new_refusals(refuse(&[3, 4]), &[]).unwrap();
        assert_eq!(first.len(), 2);
        let second = new_refusals(refuse(&[4, 5]), &first).unwrap();
        assert_eq!((second.len(), second[0].node), (1, NodeId(5)));
        assert!(new_refusals(refuse(&[3]), &first).is_err());
        assert!(new_refusals(refuse(&[]), &first).is_err());
        let cancelled = HalError::Cancelled { what: "x".into() };
        let e = new_refusals(cancelled.into(), &[]).unwrap_err();
        assert!(matches!(e, RuntimeError::Cancelled { .. }), "{e}");
    }

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

    #[test]
    fn what_fits_with_a_smaller_cache_is_offered() {
        // keys and values of two heads a layer
        let wide = llama_with_heads_of(32, 1);
        let row = |dtype| wide.state_bytes_per_position(dtype);
        assert_eq!(row(DType::F16), 2 * 2 * 32 * 2);
        assert_eq!(row(DType::Q8_0), 2 * 2 * 34);
        let offer = |dtype, rest| smaller_cache(&wide, dtype, 100, rest);
        assert_eq!(
            offer(DType::F32, 60 * row(DType::F16)).unwrap(),
            "lower the context to 30 tokens, \
             or lower the context to 60 tokens with an f16 KV cache (--kv-type f16), \
             or load it with a q8_0 KV cache (--kv-type q8_0)"
        );
        assert_eq!(
            offer(DType::F16, 100 * row(DType::Q8_0)).unwrap(),
            "lower the context to 53 tokens, or load it with a q8_0 KV cache (--kv-type q8_0)"
        );
        assert_eq!(
            offer(DType::Q8_0, 5 * row(DType::Q8_0)).unwrap(),
            "lower the context to 5 tokens"
        );
        assert_eq!(offer(DType::F16, 3), None);
        // heads of 8 elements
        let narrow = tiny_llama(1);
        let rest = 50 * narrow.state_bytes_per_position(DType::F16);
        assert_eq!(
            smaller_cache(&narrow, DType::F16, 100, rest).unwrap(),
            "lower the context to 50 tokens"
        );
    }

    #[test]
    fn the_default_context_is_the_model_s_up_to_a_bound() {
        let open = OpenModel::new(tiny_llama(1), None);
        assert_eq!(open.default_context(), CONTEXT);
        assert!(open.tokenizer().is_err() && open.gguf().is_none());
    }
}
