//! Running a model's steps although devices fail.
//!
//! A step that a device fails is not lost: the device, or what it refused, is excluded, the model is planned
//! again over what is left, the KV cache moves to its new home, and the step is run again. Excluding ends: each
//! time at least one node can no longer go to one device.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_hal::{HalError, Reason, ReasonCode, Scope};
use anynpu_ir::NodeId;

use crate::exec::{Executed, Executor, Logits, NextStep, Program, SegmentRun, Step};
use crate::fallback::Fallback;
use crate::model::Form;
use crate::plan::Refusal;
use crate::{LoadedModel, Runtime, RuntimeError};

/// Runs the steps of one session, on whatever devices are left.
#[derive(Debug)]
pub(crate) struct Runner {
    model: LoadedModel,
    form: Arc<Form>,
    executor: Executor,
    capacity: u32,
    limit: Duration,
    /// What may not be used any more.
    excluded: Vec<Refusal>,
    /// What executors before this one executed.
    before: Executed,
    miscounts: Vec<String>,
    warnings: Vec<String>,
    fallbacks: Vec<Fallback>,
    /// Whether it is not to move to what compiles in the background: it has, or can't.
    settled: bool,
}

/// Steps of a prompt that are run together where some of them run at once: between them nothing is waited for.
const STEPS_TOGETHER: usize = 64;

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Stepped {
    /// It ran.
    Ran,
    /// A device failed and the model moved; the step is to be cut and run again. The rows of the KV cache that
    /// were filled before it are kept, or lost.
    Moved {
        /// Whether they are kept.
        rows_kept: bool,
    },
}

impl Runner {
    /// Compiles `model` for `capacity` tokens unless that was done, and takes memory for them.
    pub fn new(model: LoadedModel, capacity: u32, limit: Duration) -> Result<Self, RuntimeError> {
        let mut excluded = model.excluded().to_vec();
        let mut failures = Vec::new();
        loop {
            let made = make(&model, &excluded, capacity, limit);
            let (form, executor) = match made {
                Ok(made) => made,
                Err(e) => {
                    let more = exclusions(&model, e, &excluded)?;
                    failures.push(more.why.clone());
                    excluded.extend(more.refusals);
                    continue;
                }
            };
            let mut runner = Runner {
                form,
                executor,
                capacity,
                limit,
                excluded,
                before: Executed::default(),
                miscounts: Vec::new(),
                warnings: Vec::new(),
                fallbacks: Vec::new(),
                settled: model.background().ready().is_some(),
                model,
            };
            let own = runner.model.form_of_loading();
            for why in failures {
                runner.tell(&own, why);
            }
            return Ok(runner);
        }
    }

    /// The plan in use.
    pub fn form(&self) -> &Arc<Form> {
        &self.form
    }

    pub fn program(&self) -> &Arc<Program> {
        self.executor.program()
    }

    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    pub fn executor_mut(&mut self) -> &mut Executor {
        &mut self.executor
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How the next step of `remaining` tokens from `position` on is to be made.
    pub fn next_step(&self, remaining: u32, position: u32) -> NextStep {
        self.executor.next_step(remaining, position)
    }

    pub fn logits(&self) -> Result<Logits<'_>, RuntimeError> {
        self.executor.logits()
    }

    /// Runs a step, or moves where it can be run.
    ///
    /// # Errors
    /// What no other device makes good.
    pub fn step(&mut self, step: Step<'_>) -> Result<Stepped, RuntimeError> {
        self.steps(&[step], &mut || true).1
    }

    /// Runs steps that follow one another, as long as `go_on`, or moves where they can be run. Gives how many ran.
    ///
    /// # Errors
    /// What no other device makes good.
    pub fn steps(
        &mut self,
        steps: &[Step<'_>],
        go_on: &mut dyn FnMut() -> bool,
    ) -> (usize, Result<Stepped, RuntimeError>) {
        let position = |ran: usize| steps.get(ran).map_or(0, |step| step.position);
        if let Some(moved) = self.settle(position(0)) {
            return (0, Ok(moved));
        }
        match self.executor.steps(steps, go_on) {
            (ran, Ok(())) => (ran, Ok(Stepped::Ran)),
            (ran, Err(failure @ RuntimeError::Step { .. })) => {
                (ran, self.survive(failure, position(ran)))
            }
            (ran, Err(other)) => (ran, Err(other)),
        }
    }

    /// Moves to what was compiled in the background, if it now is, with the first `filled` rows of the KV cache.
    pub fn settle(&mut self, filled: u32) -> Option<Stepped> {
        match self.settled {
            true => None,
            false => self.move_when_compiled(filled),
        }
    }

    /// Steps of prefill worth giving to [`Runner::steps`] together.
    pub fn at_once(&self) -> usize {
        match self.executor.at_once() {
            // it is looked after each step whether what compiles in the background is ready
            _ if !self.settled && self.model.background().is_running() => 1,
            1 => 1,
            _ => STEPS_TOGETHER,
        }
    }

    /// Takes memory again after it was given back.
    pub fn resume(&mut self) -> Result<(), RuntimeError> {
        if !self.executor.is_suspended() {
            return Ok(());
        }
        match self.executor.resume() {
            Ok(()) => Ok(()),
            Err(failure) => self.survive(failure, 0).map(|_| ()),
        }
    }

    /// What was executed since the beginning, on all devices.
    pub fn executed(&self) -> Executed {
        self.before.clone().and(self.executor.executed())
    }

    /// What devices counted other than what was submitted to them.
    pub fn miscounts(&self) -> Vec<String> {
        let mut all = self.miscounts.clone();
        all.extend(self.executor.miscounts());
        all
    }

    /// What the user should know of devices that failed.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Nodes that moved because a device failed.
    pub fn fallbacks(&self) -> &[Fallback] {
        &self.fallbacks
    }

    pub fn record(&mut self) {
        self.executor.record();
    }

    pub fn recorded(&self) -> &[SegmentRun] {
        self.executor.recorded()
    }

    /// Moves to what was compiled in the background, once it is.
    fn move_when_compiled(&mut self, filled: u32) -> Option<Stepped> {
        let ready = self.model.background().ready()?.clone();
        self.settled = true;
        if !Arc::ptr_eq(&self.form, &self.model.form_of_loading()) {
            // devices failed meanwhile
            return None;
        }
        let program = self.model.compiled(&ready, self.capacity)?;
        match Executor::new(program, self.capacity, self.limit) {
            Ok(executor) => {
                self.excluded.clone_from(&ready.excluded);
                let rows_kept = self.replace(ready, executor, filled).1;
                Some(Stepped::Moved { rows_kept })
            }
            Err(e) => {
                let warning = format!("it stays where it is: {e}");
                tracing::warn!("{warning}");
                self.warnings.push(warning);
                None
            }
        }
    }

    /// Moves away from what failed, with the first `filled` rows of the KV cache if they can be read.
    ///
    /// # Errors
    /// What no other device makes good.
    pub fn survive(&mut self, failure: RuntimeError, filled: u32) -> Result<Stepped, RuntimeError> {
        let mut failure = failure;
        loop {
            let more = exclusions(&self.model, failure, &self.excluded)?;
            self.excluded.extend(more.refusals);
            match make(&self.model, &self.excluded, self.capacity, self.limit) {
                Ok((form, executor)) => {
                    let (left, rows_kept) = self.replace(form, executor, filled);
                    self.tell(&left, more.why);
                    return Ok(Stepped::Moved { rows_kept });
                }
                // nothing is left: what failed first is what the user has to know
                Err(RuntimeError::Unplaceable { .. }) => return Err(more.failure),
                Err(e) => failure = e,
            }
        }
    }

    /// Goes on with another executor. Gives the form before, and whether the new one has the first `filled` rows
    /// of the KV cache.
    fn replace(
        &mut self,
        form: Arc<Form>,
        mut executor: Executor,
        filled: u32,
    ) -> (Arc<Form>, bool) {
        let rows_kept = copy_rows(&self.executor, &mut executor, filled);
        executor.keep_record_of(&mut self.executor);
        self.before = self.executed();
        self.miscounts.extend(self.executor.miscounts());
        self.executor = executor;
        (std::mem::replace(&mut self.form, form), rows_kept)
    }

    /// Tells the user why nodes left where `form` had them.
    fn tell(&mut self, form: &Form, why: String) {
        let graph = self.model.open().model().graph();
        let (then, now) = (&form.plans, &self.form.plans);
        for (was, is) in then.decode.why.iter().zip(&now.decode.why) {
            if was.device != is.device {
                self.fallbacks.push(Fallback {
                    node: graph.node(is.node).name.clone(),
                    wanted: then.devices[was.device.0].clone(),
                    ran_on: now.devices[is.device.0].clone(),
                    reason: why.clone(),
                });
            }
        }
        let mut used: Vec<&str> = Vec::new();
        for p in now.prefill.partitions.iter().chain(&now.decode.partitions) {
            let name = now.devices[p.device.0].as_str();
            if !used.contains(&name) {
                used.push(name);
            }
        }
        let warning = format!("{why}; it goes on with {}", used.join(", "));
        tracing::warn!("{warning}");
        self.warnings.push(warning);
    }
}

/// The model planned without `excluded`, and memory for a session of it.
fn make(
    model: &LoadedModel,
    excluded: &[Refusal],
    capacity: u32,
    limit: Duration,
) -> Result<(Arc<Form>, Executor), RuntimeError> {
    let form = model.form(excluded)?;
    let program = model.program(&form, capacity)?;
    Ok((form, Executor::new(program, capacity, limit)?))
}

/// Brings the first `filled` rows of every state from one executor to another; false if they can't be read.
fn copy_rows(from: &Executor, to: &mut Executor, filled: u32) -> bool {
    if from.is_suspended() {
        return false;
    }
    let copy = |state: usize, to: &mut Executor| -> Result<(), RuntimeError> {
        let bytes = from.state_row_bytes(state).saturating_mul(filled as usize);
        let rows = from.read_state(state, bytes)?;
        to.write_state(state, bytes, |memory| memory.copy_from_slice(&rows))
    };
    (0..from.state_count()).all(|state| match copy(state, to) {
        Ok(()) => true,
        Err(e) => {
            tracing::debug!("the KV cache is made anew: {e}");
            false
        }
    })
}

/// What a failure takes away.
pub(crate) struct Exclusions {
    /// Nodes, each with the device that they can't go to any more.
    pub refusals: Vec<Refusal>,
    /// For the user.
    pub why: String,
    /// The failure itself.
    pub failure: RuntimeError,
}

/// What `failure` takes away beyond `known`, or the failure if that is nothing: what no other device makes good.
pub(crate) fn exclusions(
    model: &impl Excludes,
    failure: RuntimeError,
    known: &[Refusal],
) -> Result<Exclusions, RuntimeError> {
    let source = match &failure {
        RuntimeError::Step { source, .. } | RuntimeError::Device(source) => source.clone(),
        _ => return Err(failure),
    };
    let device = match (&failure, source.device()) {
        (RuntimeError::Step { device, .. }, _) => device.clone(),
        (_, Some(device)) => device.to_owned(),
        (_, None) => return Err(failure),
    };
    if !model.uses(&device) {
        return Err(failure);
    }
    let all = |code| {
        let reason = Reason::new(code, source.to_string());
        let nodes = (0..model.nodes()).map(NodeId);
        nodes.map(|node| (node, reason.clone())).collect::<Vec<_>>()
    };
    let nodes = match (source.scope(), &source) {
        (_, HalError::CompileRejected { nodes, .. }) => nodes.clone(),
        (Scope::Subgraph, _) => all(ReasonCode::VendorRejected),
        (Scope::Plan, _) => all(ReasonCode::MemoryLimit),
        (Scope::Device, _) => {
            let health = model.runtime().health();
            health.failed(&device, &source.to_string(), Instant::now());
            let mut devices = model.runtime().open_devices().iter();
            if let Some(failed) = devices.find(|d| d.name() == device) {
                failed.device().give_up();
            }
            all(ReasonCode::DeviceLost)
        }
        (Scope::Caller, _) => return Err(failure),
    };
    let known: BTreeSet<(&str, NodeId)> = known.iter().map(|k| (&*k.device, k.node)).collect();
    let new = nodes
        .into_iter()
        .filter(|(node, _)| !known.contains(&(&device, *node)));
    let refusals: Vec<Refusal> = new
        .map(|(node, reason)| Refusal {
            device: device.clone(),
            node,
            reason,
        })
        .collect();
    match refusals.is_empty() {
        true => Err(failure),
        false => Ok(Exclusions {
            why: format!("device '{device}' failed: {source}"),
            refusals,
            failure,
        }),
    }
}

/// What devices and nodes there are to exclude.
pub(crate) trait Excludes {
    fn runtime(&self) -> &Runtime;
    /// Number of nodes.
    fn nodes(&self) -> u32;

    /// Whether there is a device called `name`.
    fn uses(&self, name: &str) -> bool {
        self.runtime()
            .open_devices()
            .iter()
            .any(|d| d.name() == name)
    }
}

impl Excludes for LoadedModel {
    fn runtime(&self) -> &Runtime {
        LoadedModel::runtime(self)
    }

    fn nodes(&self) -> u32 {
        self.open().model().graph().nodes().len() as u32
    }
}
