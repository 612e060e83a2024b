//! A graph: tensors, and nodes in the order they run.

use thiserror::Error;

/// A graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Its name, unique in its context.
    pub name: String,
    /// Its tensors; [`TensorId`] is an index.
    pub tensors: Vec<Tensor>,
    /// Its nodes. Each reads only what inputs, constants and earlier nodes give.
    pub nodes: Vec<Node>,
}

/// Index of a tensor in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub u32);

/// A tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name, unique in its graph.
    pub name: String,
    /// Where its contents come from and go to.
    pub kind: TensorKind,
    /// Type of its elements.
    pub dtype: DataType,
    /// Its dimensions, outermost first.
    pub dims: Vec<u32>,
    /// What its elements stand for.
    pub encoding: Encoding,
}

/// Where a tensor's contents come from and go to.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorKind {
    /// From the caller, in each run.
    Input,
    /// To the caller, in each run.
    Output,
    /// From node to node.
    Native,
    /// Fixed: row-major elements of the tensor's type.
    Static(Vec<u8>),
}

/// Type of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataType {
    /// 32-bit floating point; chips compute it in 16 bits.
    F32,
    /// 16-bit floating point.
    F16,
    /// 32-bit integers.
    I32,
    /// 32-bit integers without sign.
    U32,
    /// True or false, a byte each.
    Bool,
    /// 8-bit numbers with sign that stand for others by an [`Encoding`]; weights of fewer bits too, one a byte.
    Sfixed8,
    /// 8-bit numbers without sign that stand for others.
    Ufixed8,
    /// 16-bit numbers without sign that stand for others.
    Ufixed16,
    /// 32-bit numbers with sign that stand for others.
    Sfixed32,
}

impl DataType {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            DataType::F32 | DataType::I32 | DataType::U32 | DataType::Sfixed32 => 4,
            DataType::F16 | DataType::Ufixed16 => 2,
            DataType::Bool | DataType::Sfixed8 | DataType::Ufixed8 => 1,
        }
    }

    /// Its name in dumps.
    pub const fn name(self) -> &'static str {
        match self {
            DataType::F32 => "f32",
            DataType::F16 => "f16",
            DataType::I32 => "i32",
            DataType::U32 => "u32",
            DataType::Bool => "bool",
            DataType::Sfixed8 => "sfixed8",
            DataType::Ufixed8 => "ufixed8",
            DataType::Ufixed16 => "ufixed16",
            DataType::Sfixed32 => "sfixed32",
        }
    }
}

/// What elements stand for: `real = scale · (element + offset)`, where the offset is 0 if none is named.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Encoding {
    /// Themselves.
    None,
    /// One scale for all.
    Scale {
        /// The scale.
        scale: f32,
        /// Less the zero point.
        offset: i32,
    },
    /// A scale for each index of an axis.
    Channels {
        /// The axis.
        axis: u32,
        /// One a channel.
        scales: Vec<f32>,
    },
    /// As [`Encoding::Channels`] for numbers of fewer bits than their bytes.
    NarrowChannels {
        /// Bits of an element.
        bits: u32,
        /// The axis.
        axis: u32,
        /// One a channel.
        scales: Vec<f32>,
    },
    /// A scale for each block of elements.
    Blocks {
        /// Elements of a block in each dimension.
        block: Vec<u32>,
        /// One a block, the output channel outermost.
        scales: Vec<f32>,
    },
    /// Numbers of 4 bits in blocks whose scale is that of their output channel times a factor of 4 bits (Qualcomm's
    /// LPBQ). The output channel is the first axis or the last one.
    Factored {
        /// The axis.
        axis: u32,
        /// One a channel.
        scales: Vec<f32>,
        /// From 1 to 15, one a block, the output channel outermost.
        factors: Vec<u8>,
    },
}

/// A number that a node is given.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scalar {
    /// Without sign.
    U32(u32),
    /// With sign.
    I32(i32),
    /// Floating point.
    F32(f32),
    /// True or false.
    Bool(bool),
}

/// What a node is given besides its operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param {
    /// A number.
    Scalar(Scalar),
    /// A static tensor.
    Tensor(TensorId),
}

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name, unique in its graph.
    pub name: String,
    /// Its type in Qualcomm's op package, e.g. `FullyConnected`.
    pub op: &'static str,
    /// Operands.
    pub inputs: Vec<TensorId>,
    /// Results.
    pub outputs: Vec<TensorId>,
    /// Parameters by name.
    pub params: Vec<(&'static str, Param)>,
}

/// A graph that can't be.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum GraphError {
    /// Something about a tensor.
    #[error("tensor '{tensor}': {what} is {found}, expected {expected}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What of it.
        what: &'static str,
        /// What it is.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// A node that names a tensor that is not there, or not made yet.
    #[error("node '{node}': operand {operand} is tensor {tensor}, which {why}")]
    Node {
        /// Its name.
        node: String,
        /// Which operand, parameters after the inputs.
        operand: usize,
        /// The tensor's index.
        tensor: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// A node that means nothing.
    #[error("node '{node}' ({op}) {why}")]
    Meaning {
        /// Its name.
        node: String,
        /// Its type.
        op: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 5;

impl Tensor {
    /// Elements, if they can be counted.
    pub fn elements(&self) -> Option<usize> {
        let mut dims = self.dims.iter();
        dims.try_fold(1usize, |all, &d| all.checked_mul(d as usize))
    }

    /// Bytes of its contents, if they can be counted.
    pub fn bytes(&self) -> Option<usize> {
        self.elements()?.checked_mul(self.dtype.bytes())
    }

    fn fault(&self, what: &'static str, found: String, expected: String) -> GraphError {
        GraphError::Tensor {
            tensor: self.name.clone(),
            what,
            found,
            expected,
        }
    }

    fn check(&self) -> Result<(), GraphError> {
        if self.dims.len() > MAX_RANK {
            let (found, most) = (self.dims.len().to_string(), format!("at most {MAX_RANK}"));
            return Err(self.fault("its number of dimensions", found, most));
        }
        let bytes = self.bytes().filter(|&b| b > 0 && u32::try_from(b).is_ok());
        let Some(bytes) = bytes else {
            let expected = "dimensions above 0 and less than 4 GiB";
            return Err(self.fault("its size", format!("{:?}", self.dims), expected.into()));
        };
        if let TensorKind::Static(contents) = &self.kind
            && contents.len() != bytes
        {
            let found = format!("{} bytes", contents.len());
            return Err(self.fault("its contents", found, format!("{bytes} bytes")));
        }
        self.check_encoding()
    }

    fn check_encoding(&self) -> Result<(), GraphError> {
        let scales = |found: usize, expected: usize| match found == expected {
            true => Ok(()),
            false => {
                let (found, expected) = (found.to_string(), expected.to_string());
                Err(self.fault("its number of scales", found, expected))
            }
        };
        match &self.encoding {
            Encoding::None | Encoding::Scale { .. } => Ok(()),
            Encoding::Channels { axis, scales: all }
            | Encoding::NarrowChannels {
                axis, scales: all, ..
            } => match self.dims.get(*axis as usize) {
                Some(&channels) => scales(all.len(), channels as usize),
                None => {
                    let most = format!("below {}", self.dims.len());
                    Err(self.fault("the axis of its scales", axis.to_string(), most))
                }
            },
            Encoding::Blocks { block, scales: all } => {
                let whole = block.len() == self.dims.len()
                    && block
                        .iter()
                        .zip(&self.dims)
                        .all(|(b, d)| *b > 0 && d % b == 0);
                if !whole {
                    let expected = format!("divisors of {:?}", self.dims);
                    return Err(self.fault("its block", format!("{block:?}"), expected));
                }
                let blocks = block.iter().zip(&self.dims).map(|(b, d)| (d / b) as usize);
                scales(all.len(), blocks.product())
            }
            Encoding::Factored {
                axis,
                scales: all,
                factors,
            } => {
                let last = self.dims.len().saturating_sub(1);
                let Some(&channels) = self
                    .dims
                    .get(*axis as usize)
                    .filter(|_| *axis == 0 || *axis as usize == last)
                else {
                    let found = axis.to_string();
                    return Err(self.fault(
                        "the axis of its scales",
                        found,
                        format!("0 or {last}"),
                    ));
                };
                let channels = channels as usize;
                scales(all.len(), channels)?;
                let inputs = self.elements().unwrap_or(0) / channels.max(1);
                let blocks = factors.len() / channels.max(1);
                let whole = blocks > 0
                    && factors.len().is_multiple_of(channels)
                    && inputs.is_multiple_of(blocks);
                if whole && factors.iter().all(|f| (1..=15).contains(f)) {
                    return Ok(());
                }
                let expected = format!("from 1 to 15, those of blocks of {inputs} a channel");
                let most = factors.iter().max().copied().unwrap_or(0);
                let found = format!("{} of at most {most}", factors.len());
                Err(self.fault("its factors", found, expected))
            }
        }
    }
}

impl Graph {
    /// A graph without anything.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph {
            name: name.into(),
            ..Graph::default()
        }
    }

    /// Adds a tensor.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        kind: TensorKind,
        dtype: DataType,
        dims: &[u32],
        encoding: Encoding,
    ) -> TensorId {
        self.tensors.push(Tensor {
            name: name.into(),
            kind,
            dtype,
            dims: dims.to_vec(),
            encoding,
        });
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// Adds a node.
    pub fn node(
        &mut self,
        name: impl Into<String>,
        op: &'static str,
        inputs: &[TensorId],
        outputs: &[TensorId],
        params: &[(&'static str, Param)],
    ) {
        self.nodes.push(Node {
            name: name.into(),
            op,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            params: params.to_vec(),
        });
    }

    /// Adds a static tensor of numbers without sign, as parameters of nodes are.
    pub fn numbers(&mut self, name: impl Into<String>, dims: &[u32], numbers: &[u32]) -> TensorId {
        let contents = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        let kind = TensorKind::Static(contents);
        self.tensor(name, kind, DataType::U32, dims, Encoding::None)
    }

    /// The tensor of `id`, if there is one.
    pub fn get(&self, id: TensorId) -> Option<&Tensor> {
        self.tensors.get(id.0 as usize)
    }

    /// Inputs, in the order they were added.
    pub fn inputs(&self) -> impl Iterator<Item = &Tensor> {
        let all = self.tensors.iter();
        all.filter(|t| matches!(t.kind, TensorKind::Input))
    }

    /// Outputs, in the order they were added.
    pub fn outputs(&self) -> impl Iterator<Item = &Tensor> {
        let all = self.tensors.iter();
        all.filter(|t| matches!(t.kind, TensorKind::Output))
    }

    /// Fails unless sizes agree and each node reads what is there when it runs.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), GraphError> {
        self.tensors.iter().try_for_each(Tensor::check)?;
        let given = |t: &Tensor| matches!(t.kind, TensorKind::Input | TensorKind::Static(_));
        let mut there: Vec<bool> = self.tensors.iter().map(given).collect();
        for node in &self.nodes {
            let fault = |operand: usize, tensor: TensorId, why| GraphError::Node {
                node: node.name.clone(),
                operand,
                tensor: tensor.0,
                why,
            };
            let params = node.params.iter().filter_map(|(_, p)| match p {
                Param::Tensor(t) => Some(t),
                Param::Scalar(_) => None,
            });
            for (i, &id) in node.inputs.iter().chain(params).enumerate() {
                match there.get(id.0 as usize) {
                    Some(true) => {}
                    Some(false) => return Err(fault(i, id, "no earlier node makes")),
                    None => return Err(fault(i, id, "does not exist")),
                }
            }
            for (i, &id) in node.outputs.iter().enumerate() {
                let i = node.inputs.len() + i;
                match there.get_mut(id.0 as usize) {
                    Some(made @ false) => *made = true,
                    Some(true) => return Err(fault(i, id, "has its contents already")),
                    None => return Err(fault(i, id, "does not exist")),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product() -> Graph {
        let mut g = Graph::new("g");
        let x = g.tensor(
            "x",
            TensorKind::Input,
            DataType::F16,
            &[2, 4],
            Encoding::None,
        );
        let w = TensorKind::Static(vec![0; 12]);
        let scales = Encoding::Channels {
            axis: 0,
            scales: vec![1.0; 3],
        };
        let w = g.tensor("w", w, DataType::Sfixed8, &[3, 4], scales);
        let y = g.tensor(
            "y",
            TensorKind::Output,
            DataType::F16,
            &[2, 3],
            Encoding::None,
        );
        g.node("fc", "FullyConnected", &[x, w], &[y], &[]);
        g
    }

    fn factored(axis: u32, factors: Vec<u8>) -> Encoding {
        Encoding::Factored {
            axis,
            scales: vec![1.0; 3],
            factors,
        }
    }

    #[test]
    fn a_graph_whose_sizes_agree_is_right() {
        product().check().unwrap();
        let mut other = product();
        other.tensors[1].encoding = factored(0, vec![1, 15, 1, 2, 3, 4]);
        other.check().unwrap();
        assert_eq!(product().inputs().count(), 1);
        assert_eq!(product().outputs().next().unwrap().bytes(), Some(12));
    }

    #[test]
    fn sizes_that_do_not_agree_are_named() {
        type Change = fn(&mut Graph);
        let cases: [(Change, &str); 11] = [
            (
                |g| g.tensors[0].dims = vec![1; 6],
                "number of dimensions is 6",
            ),
            (|g| g.tensors[0].dims = vec![u32::MAX; 3], "its size is"),
            (|g| g.tensors[0].dims = vec![0, 4], "its size is [0, 4]"),
            (
                |g| g.tensors[1].dims = vec![3, 5],
                "its contents is 12 bytes, expected 15",
            ),
            (
                |g| {
                    g.tensors[1].encoding = Encoding::Channels {
                        axis: 1,
                        scales: vec![1.0; 3],
                    }
                },
                "number of scales is 3, expected 4",
            ),
            (
                |g| {
                    g.tensors[1].encoding = Encoding::Blocks {
                        block: vec![1, 3],
                        scales: vec![1.0; 3],
                    }
                },
                "its block is [1, 3]",
            ),
            (
                |g| g.tensors[1].encoding = factored(2, vec![1; 3]),
                "the axis of its scales is 2, expected 0 or 1",
            ),
            (
                |g| g.tensors[1].encoding = factored(0, vec![16; 6]),
                "its factors is 6 of at most 16",
            ),
            (
                |g| g.tensors[1].encoding = factored(0, vec![1; 9]),
                "its factors is 9 of at most 1",
            ),
            (
                |g| g.nodes[0].inputs[0] = TensorId(9),
                "tensor 9, which does not exist",
            ),
            (
                |g| g.nodes[0].inputs[0] = TensorId(2),
                "which no earlier node makes",
            ),
        ];
        for (change, told) in cases {
            let mut g = product();
            change(&mut g);
            let e = g.check().unwrap_err().to_string();
            assert!(e.contains(told), "{e}");
        }
    }
}
