//! Timing single kinds of nodes, and memory.

use anynpu_ir::{DType, SymbolValues, Work};

use super::graphs;
use super::prober::{LEAST_US, Missing, Prober, keep};
use super::rig::Part;
use crate::profile::{AttentionTime, CurvePoint, Sample, ValueTime};

impl Prober<'_> {
    pub(super) fn dispatch(&mut self) -> Result<(), Missing> {
        const NODES: u32 = 33;
        let one = self.one()?;
        let parts = [
            Part {
                nodes: 0..1,
                tokens: one,
            },
            Part {
                nodes: 0..NODES,
                tokens: one,
            },
        ];
        let mut rig = self.rig(graphs::little(NODES)?, &parts, 1, DType::F32)?;
        rig.run(0, one, 0)?;
        rig.run(1, one, 0)?;
        let single = self.sample(20, |_| rig.run(0, one, 0))?;
        let many = self.sample(20, |_| rig.run(1, one, 0))?;
        let node = many.map(|us| ((us - single.median) / f64::from(NODES - 1)).max(LEAST_US));
        self.profile.dispatch_us = Some(single.map(|us| (us - node.median).max(LEAST_US)));
        self.profile.node_us = Some(node);
        Ok(())
    }

    pub(super) fn value(&mut self, op: &str) -> Result<(), Missing> {
        const NODES: u32 = 8;
        let (one, tokens) = (self.one()?, self.tokens());
        let many = tokens
            .into_iter()
            .filter(|&t| t <= 128)
            .max()
            .unwrap_or(one);
        let mut sizes = vec![(one, 64), (one, 2048), (many, 2048)];
        sizes.dedup();
        for (tokens, width) in sizes {
            let graph = graphs::values(op, width, NODES)?;
            let symbols = SymbolValues::step(tokens, 0, 1, tokens);
            let work = Work::of(&graph, &graph.nodes()[0], &symbols, DType::F32);
            let parts = [Part {
                nodes: 0..NODES,
                tokens,
            }];
            let mut rig = self.rig(graph, &parts, tokens, DType::F32)?;
            rig.run(0, tokens, 0)?;
            let us = self.sample(5, |_| rig.run(0, tokens, 0))?;
            let dispatch = self.dispatch_us();
            let found = ValueTime {
                op: op.into(),
                bytes: work.bytes().max(1.0) as u64,
                us: us.map(|us| ((us - dispatch) / f64::from(NODES)).max(LEAST_US)),
            };
            keep(
                &mut self.profile.values,
                found,
                |a, b| a.op == b.op && a.bytes == b.bytes,
                |a, b| a.us.median < b.us.median,
            );
        }
        Ok(())
    }

    pub(super) fn attention(&mut self, dtype: DType) -> Result<(), Missing> {
        const NODES: u32 = 4;
        let (one, tokens) = (self.one()?, self.tokens());
        let many = tokens
            .iter()
            .copied()
            .filter(|&t| t <= 128)
            .max()
            .unwrap_or(one);
        let mut sizes = vec![(one, 512 - one), (many, 0)];
        if !self.quick {
            sizes.extend([(one, 4096 - one), (many, 512)]);
        }
        sizes.dedup();
        for (tokens, cached) in sizes {
            let graph = graphs::attention(32, 8, NODES)?;
            let parts = [Part {
                nodes: 0..NODES,
                tokens,
            }];
            let rows = cached + tokens;
            let symbols = SymbolValues::step(tokens, cached, 1, rows);
            let work = Work::of(&graph, &graph.nodes()[0], &symbols, dtype);
            let mut rig = self.rig(graph, &parts, rows, dtype)?;
            rig.set_positions(tokens, cached)?;
            rig.run(0, tokens, cached)?;
            let us = self.sample(5, |_| rig.run(0, tokens, cached))?;
            let dispatch = self.dispatch_us();
            let found = AttentionTime {
                dtype: dtype.name().into(),
                tokens,
                cached,
                operations: work.operations,
                us: us.map(|us| ((us - dispatch) / f64::from(NODES)).max(LEAST_US)),
            };
            let own = |a: &AttentionTime| (a.tokens, a.cached);
            keep(
                &mut self.profile.attention,
                found,
                |a, b| a.dtype == b.dtype && own(a) == own(b),
                |a, b| a.us.median < b.us.median,
            );
        }
        Ok(())
    }

    /// How fast products with one row go through weights, by the bytes of all of them.
    pub(super) fn read(&mut self) -> Result<(), Missing> {
        let dtype = [DType::F32, DType::F16, DType::Q8_0];
        let dtype = dtype.into_iter().find(|d| self.reads(*d));
        let Some(dtype) = dtype else {
            return Err(Missing::Unsupported(
                "it reads none of f32, f16, q8_0".into(),
            ));
        };
        let one = self.one()?;
        let (side, most) = (512u32, self.cold_bytes);
        let bytes = u64::from(side) * dtype.row_bytes(side as usize).unwrap_or(1) as u64;
        let count = (most / bytes).max(1) as u32;
        let mut counts = vec![1, 4, 16, 64, count];
        counts.retain(|&n| n <= count);
        counts.dedup();
        let parts: Vec<Part> = counts
            .iter()
            .map(|&n| Part {
                nodes: 0..n,
                tokens: one,
            })
            .collect();
        let mut rig = self.rig(graphs::products(dtype, side, count)?, &parts, 1, DType::F32)?;
        let dispatch = self.dispatch_us();
        for (i, n) in counts.into_iter().enumerate() {
            rig.run(i, one, 0)?;
            let us = self.sample(3, |_| rig.run(i, one, 0))?;
            let bytes = u64::from(n) * bytes;
            let rate = us.map(|us| bytes as f64 * 1e6 / (us - dispatch).max(LEAST_US));
            point(&mut self.profile.read, bytes, rate);
        }
        Ok(())
    }

    /// How fast rows are appended to states.
    pub(super) fn copy(&mut self) -> Result<(), Missing> {
        let one = self.one()?;
        let many = self.tokens().into_iter().max().unwrap_or(one);
        let mut sizes = vec![(one, 2048), (many, 2048), (many, 16384)];
        sizes.dedup();
        for (tokens, width) in sizes {
            let parts = [Part {
                nodes: 0..1,
                tokens,
            }];
            let mut rig = self.rig(
                graphs::values("append", width, 1)?,
                &parts,
                tokens,
                DType::F32,
            )?;
            rig.run(0, tokens, 0)?;
            let us = self.sample(5, |_| rig.run(0, tokens, 0))?;
            let bytes = 8 * u64::from(tokens) * u64::from(width);
            let dispatch = self.dispatch_us();
            let rate = us.map(|us| bytes as f64 * 1e6 / (us - dispatch).max(0.1 * us));
            point(&mut self.profile.copy, bytes, rate);
        }
        Ok(())
    }
}

/// Notes a point of a curve.
fn point(curve: &mut Vec<CurvePoint>, bytes: u64, bytes_per_second: Sample) {
    let found = CurvePoint {
        bytes,
        bytes_per_second,
    };
    keep(
        curve,
        found,
        |a, b| a.bytes == b.bytes,
        |a, b| a.bytes_per_second.median > b.bytes_per_second.median,
    );
}
