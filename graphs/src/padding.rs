//! Graphs of whole texts that may be padded: attention that leaves out the tokens a text does not have.

use anynpu_ir::{AttentionKv, DType, Definition, Dim, Graph, GraphError, Op, TensorType, ValueId};

use crate::arch::input;

/// Whether `op` is attention of every token to every other, without a mask.
fn sees_all(op: &Op) -> bool {
    matches!(
        op,
        Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            mask: false,
            ..
        }
    )
}

/// `graph` with a mask that its attention adds to scores, given as the input [`input::PADDING`], `f32[T, T]`; nodes keep
/// their numbers and names. `None` of a graph with states, without such attention, or with other attention beside it.
///
/// # Errors
/// None that the graph did not have before.
pub(crate) fn with_padding(graph: &Graph) -> Result<Option<Graph>, GraphError> {
    let attention = |op: &&Op| matches!(op, Op::Attention { .. });
    let mut attention = graph.nodes().iter().map(|n| &n.op).filter(attention);
    let some = attention.clone().next().is_some();
    if !graph.states().is_empty() || !some || !attention.all(sees_all) {
        return Ok(None);
    }
    let mut made = Graph::new(graph.name());
    let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::TOKENS]);
    let mask = made.add_input(input::PADDING, ty)?;
    let count = graph.nodes().iter().flat_map(|n| &n.outputs);
    let most = count.chain(graph.inputs()).map(|v| v.index()).max();
    let weights = graph.weights().iter().map(|w| w.value.index()).max();
    let mut values = vec![mask; most.max(weights).map_or(0, |m| m + 1)];
    for definition in graph.definitions() {
        match definition {
            Definition::Input(id) => {
                let value = graph.value(id);
                values[id.index()] = made.add_input(value.name.as_str(), value.ty.clone())?;
            }
            Definition::Weight(id) => {
                let weight = graph.weight(id);
                let ty = graph.ty(weight.value).clone();
                let name = weight.name.as_str();
                values[weight.value.index()] = match &weight.inline {
                    Some(data) => made.add_constant(name, ty, data.clone())?,
                    None => made.add_weight(name, ty)?,
                };
            }
            Definition::Node(id) => {
                let node = graph.node(id);
                let mut inputs: Vec<ValueId> =
                    node.inputs.iter().map(|v| values[v.index()]).collect();
                let mut op = node.op.clone();
                if let Op::Attention { mask: masked, .. } = &mut op {
                    *masked = true;
                    inputs.push(mask);
                }
                let outputs = made.add_node(node.name.as_str(), op, &inputs)?;
                for (old, new) in node.outputs.iter().zip(outputs) {
                    values[old.index()] = new;
                }
            }
        }
    }
    for output in graph.outputs() {
        made.set_output(values[output.index()])?;
    }
    Ok(Some(made))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(causal: bool) -> Graph {
        let mut graph = Graph::new("g");
        let rows = [Dim::TOKENS, Dim::Fixed(2), Dim::Fixed(4)];
        let x = TensorType::new(DType::F32, rows);
        let x = graph.add_input("x", x).unwrap();
        let positions = TensorType::new(DType::I32, [Dim::TOKENS]);
        let positions = graph.add_input("positions", positions).unwrap();
        let op = Op::Attention {
            kv: AttentionKv::Operands,
            causal,
            mask: false,
            scale: 0.5,
            soft_cap: None,
            window: None,
        };
        let mut inputs = vec![x, x, x];
        inputs.extend(causal.then_some(positions));
        let y = graph.add("y", op, &inputs).unwrap();
        graph.set_output(y).unwrap();
        graph
    }

    #[test]
    fn attention_of_all_tokens_gets_a_mask_and_nodes_stay_where_they_are() {
        let plain = attention(false);
        let padded = with_padding(&plain).unwrap().unwrap();
        assert_eq!(padded.nodes().len(), plain.nodes().len());
        let mask = padded.find_value(input::PADDING).unwrap();
        assert_eq!(padded.nodes()[0].inputs.last(), Some(&mask));
        assert_eq!(padded.nodes()[0].name, "y");
        assert_eq!(padded.outputs(), [padded.find_value("y").unwrap()]);
        // it has one now, and can be written and read
        assert_eq!(with_padding(&padded).unwrap(), None);
        assert_eq!(Graph::parse(&padded.to_string()).unwrap(), padded);
        assert_eq!(with_padding(&attention(true)).unwrap(), None);
    }
}
