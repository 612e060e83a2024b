//! Loading: a model is read, planned and compiled, again without what refuses it.

use std::sync::Arc;
use std::time::Instant;

use anynpu_graphs::arch::Kind;
use anynpu_hal::{CompileOptions, HalError, Reason, ReasonCode};
use anynpu_ir::{DType, NodeId};
use parking_lot::Mutex;

use super::context::{context, require_memory};
use super::{Form, Inner, LoadedModel};
use crate::background::{self, Background};
use crate::exec::{Limits, OpenDevice, Program, output_width};
use crate::fallback::fallbacks;
use crate::load_options::Wishes;
use crate::memory::MemoryPlan;
use crate::obstacles::Obstacles;
use crate::plan::{PlanRequest, PlanSet, Refusal, plan};
use crate::runner::{Excludes, exclusions};
use crate::{LoadOptions, LoadStage, ModelSource, OpenModel, Runtime, RuntimeError};

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

    pub(super) fn plan_without(
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

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
