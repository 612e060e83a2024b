//! `anynpu plan`: which device will run which nodes.

use std::collections::BTreeMap;

use anyhow::Context;
use anynpu::plan::{PlanPrice, PlanReport};
use serde::Serialize;

use crate::args::PlanArgs;
use crate::output;
use crate::picture::{Measured, Picture};

#[derive(Serialize)]
struct Document {
    model: String,
    objective: &'static str,
    /// Prefill of the prompt and N tokens of decode.
    objective_us: f64,
    #[serde(flatten)]
    plan: PlanReport,
    /// What other ways would cost; `null` where that can't be.
    #[serde(skip_serializing_if = "Option::is_none")]
    compare: Option<BTreeMap<String, Option<PlanPrice>>>,
}

/// Plans without compiling anything.
pub fn execute(args: &PlanArgs) -> anyhow::Result<()> {
    let open = args.model.open()?;
    let runtime = args.placement.runtime()?;
    let mut options = args.placement.load_options(None)?;
    options.prompt = Some(args.prompt);
    options.tokens = Some(args.tokens);
    let plans = runtime
        .plan(&open, &options)
        .with_context(|| args.model.what())?;
    let plan = plans.report(open.model().graph());
    let document = Document {
        model: open.model().info().name.clone(),
        objective: "latency",
        objective_us: plans.price.objective_us,
        plan,
        compare: args.compare.then(|| plans.rivals.iter().cloned().collect()),
    };
    if let Some(path) = &args.html {
        let picture = Picture {
            model: &document.model,
            graph: open.model().graph(),
            plans: &plans,
            tokens: args.tokens,
            objective: format!("{:.1} ms", document.objective_us / 1e3),
            measured: Measured::new(),
        };
        picture.write(path)?;
    }
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
    if plans.gap > 0.0 {
        output::print_line(&format!(
            "at most {:.1} % above the best possible",
            100.0 * plans.gap
        ))?;
    }
    for (way, price) in document.compare.iter().flatten() {
        let price = price.map_or_else(
            || "cannot run it".to_owned(),
            |p| format!("{:.1} ms", p.objective_us / 1e3),
        );
        output::print_line(&format!("instead {way}: {price}"))?;
    }
    Ok(())
}
