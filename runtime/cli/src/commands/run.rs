//! `anynpu run`: generate text.

use std::io;
use std::ops::ControlFlow;
use std::time::{SystemTime, UNIX_EPOCH};

use anynpu::sample::SampleOptions;
use anynpu::{FinishReason, GenerateOptions, GenerationReport, SessionOptions};

use crate::args::{OnFull, RunArgs};
use crate::commands::{chat, load};
use crate::{output, trace};

/// Generates, streaming unless one JSON document was asked for.
pub fn execute(args: &RunArgs) -> anyhow::Result<()> {
    if args.chat {
        return chat::execute(args);
    }
    let options = options(args)?;
    let prompt = prompt(args)?.unwrap_or_default();
    let model = args.placement.load(&args.model, args.ctx)?;
    let mut session = model.session(SessionOptions::new())?;
    if args.trace.is_some() {
        session.record();
    }
    let mut failure: Option<io::Error> = None;
    let json = args.json.json;
    if !json {
        output::print(&prompt)?;
    }
    let report = session.generate(&prompt, &options, |piece| {
        if json || piece.text.is_empty() {
            return ControlFlow::Continue(());
        }
        match output::print(piece.text) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failure = Some(e);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(e) = failure {
        return Err(e.into());
    }
    if let Some(path) = &args.trace {
        let nodes = model.open().model().graph().nodes();
        let name = |n: u32| nodes.get(n as usize).map_or("?", |n| &n.name).to_owned();
        trace::write(path, session.recorded(), model.plans(), &name)?;
    }
    if json {
        output::print_json(&report)?;
    } else {
        output::print_line("")?;
        summarise(&report, model.context());
    }
    match report.finish {
        FinishReason::ContextFull if args.on_full == OnFull::Error => anyhow::bail!(
            "the context of {} tokens is full; ask for fewer tokens with -n, a larger --ctx, or --on-full slide",
            model.context()
        ),
        _ => Ok(()),
    }
}

/// The text given, if one was.
pub(super) fn prompt(args: &RunArgs) -> anyhow::Result<Option<String>> {
    Ok(match (&args.prompt, &args.file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(load::read_text(path)?),
        (None, None) => None,
    })
}

pub(super) fn options(args: &RunArgs) -> anyhow::Result<GenerateOptions> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos() as u64),
    };
    let sampling = SampleOptions {
        seed,
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        ..SampleOptions::default()
    };
    let mut options = GenerateOptions::new()
        .sampling(sampling)
        .cancel(load::interrupt());
    options.max_tokens = args.tokens;
    options.stops = args.stop.clone();
    options.on_full = match args.on_full {
        OnFull::Error => anynpu::OnFull::Error,
        OnFull::Slide => anynpu::OnFull::Slide,
    };
    Ok(options)
}

/// One line a phase: what ran where, how fast.
pub(super) fn summarise(report: &GenerationReport, context: u32) {
    for phase in &report.plan.phases {
        let segments: Vec<String> = phase
            .segments
            .iter()
            .map(|s| match s.layers {
                Some([first, last]) => format!("{} ran layers {first}-{last}", s.device),
                None => format!("{} ran {} to {}", s.device, s.first_node, s.last_node),
            })
            .collect();
        let (tokens, speed) = match phase.phase {
            "prefill" => (report.prompt_tokens, report.timing.prefill_tok_s),
            _ => (report.tokens.len(), report.timing.decode_tok_s),
        };
        if tokens == 0 {
            continue;
        }
        let speed = speed.map_or_else(String::new, |s| format!(", {s:.1} tokens/s"));
        let first = match (phase.phase, report.timing.ttft_ms) {
            ("prefill", Some(ms)) => format!(", first token after {ms:.1} ms"),
            _ => String::new(),
        };
        output::note(&format!(
            "{}: {} segment(s): {}; {tokens} tokens{speed}{first}",
            phase.phase,
            phase.segments.len(),
            segments.join(", "),
        ));
    }
    for (name, device) in &report.executed.devices {
        output::note(&format!(
            "executed: {name}: {} nodes in {} segments, {} copies, computing in {}",
            device.nodes,
            device.segments,
            device.copies_in + device.copies_out,
            device.dtype
        ));
    }
    let planned = &report.memory.plan;
    for device in &planned.devices {
        output::note(&format!(
            "memory: {}: weights {}, KV cache {} ({}) for {context} tokens, scratch {}",
            device.device,
            output::bytes(device.resident + device.in_place),
            output::bytes(planned.kv),
            report.kv_type,
            output::bytes(device.scratch + device.buffers),
        ));
    }
    for fallback in &report.fallbacks {
        output::note(&format!(
            "fallback: {} wanted {}, ran on {}: {}",
            fallback.node, fallback.wanted, fallback.ran_on, fallback.reason
        ));
    }
    if report.forgotten_tokens > 0 {
        output::note(&format!(
            "the context of {context} was full: {} tokens were forgotten",
            report.forgotten_tokens
        ));
    }
    match report.finish {
        FinishReason::Cancelled => output::note("stopped by Ctrl-C"),
        FinishReason::ContextFull => output::note(&format!("the context of {context} is full")),
        _ => {}
    }
}
