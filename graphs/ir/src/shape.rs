//! Dimensions, shapes and tensor types.

use std::fmt;

use crate::DType;

/// A named run-time size, bound once per submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(pub u16);

impl Symbol {
    /// `T`: tokens processed by this step.
    pub const TOKENS: Symbol = Symbol(0);
    /// `P`: rows already in the KV cache when the step starts, hence the position of its first token.
    pub const CACHED: Symbol = Symbol(1);
    /// `R`: rows for which outputs are wanted (logits of the last token only, or of all).
    pub const OUTPUTS: Symbol = Symbol(2);
    /// `C`: rows the KV cache can hold.
    pub const CAPACITY: Symbol = Symbol(3);
    /// How many symbols a graph may use.
    pub const COUNT: usize = 8;

    /// The symbol's letter in text dumps.
    pub fn name(self) -> String {
        match self.0 {
            0 => "T".into(),
            1 => "P".into(),
            2 => "R".into(),
            3 => "C".into(),
            n => format!("S{n}"),
        }
    }
}

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// Known when the graph is built.
    Fixed(u32),
    /// Known when a step is submitted.
    Sym(Symbol),
}

impl Dim {
    /// `T`, see [`Symbol::TOKENS`].
    pub const TOKENS: Dim = Dim::Sym(Symbol::TOKENS);
    /// `P`, see [`Symbol::CACHED`].
    pub const CACHED: Dim = Dim::Sym(Symbol::CACHED);
    /// `R`, see [`Symbol::OUTPUTS`].
    pub const OUTPUTS: Dim = Dim::Sym(Symbol::OUTPUTS);
    /// `C`, see [`Symbol::CAPACITY`].
    pub const CAPACITY: Dim = Dim::Sym(Symbol::CAPACITY);

    /// The number, if fixed.
    pub const fn fixed(self) -> Option<u32> {
        match self {
            Dim::Fixed(n) => Some(n),
            Dim::Sym(_) => None,
        }
    }

    /// The number under `symbols`.
    pub fn resolve(self, symbols: &SymbolValues) -> u32 {
        match self {
            Dim::Fixed(n) => n,
            Dim::Sym(s) => symbols.get(s),
        }
    }
}

impl From<u32> for Dim {
    fn from(n: u32) -> Self {
        Dim::Fixed(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Sym(s) => f.write_str(&s.name()),
        }
    }
}

/// Values of all symbols for one submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SymbolValues([u32; Symbol::COUNT]);

impl SymbolValues {
    /// Binds the symbols of a language model step: tokens, cached rows, output rows, KV capacity.
    pub fn step(tokens: u32, cached: u32, outputs: u32, capacity: u32) -> Self {
        let mut v = SymbolValues::default();
        v.set(Symbol::TOKENS, tokens);
        v.set(Symbol::CACHED, cached);
        v.set(Symbol::OUTPUTS, outputs);
        v.set(Symbol::CAPACITY, capacity);
        v
    }

    /// The value of `symbol`; 0 if never set or out of range.
    pub fn get(&self, symbol: Symbol) -> u32 {
        self.0.get(symbol.0 as usize).copied().unwrap_or(0)
    }

    /// Binds `symbol`; one past [`Symbol::COUNT`] is ignored (no graph can hold it).
    pub fn set(&mut self, symbol: Symbol, value: u32) {
        if let Some(slot) = self.0.get_mut(symbol.0 as usize) {
            *slot = value;
        }
    }
}

/// A list of dimensions, outermost first, row-major.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// The most dimensions a value of a graph may have.
    pub const MAX_RANK: usize = 8;

    /// A shape of fixed dimensions.
    pub fn fixed(dims: &[u32]) -> Self {
        Shape(dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The dimensions.
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// The innermost dimension, if any.
    pub fn last(&self) -> Option<Dim> {
        self.0.last().copied()
    }

    /// The numbers under `symbols`.
    pub fn resolve(&self, symbols: &SymbolValues) -> Vec<usize> {
        self.0.iter().map(|d| d.resolve(symbols) as usize).collect()
    }

    /// Number of elements under `symbols`, or `None` on overflow.
    pub fn elements(&self, symbols: &SymbolValues) -> Option<usize> {
        self.0
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(d.resolve(symbols) as usize))
    }

    /// The dimensions as numbers if all are fixed.
    pub fn as_fixed(&self) -> Option<Vec<u32>> {
        self.0.iter().map(|d| d.fixed()).collect()
    }
}

impl From<Vec<Dim>> for Shape {
    fn from(dims: Vec<Dim>) -> Self {
        Shape(dims)
    }
}

impl<const N: usize> From<[Dim; N]> for Shape {
    fn from(dims: [Dim; N]) -> Self {
        Shape(dims.to_vec())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Shape,
}

impl TensorType {
    /// A tensor type.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        TensorType {
            dtype,
            shape: shape.into(),
        }
    }

    /// Bytes under `symbols`, or `None` on overflow or a row that is not whole blocks.
    pub fn bytes(&self, symbols: &SymbolValues) -> Option<usize> {
        let Some(last) = self.shape.last() else {
            return Some(self.dtype.block_bytes());
        };
        let row = self.dtype.row_bytes(last.resolve(symbols) as usize)?;
        self.shape.0[..self.shape.rank() - 1]
            .iter()
            .try_fold(row, |n, d| n.checked_mul(d.resolve(symbols) as usize))
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}
