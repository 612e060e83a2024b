//! Cutting runs of nodes whose weights are too many for one context.

use std::ops::Range;
use std::sync::Arc;

use anynpu_hal::{Entry, HalError, Reason, ReasonCode};
use anynpu_ir::{DType, Graph, Node, NodeId, SymbolValues, ValueDef, ValueId};

use crate::weights::WeightForm;

/// Bytes of weights that one context holds unless told otherwise. A chip maps some 3.5 GB for a process, which has the
/// rows of states and numbers between operations as well.
pub(crate) const CONTEXT_BYTES: u64 = 2 << 30;

/// How large contexts may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Bytes of weights in one context.
    pub bytes: u64,
    /// The form of weights of products.
    pub form: WeightForm,
}

impl Limit {
    /// Bytes that weight `value` takes, with all its numbers.
    fn weight(self, graph: &Graph, value: ValueId) -> u64 {
        let ty = graph.ty(value);
        let elements = ty.shape.elements(&SymbolValues::default()).unwrap_or(0) as u64;
        let bits = match (self.form, ty.shape.rank()) {
            (_, 0 | 1) | (WeightForm::F16, _) => 16,
            (WeightForm::Int8, _) => 8,
            (WeightForm::Int4 | WeightForm::Lpbq, _) => 4,
            (WeightForm::Blocks, _) if ty.dtype == DType::Q4_0 => 5,
            (WeightForm::Blocks, _) => 16,
        };
        elements.saturating_mul(bits).div_ceil(8)
    }

    /// Bytes that the weights of `node` take in one graph.
    pub fn node(self, graph: &Graph, node: &Node) -> u64 {
        let weights = node.inputs.iter();
        let weights = weights.filter(|v| matches!(graph.value(**v).def, ValueDef::Weight(_)));
        let bytes = weights.map(|v| self.weight(graph, *v));
        bytes.fold(0, u64::saturating_add)
    }

    /// Why `node` has no room in any context, if it has none.
    pub fn obstacle(self, graph: &Graph, node: &Node) -> Option<Reason> {
        let (bytes, most) = (self.node(graph, node), self.bytes);
        (bytes > most).then(|| {
            let what = format!(
                "the weights of '{}' take {bytes} bytes, a context has room for {most}",
                node.name
            );
            Reason::new(ReasonCode::MemoryLimit, what)
        })
    }

    /// How `entries` are cut, which may share weights in a context. Cuts are where the fewest bytes go from one run to
    /// the next.
    ///
    /// # Errors
    /// A node whose weights are too many; entries that begin at different nodes, whose weights are.
    pub fn cut(self, device: &str, entries: &[Entry], shared: bool) -> Result<Cut, HalError> {
        // steps that give no result end earlier than others
        let count = |entry: &Entry| entry.nodes.end.saturating_sub(entry.nodes.start);
        let Some(entry) = entries.iter().max_by_key(|e| count(e)) else {
            return Ok(Cut::default());
        };
        let bytes: Vec<u64> = entry
            .nodes
            .clone()
            .map(|n| {
                let node = &entry.graph.nodes()[n as usize];
                self.node(&entry.graph, node)
            })
            .collect();
        let all = bytes.iter().fold(0u64, |all, b| all.saturating_add(*b));
        let copies = if shared { 1 } else { entries.len() as u64 };
        let apart = all.saturating_mul(copies) > self.bytes && !shared;
        if all <= self.bytes {
            let parts = std::iter::once(0..count(entry)).collect();
            return Ok(Cut { parts, apart });
        }
        let of = |n: u32| entry.nodes.start + n;
        let too_many = |n: u32, reason: Reason| HalError::CompileRejected {
            device: device.into(),
            nodes: vec![(NodeId(of(n)), reason)],
        };
        let begins = |e: &Entry| e.nodes.start == entry.nodes.start;
        let other = |e: &Entry| !begins(e) || !Arc::ptr_eq(&e.graph, &entry.graph);
        if entries.iter().any(other) {
            let what = format!(
                "weights of {all} bytes, a context has room for {}, and runs that begin at different nodes can't be cut",
                self.bytes
            );
            return Err(too_many(0, Reason::new(ReasonCode::MemoryLimit, what)));
        }
        let crossing = crossing(entry);
        let (mut cuts, mut start, end) = (Vec::new(), 0, bytes.len() as u32);
        while start < end {
            let (mut last, mut held) = (start, 0u64);
            // boundaries after which a context is half full at the least
            let mut candidates = Vec::new();
            while last < end {
                let next = held.saturating_add(bytes[last as usize]);
                if next > self.bytes {
                    break;
                }
                (held, last) = (next, last + 1);
                if held >= self.bytes / 2 {
                    candidates.push(last);
                }
            }
            if last == start {
                let node = &entry.graph.nodes()[of(start) as usize];
                let reason = self.obstacle(&entry.graph, node);
                let reason = reason.unwrap_or_else(|| {
                    Reason::new(ReasonCode::MemoryLimit, format!("'{}'", node.name))
                });
                return Err(too_many(start, reason));
            }
            let best = candidates.into_iter();
            // of equals the last
            let best = best.min_by_key(|n| (crossing[*n as usize], end - n));
            let cut = if last == end {
                end
            } else {
                best.unwrap_or(last)
            };
            cuts.push(start..cut);
            start = cut;
        }
        Ok(Cut { parts: cuts, apart })
    }
}

/// How entries are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The nodes of each run, from the first node of an entry on: one after the other all of them. The weights of one
    /// run have room in a context.
    pub parts: Vec<Range<u32>>,
    /// Whether each entry has contexts of its own, as one has no room for the weights of a run in every entry.
    pub apart: bool,
}

impl Cut {
    /// The number of the context that part `part` of entry `entry`, of so many, is in.
    pub fn context(&self, part: usize, entry: usize, entries: usize) -> usize {
        match self.apart {
            true => part * entries + entry,
            false => part,
        }
    }

    /// Contexts of so many entries.
    pub fn contexts(&self, entries: usize) -> usize {
        self.parts.len() * if self.apart { entries } else { 1 }
    }
}

/// For each boundary between nodes of `entry`, from before the first on, the bytes that are made before and read after.
fn crossing(entry: &Entry) -> Vec<u64> {
    let graph = &entry.graph;
    let (first, limits) = (entry.nodes.start, entry.bounds.limits());
    let count = entry.nodes.end.saturating_sub(first) as usize;
    let mut lives: std::collections::BTreeMap<ValueId, (usize, usize)> = Default::default();
    for (i, n) in entry.nodes.clone().enumerate() {
        let node = &graph.nodes()[n as usize];
        for value in &node.inputs {
            if let Some((_, until)) = lives.get_mut(value) {
                *until = i;
            }
        }
        for value in &node.outputs {
            lives.insert(*value, (i, i));
        }
    }
    let mut bytes = vec![0u64; count + 1];
    for (value, (made, read)) in lives {
        let size = graph.ty(value).bytes(&limits).unwrap_or(usize::MAX) as u64;
        for boundary in &mut bytes[made + 1..=read] {
            *boundary = boundary.saturating_add(size);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anynpu_hal::{Bounds, Extent};
    use anynpu_ir::{Activation, Dim, Op, Shape, Symbol, TensorType};

    use super::*;

    /// Layers of two products, 8 wide and 32 wide between them.
    fn entry(layers: usize) -> Entry {
        let mut graph = Graph::new("g");
        let f32 = |dims: Vec<Dim>| TensorType::new(DType::F32, Shape::from(dims));
        let mut x = graph
            .add_input("x", f32(vec![Dim::TOKENS, Dim::Fixed(8)]))
            .unwrap();
        for layer in 0..layers {
            let mut w = |what: &str, rows, columns| {
                let ty = f32(vec![Dim::Fixed(rows), Dim::Fixed(columns)]);
                graph
                    .add_weight(format!("l{layer}.{what}.weight"), ty)
                    .unwrap()
            };
            let (up, down) = (w("up", 32, 8), w("down", 8, 32));
            let mut add = |what: &str, op, inputs: &[ValueId]| {
                graph.add(format!("l{layer}.{what}"), op, inputs).unwrap()
            };
            let y = add("up", Op::Linear, &[x, up]);
            let y = add("silu", Op::Activation(Activation::Silu), &[y]);
            x = add("down", Op::Linear, &[y, down]);
        }
        graph.set_output(x).unwrap();
        Entry {
            name: "e".into(),
            nodes: 0..graph.nodes().len() as u32,
            graph: Arc::new(graph),
            bounds: Bounds::new().with(Symbol::TOKENS, Extent::Exact(4)),
        }
    }

    /// Bytes of a product here in f16.
    const PRODUCT: u64 = 2 * 8 * 32;

    fn limit(products: u64) -> Limit {
        Limit {
            bytes: products * PRODUCT,
            form: WeightForm::F16,
        }
    }

    #[test]
    fn what_fits_is_one_and_the_rest_is_cut_between_layers_where_the_least_crosses() {
        let entries = [entry(5)];
        let cut = |products| limit(products).cut("qnn", &entries, true).unwrap().parts;
        assert_eq!(cut(10), vec![0..15; 1]);
        // three products would fit: a layer and a half
        assert_eq!(cut(3), [0..3, 3..6, 6..9, 9..12, 12..15]);
        assert_eq!(cut(5), [0..6, 6..12, 12..15]);
        // a product each: the boundary is where it must be
        assert_eq!(cut(1).len(), 10);
        let small = Limit {
            form: WeightForm::Int4,
            ..limit(3)
        };
        assert_eq!(
            small.cut("qnn", &entries, true).unwrap().parts,
            vec![0..15; 1]
        );
    }

    #[test]
    fn entries_have_contexts_of_their_own_where_one_has_no_room_for_all() {
        let one = entry(5);
        let entries = [one.clone(), one];
        let cut = |products, shared| limit(products).cut("qnn", &entries, shared).unwrap();
        for (products, shared, parts, apart) in [
            (10, true, 1, false),
            (20, false, 1, false),
            (10, false, 1, true),
            (5, true, 3, false),
            (5, false, 3, true),
        ] {
            let cut = cut(products, shared);
            assert_eq!(
                (cut.parts.len(), cut.apart),
                (parts, apart),
                "{products} {shared}"
            );
            let contexts = (0..parts).flat_map(|p| [0, 1].map(|e| cut.context(p, e, 2)));
            let most = contexts.max().unwrap();
            assert_eq!(most + 1, cut.contexts(2));
        }
    }

    #[test]
    fn a_product_that_has_no_room_anywhere_is_named() {
        let entries = [entry(2)];
        let none = Limit {
            bytes: PRODUCT - 1,
            ..limit(1)
        };
        for shared in [false, true] {
            let e = none.cut("qnn", &entries, shared).unwrap_err();
            let HalError::CompileRejected { nodes, .. } = e else {
                panic!("{e}");
            };
            assert_eq!(nodes[0].0, NodeId(0));
            assert_eq!(nodes[0].1.code, ReasonCode::MemoryLimit);
        }
        let graph = &entries[0].graph;
        assert!(none.obstacle(graph, &graph.nodes()[0]).is_some());
        assert!(none.obstacle(graph, &graph.nodes()[1]).is_none());
        assert!(limit(1).obstacle(graph, &graph.nodes()[0]).is_none());
    }

    #[test]
    fn runs_that_begin_alike_are_cut_by_the_longest_and_others_not_at_all() {
        let whole = entry(3);
        let with = |nodes: Range<u32>| Entry {
            nodes,
            ..whole.clone()
        };
        let cut = |entries: &[Entry], products| limit(products).cut("qnn", entries, true);
        let entries = [with(0..7), whole.clone()];
        assert_eq!(cut(&entries, 3).unwrap().parts, [0..3, 3..6, 6..9]);
        let entries = [with(3..9), whole.clone()];
        assert_eq!(cut(&entries, 6).unwrap().parts, vec![0..9; 1]);
        for other in [with(3..9), entry(3)] {
            let e = cut(&[other, whole.clone()], 5).unwrap_err();
            assert!(matches!(e, HalError::CompileRejected { .. }), "{e}");
        }
    }
}
