//! The node tests of the ONNX project as its Python package has them: a folder each, with `model.onnx` and
//! `test_data_set_0/{input,output}_N.pb`.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;

use super::proto::{ModelProto, TensorProto};
use super::{Attribute, Data, NodeTest, Refusal};

/// Most bytes of one file.
const MOST: u64 = 64 << 20;

/// A test's name, and the test or why it is none of a single node.
pub(super) type Found = (String, Result<NodeTest, Refusal>);

/// Reads all tests of `folder`, sorted by name.
pub(super) fn tests(folder: &Path) -> Result<Vec<Found>, String> {
    let named = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(named)? {
        let entry = entry.map_err(named)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("test_") && entry.path().join("model.onnx").is_file() {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(format!(
            "{}: no folder with a model.onnx in it",
            folder.display()
        ));
    }
    names.sort();
    let read = |name: String| {
        let test = test(&name, &folder.join(&name)).map_err(Refusal::Skip);
        (name, test)
    };
    Ok(names.into_iter().map(read).collect())
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let named = |e: std::io::Error| format!("{}: {e}", path.display());
    let size = std::fs::metadata(path).map_err(named)?.len();
    if size > MOST {
        return Err(format!("{}: {size} bytes, at most {MOST}", path.display()));
    }
    std::fs::read(path).map_err(named)
}

fn tensor(path: &Path) -> Result<Data, String> {
    let message = TensorProto::decode(&bytes(path)?[..]);
    let message = message.map_err(|e| format!("{}: {e}", path.display()))?;
    message.data()
}

fn test(name: &str, folder: &Path) -> Result<NodeTest, String> {
    let model = ModelProto::decode(&bytes(&folder.join("model.onnx"))?[..]);
    let model = model.map_err(|e| e.to_string())?;
    let graph = model.graph.ok_or("a model without a graph")?;
    let [node] = &graph.node[..] else {
        return Err(format!("a graph of {} nodes, not one", graph.node.len()));
    };
    if !["", "ai.onnx"].contains(&node.domain.as_str()) {
        return Err(format!("an op of the domain '{}'", node.domain));
    }
    let data = folder.join("test_data_set_0");
    let mut values: BTreeMap<&str, Data> = BTreeMap::new();
    for initializer in &graph.initializer {
        values.insert(&initializer.name, initializer.data()?);
    }
    for (i, input) in graph.input.iter().enumerate() {
        let file = data.join(format!("input_{i}.pb"));
        if file.is_file() {
            values.insert(&input.name, tensor(&file)?);
        }
    }
    for (i, output) in graph.output.iter().enumerate() {
        values.insert(&output.name, tensor(&data.join(format!("output_{i}.pb")))?);
    }
    let mut find = |name: &String| match name.is_empty() {
        true => Ok(None),
        false => match values.get(name.as_str()) {
            Some(data) => Ok(Some(data.clone())),
            None => Err(format!("no data for '{name}'")),
        },
    };
    let attributes = node.attribute.iter();
    let attributes: BTreeMap<String, Attribute> = attributes
        .filter_map(|a| Some((a.name.clone(), a.value()?)))
        .collect();
    Ok(NodeTest {
        name: name.into(),
        op: node.op_type.clone(),
        attributes,
        inputs: node.input.iter().map(&mut find).collect::<Result<_, _>>()?,
        // results that nobody wants have no data
        outputs: node
            .output
            .iter()
            .map(|o| find(o).unwrap_or(None))
            .collect(),
    })
}
