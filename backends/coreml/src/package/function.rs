//! A function of an ML Program, built operation by operation.

use std::collections::{BTreeMap, BTreeSet};

use super::proto;
use super::types::{DataType, Literal, blob_value, state_type, value_type};
use crate::{CoreMlError, DeploymentTarget};

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 5;

/// A dimension that differs from call to call, of what comes of an input of several shapes.
pub const ANY: u32 = u32::MAX;

/// Most shapes that an input may have.
pub const MAX_SHAPES: usize = 128;

/// A tensor of a [`Function`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tensor(u32);

/// What an operation is given for one of its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A tensor.
    One(Tensor),
    /// Several, for a parameter that takes them.
    Many(Vec<Tensor>),
    /// A constant.
    Constant(Literal),
}

impl From<Tensor> for Operand {
    fn from(tensor: Tensor) -> Self {
        Operand::One(tensor)
    }
}

impl From<&[Tensor]> for Operand {
    fn from(tensors: &[Tensor]) -> Self {
        Operand::Many(tensors.to_vec())
    }
}

/// Shorter ways to write constants.
macro_rules! constants {
    ($($from:ty => |$x:ident| $literal:expr;)+) => {
        $(impl From<$from> for Operand {
            fn from($x: $from) -> Self {
                Operand::Constant($literal)
            }
        })+
    };
}
constants! {
    bool => |x| Literal::Bool(x);
    i32 => |x| Literal::I32(x);
    &str => |x| Literal::Text(x.to_owned());
    Vec<i32> => |x| Literal::I32s(x);
    Vec<bool> => |x| Literal::Bools(x);
    Literal => |x| x;
}

/// Numbers of a weight as the file of weights has them.
#[derive(Clone, Debug, PartialEq)]
pub struct BlobRef {
    /// Type of the elements.
    pub dtype: DataType,
    /// Dimensions.
    pub dims: Vec<u32>,
    /// Where it is, see [`super::BlobWriter::append`].
    pub offset: u64,
}

/// An input, output or state as the package describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    /// Its name: an identifier.
    pub name: String,
    /// For people.
    pub description: String,
    /// Type of the elements.
    pub dtype: DataType,
    /// Dimensions.
    pub dims: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Known {
    name: String,
    dtype: DataType,
    dims: Vec<u32>,
}

/// A function under construction.
#[derive(Clone, Debug)]
pub struct Function {
    name: String,
    target: DeploymentTarget,
    tensors: Vec<Known>,
    names: BTreeSet<String>,
    /// Names that are for outputs.
    reserved: BTreeSet<String>,
    /// Constants, so that each stands once.
    literals: BTreeMap<Vec<u8>, Tensor>,
    operations: Vec<proto::Operation>,
    inputs: Vec<proto::NamedValueType>,
    outputs: Vec<Tensor>,
    pub(super) described: Described,
}

/// The features of a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Described {
    /// What is given at every call.
    pub inputs: Vec<Feature>,
    /// What every call gives.
    pub outputs: Vec<Feature>,
    /// What lives from call to call.
    pub states: Vec<Feature>,
    /// All shapes of inputs that have several, by their names.
    pub shapes: BTreeMap<String, Vec<Vec<u32>>>,
}

/// Whether Core ML takes `name`.
pub fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `name` as an identifier.
pub fn to_identifier(name: &str) -> String {
    let mut text: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    if !is_identifier(&text) {
        text.insert(0, '_');
    }
    text
}

fn check_name(what: &'static str, name: &str) -> Result<(), CoreMlError> {
    match is_identifier(name) {
        true => Ok(()),
        false => Err(CoreMlError::Identifier {
            what,
            name: name.to_owned(),
        }),
    }
}

impl Function {
    /// An empty function.
    ///
    /// # Errors
    /// A name that is no identifier.
    pub fn new(name: &str, target: DeploymentTarget) -> Result<Self, CoreMlError> {
        check_name("function", name)?;
        Ok(Function {
            name: name.to_owned(),
            target,
            tensors: Vec::new(),
            names: BTreeSet::new(),
            reserved: BTreeSet::new(),
            literals: BTreeMap::new(),
            operations: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            described: Described::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is written for.
    pub fn target(&self) -> DeploymentTarget {
        self.target
    }

    /// Its inputs, outputs and states.
    pub fn described(&self) -> &Described {
        &self.described
    }

    /// The name of a tensor. Panics if it is of another function.
    pub fn tensor_name(&self, tensor: Tensor) -> &str {
        &self.tensors[tensor.0 as usize].name
    }

    /// The type of a tensor's elements. Panics if it is of another function.
    pub fn dtype(&self, tensor: Tensor) -> DataType {
        self.tensors[tensor.0 as usize].dtype
    }

    /// The dimensions of a tensor. Panics if it is of another function.
    pub fn dims(&self, tensor: Tensor) -> &[u32] {
        &self.tensors[tensor.0 as usize].dims
    }

    /// How many operations there are.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// How many operations of each type there are.
    pub fn histogram(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for op in &self.operations {
            *counts.entry(op.r#type.as_str()).or_insert(0) += 1;
        }
        counts
    }

    /// The names of the results of operations after the first `count`, but for constants.
    pub fn results_since(&self, count: usize) -> Vec<String> {
        let after = self.operations.iter().skip(count);
        let others = after.filter(|op| op.r#type != "const" && !op.r#type.starts_with("constexpr"));
        others
            .flat_map(|op| op.outputs.iter().map(|o| o.name.clone()))
            .collect()
    }

    /// The results of operations other than constants, each with the type of the operation.
    pub fn results(&self) -> impl Iterator<Item = (&str, Tensor)> {
        let by_name: BTreeMap<&str, Tensor> = self
            .tensors
            .iter()
            .zip(0..)
            .map(|(t, i)| (t.name.as_str(), Tensor(i)))
            .collect();
        self.operations
            .iter()
            .filter(|op| op.r#type != "const")
            .flat_map(|op| op.outputs.iter().map(move |o| (op.r#type.as_str(), o)))
            .filter_map(move |(kind, o)| Some((kind, *by_name.get(o.name.as_str())?)))
    }

    /// Keeps `name` for an output: no other tensor is called so.
    pub fn reserve(&mut self, name: &str) {
        self.reserved.insert(name.to_owned());
    }

    /// An identifier close to `wanted` that is not taken, and is from now on.
    fn unique(&mut self, wanted: &str) -> String {
        let wanted = to_identifier(wanted);
        let mut name = wanted.clone();
        let mut n = 1;
        while self.reserved.contains(&name) || !self.names.insert(name.clone()) {
            name = format!("{wanted}_{n}");
            n += 1;
        }
        name
    }

    fn known(&mut self, name: String, dtype: DataType, dims: &[u32]) -> Tensor {
        self.tensors.push(Known {
            name,
            dtype,
            dims: dims.to_vec(),
        });
        Tensor(self.tensors.len() as u32 - 1)
    }

    fn check_feature(&mut self, what: &'static str, feature: &Feature) -> Result<(), CoreMlError> {
        check_name(what, &feature.name)?;
        check_rank(&feature.name, &feature.dims)?;
        if !matches!(feature.dtype, DataType::F16 | DataType::F32 | DataType::I32) {
            return Err(CoreMlError::Option {
                what: format!("the type of {what} '{}'", feature.name),
                found: feature.dtype.name().into(),
                expected: "fp16, fp32 or int32".into(),
            });
        }
        if feature.dtype == DataType::F16 && !self.target.has_ios16() {
            return Err(CoreMlError::Target {
                what: format!("fp16 as {what} '{}'", feature.name),
                needs: "iOS16 or macOS13",
                target: self.target.to_string(),
            });
        }
        Ok(())
    }

    fn take_name(&mut self, what: &'static str, name: &str) -> Result<(), CoreMlError> {
        match self.names.insert(name.to_owned()) {
            true => Ok(()),
            false => Err(CoreMlError::Twice {
                what,
                name: name.to_owned(),
            }),
        }
    }

    /// Adds an input.
    ///
    /// # Errors
    /// A name that is no identifier or taken, a type that inputs have not, more than [`MAX_RANK`] dimensions.
    pub fn input(&mut self, feature: Feature) -> Result<Tensor, CoreMlError> {
        self.check_feature("input", &feature)?;
        self.take_name("input", &feature.name)?;
        self.inputs.push(proto::NamedValueType {
            name: feature.name.clone(),
            r#type: Some(value_type(feature.dtype, &feature.dims)),
        });
        let tensor = self.known(feature.name.clone(), feature.dtype, &feature.dims);
        self.described.inputs.push(feature);
        Ok(tensor)
    }

    /// Adds an input that has one of several shapes at each call, of which that of `feature` is the usual one. Where they
    /// differ the tensor has [`ANY`]. Of several such inputs each call gives all their shape of the same number.
    ///
    /// # Errors
    /// As [`Function::input`]; shapes that are not 2 to [`MAX_SHAPES`], of another number of dimensions, without the usual
    /// one, or twice there; a second such input for a target that has one, or with another number of shapes.
    pub fn input_of_shapes(
        &mut self,
        feature: Feature,
        shapes: &[Vec<u32>],
    ) -> Result<Tensor, CoreMlError> {
        self.check_feature("input", &feature)?;
        let several = !self.described.shapes.is_empty();
        if several {
            self.target.need_ios18(format!(
                "a second input of several shapes, '{}',",
                feature.name
            ))?;
        }
        let wrong = |found: String, expected: String| CoreMlError::Option {
            what: format!("the shapes of input '{}'", feature.name),
            found,
            expected,
        };
        if !(2..=MAX_SHAPES).contains(&shapes.len()) {
            let expected = format!("2 to {MAX_SHAPES} of them");
            return Err(wrong(shapes.len().to_string(), expected));
        }
        if let Some(others) = self.described.shapes.values().next()
            && others.len() != shapes.len()
        {
            let expected = format!("{}, as another input has", others.len());
            return Err(wrong(shapes.len().to_string(), expected));
        }
        let rank = feature.dims.len();
        let odd = |s: &&Vec<u32>| s.len() != rank || s.iter().any(|n| *n == 0 || *n == ANY);
        if let Some(odd) = shapes.iter().find(odd) {
            let expected = format!("{rank} dimensions of 1 or more");
            return Err(wrong(format!("{odd:?}"), expected));
        }
        if !shapes.contains(&feature.dims) {
            let expected = format!("{:?} among them", feature.dims);
            return Err(wrong(format!("{shapes:?}"), expected));
        }
        let distinct: BTreeSet<&Vec<u32>> = shapes.iter().collect();
        // of several inputs one may have the same with different ones of another
        if distinct.len() < shapes.len() && !self.target.has_ios18() {
            return Err(wrong(format!("{shapes:?}"), "each once".into()));
        }
        let along = |axis: usize| match shapes.iter().all(|s| s[axis] == feature.dims[axis]) {
            true => feature.dims[axis],
            false => ANY,
        };
        let dims: Vec<u32> = (0..rank).map(along).collect();
        self.take_name("input", &feature.name)?;
        self.inputs.push(proto::NamedValueType {
            name: feature.name.clone(),
            r#type: Some(value_type(feature.dtype, &dims)),
        });
        let tensor = self.known(feature.name.clone(), feature.dtype, &dims);
        self.described
            .shapes
            .insert(feature.name.clone(), shapes.to_vec());
        self.described.inputs.push(feature);
        Ok(tensor)
    }

    /// Adds a state, zeros at first. It is read by `read_state`, and written by [`Function::write_state`].
    ///
    /// # Errors
    /// As [`Function::input`]; a target without states.
    pub fn state(&mut self, feature: Feature) -> Result<Tensor, CoreMlError> {
        self.target
            .need_ios18(format!("state '{}'", feature.name))?;
        self.check_feature("state", &feature)?;
        self.take_name("state", &feature.name)?;
        self.inputs.push(proto::NamedValueType {
            name: feature.name.clone(),
            r#type: Some(state_type(feature.dtype, &feature.dims)),
        });
        let tensor = self.known(feature.name.clone(), feature.dtype, &feature.dims);
        self.described.states.push(feature);
        Ok(tensor)
    }

    /// Makes `tensor` an output under the name of `feature`, by an operation of its own.
    ///
    /// # Errors
    /// As [`Function::input`].
    pub fn output(&mut self, tensor: Tensor, feature: Feature) -> Result<(), CoreMlError> {
        self.check_feature("output", &feature)?;
        self.take_name("output", &feature.name)?;
        let (dtype, dims) = (self.dtype(tensor), self.dims(tensor).to_vec());
        if (dtype, &dims) != (feature.dtype, &feature.dims) {
            return Err(CoreMlError::Option {
                what: format!("output '{}'", feature.name),
                found: format!("{} {dims:?}", dtype.name()),
                expected: format!("{} {:?}", feature.dtype.name(), feature.dims),
            });
        }
        let out = self.known(feature.name.clone(), dtype, &dims);
        self.push("identity", &[("x", tensor.into())], &[out])?;
        self.outputs.push(out);
        self.described.outputs.push(feature);
        Ok(())
    }

    /// A constant.
    ///
    /// # Errors
    /// None that a literal can cause.
    pub fn constant(&mut self, literal: Literal) -> Result<Tensor, CoreMlError> {
        use prost::Message;
        let value = literal.value();
        let key = value.encode_to_vec();
        if let Some(&known) = self.literals.get(&key) {
            return Ok(known);
        }
        let name = self.unique("constant");
        let tensor = self.known(name, literal.dtype(), &literal.dims());
        let mut operation = self.operation("const", &[tensor]);
        operation.attributes.insert("val".into(), value);
        self.operations.push(operation);
        self.literals.insert(key, tensor);
        Ok(tensor)
    }

    /// A constant that stands in the file of weights, called near to `name`.
    ///
    /// # Errors
    /// More than [`MAX_RANK`] dimensions.
    pub fn weight(&mut self, name: &str, blob: &BlobRef) -> Result<Tensor, CoreMlError> {
        check_rank(name, &blob.dims)?;
        let name = self.unique(name);
        let tensor = self.known(name, blob.dtype, &blob.dims);
        let mut operation = self.operation("const", &[tensor]);
        let value = blob_value(blob.dtype, &blob.dims, blob.offset);
        operation.attributes.insert("val".into(), value);
        self.operations.push(operation);
        Ok(tensor)
    }

    /// An operation that makes a constant of `blobs` by their names: a matrix that is compressed. Its result has
    /// `dims`.
    ///
    /// # Errors
    /// More than [`MAX_RANK`] dimensions.
    pub fn compressed(
        &mut self,
        kind: &str,
        name: &str,
        blobs: &[(&str, BlobRef)],
        literals: &[(&str, Literal)],
        dtype: DataType,
        dims: &[u32],
    ) -> Result<Tensor, CoreMlError> {
        check_rank(name, dims)?;
        let name = self.unique(name);
        let tensor = self.known(name, dtype, dims);
        let mut operation = self.operation(kind, &[tensor]);
        let blobs = blobs
            .iter()
            .map(|(key, b)| (*key, blob_value(b.dtype, &b.dims, b.offset)));
        let literals = literals.iter().map(|(key, l)| (*key, l.value()));
        for (key, value) in blobs.chain(literals) {
            // from iOS 18 on they are inputs, before they were attributes
            match self.target.has_ios18() {
                true => {
                    let binding = proto::argument::binding::Binding::Value(value);
                    operation.inputs.insert(key.into(), argument([binding]));
                }
                false => {
                    operation.attributes.insert(key.into(), value);
                }
            }
        }
        self.operations.push(operation);
        Ok(tensor)
    }

    /// An operation whose one result is called near to `name`.
    ///
    /// # Errors
    /// More than [`MAX_RANK`] dimensions.
    pub fn op(
        &mut self,
        kind: &str,
        name: &str,
        operands: &[(&str, Operand)],
        dtype: DataType,
        dims: &[u32],
    ) -> Result<Tensor, CoreMlError> {
        let made = self.op_of_many(kind, name, operands, &[(dtype, dims.to_vec())])?;
        Ok(made[0])
    }

    /// An operation of several results.
    ///
    /// # Errors
    /// More than [`MAX_RANK`] dimensions.
    pub fn op_of_many(
        &mut self,
        kind: &str,
        name: &str,
        operands: &[(&str, Operand)],
        results: &[(DataType, Vec<u32>)],
    ) -> Result<Vec<Tensor>, CoreMlError> {
        let mut made = Vec::with_capacity(results.len());
        for (i, (dtype, dims)) in results.iter().enumerate() {
            let name = match results.len() {
                1 => name.to_owned(),
                _ => format!("{name}_{i}"),
            };
            check_rank(&name, dims)?;
            let name = self.unique(&name);
            made.push(self.known(name, *dtype, dims));
        }
        self.push(kind, operands, &made)?;
        Ok(made)
    }

    /// Sets `state` to `value`.
    ///
    /// # Errors
    /// None that tensors of this function can cause.
    pub fn write_state(&mut self, state: Tensor, value: Tensor) -> Result<(), CoreMlError> {
        let operands = [("input", state.into()), ("data", value.into())];
        self.push("write_state", &operands, &[])
    }

    fn push(
        &mut self,
        kind: &str,
        operands: &[(&str, Operand)],
        results: &[Tensor],
    ) -> Result<(), CoreMlError> {
        let mut inputs = BTreeMap::new();
        for (key, operand) in operands {
            let named = |f: &Function, t: Tensor| {
                proto::argument::binding::Binding::Name(f.tensor_name(t).to_owned())
            };
            let bound = match operand {
                Operand::One(t) => argument([named(self, *t)]),
                Operand::Many(ts) => argument(ts.iter().map(|t| named(self, *t))),
                Operand::Constant(literal) => {
                    let t = self.constant(literal.clone())?;
                    argument([named(self, t)])
                }
            };
            inputs.insert((*key).to_owned(), bound);
        }
        let mut operation = self.operation(kind, results);
        operation.inputs = inputs;
        self.operations.push(operation);
        Ok(())
    }

    /// An operation without operands.
    fn operation(&mut self, kind: &str, results: &[Tensor]) -> proto::Operation {
        let name = match results.first() {
            Some(&t) => self.tensor_name(t).to_owned(),
            None => self.unique(kind),
        };
        let outputs = results.iter().map(|t| {
            let known = &self.tensors[t.0 as usize];
            proto::NamedValueType {
                name: known.name.clone(),
                r#type: Some(value_type(known.dtype, &known.dims)),
            }
        });
        proto::Operation {
            r#type: kind.to_owned(),
            outputs: outputs.collect(),
            attributes: [("name".to_owned(), Literal::Text(name).value())].into(),
            ..proto::Operation::default()
        }
    }

    /// The function as it is written.
    pub(super) fn proto(&self) -> proto::Function {
        let opset = self.target.opset().to_owned();
        let outputs = self.outputs.iter().map(|t| self.tensor_name(*t).to_owned());
        let block = proto::Block {
            inputs: Vec::new(),
            outputs: outputs.collect(),
            operations: self.operations.clone(),
        };
        proto::Function {
            inputs: self.inputs.clone(),
            opset: opset.clone(),
            block_specializations: [(opset, block)].into(),
        }
    }
}

fn argument(
    bindings: impl IntoIterator<Item = proto::argument::binding::Binding>,
) -> proto::Argument {
    let bindings = bindings
        .into_iter()
        .map(|b| proto::argument::Binding { binding: Some(b) });
    proto::Argument {
        arguments: bindings.collect(),
    }
}

fn check_rank(name: &str, dims: &[u32]) -> Result<(), CoreMlError> {
    match dims.len() <= MAX_RANK {
        true => Ok(()),
        false => Err(CoreMlError::Limit {
            name: name.to_owned(),
            what: "dimensions",
            found: dims.len() as u64,
            limit: MAX_RANK as u64,
        }),
    }
}
