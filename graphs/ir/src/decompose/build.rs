//! The steps of one decomposition.

use super::Rewriter;
use crate::{
    BinaryOp, DType, Dim, Graph, GraphError, NodeId, Op, ReduceOp, Shape, TensorType, UnaryOp,
    ValueId,
};

/// What each step gives.
pub(super) type Step = Result<ValueId, GraphError>;

/// The decomposition of one op: adds steps named after it.
pub(super) struct Build<'r, 'a> {
    rewriter: &'r mut Rewriter<'a>,
    origin: NodeId,
    pub(super) name: String,
}

impl<'r, 'a> Build<'r, 'a> {
    pub(super) fn new(rewriter: &'r mut Rewriter<'a>, origin: NodeId, name: String) -> Self {
        Build {
            rewriter,
            origin,
            name,
        }
    }

    pub(super) fn ty(&self, id: ValueId) -> &TensorType {
        self.rewriter.out.ty(id)
    }

    pub(super) fn dims(&self, id: ValueId) -> Vec<Dim> {
        self.ty(id).shape.0.clone()
    }

    /// A name for `step` that neither graph has: the op's name is cut short if it must be.
    fn fresh(&self, step: &str) -> String {
        let taken =
            |name: &str| self.rewriter.source.has_name(name) || self.rewriter.out.has_name(name);
        let mut number = 1;
        let mut end = format!(".{step}");
        loop {
            let kept = self.name.len().min(Graph::MAX_NAME - end.len());
            let name = format!("{}{end}", &self.name[..kept]);
            if !taken(&name) {
                return name;
            }
            number += 1;
            end = format!(".{step}_{number}");
        }
    }

    /// An intermediate result.
    pub(super) fn step(&mut self, step: &str, op: Op, inputs: &[ValueId]) -> Step {
        let name = self.fresh(step);
        self.emit(name, op, inputs)
    }

    /// The result: it carries the op's own name.
    pub(super) fn finish(&mut self, op: Op, inputs: &[ValueId]) -> Step {
        self.emit(self.name.clone(), op, inputs)
    }

    /// As [`Build::finish`] for an F32 result that is to be of type `dtype`.
    pub(super) fn finish_as(&mut self, dtype: DType, op: Op, inputs: &[ValueId]) -> Step {
        if dtype == DType::F32 {
            return self.finish(op, inputs);
        }
        let wide = self.step("wide", op, inputs)?;
        self.finish(Op::Cast { to: dtype }, &[wide])
    }

    fn emit(&mut self, name: String, op: Op, inputs: &[ValueId]) -> Step {
        let found = self.rewriter.emit(self.origin, name.clone(), op, inputs)?;
        match found[..] {
            [one] => Ok(one),
            _ => Err(GraphError::ResultCount {
                node: name,
                expected: 1,
                found: found.len(),
            }),
        }
    }

    /// `x` in F32, the step being called `step` if one is needed.
    pub(super) fn f32(&mut self, step: &str, x: ValueId) -> Step {
        match self.ty(x).dtype {
            DType::F32 => Ok(x),
            _ => self.step(step, Op::Cast { to: DType::F32 }, &[x]),
        }
    }

    /// A constant vector.
    pub(super) fn vector(&mut self, step: &str, data: &[f32]) -> Step {
        let ty = TensorType::new(DType::F32, [Dim::Fixed(data.len() as u32)]);
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        let name = self.fresh(step);
        self.rewriter.out.add_constant(name, ty, bytes)
    }

    /// A constant that broadcasts to the shape of `like`: of one dimension, or of none if `like` has
    /// none.
    pub(super) fn number(&mut self, step: &str, x: f32, like: ValueId) -> Step {
        let ty = TensorType::new(DType::F32, self.single(like));
        let name = self.fresh(step);
        self.rewriter
            .out
            .add_constant(name, ty, x.to_le_bytes().to_vec())
    }

    /// As [`Build::number`], I32.
    pub(super) fn integer(&mut self, step: &str, x: i32, like: ValueId) -> Step {
        let ty = TensorType::new(DType::I32, self.single(like));
        let name = self.fresh(step);
        self.rewriter
            .out
            .add_constant(name, ty, x.to_le_bytes().to_vec())
    }

    fn single(&self, like: ValueId) -> Shape {
        Shape(vec![Dim::Fixed(1); self.ty(like).shape.rank().min(1)])
    }

    pub(super) fn unary(&mut self, step: &str, f: UnaryOp, x: ValueId) -> Step {
        self.step(step, Op::Unary(f), &[x])
    }

    pub(super) fn binary(&mut self, step: &str, f: BinaryOp, a: ValueId, b: ValueId) -> Step {
        self.step(step, Op::Binary(f), &[a, b])
    }

    /// Reduced over `axis`, which stays with size 1.
    pub(super) fn reduce(&mut self, step: &str, op: ReduceOp, axis: u32, x: ValueId) -> Step {
        let op = Op::Reduce {
            op,
            axes: vec![axis],
            keep_dims: true,
        };
        self.step(step, op, &[x])
    }

    pub(super) fn reshape(&mut self, step: &str, dims: Vec<Dim>, x: ValueId) -> Step {
        let shape = Shape(dims);
        self.step(step, Op::Reshape { shape }, &[x])
    }

    /// Axes 0 and 1 of a tensor of three exchanged.
    pub(super) fn swap_outer(&mut self, step: &str, x: ValueId) -> Step {
        self.step(step, swap_outer(), &[x])
    }
}

/// Exchanges axes 0 and 1 of a tensor of three.
pub(super) fn swap_outer() -> Op {
    Op::Transpose {
        perm: vec![1, 0, 2],
    }
}
