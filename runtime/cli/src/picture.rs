//! A plan as a page: layers by devices, and when each segment runs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use anynpu::plan::{Phase, Plan, PlanSet};
use anynpu_ir::Graph;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

/// What segments took: of a phase, in order, the device, the first and last node, and microseconds.
pub type Measured = BTreeMap<&'static str, Vec<(String, std::ops::Range<u32>, f64)>>;

/// What the page is about.
pub struct Picture<'a> {
    /// The model's name.
    pub model: &'a str,
    /// Its graph.
    pub graph: &'a Graph,
    /// The plan.
    pub plans: &'a PlanSet,
    /// Generated tokens that were planned for.
    pub tokens: u32,
    /// What the objective is, for people.
    pub objective: String,
    /// What was measured, if it was.
    pub measured: Measured,
}

impl Picture<'_> {
    /// Writes the page to `path`. It needs nothing else to be shown.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_template("picture", include_str!("picture.html"))?;
        let page = environment
            .get_template("picture")?
            .render(Serde(self.page()))?;
        std::fs::write(path, page).with_context(|| path.display().to_string())
    }

    fn page(&self) -> Page {
        let plans = self.plans;
        let chosen = plans.price.objective_us;
        let mut rivals = vec![("this plan".to_owned(), Some(chosen))];
        let others = plans.rivals.iter();
        rivals.extend(others.map(|(name, price)| (name.clone(), price.map(|p| p.objective_us))));
        let most = rivals.iter().filter_map(|r| r.1).fold(chosen, f64::max);
        let rivals = rivals.into_iter().map(|(name, us)| Rival {
            colour: if name == "this plan" { CHOSEN } else { OTHER },
            text: us.map_or_else(|| "cannot run it".to_owned(), duration),
            width: us.map(|us| round(360.0 * us / most.max(f64::MIN_POSITIVE))),
            name,
        });
        Page {
            model: self.model.to_owned(),
            prompt: plans.prompt,
            tokens: self.tokens,
            objective: self.objective.clone(),
            gap: (plans.gap > 0.0).then(|| format!("{:.1} %", 100.0 * plans.gap)),
            devices: (0..plans.devices.len())
                .map(|d| Named {
                    name: plans.devices[d].clone(),
                    colour: colour(d),
                })
                .collect(),
            rivals: rivals.collect(),
            phases: Phase::ALL
                .map(|phase| self.phase(plans.phase(phase)))
                .into(),
            refusals: self.refusals(),
        }
    }

    fn phase(&self, plan: &Plan) -> PhasePage {
        let guess = 100.0 * plan.total.guess_share();
        let measured = self.measured.get(plan.phase.name());
        let predicted = plan.partitions.iter().map(|p| {
            let device = self.plans.devices[p.device.0].clone();
            (device, p.nodes.clone(), p.predicted.us)
        });
        let mut timelines = vec![self.timeline("predicted", predicted.collect())];
        if let Some(measured) = measured {
            timelines.push(self.timeline("measured", measured.clone()));
        }
        PhasePage {
            name: plan.phase.name(),
            summary: format!(
                "{} in {} segment(s) with {} copies{}; {guess:.0} % of it a guess",
                duration(plan.total.us),
                plan.partitions.len(),
                plan.transfers.len(),
                match plan.overlapped_us {
                    Some(us) => format!(", {} as steps of the prompt overlap", duration(us)),
                    None => String::new(),
                }
            ),
            grid: self.grid(plan),
            timelines,
        }
    }

    /// Devices by layers: how much of each layer runs on each device.
    fn grid(&self, plan: &Plan) -> Chart {
        let nodes = self.graph.nodes();
        let blocks: Vec<_> = nodes.chunk_by(|a, b| a.layer() == b.layer()).collect();
        let width = ((PLOT_WIDTH / blocks.len().max(1) as f64) - 2.0).clamp(4.0, 44.0);
        let left = |block: usize| LABEL_WIDTH + block as f64 * (width + 2.0);
        let starts = blocks.iter().scan(0, |next, block| {
            let first = *next;
            *next += block.len();
            Some(first)
        });
        let starts: Vec<usize> = starts.collect();
        let name = |block: &[anynpu_ir::Node]| match block[0].layer() {
            Some(layer) => format!("layer {layer}"),
            None => block[0].name.clone(),
        };
        let row = |device: usize| Row {
            name: self.plans.devices[device].clone(),
            colour: colour(device),
            y: ROW_HEIGHT * device as f64,
            cells: blocks
                .iter()
                .zip(&starts)
                .enumerate()
                .map(|(b, (block, start))| {
                    let all = &plan.why[*start..start + block.len()];
                    let here = all.iter().filter(|w| w.device.0 == device).count();
                    Cell {
                        x: round(left(b)),
                        width: round(width),
                        share: round(here as f64 / block.len() as f64),
                        title: format!("{}: {here} of {} nodes", name(block), block.len()),
                    }
                })
                .collect(),
        };
        let layers = blocks.iter().enumerate();
        let ticks = layers.filter_map(|(b, block)| {
            let layer = block[0].layer()?;
            layer.is_multiple_of(4).then(|| Tick {
                x: round(left(b)),
                text: layer.to_string(),
            })
        });
        let rows: Vec<Row> = (0..self.plans.devices.len()).map(row).collect();
        Chart {
            width: round(left(blocks.len())),
            height: ROW_HEIGHT * rows.len() as f64 + 18.0,
            ticks: ticks.collect(),
            rows,
            name: String::new(),
        }
    }

    /// One row a device, segments one after the other.
    fn timeline(&self, name: &str, segments: Vec<(String, std::ops::Range<u32>, f64)>) -> Chart {
        let total: f64 = segments.iter().map(|s| s.2).sum();
        let scale = PLOT_WIDTH / total.max(f64::MIN_POSITIVE);
        let mut rows: Vec<Row> = (0..self.plans.devices.len())
            .map(|d| Row {
                name: self.plans.devices[d].clone(),
                colour: colour(d),
                y: ROW_HEIGHT * d as f64,
                cells: Vec::new(),
            })
            .collect();
        let mut at = 0.0;
        for (device, nodes, us) in &segments {
            let node = |n: u32| self.graph.nodes().get(n as usize).map_or("?", |n| &n.name);
            let last = nodes.end.saturating_sub(1);
            if let Some(row) = rows.iter_mut().find(|r| r.name == *device) {
                row.cells.push(Cell {
                    x: round(LABEL_WIDTH + at * scale),
                    width: round((us * scale).max(1.0)),
                    share: 0.85,
                    title: format!("{} to {}: {}", node(nodes.start), node(last), duration(*us)),
                });
            }
            at += us;
        }
        Chart {
            name: format!("{name}: {}", duration(total)),
            width: LABEL_WIDTH + PLOT_WIDTH,
            height: ROW_HEIGHT * rows.len() as f64 + 18.0,
            ticks: vec![
                Tick {
                    x: LABEL_WIDTH,
                    text: "0".into(),
                },
                Tick {
                    x: LABEL_WIDTH + PLOT_WIDTH,
                    text: duration(total),
                },
            ],
            rows,
        }
    }

    /// Each reason that a device gives for not running nodes, with the nodes.
    fn refusals(&self) -> Vec<Refused> {
        let mut by_reason: BTreeMap<(usize, String), Vec<u32>> = BTreeMap::new();
        for why in &self.plans.decode.why {
            for (device, verdict) in why.verdicts.iter().enumerate() {
                if let Some(reason) = verdict.reason() {
                    let reason = format!("{}: {reason}", verdict.name());
                    by_reason
                        .entry((device, reason))
                        .or_default()
                        .push(why.node.0);
                }
            }
        }
        let refused = by_reason.into_iter().map(|((device, reason), nodes)| {
            let name = |n: &u32| self.graph.nodes().get(*n as usize).map_or("?", |n| &n.name);
            Refused {
                device: self.plans.devices[device].clone(),
                nodes: match nodes.as_slice() {
                    [] => String::new(),
                    [one] => name(one).to_owned(),
                    [first, ..] => format!("{} and {} more", name(first), nodes.len() - 1),
                },
                reason,
            }
        });
        refused.collect()
    }
}

const LABEL_WIDTH: f64 = 110.0;
const PLOT_WIDTH: f64 = 900.0;
const ROW_HEIGHT: f64 = 22.0;
const CHOSEN: &str = "#2f6fde";
const OTHER: &str = "#a7b0bd";

/// One colour a device, told apart by people who see few colours too.
fn colour(device: usize) -> &'static str {
    const COLOURS: [&str; 8] = [
        "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f7f7f",
    ];
    COLOURS[device % COLOURS.len()]
}

fn duration(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.1} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn round(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

#[derive(Serialize)]
struct Page {
    model: String,
    prompt: u32,
    tokens: u32,
    objective: String,
    gap: Option<String>,
    devices: Vec<Named>,
    rivals: Vec<Rival>,
    phases: Vec<PhasePage>,
    refusals: Vec<Refused>,
}

#[derive(Serialize)]
struct Named {
    name: String,
    colour: &'static str,
}

#[derive(Serialize)]
struct Rival {
    name: String,
    text: String,
    width: Option<f64>,
    colour: &'static str,
}

#[derive(Serialize)]
struct PhasePage {
    name: &'static str,
    summary: String,
    grid: Chart,
    timelines: Vec<Chart>,
}

#[derive(Serialize)]
struct Chart {
    name: String,
    width: f64,
    height: f64,
    rows: Vec<Row>,
    ticks: Vec<Tick>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    colour: &'static str,
    y: f64,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    x: f64,
    width: f64,
    share: f64,
    title: String,
}

#[derive(Serialize)]
struct Tick {
    x: f64,
    text: String,
}

#[derive(Serialize)]
struct Refused {
    device: String,
    nodes: String,
    reason: String,
}
