//! The single-node tests of the ONNX standard, as cases in our op set.
//!
//! A node of ONNX becomes one of our ops where there is such, else a small graph of ours that an
//! importer could write. What neither gives is skipped with the reason.

mod attention;
mod folder;
mod lower;
mod products;
mod proto;
mod recorded;
mod simple;

use std::collections::BTreeMap;
use std::path::Path;

use anynpu_cpu::reference::Tensor;
use anynpu_ir::DType;

use crate::Case;
use lower::Lower;

/// Why a node test was not made a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Our op set is not meant to hold this.
    Skip(String),
    /// The mapping is wrong.
    Fault(String),
}

/// A node test: its name, its op where it is a single one, and its case or why there is none.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The test's name, `test_…`.
    pub name: String,
    /// ONNX's name of the op.
    pub op: Option<String>,
    /// The case.
    pub case: Result<Case, Refusal>,
}

/// The node tests that are part of the repository.
///
/// # Errors
/// Text telling what is wrong with the file they come from.
pub fn cases() -> Result<Vec<Mapped>, String> {
    Ok(recorded::tests()?.into_iter().map(map).collect())
}

/// The node tests in `folder`, which is `onnx/backend/test/data/node` of ONNX's Python package.
///
/// # Errors
/// Text telling what is wrong with the folder. What is wrong with one test is its [`Refusal`].
pub fn cases_in(folder: &Path) -> Result<Vec<Mapped>, String> {
    let recorded = recorded::tests()?;
    let corrected = |test: &NodeTest| {
        let same = recorded.iter().find(|r| r.name == test.name);
        same.is_some_and(|r| r.inputs == test.inputs && r.outputs != test.outputs)
    };
    let found = folder::tests(folder)?.into_iter();
    let mapped = found.map(|(name, test)| match test {
        Ok(test) if corrected(&test) => Mapped {
            name,
            op: Some(test.op),
            case: Err(Refusal::Skip(
                "a later release of ONNX gives other results for the same operands".into(),
            )),
        },
        Ok(test) => map(test),
        Err(refusal) => Mapped {
            name,
            op: None,
            case: Err(refusal),
        },
    });
    Ok(mapped.collect())
}

fn map(test: NodeTest) -> Mapped {
    let case = Lower::new(&test).and_then(|lower| lower.case(&format!("onnx/{}", test.name)));
    Mapped {
        name: test.name,
        op: Some(test.op),
        case,
    }
}

/// One node with its operands and results.
struct NodeTest {
    name: String,
    op: String,
    attributes: BTreeMap<String, Attribute>,
    inputs: Vec<Option<Data>>,
    outputs: Vec<Option<Data>>,
}

/// A node's attribute.
#[derive(Clone, Debug, PartialEq)]
enum Attribute {
    Int(i64),
    Float(f32),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
}

/// A tensor of ONNX.
#[derive(Clone, Debug, PartialEq)]
struct Data {
    dtype: String,
    shape: Vec<usize>,
    /// Little-endian elements.
    bytes: Vec<u8>,
}

impl Data {
    /// The tensor as ours.
    fn tensor(&self) -> Result<Tensor, Refusal> {
        let dtype = match self.dtype.as_str() {
            "float" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            "int8" => DType::I8,
            "uint8" => DType::U8,
            "int16" => DType::I16,
            "int32" => DType::I32,
            "int64" => DType::I64,
            "bool" => DType::Bool,
            other => return Err(Refusal::Skip(format!("we have no type {other}"))),
        };
        Tensor::from_bytes(dtype, &self.shape[..], &self.bytes)
            .map_err(|e| Refusal::Fault(e.to_string()))
    }
}
