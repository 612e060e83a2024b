//! Compiled forms: what was compiled, as bytes that a backend puts around the vendor's own.
//!
//! Numbers are little endian. Texts and bytes have their length before them, as a u64.

use std::sync::Arc;

use anynpu_ir::{DType, Graph, Symbol};
use thiserror::Error;

use crate::{Bounds, CompileOptions, Entry, Extent};

/// The most of a symbol, tokens or rows, that compiled forms may ask for: memory is reserved for it.
pub const MOST: u32 = 1 << 16;

/// Bytes of the hash at the end of a form.
const HASH: usize = 32;

/// Bytes that are no compiled form.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormError {
    /// It is of something else.
    #[error("it is no compiled form of {expected}")]
    Magic {
        /// What was expected.
        expected: String,
    },
    /// It was changed.
    #[error("it is damaged: its hash is another")]
    Hash,
    /// It ends too early.
    #[error("it ends too early: {needed} more bytes were expected, {left} are left")]
    Short {
        /// Bytes that were to follow.
        needed: u64,
        /// Bytes that follow.
        left: u64,
    },
    /// It goes on.
    #[error("{left} bytes are left over")]
    Long {
        /// How many.
        left: usize,
    },
    /// Something in it makes no sense.
    #[error("{what} is {found}, expected {expected}")]
    Value {
        /// What of it.
        what: &'static str,
        /// What it is.
        found: String,
        /// What would fit.
        expected: String,
    },
}

/// Writes a form.
#[derive(Clone, Debug)]
pub struct FormWriter(Vec<u8>);

impl FormWriter {
    /// A form that begins with `magic`.
    pub fn new(magic: &[u8; 8]) -> FormWriter {
        FormWriter(magic.to_vec())
    }

    /// Adds a number.
    pub fn number(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0
            .extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Adds what was compiled.
    pub fn entries(&mut self, entries: &[Entry], options: &CompileOptions) {
        self.text(options.state_dtype.name());
        self.number(options.vendor.len() as u32);
        for (name, value) in &options.vendor {
            self.text(name);
            self.text(value);
        }
        let mut graphs: Vec<&Arc<Graph>> = Vec::new();
        for entry in entries {
            if !graphs.iter().any(|g| Arc::ptr_eq(g, &entry.graph)) {
                graphs.push(&entry.graph);
            }
        }
        self.number(graphs.len() as u32);
        graphs.iter().for_each(|g| self.text(&g.to_string()));
        self.number(entries.len() as u32);
        for entry in entries {
            let graph = graphs.iter().position(|g| Arc::ptr_eq(g, &entry.graph));
            self.text(&entry.name);
            self.number(graph.unwrap_or_default() as u32);
            self.number(entry.nodes.start);
            self.number(entry.nodes.end);
            for symbol in 0..Symbol::COUNT as u16 {
                let (kind, n) = match entry.bounds.get(Symbol(symbol)) {
                    Extent::Exact(n) => (0, n),
                    Extent::AtMost(n) => (1, n),
                };
                self.number(kind);
                self.number(n);
            }
        }
    }

    /// The form, with the hash of it all at its end.
    pub fn finish(mut self) -> Vec<u8> {
        let hash = blake3::hash(&self.0);
        self.0.extend_from_slice(hash.as_bytes());
        self.0
    }
}

/// Whether `entries` have a compiled form: those for more than [`MOST`] tokens or rows have none.
pub fn has_form(entries: &[Entry]) -> bool {
    let symbols = || (0..Symbol::COUNT as u16).map(Symbol);
    let mut entries = entries.iter();
    entries.all(|e| symbols().all(|s| e.bounds.get(s).limit() <= MOST))
}

/// Reads a form from its front.
#[derive(Debug)]
pub struct FormReader<'a>(&'a [u8]);

impl<'a> FormReader<'a> {
    /// A reader behind `magic`; `of` is what errors call the device. The hash is checked.
    ///
    /// # Errors
    /// Another beginning, another hash.
    pub fn new(form: &'a [u8], magic: &[u8; 8], of: &str) -> Result<Self, FormError> {
        let Some((body, hash)) = form.split_last_chunk::<HASH>() else {
            return Err(FormError::Short {
                needed: HASH as u64,
                left: form.len() as u64,
            });
        };
        let rest = body.strip_prefix(magic);
        let rest = rest.ok_or_else(|| FormError::Magic {
            expected: of.into(),
        })?;
        match blake3::hash(body).as_bytes() == hash {
            true => Ok(FormReader(rest)),
            false => Err(FormError::Hash),
        }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], FormError> {
        let split = usize::try_from(count).ok();
        let split = split.and_then(|n| self.0.split_at_checked(n));
        let (part, rest) = split.ok_or(FormError::Short {
            needed: count,
            left: self.0.len() as u64,
        })?;
        self.0 = rest;
        Ok(part)
    }

    /// The next number.
    ///
    /// # Errors
    /// [`FormError::Short`].
    pub fn number(&mut self) -> Result<u32, FormError> {
        let bytes = self.take(4)?.try_into().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    /// The next bytes.
    ///
    /// # Errors
    /// [`FormError::Short`].
    pub fn bytes(&mut self) -> Result<&'a [u8], FormError> {
        let length = self.take(8)?.try_into().unwrap_or_default();
        self.take(u64::from_le_bytes(length))
    }

    /// The next text.
    ///
    /// # Errors
    /// [`FormError::Short`]; bytes that are no UTF-8.
    pub fn text(&mut self) -> Result<&'a str, FormError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|e| FormError::Value {
            what: "a text",
            found: e.to_string(),
            expected: "UTF-8".into(),
        })
    }

    /// What was compiled.
    ///
    /// # Errors
    /// Entries that can't be.
    pub fn entries(&mut self) -> Result<(Vec<Entry>, CompileOptions), FormError> {
        let value = |what, found: &dyn ToString, expected: &str| FormError::Value {
            what,
            found: found.to_string(),
            expected: expected.into(),
        };
        let dtype = self.text()?;
        let state_dtype: DType = dtype
            .parse()
            .map_err(|()| value("the type of states", &dtype, "an element type"))?;
        let mut options = CompileOptions::new(state_dtype);
        for _ in 0..self.number()? {
            let (name, setting) = (self.text()?.to_owned(), self.text()?.to_owned());
            options.vendor.push((name, setting));
        }
        let mut graphs = Vec::new();
        for _ in 0..self.number()? {
            let graph = Graph::parse(self.text()?);
            let graph = graph.map_err(|e| value("a graph", &e, "one that can be read"))?;
            graphs.push(Arc::new(graph));
        }
        let mut entries = Vec::new();
        for _ in 0..self.number()? {
            let name = self.text()?.to_owned();
            let graph = self.number()?;
            let graph = graphs
                .get(graph as usize)
                .cloned()
                .ok_or_else(|| value("an entry's graph", &graph, "one that is in it"))?;
            let nodes = self.number()?..self.number()?;
            let mut bounds = Bounds::new();
            for symbol in 0..Symbol::COUNT as u16 {
                let (kind, n) = (self.number()?, self.number()?);
                if n > MOST {
                    let most = format!("at most {MOST}");
                    return Err(value("a number of tokens or rows", &n, &most));
                }
                let extent = match kind {
                    0 => Extent::Exact(n),
                    1 => Extent::AtMost(n),
                    other => return Err(value("the kind of an extent", &other, "0 or 1")),
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
        Ok((entries, options))
    }

    /// Fails if anything follows.
    ///
    /// # Errors
    /// [`FormError::Long`].
    pub fn end(self) -> Result<(), FormError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(FormError::Long { left }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, tokens: u32) -> Entry {
        let mut graph = Graph::new("g");
        let ty = anynpu_ir::TensorType::new(DType::F32, [anynpu_ir::Dim::TOKENS]);
        let x = graph.add_input("x", ty).unwrap();
        let op = anynpu_ir::Op::Activation(anynpu_ir::Activation::Silu);
        let y = graph.add("y", op, &[x]).unwrap();
        graph.set_output(y).unwrap();
        Entry {
            name: name.into(),
            graph: Arc::new(graph),
            nodes: 0..1,
            bounds: Bounds::new().with(Symbol::TOKENS, Extent::Exact(tokens)),
        }
    }

    fn form(entries: &[Entry]) -> Vec<u8> {
        let mut options = CompileOptions::new(DType::F16);
        options.vendor.push(("fast".into(), "yes".into()));
        let mut out = FormWriter::new(b"testform");
        out.text("first");
        out.entries(entries, &options);
        out.bytes(&[1, 2, 3]);
        out.finish()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let entries = [entry("a", 1), entry("b", 32)];
        let form = form(&entries);
        let mut read = FormReader::new(&form, b"testform", "a test").unwrap();
        assert_eq!(read.text().unwrap(), "first");
        let (found, options) = read.entries().unwrap();
        assert_eq!((options.state_dtype, options.vendor.len()), (DType::F16, 1));
        for (a, b) in found.iter().zip(&entries) {
            assert_eq!((&a.name, &a.nodes), (&b.name, &b.nodes));
            let tokens = |e: &Entry| e.bounds.get(Symbol::TOKENS);
            assert_eq!(tokens(a), tokens(b));
            assert_eq!(a.graph.to_string(), b.graph.to_string());
        }
        assert_eq!(read.bytes().unwrap(), [1, 2, 3]);
        read.end().unwrap();
    }

    #[test]
    fn what_was_changed_is_refused() {
        let good = form(&[entry("a", 1)]);
        let read = |form: &[u8]| FormReader::new(form, b"testform", "a test").map(|_| ());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(read(&bad).is_err(), "{at}");
            assert!(read(&good[..at]).is_err(), "{at}");
        }
        let other = FormReader::new(&good, b"elseform", "another");
        let told = other.unwrap_err().to_string();
        assert_eq!(told, "it is no compiled form of another");
    }

    #[test]
    fn absurd_sizes_are_refused_and_have_no_form() {
        assert!(has_form(&[entry("a", MOST)]));
        let large = [entry("a", MOST + 1)];
        assert!(!has_form(&large));
        let form = form(&large);
        let mut read = FormReader::new(&form, b"testform", "a test").unwrap();
        read.text().unwrap();
        let told = read.entries().unwrap_err().to_string();
        assert!(told.contains("65537, expected at most 65536"), "{told}");
    }
}
