//! `anynpu plan`: which device will run which nodes.

use anyhow::Context;
use anynpu::plan::PlanReport;
use serde::Serialize;

use crate::args::PlanArgs;
use crate::output;

#[derive(Serialize)]
struct Document {
    model: String,
    objective: &'static str,
    /// Prefill of the prompt and N tokens of decode.
    objective_us: f64,
    #[serde(flatten)]
    plan: PlanReport,
}

/// Plans without compiling anything.
pub fn execute(args: &PlanArgs) -> anyhow::Result<()> {
    let open = args.model.open()?;
    let runtime = args.placement.runtime()?;
    let mut options = args.placement.load_options(None)?;
    options.prompt = Some(args.prompt);
    let plans = runtime
        .plan(&open, &options)
        .with_context(|| args.model.what())?;
    let plan = plans.report(open.model().graph());
    let time = |phase: &str| {
        let of = plan.phases.iter().filter(|p| p.phase == phase);
        of.map(|p| p.predicted_us).sum::<f64>()
    };
    let document = Document {
        model: open.model().info().name.clone(),
        objective: "latency",
        objective_us: time("prefill") + f64::from(args.tokens) * time("decode"),
        plan,
    };
    if args.json.json {
        return output::print_json(&document);
    }
    output::print_line(&format!(
        "{}: {:.1} ms for a prompt of {} tokens and {} generated",
        document.model,
        document.objective_us / 1e3,
        args.prompt,
        args.tokens
    ))?;
    for phase in &document.plan.phases {
        output::print_line(&format!(
            "{}: {:.3} ms predicted, {:.0} % of it a guess, {} copies, buckets {:?}",
            phase.phase,
            phase.predicted_us / 1e3,
            100.0 * phase.guess_share,
            phase.copies,
            phase.buckets
        ))?;
        for s in &phase.segments {
            let layers = s
                .layers
                .map_or_else(String::new, |[a, b]| format!(" (layers {a}-{b})"));
            output::print_line(&format!(
                "  {:<8} {} … {}{layers}: {:.3} ms",
                s.device,
                s.first_node,
                s.last_node,
                s.predicted_us / 1e3
            ))?;
        }
    }
    Ok(())
}
