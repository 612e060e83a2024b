//! Timing whole blocks, and products with large weights.

use std::ops::Range;
use std::time::{Duration, Instant};

use anynpu_hal::{DeviceKind, HalError};
use anynpu_ir::{DType, Graph, Node, SymbolValues};

use super::graphs::{self, Blocks};
use super::prober::{LEAST_US, Missing, Prober, keep};
use super::rig::{Part, Rig, takes};
use crate::cost::{DeviceCost, GraphScale};
use crate::profile::{Anchor, ProductTime, Sample, rounded};

/// A product with one matrix: the part that runs it, rows and columns.
type Single = (usize, u32, u32);

impl Prober<'_> {
    /// Blocks and products that fit in every cache, as those of the smallest models.
    pub(super) fn small(&mut self, dtype: DType, side: u32) -> Result<(), Missing> {
        const COUNT: u32 = 16;
        for tokens in self.tokens() {
            let parts = [Part {
                nodes: 0..COUNT,
                tokens,
            }];
            let graph = graphs::products(dtype, side, COUNT)?;
            let mut rig = self.rig(graph, &parts, 1, DType::F32)?;
            rig.run(0, tokens, 0)?;
            let dispatch = self.dispatch_us();
            let us = self.sample(5, |_| rig.run(0, tokens, 0))?;
            let us = us.map(|us| ((us - dispatch) / f64::from(COUNT)).max(LEAST_US));
            self.product(ProductTime {
                dtype: dtype.name().into(),
                rows: side,
                columns: side,
                tokens,
                cold: false,
                us,
            });
        }
        let blocks = Blocks {
            hidden: side,
            ffn: 3 * side,
            heads: (side / 64).max(4),
            kv_heads: (side / 128).max(2),
            layers: 4,
            dtype,
        };
        let parts = |layers: &[Range<u32>], tokens| {
            let all = layers[0].start..layers[layers.len() - 1].end;
            vec![Part { nodes: all, tokens }]
        };
        self.anchors(blocks, DType::F32, 4, parts)
    }

    /// Measures blocks in both phases. `parts` cuts the layers (runs of nodes) into what is run at once, `layers`
    /// of them each.
    fn anchors(
        &mut self,
        blocks: Blocks,
        state_dtype: DType,
        layers: u32,
        parts: impl Fn(&[Range<u32>], u32) -> Vec<Part>,
    ) -> Result<(), Missing> {
        for (phase, tokens, cached) in self.phases() {
            let graph = blocks.graph()?;
            let all = parts(&layer_nodes(&graph), tokens);
            let mut rig = self.rig(graph, &all, cached + tokens, state_dtype)?;
            let us = self.anchor_us(
                &mut rig,
                &(0..all.len()).collect::<Vec<_>>(),
                tokens,
                cached,
                layers,
            )?;
            self.anchor(blocks, state_dtype, phase, tokens, cached, us)?;
        }
        Ok(())
    }

    /// The phases that anchors stand for: name, rows at once, rows before them.
    fn phases(&self) -> Vec<(&'static str, u32, u32)> {
        let most = self
            .tokens()
            .into_iter()
            .filter(|&t| (8..=128).contains(&t))
            .max();
        let prefill = most.map(|t| ("prefill", t, 0));
        let decode = takes(&**self.device, 1).then_some(("decode", 1, 255));
        prefill.into_iter().chain(decode).collect()
    }

    /// Microseconds of one block of those in `parts`, `layers` in each, run in turn.
    fn anchor_us(
        &self,
        rig: &mut Rig,
        parts: &[usize],
        tokens: u32,
        cached: u32,
        layers: u32,
    ) -> Result<Sample, Missing> {
        rig.set_positions(tokens, cached)?;
        rig.run(parts[0], tokens, cached)?;
        let least = if tokens == 1 { 10 } else { 3 };
        let us = self.sample(least, |i| {
            rig.run(parts[(i + 1) % parts.len()], tokens, cached)
        })?;
        let dispatch = self.dispatch_us();
        Ok(us.map(|us| ((us - dispatch) / f64::from(layers)).max(LEAST_US)))
    }

    /// Notes what a block took beside what its nodes take by themselves.
    fn anchor(
        &mut self,
        blocks: Blocks,
        state_dtype: DType,
        phase: &str,
        tokens: u32,
        cached: u32,
        us: Sample,
    ) -> Result<(), Missing> {
        let graph = blocks.graph()?;
        let cost = DeviceCost::new(DeviceKind::Other, None, Some(&self.profile));
        let scale = GraphScale::of(&graph);
        let symbols = SymbolValues::step(tokens, cached, 1, cached + tokens);
        let nodes = layer_nodes(&graph).into_iter().next().unwrap_or(0..0);
        let nodes = graph.nodes()[nodes.start as usize..nodes.end as usize].iter();
        let alone = nodes.map(|n| cost.node_alone(&graph, n, &symbols, state_dtype, &scale));
        let mut found = Anchor {
            phase: phase.into(),
            dtype: blocks.dtype.name().into(),
            tokens,
            cached,
            hidden: blocks.hidden,
            elements: scale.elements as u64,
            us,
            nodes_us: rounded(alone.map(|e| e.us).sum::<f64>().max(LEAST_US)),
        };
        let own = |a: &Anchor| (a.tokens, a.cached, a.hidden, a.elements);
        let same = |a: &Anchor| a.phase == phase && a.dtype == found.dtype && own(a) == own(&found);
        let anchors = &mut self.profile.anchors;
        match anchors.iter().position(same) {
            // what nodes take alone is what is known of them by now
            Some(known) => {
                if anchors[known].us.median < found.us.median {
                    found.us = anchors[known].us;
                }
                anchors[known] = found;
            }
            None => anchors.push(found),
        }
        Ok(())
    }

    /// Notes what a product took.
    fn product(&mut self, found: ProductTime) {
        let own = |p: &ProductTime| (p.rows, p.columns, p.tokens, p.cold);
        keep(
            &mut self.profile.products,
            found,
            |a, b| a.dtype == b.dtype && own(a) == own(b),
            |a, b| a.us.median < b.us.median,
        );
    }

    /// Products with large matrices of `dtype` and whole blocks of them, all over one set of weights.
    pub(super) fn blocks(&mut self, dtype: DType) -> Result<(), Missing> {
        let blocks = Blocks::of_models(dtype, self.cold_bytes);
        let graph = blocks.graph()?;
        let layers = layer_nodes(&graph);
        let named = |part: &str| -> Vec<(u32, u32, u32)> {
            let at = |n: &Node| n.name.ends_with(part);
            let nodes = graph.nodes().iter().enumerate().filter(|(_, n)| at(n));
            let dims = |n: &Node| {
                let dims = graph.ty(n.inputs[1]).shape.dims().to_vec();
                (dims[0].fixed().unwrap_or(1), dims[1].fixed().unwrap_or(1))
            };
            nodes
                .map(|(i, n)| (i as u32, dims(n).0, dims(n).1))
                .collect()
        };
        let (outs, gates, ups, downs) = (
            named("attn.output"),
            named("ffn.gate"),
            named("ffn.up"),
            named("ffn.down"),
        );
        let tokens = self.tokens();
        let phases = self.phases();
        let mut parts = Vec::new();
        // for each number of rows, the parts of each product in the order they are read
        let mut singles: Vec<(u32, Vec<Single>)> = Vec::new();
        for &t in &tokens {
            let mut own = Vec::new();
            for layer in 0..layers.len() {
                for product in [&outs, &gates, &ups, &downs] {
                    let (node, rows, columns) = product[layer];
                    parts.push(Part {
                        nodes: node..node + 1,
                        tokens: t,
                    });
                    own.push((parts.len() - 1, rows, columns));
                }
            }
            singles.push((t, own));
        }
        let mut whole = Vec::new();
        for &(_, t, _) in &phases {
            let first = parts.len();
            parts.extend(layers.iter().map(|nodes| Part {
                nodes: nodes.clone(),
                tokens: t,
            }));
            whole.push((first..parts.len()).collect::<Vec<_>>());
        }
        let rows = phases.iter().map(|p| p.1 + p.2).max().unwrap_or(1);
        let state_dtype = DType::F16;
        let mut rig = self.rig(graph, &parts, rows, state_dtype)?;
        let mut timed = Timed::new(singles, phases, whole);
        self.slices(&mut rig, &mut timed)?;
        for (tokens, rows, columns, us) in timed.products {
            if let Some(us) = Sample::of(&us, LEAST_US) {
                self.product(ProductTime {
                    dtype: dtype.name().into(),
                    rows,
                    columns,
                    tokens,
                    cold: true,
                    us,
                });
            }
        }
        for ((phase, tokens, cached), us) in timed.phases.into_iter().zip(timed.blocks) {
            if let Some(us) = Sample::of(&us, LEAST_US) {
                self.anchor(blocks, state_dtype, phase, tokens, cached, us)?;
            }
        }
        self.time()
    }

    /// Times everything in turn, a little of each at a time, so that what else goes on on the machine meets all of it
    /// alike: how much longer a block takes than its products does not change by that.
    fn slices(&self, rig: &mut Rig, timed: &mut Timed) -> Result<(), Missing> {
        let started = Instant::now();
        let (most, long) = match (self.quick, self.few) {
            (true, _) => (3, Duration::from_millis(250)),
            (false, true) => (16, Duration::from_millis(1200)),
            (false, false) => (30, Duration::from_millis(2400)),
        };
        let dispatch = self.dispatch_us();
        // the first time finds cold code and memory
        timed.slice(rig, dispatch, 1)?;
        if self.time().is_err() {
            return Ok(());
        }
        timed.forget();
        for _ in 0..most {
            timed.slice(rig, dispatch, 8)?;
            if started.elapsed() > long || self.time().is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// What is timed over one set of weights, and the microseconds it took. Layers are taken in turn, whatever they are
/// taken for, so that what is read is cold.
struct Timed {
    /// For each number of rows, the products of each layer.
    singles: Vec<(u32, Vec<Single>)>,
    /// Name, rows at once, rows before them.
    phases: Vec<(&'static str, u32, u32)>,
    /// For each phase, the part of each layer.
    whole: Vec<Vec<usize>>,
    /// The layer whose turn it is.
    next: usize,
    /// Number of rows, rows and columns of the matrix, times.
    products: Vec<(u32, u32, u32, Vec<f64>)>,
    /// Times of each phase.
    blocks: Vec<Vec<f64>>,
}

/// Products of a layer that are timed.
const SINGLES: usize = 4;

impl Timed {
    fn new(
        singles: Vec<(u32, Vec<Single>)>,
        phases: Vec<(&'static str, u32, u32)>,
        whole: Vec<Vec<usize>>,
    ) -> Timed {
        Timed {
            blocks: vec![Vec::new(); phases.len()],
            singles,
            phases,
            whole,
            next: 0,
            products: Vec::new(),
        }
    }

    fn forget(&mut self) {
        self.products.clear();
        self.blocks.iter_mut().for_each(Vec::clear);
    }

    /// Some runs of everything: the smallest steps in so many layers, larger ones in fewer.
    fn slice(&mut self, rig: &mut Rig, dispatch: f64, layers: u32) -> Result<(), HalError> {
        let turns = |tokens: u32| (layers / tokens.max(1)).max(1);
        for (tokens, own) in &self.singles {
            for _ in 0..turns(*tokens) {
                let at = self.next % (own.len() / SINGLES).max(1) * SINGLES;
                self.next += 1;
                for &(part, rows, columns) in own.iter().skip(at).take(SINGLES) {
                    let us = rig.run(part, *tokens, 0)? - dispatch;
                    let elements = u64::from(rows) * u64::from(columns);
                    let same = |p: &&mut (u32, u32, u32, Vec<f64>)| {
                        p.0 == *tokens && u64::from(p.1) * u64::from(p.2) == elements
                    };
                    match self.products.iter_mut().find(same) {
                        Some(known) => known.3.push(us),
                        None => self.products.push((*tokens, rows, columns, vec![us])),
                    }
                }
            }
        }
        for ((&(_, tokens, cached), parts), times) in
            self.phases.iter().zip(&self.whole).zip(&mut self.blocks)
        {
            rig.set_positions(tokens, cached)?;
            for _ in 0..turns(tokens) {
                let part = parts[self.next % parts.len()];
                self.next += 1;
                times.push(rig.run(part, tokens, cached)? - dispatch);
            }
        }
        Ok(())
    }
}

/// The nodes of each layer.
pub(super) fn layer_nodes(graph: &Graph) -> Vec<Range<u32>> {
    let mut layers: Vec<Range<u32>> = Vec::new();
    for (n, node) in (0u32..).zip(graph.nodes()) {
        let Some(layer) = node.layer() else {
            continue;
        };
        match layers.get_mut(layer as usize) {
            Some(nodes) => nodes.end = n + 1,
            None => layers.push(n..n + 1),
        }
    }
    layers
}
