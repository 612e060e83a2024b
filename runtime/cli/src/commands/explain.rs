//! `anynpu explain`: why each node is where it is, and where it really ran.

use std::fmt::Write;

use anyhow::Context;
use anynpu::{ExplainedNode, Explanation, OfPhases};
use serde::Serialize;

use crate::args::ExplainArgs;
use crate::output;

#[derive(Serialize)]
struct Document<'a> {
    model: &'a str,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

/// Loads the model, runs a step of each phase and tells of every node.
pub fn execute(args: &ExplainArgs) -> anyhow::Result<()> {
    let model = args.placement.load(&args.model, None)?;
    let explanation = model.explain().with_context(|| args.model.what())?;
    if args.json.json {
        return output::print_json(&Document {
            model: &model.info().name,
            explanation: &explanation,
        });
    }
    output::print(&table(&explanation.nodes))?;
    for warning in &explanation.warnings {
        output::note(&format!("warning: {warning}"));
    }
    Ok(())
}

/// One line a node; layers in a row whose lines are the same are told once.
fn table(nodes: &[ExplainedNode]) -> String {
    let mut text = String::new();
    let mut groups: Vec<(String, String)> = Vec::new();
    for block in nodes.chunk_by(|a, b| a.layer == b.layer) {
        let Some(layer) = block[0].layer else {
            groups.push((String::new(), lines(block, "")));
            continue;
        };
        let lines = lines(block, &format!("layers.{layer}."));
        match groups.last_mut() {
            Some((head, same)) if !head.is_empty() && *same == lines => {
                let first = head.split_once('-').map_or(&**head, |(first, _)| first);
                *head = format!("{first}-{layer}");
            }
            _ => groups.push((layer.to_string(), lines)),
        }
    }
    for (layers, lines) in groups {
        if !layers.is_empty() {
            let _ = writeln!(text, "layers.{layers}:");
        }
        text.push_str(&lines);
    }
    text
}

fn lines(nodes: &[ExplainedNode], prefix: &str) -> String {
    let mut text = String::new();
    for node in nodes {
        let name = node.name.strip_prefix(prefix).unwrap_or(&node.name);
        let indent = if prefix.is_empty() { "" } else { "  " };
        let name = format!("{indent}{name}");
        let _ = writeln!(
            text,
            "{name:<24} {:<14} planned {}, ran {}; {}",
            node.op,
            phases(&node.planned),
            match node.within.is_empty() {
                true => phases(&node.ran),
                false => format!("{} ({})", phases(&node.ran), phases(&node.within)),
            },
            node.why
                .decode
                .as_ref()
                .or(node.why.prefill.as_ref())
                .map_or("", |why| why),
        );
        for (device, verdict) in &node.verdicts {
            if let (Some(code), Some(detail)) = (verdict.code, &verdict.detail) {
                let _ = writeln!(
                    text,
                    "{indent}    {device}: {} ({code}: {detail})",
                    verdict.support
                );
            }
        }
    }
    text
}

/// One device's name where both phases agree.
fn phases(of: &OfPhases) -> String {
    let name = |device: &Option<String>| device.clone().unwrap_or_else(|| "nowhere".into());
    match (&of.prefill, &of.decode) {
        (Some(one), None) => one.clone(),
        (prefill, decode) if prefill == decode => name(prefill),
        (prefill, decode) => format!("{} (prefill), {} (decode)", name(prefill), name(decode)),
    }
}
