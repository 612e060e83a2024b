//! Graphs as flat tables.

use crate::{anynpu_attribute_kind, anynpu_dtype, anynpu_key, anynpu_op, anynpu_value_source};

/// A text of `length` bytes of UTF-8, without a zero byte at its end.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_text {
    /// Its first byte; anything if the length is 0.
    pub data: *const core::ffi::c_char,
    /// Bytes.
    pub length: usize,
}

/// Size of one dimension.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_dim {
    /// 1 if `size` is the number of a symbol, 0 if it is the size itself.
    pub is_symbol: u32,
    /// The size, or the symbol: `ANYNPU_SYMBOL_…`.
    pub size: u32,
}

/// An attribute's value.
#[derive(Clone, Copy)]
#[repr(C)]
pub union anynpu_attribute_value {
    /// Of ANYNPU_ATTRIBUTE_INTEGER.
    pub integer: i64,
    /// Of ANYNPU_ATTRIBUTE_REAL.
    pub real: f64,
    /// Of ANYNPU_ATTRIBUTE_INTEGERS.
    pub integers: *const i64,
    /// Of ANYNPU_ATTRIBUTE_REALS.
    pub reals: *const f32,
    /// Of ANYNPU_ATTRIBUTE_DIMS.
    pub dims: *const anynpu_dim,
}

impl core::fmt::Debug for anynpu_attribute_value {
    /// Which of the values it is stands beside it.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("anynpu_attribute_value")
    }
}

/// An attribute of a node.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_attribute {
    /// What it says.
    pub key: anynpu_key,
    /// The type of its value.
    pub kind: anynpu_attribute_kind,
    /// Elements, where the value is a list.
    pub count: usize,
    /// The value.
    pub value: anynpu_attribute_value,
}

/// A value: what is given, kept in the model or made by a node.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_value {
    /// Its name, unique in the graph.
    pub name: anynpu_text,
    /// Type of its elements.
    pub dtype: anynpu_dtype,
    /// Number of dimensions.
    pub rank: u32,
    /// The dimensions, outermost first.
    pub dims: *const anynpu_dim,
    /// Where it comes from.
    pub source: anynpu_value_source,
    /// The number of the weight or node that it comes from.
    pub index: u32,
}

/// A node.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_node {
    /// Its name, unique in the graph.
    pub name: anynpu_text,
    /// What it does.
    pub op: anynpu_op,
    /// Not used.
    pub reserved: u32,
    /// Numbers of its operands among the values.
    pub inputs: *const u32,
    /// How many.
    pub input_count: usize,
    /// Numbers of its results among the values.
    pub outputs: *const u32,
    /// How many.
    pub output_count: usize,
    /// Its attributes.
    pub attributes: *const anynpu_attribute,
    /// How many.
    pub attribute_count: usize,
    /// Bytes from one to the next.
    pub attribute_stride: usize,
}

/// What lives from step to step, such as a layer's keys.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_state {
    /// Its name, unique in the graph.
    pub name: anynpu_text,
    /// Type of its elements at its home, which is what a submission binds.
    pub dtype: anynpu_dtype,
    /// Number of dimensions.
    pub rank: u32,
    /// The dimensions, outermost first.
    pub dims: *const anynpu_dim,
    /// The axis along which rows are written.
    pub axis: u32,
    /// Not used.
    pub reserved: u32,
}

/// A weight.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_weight {
    /// Its name. Entries of one module that name a weight alike mean the same one.
    pub name: anynpu_text,
    /// Its number among the graph's values.
    pub value: u32,
    /// Type of its elements in memory and in the file.
    pub dtype: anynpu_dtype,
    /// Its bytes in the host's memory, at any alignment; null where a graph is only asked about. Small constants are
    /// always there.
    pub data: *const core::ffi::c_void,
    /// Its bytes.
    pub length: u64,
    /// A descriptor of the file that has the same bytes, which is the host's and not to be closed; -1 if none has.
    pub fd: i32,
    /// 1 if the graph itself carries it: a small constant.
    pub is_constant: u32,
    /// Where in the file they begin.
    pub offset: u64,
}

/// A graph: nodes in the order in which they run, with all that they read and make.
///
/// Values are numbered by their place in `values`, and so are nodes, states and weights. A node reads only values that
/// stand before its own.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_graph {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// The op set that its ops are of.
    pub op_set: u32,
    /// The model's name.
    pub name: anynpu_text,
    /// All values.
    pub values: *const anynpu_value,
    /// How many.
    pub value_count: usize,
    /// Bytes from one to the next.
    pub value_stride: usize,
    /// All nodes.
    pub nodes: *const anynpu_node,
    /// How many.
    pub node_count: usize,
    /// Bytes from one to the next.
    pub node_stride: usize,
    /// States that nodes read or write.
    pub states: *const anynpu_state,
    /// How many.
    pub state_count: usize,
    /// Bytes from one to the next.
    pub state_stride: usize,
    /// Weights that nodes read.
    pub weights: *const anynpu_weight,
    /// How many.
    pub weight_count: usize,
    /// Bytes from one to the next.
    pub weight_stride: usize,
    /// Values that are bound as inputs, in this order.
    pub inputs: *const u32,
    /// How many.
    pub input_count: usize,
    /// Values that are bound as outputs, in this order.
    pub outputs: *const u32,
    /// How many.
    pub output_count: usize,
}
