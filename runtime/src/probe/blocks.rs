//! Timing whole blocks, and products with large weights.

use std::ops::Range;
use std::time::{Duration, Instant};

use anynpu_hal::DeviceKind;
use anynpu_ir::{DType, Graph, Node, SymbolValues};

use super::graphs::{self, Blocks};
use super::prober::{LEAST_US, Missing, Prober};
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
            self.profile.products.push(ProductTime {
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
        self.profile.anchors.push(Anchor {
            phase: phase.into(),
            dtype: blocks.dtype.name().into(),
            tokens,
            cached,
            hidden: blocks.hidden,
            elements: scale.elements as u64,
            us,
            nodes_us: rounded(alone.map(|e| e.us).sum::<f64>().max(LEAST_US)),
        });
        Ok(())
    }

    /// Products with large matrices of `dtype` and whole blocks of them, all over one set of weights.
    pub(super) fn blocks(&mut self, dtype: DType) -> Result<(), Missing> {
        let wide = dtype.block_bytes() < 2 * dtype.block_len();
        let (hidden, ffn, heads, kv_heads) = match wide {
            true => (2048, 5632, 32, 8),
            false => (1024, 2816, 16, 4),
        };
        let mut blocks = Blocks {
            hidden,
            ffn,
            heads,
            kv_heads,
            layers: 1,
            dtype,
        };
        blocks.layers = self.cold_bytes.div_ceil(blocks.bytes()).clamp(1, 64) as u32;
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
        for (t, own) in &singles {
            self.products(&mut rig, dtype, *t, own)?;
        }
        for ((phase, t, cached), parts) in phases.into_iter().zip(whole) {
            self.time()?;
            let us = self.anchor_us(&mut rig, &parts, t, cached, 1)?;
            self.anchor(blocks, state_dtype, phase, t, cached, us)?;
        }
        Ok(())
    }

    /// Times products with `tokens` rows in the order of `parts` (each with rows and columns of its matrix), so that
    /// what one reads is cold when it is its turn again.
    fn products(
        &mut self,
        rig: &mut Rig,
        dtype: DType,
        tokens: u32,
        parts: &[Single],
    ) -> Result<(), Missing> {
        let started = Instant::now();
        let (rounds, long) = match self.quick {
            true => (3, Duration::from_millis(60)),
            false => (10, Duration::from_millis(600)),
        };
        let mut figures: Vec<(u64, u32, u32, Vec<f64>)> = Vec::new();
        let dispatch = self.dispatch_us();
        let mut done = 0;
        'rounds: for _ in 0..rounds {
            for &(part, rows, columns) in parts {
                let us = rig.run(part, tokens, 0)? - dispatch;
                let elements = u64::from(rows) * u64::from(columns);
                match figures.iter_mut().find(|f| f.0 == elements) {
                    Some(known) => known.3.push(us),
                    None => figures.push((elements, rows, columns, vec![us])),
                }
                done += 1;
                let enough = done >= 4;
                if enough && (started.elapsed() > long || self.time().is_err()) {
                    break 'rounds;
                }
            }
        }
        for (_, rows, columns, us) in figures {
            // the first run finds cold code and memory
            let us = if us.len() > 2 { &us[1..] } else { &us[..] };
            let Some(us) = Sample::of(us, LEAST_US) else {
                continue;
            };
            self.profile.products.push(ProductTime {
                dtype: dtype.name().into(),
                rows,
                columns,
                tokens,
                cold: true,
                us,
            });
        }
        self.time()
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
