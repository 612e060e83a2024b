//! A loaded model: its plan, its compiled form.

mod context;
mod load;

use std::collections::BTreeSet;
use std::sync::Arc;

use anynpu_graphs::ModelInfo;
use anynpu_graphs::arch::{Kind, MetaValue};
use anynpu_hal::CompileOptions;
use anynpu_ir::{DType, NodeId};
use parking_lot::Mutex;

use crate::background::Background;
use crate::exec::{Limits, Program, output_width};
use crate::fallback::Fallback;
use crate::load_options::Wishes;
use crate::memory::MemoryPlan;
use crate::plan::{PlanReport, PlanSet, Refusal};
use crate::tokenize::Tokenizer;
use crate::{
    Embedder, LoadOptions, OpenModel, Pooling, Runtime, RuntimeError, Session, SessionOptions,
};

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
        let context = context::context(&self.inner.open, &options)?;
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
        context::require_context(model, self.inner.compile.state_dtype, context)
    }
}
