//! `anynpu plan`: which device will run which nodes.

use std::collections::BTreeMap;

use anyhow::Context;
use anynpu::Runtime;
use anynpu::plan::{Objective, Phase, PlanPrice, PlanReport, PlanSet};
use anynpu_ir::Graph;
use serde::Serialize;

use crate::args::{self, PlanArgs};
use crate::commands::check::{self, Check};
use crate::output;
use crate::picture::{Measured, Picture};

#[derive(Serialize)]
struct Document {
    model: String,
    objective: &'static str,
    /// The time that the objective counts.
    objective_us: f64,
    /// What the objective comes to, and in which unit.
    objective_value: f64,
    objective_unit: &'static str,
    #[serde(flatten)]
    plan: PlanReport,
    /// What other ways would cost; `null` where that can't be.
    #[serde(skip_serializing_if = "Option::is_none")]
    compare: Option<BTreeMap<String, Option<PlanPrice>>>,
    /// What was predicted beside what was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    warnings: Vec<String>,
}

/// Tells how long a phase takes as steps overlap, if they do.
fn overlapped(us: Option<f64>) -> String {
    us.map_or_else(String::new, |us| {
        format!(", {:.3} ms as steps overlap", us / 1e3)
    })
}

/// Plans, and with `--check` runs the plan.
pub fn execute(args: &PlanArgs) -> anyhow::Result<()> {
    let open = args.model.open()?;
    let mut options = args.placement.load_options(None)?;
    options.prompt = Some(args.prompt);
    options.tokens = Some(args.tokens);
    options.objective = match args.objective {
        args::Objective::Latency => Objective::Latency,
        args::Objective::Ttft => Objective::Ttft,
        args::Objective::Throughput => Objective::Throughput,
        args::Objective::Energy => Objective::Energy,
        args::Objective::Memory => Objective::Memory,
    };
    options.budgets = args.memory.clone();
    if args.check {
        options.context = Some(check::context(args, &open)?);
    }
    let runtime = match args.check {
        true => args.placement.measured_runtime(&open)?,
        false => args.placement.runtime_for_plans()?,
    };
    let plans = runtime
        .plan(&open, &options)
        .with_context(|| args.model.what())?;
    for warning in &plans.warnings {
        tracing::warn!("{warning}");
    }
    let plan = plans.report(open.model().graph());
    let document = Document {
        model: open.model().info().name.clone(),
        objective: plans.objective.name(),
        objective_us: plans.price.objective_us,
        objective_value: plans.price.objective_value,
        objective_unit: unit(plans.objective),
        plan,
        compare: args.compare.then(|| plans.rivals.iter().cloned().collect()),
        check: match args.check {
            true => Some(check::check(args, &runtime, open.clone(), options)?),
            false => None,
        },
        warnings: [runtime.warnings(), &plans.warnings].concat(),
    };
    if let (true, Some(check)) = (args.learn, &document.check) {
        learn(args, &runtime, open.model().graph(), &plans, check)?;
    }
    if let Some(path) = &args.html {
        let picture = Picture {
            model: &document.model,
            graph: open.model().graph(),
            plans: &plans,
            tokens: args.tokens,
            objective: format!("{:.1} ms", document.objective_us / 1e3),
            measured: match &document.check {
                Some(check) => check.segments.clone(),
                None => Measured::new(),
            },
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
            "{}: {:.3} ms predicted{}, {:.0} % of it a guess, {} copies, buckets {:?}",
            phase.phase,
            phase.predicted_us / 1e3,
            overlapped(phase.overlapped_us),
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
    if plans.objective != Objective::Latency {
        output::print_line(&format!(
            "{}: {:.3} {}",
            document.objective, document.objective_value, document.objective_unit
        ))?;
    }
    for phase in document.check.iter().flat_map(Check::phases) {
        output::print_line(&phase.text())?;
    }
    for (way, price) in document.compare.iter().flatten() {
        let price = price.map_or_else(
            || "cannot run it".to_owned(),
            |p| match plans.objective {
                Objective::Energy | Objective::Memory => format!(
                    "{:.1} ms, {:.3} {}",
                    p.objective_us / 1e3,
                    p.objective_value,
                    document.objective_unit
                ),
                _ => format!("{:.1} ms", p.objective_us / 1e3),
            },
        );
        output::print_line(&format!("instead {way}: {price}"))?;
    }
    Ok(())
}

/// Writes the profile with what the check found.
fn learn(
    args: &PlanArgs,
    runtime: &Runtime,
    graph: &Graph,
    plans: &PlanSet,
    check: &Check,
) -> anyhow::Result<()> {
    let [path] = &args.placement.profile[..] else {
        anyhow::bail!("--learn writes one profile, but several were given; give one --profile");
    };
    let mut cost = runtime.cost().clone();
    for phase in Phase::ALL {
        let mut took: BTreeMap<String, f64> = BTreeMap::new();
        for (device, _, us) in check.segments.get(phase.name()).into_iter().flatten() {
            *took.entry(device.clone()).or_default() += us;
        }
        let took: Vec<(String, f64)> = took.into_iter().collect();
        cost.learn(graph, plans, phase, &took);
    }
    for profile in cost.profiles() {
        profile.save(path)?;
        for correction in profile.devices.iter().flat_map(|d| &d.corrections) {
            output::note(&format!(
                "{}: {} runs took {:.2} of what was predicted; predictions are multiplied by {:.2}",
                path.display(),
                correction.pattern,
                correction.mean,
                correction.factor
            ));
        }
    }
    Ok(())
}

fn unit(objective: Objective) -> &'static str {
    match objective {
        Objective::Energy => "uJ",
        Objective::Memory => "bytes",
        _ => "us",
    }
}
