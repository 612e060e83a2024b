//! Graphs as text, for people and for tests.

use std::fmt;

use super::{Encoding, Graph, Param, Scalar, Tensor, TensorKind};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {}", self.name)?;
        for tensor in &self.tensors {
            if !matches!(tensor.kind, TensorKind::Native) {
                writeln!(f, "  {tensor}")?;
            }
        }
        for node in &self.nodes {
            let mut first = true;
            for &id in &node.outputs {
                write!(f, "{}", if first { "  " } else { ", " })?;
                first = false;
                match self.get(id) {
                    Some(t) => write!(f, "{} {}{:?}", t.name, t.dtype.name(), t.dims)?,
                    None => write!(f, "?{}", id.0)?,
                }
            }
            write!(f, " = {}", node.op)?;
            let mut before = '(';
            for &id in &node.inputs {
                let name = self.get(id).map_or("?", |t| &t.name);
                write!(f, "{before}{name}")?;
                before = ' ';
            }
            for (name, param) in &node.params {
                write!(f, "{before}{name}=")?;
                before = ' ';
                match param {
                    Param::Scalar(Scalar::U32(n)) => write!(f, "{n}")?,
                    Param::Scalar(Scalar::I32(n)) => write!(f, "{n}")?,
                    Param::Scalar(Scalar::F32(x)) => write!(f, "{x}")?,
                    Param::Scalar(Scalar::Bool(b)) => write!(f, "{b}")?,
                    Param::Tensor(id) => {
                        write!(f, "{}", self.get(*id).map_or("?", |t| &t.name))?;
                    }
                }
            }
            writeln!(f, ")")?;
        }
        Ok(())
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            TensorKind::Input => "input",
            TensorKind::Output => "output",
            TensorKind::Native => "native",
            TensorKind::Static(_) => "static",
        };
        let (name, dtype) = (&self.name, self.dtype.name());
        write!(f, "{kind} {name} {dtype}{:?}", self.dims)?;
        match &self.encoding {
            Encoding::None => Ok(()),
            Encoding::Scale { scale, offset } => write!(f, " scale {scale} offset {offset}"),
            Encoding::Channels { axis, .. } => write!(f, " scales along {axis}"),
            Encoding::NarrowChannels { bits, axis, .. } => {
                write!(f, " {bits} bits, scales along {axis}")
            }
            Encoding::Blocks { block, .. } => write!(f, " blocks of {block:?}"),
            Encoding::Factored { axis, .. } => {
                write!(f, " 4 bits, scales along {axis}, factors of blocks")
            }
        }
    }
}
