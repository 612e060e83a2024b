//! A loaded model: its plan, its compiled form.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use anynpu_graphs::arch::{Kind, MetaValue};
use anynpu_graphs::{Model, ModelInfo};
use anynpu_hal::{CompileOptions, HalError, Reason, ReasonCode, Support};
use anynpu_ir::{DType, NodeId};
use parking_lot::Mutex;
use serde::Serialize;

use crate::background::{self, Background};
use crate::exec::{Limits, OpenDevice, Program, output_width};
use crate::load_options::{Wishes, require_whole_blocks};
use crate::memory::MemoryPlan;
use crate::obstacles::Obstacles;
use crate::plan::{Because, DeviceIndex, NodeWhy, PlanReport, PlanRequest, PlanSet, Refusal, plan};
use crate::runner::{Excludes, exclusions};
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
    /// How it was loaded.
    wishes: Wishes,
    context: u32,
    chunk: u32,
    compile: CompileOptions,
    memory: MemoryPlan,
    /// As it was loaded.
    loaded: Arc<Form>,
    /// As it runs where devices failed, or when the others have compiled.
    others: Mutex<Vec<Arc<Form>>>,
    background: Background,
    load_ms: f64,
    compile_ms: f64,
    fallbacks: Vec<Fallback>,
    warnings: Vec<String>,
}

/// A plan of a model, and what was compiled of it.
#[derive(Debug)]
pub(crate) struct Form {
    /// The plan.
    pub plans: PlanSet,
    /// What it does without.
    pub excluded: Vec<Refusal>,
    /// By capacity: weights exist once a program.
    programs: Mutex<Vec<Arc<Program>>>,
}

impl Form {
    /// Whether it is the one without `excluded`.
    fn is_without(&self, excluded: &[Refusal]) -> bool {
        let pairs = |all: &[Refusal]| -> BTreeSet<(String, NodeId)> {
            all.iter().map(|r| (r.device.clone(), r.node)).collect()
        };
        pairs(&self.excluded) == pairs(excluded)
    }
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
        let open = &self.fitted(open.clone())?;
        let context = context(open, options)?;
        let Obstacles { refused, warnings } = self.obstacles(open, options)?;
        let mut plans = self.plan_without(open, &options.wishes(), context, &refused)?;
        plans.warnings.splice(0..0, warnings);
        Ok(plans)
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
        let open = &self.fitted(open.clone())?;
        let context = context(open, options)?;
        let plans = self.plan(open, options)?;
        let (limits, compile) = self.limits(open, options, context)?;
        let limits = limits.for_steps(&plans.sizes);
        Program::memory(open.model(), &plans, self.open_devices(), limits, &compile)
    }

    /// `open` as the devices need it: where some take only fixed sizes, texts that are read whole may be padded.
    fn fitted(&self, open: OpenModel) -> Result<OpenModel, RuntimeError> {
        let devices = self.open_devices();
        match devices.iter().all(|d| d.takes_any_size()) {
            true => Ok(open),
            false => open.padded(),
        }
    }

    /// The sizes that `open` is compiled for, and the type of its states.
    fn limits(
        &self,
        open: &OpenModel,
        options: &LoadOptions,
        context: u32,
    ) -> Result<(Limits, CompileOptions), RuntimeError> {
        let chunk = match open.model().info().kind {
            Kind::Decoder => self.chunk(&options.wishes())?,
            // every token sees every other
            _ => context,
        };
        let width = output_width(open.model().graph())?;
        let mut compile = CompileOptions::new(options.kv_type.resolve_for(open.model(), context)?);
        compile.precision = options.precision.of_products(open.model());
        Ok((Limits::new(chunk, context, width), compile))
    }

    fn plan_without(
        &self,
        open: &OpenModel,
        wishes: &Wishes,
        context: u32,
        refused: &[Refusal],
    ) -> Result<PlanSet, RuntimeError> {
        let chunk = self.chunk(wishes)?;
        let request = PlanRequest {
            placement: &wishes.placement,
            prompt: wishes.prompt.unwrap_or(DEFAULT_PROMPT.min(context)),
            tokens: wishes.tokens.unwrap_or(DEFAULT_TOKENS),
            chunk: chunk.min(context),
            context,
            state_dtype: wishes.kv_type.resolve_for(open.model(), context)?,
            refused,
            objective: wishes.objective,
            budgets: &wishes.budgets,
            cost: self.cost(),
        };
        plan(open.model().graph(), &self.devices(), &request)
    }

    /// Every node with each device that does not run the whole op set, so that the model can start without
    /// them; `None` if it can't, or there are none.
    fn to_compile_later(
        &self,
        open: &OpenModel,
        wishes: &Wishes,
        context: u32,
        refused: &[Refusal],
    ) -> Option<Vec<Refusal>> {
        let slow = |d: &&Arc<OpenDevice>| !d.device().capabilities().features.baseline;
        let mut later = Vec::new();
        for device in self.open_devices().iter().filter(slow) {
            let nodes = (0..open.model().graph().nodes().len() as u32).map(NodeId);
            later.extend(nodes.map(|node| Refusal {
                device: device.name().to_owned(),
                node,
                reason: Reason::new(ReasonCode::Compiling, "it compiles in the background"),
            }));
        }
        let all = [refused, &later].concat();
        let possible = !later.is_empty() && self.plan_without(open, wishes, context, &all).is_ok();
        possible.then_some(later)
    }

    fn chunk(&self, wishes: &Wishes) -> Result<u32, RuntimeError> {
        match wishes.prefill_chunk {
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
        let open = self.fitted(open.for_context(context)?)?;
        let (limits, compile) = self.limits(&open, &options, context)?;
        let state_dtype = compile.state_dtype;
        let wishes = options.wishes();
        let mut warnings = self.warnings().to_vec();
        let obstacles = self.obstacles(&open, &options)?;
        let mut refused = obstacles.refused;
        warnings.extend(obstacles.warnings);
        let in_background = match options.background {
            true => self.to_compile_later(&open, &wishes, context, &refused),
            false => None,
        };
        let later = in_background.is_some().then(|| refused.clone());
        refused.extend(in_background.into_iter().flatten());
        let mut first = None;
        let load_ms = milliseconds(started);
        let started = Instant::now();
        let (plans, program, memory) = loop {
            options.tell(LoadStage::Plan, 0, 1)?;
            let plans = self.plan_without(&open, &wishes, context, &refused)?;
            options.tell(LoadStage::Plan, 1, 1)?;
            first.get_or_insert_with(|| plans.clone());
            let limits = limits.for_steps(&plans.sizes);
            let devices = self.open_devices();
            let planned = Program::memory(open.model(), &plans, devices, limits, &compile)?;
            require_memory(&planned, open.model(), state_dtype, context)?;
            let mut tell = |done, total| options.tell(LoadStage::Compile, done, total).is_ok();
            let program = Program::compile(
                open.model(),
                &plans,
                self.open_devices(),
                limits,
                &compile,
                self.cache(),
                &mut tell,
            );
            let failure = match program {
                Ok(program) => break (plans, program, planned),
                Err(RuntimeError::Device(HalError::Cancelled { .. })) => {
                    return Err(RuntimeError::Cancelled { what: "loading" });
                }
                Err(e) => e,
            };
            let placing = Placing {
                runtime: self,
                nodes: open.model().graph().nodes().len() as u32,
            };
            let refusal = matches!(
                &failure,
                RuntimeError::Device(HalError::CompileRejected { .. })
            );
            let more = exclusions(&placing, failure, &refused)?;
            refused.extend(more.refusals);
            if !refusal {
                // what refuses nodes is told of node by node
                warnings.push(format!("{}; it was placed elsewhere", more.why));
            }
        };
        warnings.extend(plans.warnings.iter().cloned());
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
        let numbers = open.model().numbers();
        if let Some(narrower) = compile.precision.filter(|&p| p != numbers) {
            for (device, computes) in program.computes_in() {
                let claimed = device.device().capabilities().computes_in();
                if computes == Some(narrower.name()) && computes != claimed {
                    warnings.push(format!(
                        "the model's numbers are {numbers}, but '{}' computes products in {narrower}",
                        device.name()
                    ));
                }
            }
        }
        let model = LoadedModel {
            inner: Arc::new(Inner {
                runtime: self.clone(),
                fallbacks: match later {
                    // what is placed elsewhere for now is no fallback
                    Some(_) => Vec::new(),
                    None => fallbacks(open.model(), first.as_ref().unwrap_or(&plans), &plans),
                },
                open,
                context,
                chunk: self.chunk(&wishes)?,
                wishes,
                compile,
                memory,
                loaded: Arc::new(Form {
                    plans,
                    excluded: refused,
                    programs: Mutex::new(vec![Arc::new(program)]),
                }),
                others: Mutex::new(Vec::new()),
                background: Background::new(later.is_some()),
                load_ms,
                compile_ms: milliseconds(started),
                warnings,
            }),
        };
        if let Some(excluded) = later {
            background::compile(&model, excluded);
        }
        Ok(model)
    }
}

/// A model that is being placed.
struct Placing<'a> {
    runtime: &'a Runtime,
    nodes: u32,
}

impl Excludes for Placing<'_> {
    fn runtime(&self) -> &Runtime {
        self.runtime
    }

    fn nodes(&self) -> u32 {
        self.nodes
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
        &self.inner.loaded.plans
    }

    /// The plans in the form of the command line's JSON.
    pub fn plan_report(&self) -> PlanReport {
        self.plans().report(self.inner.open.model().graph())
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
        self.inner.compile.state_dtype
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
        let mut free = |form: &Form, mut keep: usize| {
            form.programs.lock().retain(|p| {
                let used = Arc::strong_count(p) > 1 || keep > 0;
                keep = keep.saturating_sub(1);
                if !used {
                    freed += p.resident_bytes();
                }
                used
            });
        };
        // the program the model was loaded with stays
        free(&self.inner.loaded, 1);
        let mut others = self.inner.others.lock();
        others.iter().for_each(|form| free(form, 0));
        others.retain(|form| !form.programs.lock().is_empty());
        drop(others);
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

    /// The device that must run what was asked of it.
    pub(crate) fn required_device(&self) -> Option<&str> {
        self.inner.wishes.placement.require.as_deref()
    }

    /// Whether both are the same loaded model.
    pub(crate) fn is(&self, other: &LoadedModel) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The plan as it was loaded.
    pub(crate) fn form_of_loading(&self) -> Arc<Form> {
        self.inner.loaded.clone()
    }

    /// What it does without since it was loaded.
    pub(crate) fn excluded(&self) -> &[Refusal] {
        let form = self.inner.background.ready().unwrap_or(&self.inner.loaded);
        &form.excluded
    }

    pub(crate) fn background(&self) -> &Background {
        &self.inner.background
    }

    /// Whether devices still compile in the background ([`LoadOptions::background`]).
    pub fn is_compiling(&self) -> bool {
        self.inner.background.is_running()
    }

    /// The plan without `excluded`.
    ///
    /// # Errors
    /// Pins that can't be kept without it, nodes that no device is left for.
    pub(crate) fn form(&self, excluded: &[Refusal]) -> Result<Arc<Form>, RuntimeError> {
        let inner = &*self.inner;
        if inner.loaded.is_without(excluded) {
            return Ok(inner.loaded.clone());
        }
        let mut others = inner.others.lock();
        if let Some(form) = others.iter().find(|form| form.is_without(excluded)) {
            return Ok(form.clone());
        }
        let runtime = &inner.runtime;
        let plans = runtime.plan_without(&inner.open, &inner.wishes, inner.context, excluded)?;
        let form = Arc::new(Form {
            plans,
            excluded: excluded.to_vec(),
            programs: Mutex::new(Vec::new()),
        });
        others.push(form.clone());
        Ok(form)
    }

    /// What was compiled of `form` already, if it holds `capacity` tokens.
    pub(crate) fn compiled(&self, form: &Form, capacity: u32) -> Option<Arc<Program>> {
        let programs = form.programs.lock();
        let fits = |p: &&Arc<Program>| p.limits().capacity >= capacity;
        programs.iter().find(fits).cloned()
    }

    /// What is compiled of `form` for a context of `capacity` tokens.
    pub(crate) fn program(&self, form: &Form, capacity: u32) -> Result<Arc<Program>, RuntimeError> {
        let inner = &*self.inner;
        let mut programs = form.programs.lock();
        if let Some(program) = programs.iter().find(|p| p.limits().capacity >= capacity) {
            return Ok(program.clone());
        }
        let model = inner.open.model();
        let rows = form.plans.sizes.capacity;
        if let Some(rows) = rows.filter(|&rows| rows < capacity) {
            return Err(RuntimeError::Option {
                option: "context",
                found: capacity.to_string(),
                expected: format!(
                    "at most {rows} tokens, as the model was loaded for; load it for {capacity} instead"
                ),
            });
        }
        let limits = Limits::new(inner.chunk, capacity, output_width(model.graph())?);
        let program = Arc::new(Program::compile(
            model,
            &form.plans,
            inner.runtime.open_devices(),
            limits.for_steps(&form.plans.sizes),
            &inner.compile,
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
        require_context(model, self.inner.compile.state_dtype, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvType;
    use crate::testing::{CONTEXT, llama_with_heads_of, tiny_llama};

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
