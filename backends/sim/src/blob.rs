//! The compiled form of a module, as bytes.
//!
//! It holds what was compiled rather than machine code, as a simulated device has none: loading it prepares
//! the engine anew. The form: [`MAGIC`], then texts (a u64 length and UTF-8) and u32 numbers, all little
//! endian: the device's name, its version, the type of states, the vendor options, the graphs' text, the
//! entries (name, graph, first node, one past the last, a kind and a number for each symbol), and at the end
//! the BLAKE3 hash of all before it.

use std::sync::Arc;

use anynpu_hal::{BlobCompatibility, Bounds, CompileOptions, Entry, Extent};
use anynpu_ir::{DType, Graph, OP_SET_VERSION, Symbol};

use crate::Description;

const MAGIC: &[u8; 8] = b"anpusim1";
const HASH: usize = 32;

/// The most of a symbol, tokens or rows, that compiled forms may ask for: memory is reserved for it.
const MOST: u32 = 1 << 16;

/// What decides whether a compiled form fits a device: nothing that only makes it fast or slow.
pub(crate) fn version(description: &Description) -> String {
    format!(
        "{} {} op set {OP_SET_VERSION} {}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        description.compiled_for(),
    )
}

/// Whether `entries` have a compiled form: those for more than [`MOST`] tokens or rows have none.
pub(crate) fn has_form(entries: &[Entry]) -> bool {
    let symbols = || (0..Symbol::COUNT as u16).map(Symbol);
    let mut entries = entries.iter();
    entries.all(|e| symbols().all(|s| e.bounds.get(s).limit() <= MOST))
}

/// The compiled form of `entries`.
pub(crate) fn encode(
    description: &Description,
    entries: &[Entry],
    options: &CompileOptions,
) -> Vec<u8> {
    let mut out = Writer(MAGIC.to_vec());
    out.text(description.name());
    out.text(&version(description));
    out.text(options.state_dtype.name());
    out.number(options.vendor.len() as u32);
    for (name, value) in &options.vendor {
        out.text(name);
        out.text(value);
    }
    let mut graphs: Vec<&Arc<Graph>> = Vec::new();
    for entry in entries {
        if !graphs.iter().any(|g| Arc::ptr_eq(g, &entry.graph)) {
            graphs.push(&entry.graph);
        }
    }
    out.number(graphs.len() as u32);
    graphs.iter().for_each(|g| out.text(&g.to_string()));
    out.number(entries.len() as u32);
    for entry in entries {
        let graph = graphs.iter().position(|g| Arc::ptr_eq(g, &entry.graph));
        out.text(&entry.name);
        out.number(graph.unwrap_or_default() as u32);
        out.number(entry.nodes.start);
        out.number(entry.nodes.end);
        for symbol in 0..Symbol::COUNT as u16 {
            let (kind, n) = match entry.bounds.get(Symbol(symbol)) {
                Extent::Exact(n) => (0, n),
                Extent::AtMost(n) => (1, n),
            };
            out.number(kind);
            out.number(n);
        }
    }
    let hash = blake3::hash(&out.0);
    out.0.extend_from_slice(hash.as_bytes());
    out.0
}

/// Whether `blob` fits a device of `description`.
pub(crate) fn check(description: &Description, blob: &[u8]) -> BlobCompatibility {
    let head = reader(blob).and_then(|mut r| Ok((r.text()?, r.text()?)));
    match head {
        Err(why) => BlobCompatibility::Unsupported(why),
        Ok((name, _)) if name != description.name() => {
            let own = description.name();
            BlobCompatibility::Unsupported(format!("it was compiled for '{name}', not for '{own}'"))
        }
        Ok((_, found)) if found != version(description) => {
            BlobCompatibility::PreferRecompile(format!(
                "it was compiled for another version of '{}'",
                description.name()
            ))
        }
        Ok(_) => BlobCompatibility::Optimal,
    }
}

/// What was compiled, or what is wrong with `blob`.
pub(crate) fn decode(blob: &[u8]) -> Result<(Vec<Entry>, CompileOptions), String> {
    let mut r = reader(blob)?;
    let (_name, _version) = (r.text()?, r.text()?);
    let dtype = r.text()?;
    let state_dtype: DType = dtype
        .parse()
        .map_err(|()| format!("it keeps states in '{dtype}', which is no element type"))?;
    let mut options = CompileOptions::new(state_dtype);
    for _ in 0..r.number()? {
        options
            .vendor
            .push((r.text()?.to_owned(), r.text()?.to_owned()));
    }
    let mut graphs = Vec::new();
    for _ in 0..r.number()? {
        let graph = Graph::parse(r.text()?).map_err(|e| format!("its graph can't be read: {e}"))?;
        graphs.push(Arc::new(graph));
    }
    let mut entries = Vec::new();
    for _ in 0..r.number()? {
        let name = r.text()?.to_owned();
        let graph = r.number()?;
        let graph = graphs.get(graph as usize).cloned();
        let graph =
            graph.ok_or_else(|| format!("entry '{name}' is of a graph it does not have"))?;
        let nodes = r.number()?..r.number()?;
        let mut bounds = Bounds::new();
        for symbol in 0..Symbol::COUNT as u16 {
            let (kind, n) = (r.number()?, r.number()?);
            if n > MOST {
                return Err(format!(
                    "entry '{name}' is for {n} tokens or rows, more than the {MOST} of any compiled form"
                ));
            }
            let extent = match kind {
                0 => Extent::Exact(n),
                1 => Extent::AtMost(n),
                other => return Err(format!("entry '{name}' has an extent of kind {other}")),
            };
            bounds = bounds.with(Symbol(symbol), extent);
        }
        entries.push(Entry {
            name,
            graph,
            nodes,
            bounds,
        });
    }
    match r.0.is_empty() {
        true => Ok((entries, options)),
        false => Err(format!("{} bytes are left over", r.0.len())),
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(&(text.len() as u64).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }
}

/// Reads parts off the front of what is left.
struct Reader<'a>(&'a [u8]);

/// A reader of `blob` behind its beginning, its hash checked and taken off.
fn reader(blob: &[u8]) -> Result<Reader<'_>, String> {
    let Some((body, hash)) = blob.split_last_chunk::<HASH>() else {
        return Err(format!(
            "it has {} bytes, too few for a compiled form",
            blob.len()
        ));
    };
    let Some(rest) = body.strip_prefix(MAGIC) else {
        return Err("it is no compiled form of a simulated device".to_owned());
    };
    match blake3::hash(body).as_bytes() == hash {
        true => Ok(Reader(rest)),
        false => Err("it is damaged: its hash is another".to_owned()),
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).ok();
        let split = count.and_then(|n| self.0.split_at_checked(n));
        let (part, rest) = split.ok_or_else(|| "it ends too early".to_owned())?;
        self.0 = rest;
        Ok(part)
    }

    fn number(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?.try_into().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let length = self.take(8)?.try_into().unwrap_or_default();
        let bytes = self.take(u64::from_le_bytes(length))?;
        std::str::from_utf8(bytes).map_err(|e| format!("a text of it is no UTF-8: {e}"))
    }
}
