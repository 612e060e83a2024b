//! Wrong use: refused, with nothing written.

use std::sync::Arc;

use anynpu_hal::{Buffer, HalError, Module, Submission, Timeline};
use anynpu_ir::{Symbol, SymbolValues};

use super::case;
use crate::conformance::bind::Binding;
use crate::conformance::job::{Job, at_most, claimed_but, sizes};
use crate::conformance::memory::desc;
use crate::conformance::outcome::{Check, Stop, refused};
use crate::conformance::sample::{SAMPLES, any, check};
use crate::conformance::suite::{Context, TestCase};

pub(super) fn cases() -> Vec<TestCase> {
    vec![
        case("misuse", "short_input", |c| {
            wrong(c, "a short operand", |w| w.shorten(0))
        }),
        case("misuse", "short_output", |c| {
            wrong(c, "a short result", |w| w.shorten(1))
        }),
        case("misuse", "missing_input", |c| {
            wrong(c, "a missing operand", |w| w.lose(0))
        }),
        case("misuse", "missing_output", |c| {
            wrong(c, "a missing result", |w| w.lose(1))
        }),
        case("misuse", "extra_input", |c| {
            wrong(c, "an operand too many", |w| w.double(0))
        }),
        case("misuse", "extra_output", |c| {
            wrong(c, "a result too many", |w| w.double(1))
        }),
        case("misuse", "extra_state", |c| {
            wrong(c, "a state too many", |w| w.double(2))
        }),
        case("misuse", "wrong_entry", |c| {
            wrong(c, "an entry that is not there", |w| {
                w.entry = 7;
                Ok(())
            })
        }),
        case("misuse", "symbols_past_bounds", past_bounds),
        case("misuse", "module_of_another_device", foreign_module),
        case("bounds", "buffers_of_exact_size", exact_size),
    ]
}

/// A submission that is made wrong.
struct Wrong<'a> {
    context: &'a Context,
    /// Operands, results, states.
    buffers: [Vec<Arc<dyn Buffer>>; 3],
    entry: usize,
    symbols: SymbolValues,
}

impl Wrong<'_> {
    /// Replaces the first buffer by one that is a byte short.
    fn shorten(&mut self, which: usize) -> Check {
        let first = self.buffers[which].first_mut();
        let first = first.ok_or_else(|| Stop::Skipped("it has none".into()))?;
        let needed = first.desc().bytes - crate::conformance::memory::GUARD;
        let desc = desc(self.context.device(), "short", needed.saturating_sub(1));
        *first = self.context.device().allocate(&desc)?;
        Ok(())
    }

    fn lose(&mut self, which: usize) -> Check {
        let lost = self.buffers[which].pop();
        lost.map(|_| ())
            .ok_or_else(|| Stop::Skipped("it has none".into()))
    }

    fn double(&mut self, which: usize) -> Check {
        let desc = desc(self.context.device(), "more", 4096);
        self.buffers[which].push(self.context.device().allocate(&desc)?);
        Ok(())
    }

    fn run(&self, module: &Arc<dyn Module>) -> Result<(), HalError> {
        let done = Timeline::new("a wrong run").point(1);
        self.context.device().queue().submit(&Submission {
            module,
            entry: self.entry,
            inputs: &self.buffers[0],
            outputs: &self.buffers[1],
            states: &self.buffers[2],
            sequences: &[],
            symbols: self.symbols,
            wait: &[],
            signal: &done,
        })?;
        done.wait(self.context.options().patience)
    }
}

/// A job with operands that are not scalars, so that they can be short.
fn prepared(context: &Context) -> Result<(Job, Arc<dyn Module>, Binding), Stop> {
    let (job, _) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    Ok((job, module, binding))
}

/// Then a right run gives the right results.
fn right_after(context: &Context, job: &Job, module: &Arc<dyn Module>) -> Check {
    let place = "a right run afterwards";
    let found = job
        .run_module(context.bench(), module, 0)
        .map_err(|e| e.at(place))?;
    let expected = crate::conformance::sample::reference(job)?;
    check(context, job, &found.outputs, &expected).map_err(|e| e.at(place))
}

fn wrong(context: &Context, what: &str, change: fn(&mut Wrong<'_>) -> Check) -> Check {
    let (job, module, binding) = prepared(context)?;
    let mut submission = Wrong {
        context,
        buffers: binding.buffers(),
        entry: 0,
        symbols: job.symbols,
    };
    change(&mut submission)?;
    refused(submission.run(&module), what)?;
    binding.check_unwritten()?;
    binding.check_bounds()?;
    right_after(context, &job, &module)
}

/// More tokens than the entry was compiled for, in buffers with room for them.
fn past_bounds(context: &Context) -> Check {
    let symbols = sizes(context.capabilities(), 4, 2, 2, 12);
    for sample in SAMPLES {
        let mut job = sample.job(symbols, context.options().seed)?;
        let obstacle = crate::conformance::job::obstacle(context.device(), &job.run())?;
        if obstacle.is_some() || job.inputs.is_empty() {
            continue;
        }
        if context.capabilities().features.dynamic_shapes {
            job.bounds = at_most(&symbols);
        }
        let module = job
            .compile(context.device())
            .map_err(|e| claimed_but(&e, "compile"))?;
        let mut more = symbols;
        more.set(Symbol::TOKENS, symbols.get(Symbol::TOKENS) + 3);
        let larger = sample.job(more, context.options().seed)?;
        let info = job.described(&*module, 0)?;
        let binding = larger.bind(context.device(), &info)?;
        refused(
            binding.run(context.bench(), &module, 0),
            &format!("more tokens than compiled for ({})", sample.0),
        )?;
        binding.check_unwritten()?;
        return right_after(context, &job, &module);
    }
    Err(Stop::NotClaimed(
        "it claims no op on a number of tokens".into(),
    ))
}

fn foreign_module(context: &Context) -> Check {
    let (job, module, binding) = prepared(context)?;
    let other = crate::conformance::bind::Bench {
        device: anynpu_hal::driver::noop::NoopDriver.open_first()?,
        patience: context.options().patience,
    };
    let foreign = job.compile(&*other.device)?;
    refused(
        binding.run(context.bench(), &foreign, 0),
        "a module of another driver",
    )?;
    binding.check_unwritten()?;
    right_after(context, &job, &module)
}

trait OpenFirst {
    fn open_first(&self) -> Result<Arc<dyn anynpu_hal::Device>, Stop>;
}

impl<D: anynpu_hal::Driver> OpenFirst for D {
    fn open_first(&self) -> Result<Arc<dyn anynpu_hal::Device>, Stop> {
        let found = self.enumerate().map_err(|e| Stop::Skipped(e.reason))?;
        let first = found
            .first()
            .ok_or_else(|| Stop::Skipped("no such device".into()))?;
        Ok(self.open(first, &anynpu_hal::OpenOptions::default())?)
    }
}

/// Buffers that end where the values end.
fn exact_size(context: &Context) -> Check {
    let (job, module, binding) = prepared(context)?;
    binding.run(context.bench(), &module, 0)?;
    let info = job.described(&*module, 0)?;
    let guarded = binding.outputs(&info, &job.graph)?;
    let found = binding.run_exactly(context.bench(), &module, &info)?;
    match found == guarded.iter().map(|t| t.to_bytes()).collect::<Vec<_>>() {
        true => Ok(()),
        false => Err(Stop::failed(
            "other results in buffers of exactly the needed size",
            "the same as in larger ones",
        )),
    }
}
