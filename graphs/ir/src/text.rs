//! The text form of a graph: written by its `Display`, read by [`Graph::parse`].
//!
//! ```text
//! anynpu-graph 1 op-set 2 "tiny"
//! # a comment
//! state @k: f16[C, 2, 64] axis 0
//! input %ids: i32[T]
//! weight %table: q4_0[100, 128]
//! const %one: f32[1] = 0x0000803f
//! %h: f32[T, 128] = Embedding(%table, %ids)
//! %top: (f32[T, 3], i32[T, 3]) = TopK(%h) {k: 3}
//! output %top.1
//! ```
//! The first line gives the version of this form, the op set and the graph's name. States come
//! first, then inputs, weights, constants and nodes in the order in which they were added, then
//! outputs. A node of several results is written with a list of types; its results are used as
//! `%name.0`, `%name.1`, …. One without results has the type `()`. Constants are hexadecimal bytes
//! as in [`crate::Weight::inline`]. Floats are the shortest decimals that read back to the same
//! number. Types of results are redundant: they are inferred, and must agree.

mod attributes;
mod cursor;

use std::fmt::{self, Write};
use std::str::FromStr;

use attributes::{Attributes, Field, fields};
use cursor::Cursor;

use crate::{
    DType, Definition, Dim, Graph, Node, OP_SET_VERSION, ParseError, Shape, StateId, Symbol,
    TensorType, ValueId, Weight,
};

/// Version of the text form.
const FORM: u32 = 1;
/// The most values read from a text, so that a short text can't ask for much memory.
const MAX_VALUES: usize = 1 << 18;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "anynpu-graph {FORM} op-set {OP_SET_VERSION} ")?;
        write_quoted(f, self.name())?;
        writeln!(f)?;
        for state in self.states() {
            writeln!(f, "state @{}: {} axis {}", state.name, state.ty, state.axis)?;
        }
        for definition in self.definitions() {
            match definition {
                Definition::Input(id) => {
                    let value = self.value(id);
                    writeln!(f, "input %{}: {}", value.name, value.ty)?;
                }
                Definition::Weight(id) => write_weight(f, self, self.weight(id))?,
                Definition::Node(id) => write_node(f, self, self.node(id))?,
            }
        }
        for &id in self.outputs() {
            writeln!(f, "output %{}", self.value(id).name)?;
        }
        Ok(())
    }
}

fn write_weight(f: &mut fmt::Formatter<'_>, graph: &Graph, weight: &Weight) -> fmt::Result {
    let ty = graph.ty(weight.value);
    let Some(data) = &weight.inline else {
        return writeln!(f, "weight %{}: {ty}", weight.name);
    };
    write!(f, "const %{}: {ty} = 0x", weight.name)?;
    data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
    writeln!(f)
}

fn write_node(f: &mut fmt::Formatter<'_>, graph: &Graph, node: &Node) -> fmt::Result {
    let types: Vec<&TensorType> = node.outputs.iter().map(|&id| graph.ty(id)).collect();
    write!(f, "%{}: {} = {}(", node.name, Types(&types), node.op.name())?;
    for (i, &id) in node.inputs.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        write!(f, "{comma}%{}", graph.value(id).name)?;
    }
    f.write_str(")")?;
    for (i, (key, field)) in fields(&node.op).into_iter().enumerate() {
        write!(f, "{}{key}: ", if i > 0 { ", " } else { " {" })?;
        match field {
            Field::State(id) => write!(f, "@{}", graph.state(id).name)?,
            field => write!(f, "{field}")?,
        }
    }
    let closed = if fields(&node.op).is_empty() { "" } else { "}" };
    writeln!(f, "{closed}")
}

/// The types of a node's results: bare if there is one, else in parentheses.
struct Types<'a>(&'a [&'a TensorType]);

impl fmt::Display for Types<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0 {
            return one.fmt(f);
        }
        f.write_str("(")?;
        for (i, ty) in self.0.iter().enumerate() {
            write!(f, "{}{ty}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str(")")
    }
}

fn write_quoted(f: &mut fmt::Formatter<'_>, s: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in s.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

impl FromStr for Graph {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Graph::parse(text)
    }
}

impl Graph {
    /// Reads what `Display` has written.
    ///
    /// # Errors
    /// [`ParseError`] naming the line. Never panics; memory is bounded by a small multiple of the
    /// text's size and of 2¹⁸ values.
    pub fn parse(text: &str) -> Result<Graph, ParseError> {
        let mut graph: Option<Graph> = None;
        for (i, line) in text.lines().enumerate() {
            let mut line = Cursor::new(line, i + 1);
            if line.at_end() {
                continue;
            }
            match &mut graph {
                None => graph = Some(Graph::new(header(&mut line)?)),
                Some(graph) => definition(&mut line, graph)?,
            }
            line.end()?;
            if let Some(graph) = &graph {
                line.limit("values", graph.values().len(), MAX_VALUES)?;
            }
        }
        let lines = text.lines().count();
        graph.ok_or_else(|| Cursor::new("", lines + 1).expected("'anynpu-graph'"))
    }
}

fn header(line: &mut Cursor<'_>) -> Result<String, ParseError> {
    line.keyword("anynpu-graph", "'anynpu-graph'")?;
    let form = line.number()?;
    if form != FORM {
        return Err(ParseError::Form {
            found: form,
            known: FORM,
        });
    }
    line.keyword("op-set", "'op-set'")?;
    let op_set = line.number()?;
    if op_set > OP_SET_VERSION {
        return Err(ParseError::OpSet {
            found: op_set,
            known: OP_SET_VERSION,
        });
    }
    line.quoted()
}

fn definition(line: &mut Cursor<'_>, graph: &mut Graph) -> Result<(), ParseError> {
    if line.next_is('%') {
        return node(line, graph);
    }
    match line.word("'state', 'input', 'weight', 'const', 'output' or a node's '%name'")? {
        "state" => {
            let name = line.sigil('@', "a state's '@name'")?;
            line.punct(':', "':'")?;
            let ty = tensor_type(line)?;
            line.keyword("axis", "'axis'")?;
            let axis = line.number()?;
            line.graph(graph.add_state(name, ty, axis)).map(drop)
        }
        "input" => {
            let (name, ty) = declaration(line)?;
            line.graph(graph.add_input(name, ty)).map(drop)
        }
        "weight" => {
            let (name, ty) = declaration(line)?;
            line.graph(graph.add_weight(name, ty)).map(drop)
        }
        "const" => {
            let (name, ty) = declaration(line)?;
            line.punct('=', "'='")?;
            let data = line.hex()?;
            line.graph(graph.add_constant(name, ty, data)).map(drop)
        }
        "output" => {
            let id = value(line, graph)?;
            line.graph(graph.set_output(id))
        }
        _ => Err(line.expected("'state', 'input', 'weight', 'const', 'output' or a '%name'")),
    }
}

/// `%name: type`.
fn declaration<'t>(line: &mut Cursor<'t>) -> Result<(&'t str, TensorType), ParseError> {
    let name = line.sigil('%', "a '%name'")?;
    line.punct(':', "':'")?;
    Ok((name, tensor_type(line)?))
}

/// `%name: types = Op(%a, %b) {key: value}`.
fn node(line: &mut Cursor<'_>, graph: &mut Graph) -> Result<(), ParseError> {
    let name = line.sigil('%', "a node's '%name'")?;
    line.punct(':', "':'")?;
    let types = match line.next_is('(') {
        true => line.list('(', ')', tensor_type)?,
        false => vec![tensor_type(line)?],
    };
    line.punct('=', "'='")?;
    let op = line.word("an op's name")?;
    let inputs = line.list('(', ')', |line| value(line, graph))?;
    let mut attributes = Attributes::parse(line, graph)?;
    let op = attributes::op(line, op, &mut attributes)?;
    attributes.end(line)?;
    let outputs = line.graph(graph.add_node(name, op, &inputs))?;

    let inferred: Vec<&TensorType> = outputs.iter().map(|&id| graph.ty(id)).collect();
    if inferred.iter().copied().ne(&types) {
        return Err(ParseError::Type {
            line: line.number,
            name: name.into(),
            written: Types(&types.iter().collect::<Vec<_>>()).to_string(),
            inferred: Types(&inferred).to_string(),
        });
    }
    Ok(())
}

/// `%name` of a value that exists.
fn value(line: &mut Cursor<'_>, graph: &Graph) -> Result<ValueId, ParseError> {
    let name = line.sigil('%', "a value's '%name'")?;
    graph
        .find_value(name)
        .ok_or_else(|| line.unexpected("the name of a value defined above", name))
}

/// `@name` of a state that exists.
fn state(line: &mut Cursor<'_>, graph: &Graph) -> Result<StateId, ParseError> {
    let name = line.sigil('@', "a state's '@name'")?;
    graph
        .find_state(name)
        .ok_or_else(|| line.unexpected("the name of a state defined above", name))
}

/// `dtype[dim, …]`.
fn tensor_type(line: &mut Cursor<'_>) -> Result<TensorType, ParseError> {
    let word = line.word("an element type")?;
    let dtype: DType = word
        .parse()
        .map_err(|()| line.unexpected("an element type", word))?;
    let dims = line.list('[', ']', dim)?;
    line.limit("dimensions", dims.len(), Shape::MAX_RANK)?;
    Ok(TensorType::new(dtype, dims))
}

/// A number or the name of a symbol.
fn dim(line: &mut Cursor<'_>) -> Result<Dim, ParseError> {
    let word = line.word("a dimension")?;
    parse_dim(word).ok_or_else(|| line.unexpected("a number or a symbol", word))
}

fn parse_dim(word: &str) -> Option<Dim> {
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        return word.parse().ok().map(Dim::Fixed);
    }
    (0..Symbol::COUNT as u16)
        .map(Symbol)
        .find(|s| s.name() == word)
        .map(Dim::Sym)
}

#[cfg(test)]
mod tests;
