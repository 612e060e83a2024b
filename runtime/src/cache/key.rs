//! What decides what compiling gives.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use anynpu_hal::{CompileOptions, Device, Entry, Extent, HalError, WeightSource};
use anynpu_ir::{Graph, OP_SET_VERSION, Symbol, ValueDef};

use super::Request;

/// The BLAKE3 hash of all that decides what compiling gives: the op set, the graph, the runs of nodes with
/// their sizes, the weights they use, the device, its driver and version, the options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(blake3::Hash);

impl Key {
    pub(super) fn of(request: &Request<'_>, compatibility: &[u8]) -> Result<Key, HalError> {
        let mut parts = Parts(blake3::Hasher::new());
        parts.text("anynpu compiled form 1");
        parts.text(env!("CARGO_PKG_VERSION"));
        parts.number(OP_SET_VERSION.into());
        parts.device(&**request.device, compatibility);
        parts.options(request.options);
        parts.number(request.entries.len() as u64);
        let mut graph: Option<&Arc<Graph>> = None;
        for entry in request.entries {
            // the entries of a model share its graph
            let new = graph.is_none_or(|g| !Arc::ptr_eq(g, &entry.graph));
            parts.number(new.into());
            if new {
                parts.text(&entry.graph.to_string());
                graph = Some(&entry.graph);
            }
            parts.entry(entry);
        }
        parts.weights(request.entries, &**request.weights)?;
        Ok(Key(parts.0.finalize()))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

/// A hash of parts, each with its length, so that no two lists of parts are the same bytes.
struct Parts(blake3::Hasher);

impl Parts {
    fn number(&mut self, n: u64) {
        self.0.update(&n.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn device(&mut self, device: &dyn Device, compatibility: &[u8]) {
        let info = device.info();
        self.text(&info.driver);
        self.text(&info.name);
        self.bytes(compatibility);
    }

    fn options(&mut self, options: &CompileOptions) {
        self.text(options.state_dtype.name());
        self.text(options.precision.map_or("", |p| p.name()));
        self.number(options.vendor.len() as u64);
        for (name, value) in &options.vendor {
            self.text(name);
            self.text(value);
        }
    }

    fn entry(&mut self, entry: &Entry) {
        self.text(&entry.name);
        self.number(entry.nodes.start.into());
        self.number(entry.nodes.end.into());
        for symbol in 0..Symbol::COUNT as u16 {
            let (exact, size) = match entry.bounds.get(Symbol(symbol)) {
                Extent::Exact(n) => (1, n),
                Extent::AtMost(n) => (0, n),
            };
            self.number(exact);
            self.number(size.into());
        }
    }

    /// The weights that the entries' nodes use, by name, each once.
    fn weights(&mut self, entries: &[Entry], source: &dyn WeightSource) -> Result<(), HalError> {
        let mut used = BTreeSet::new();
        for entry in entries {
            let graph = &entry.graph;
            let run = entry.nodes.start as usize..entry.nodes.end as usize;
            let nodes = graph.nodes().get(run).unwrap_or_default();
            for value in nodes.iter().flat_map(|node| &node.inputs) {
                if let ValueDef::Weight(weight) = graph.value(*value).def {
                    let weight = graph.weight(weight);
                    // what the graph carries itself is in its text
                    if weight.inline.is_none() {
                        used.insert(weight.name.as_str());
                    }
                }
            }
        }
        self.number(used.len() as u64);
        for name in used {
            let view = source.weight(name)?;
            self.text(name);
            self.text(view.dtype.name());
            self.bytes(&view.bytes);
        }
        Ok(())
    }
}
