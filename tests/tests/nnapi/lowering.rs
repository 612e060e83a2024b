//! What models' layers become, held to what is kept in `data/nnapi/`: on every host, without a runtime.

use std::path::Path;
use std::sync::Arc;

use anynpu_hal::{Bounds, Entry, Extent};
use anynpu_ir::{DType, Graph, Symbol, SymbolValues};
use anynpu_nnapi::FeatureLevel;
use anynpu_nnapi::lower::{
    Lowered, Numbers, ProductForm, Ranges, StateForm, Target, WeightForm, level, lower,
};
use anynpu_nnapi::model::{Constants, OperandType, OperationCode};
use anynpu_nnapi::sys;

use crate::architecture;

/// Fails if `text` is not what `data/nnapi/NAME.txt` has, and leaves it where it can be looked at.
fn kept(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/nnapi/{name}.txt"));
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if text != expected {
        let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nnapi-{name}.txt"));
        std::fs::write(&found, text).unwrap();
        panic!(
            "{name} is something else; if that is right, keep it:\n  cp {} {}",
            found.display(),
            path.display()
        );
    }
}

/// The first layer of a model, in a step of 4 tokens over 16 rows.
fn layer(model: &str, target: &Target) -> (Lowered, Constants) {
    layer_of(architecture(model).model().graph(), model, target)
}

fn layer_of(graph: &Arc<Graph>, model: &str, target: &Target) -> (Lowered, Constants) {
    let nodes = graph.nodes().iter().zip(0u32..);
    let first: Vec<u32> = nodes
        .filter(|(n, _)| n.layer() == Some(0))
        .map(|(_, i)| i)
        .collect();
    let sizes = SymbolValues::step(4, 0, 1, 16);
    let mut bounds = Bounds::new();
    for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
        bounds = bounds.with(symbol, Extent::Exact(sizes.get(symbol)));
    }
    let entry = Entry {
        name: model.into(),
        graph: graph.clone(),
        nodes: first[0]..first[first.len() - 1] + 1,
        bounds,
    };
    let mut constants = Constants::new();
    let lowered = lower("nnapi", &entry, DType::F32, target, &mut constants, None);
    (lowered.unwrap(), constants)
}

fn text(model: &str, target: &Target) -> String {
    told(architecture(model).model().graph(), model, target)
}

fn told(graph: &Arc<Graph>, model: &str, target: &Target) -> String {
    let (lowered, constants) = layer_of(graph, model, target);
    let mut text = lowered.model.to_string();
    for feed in &lowered.feeds {
        text += &format!("takes {feed:?}\n");
    }
    for fetch in &lowered.fetches {
        text += &format!("puts {fetch:?}\n");
    }
    let needed = level(&lowered.model).unwrap();
    assert!(needed <= target.level, "{needed} at {}", target.level);
    text + &format!(
        "needs level {needed}, {} bytes of constants\n",
        constants.bytes()
    )
}

/// Ranges of every value of a model, all the same.
fn ranges(model: &str) -> Ranges {
    let open = architecture(model);
    let values = open.model().graph().values().iter();
    let each = values.map(|v| format!("\"{}.out\": [-4, 4]", v.name));
    let each = each.collect::<Vec<String>>().join(", ");
    let (version, form) = ("\"version\": 1", "\"activations\": \"u8\"");
    let text = format!("{{{version}, {form}, \"tensors\": {{{each}}}}}");
    Ranges::parse(text.as_bytes()).unwrap()
}

#[test]
fn layers_of_models_become_what_is_kept() {
    let newest = Target::new(FeatureLevel::FL8);
    kept("llama-8", &text("llama", &newest));
    kept("llama-5", &text("llama", &Target::new(FeatureLevel::FL5)));
    let summed = Target {
        products: ProductForm::Summed,
        ..Target::new(FeatureLevel::FL3)
    };
    kept("llama-3-summed", &text("llama", &summed));
    let halves = Target {
        numbers: Numbers::F16,
        ..newest.clone()
    };
    kept("llama-8-f16", &text("llama", &halves));
    let narrow = Target {
        numbers: Numbers::Relaxed,
        weights: WeightForm::Int8,
        ..newest.clone()
    };
    kept("llama-8-int8", &text("llama", &narrow));
    for (name, weights) in [
        ("llama-8-int8-ranges", WeightForm::Int8),
        ("llama-8-int8-tensor", WeightForm::Int8Tensor),
    ] {
        let ranges = Some(Arc::new(ranges("llama")));
        let integers = Target {
            weights,
            ranges,
            ..newest.clone()
        };
        kept(name, &text("llama", &integers));
    }
    kept("gemma2-8", &text("gemma2", &newest));
    kept("bert-8", &text("bert", &newest));
    for (name, level) in [
        ("llama-8-states", FeatureLevel::FL8),
        ("llama-4-states", FeatureLevel::FL4),
    ] {
        let states = Target {
            states: StateForm::Device,
            ..Target::new(level)
        };
        kept(name, &text("llama", &states));
    }
    let padded = architecture("bert").model().padded().unwrap().unwrap();
    kept("bert-8-padded", &told(padded.graph(), "bert", &newest));
}

#[test]
fn operations_need_the_levels_that_are_kept() {
    let mut all = String::new();
    for (name, _) in sys::OPERATIONS {
        let code = OperationCode::named(name).unwrap();
        let types = [
            OperandType::TensorFloat32,
            OperandType::TensorFloat16,
            OperandType::TensorQuant8Asymm,
        ];
        let each = types.map(|ty| code.level(ty).map(|level| (ty.short(), level)));
        for (ty, level) in each.into_iter().flatten() {
            all += &format!("{name} {ty}: {level}\n");
        }
    }
    kept("operations", &all);
}

#[test]
fn nothing_in_a_layer_needs_a_newer_level_than_its_target() {
    for model in ["llama", "qwen2", "qwen3", "gemma3", "phi3", "bert"] {
        for target_level in &FeatureLevel::ALL[2..] {
            for products in ProductForm::at(*target_level) {
                let forms = Numbers::ALL.iter();
                for (numbers, states) in
                    forms.flat_map(|n| StateForm::ALL.iter().map(move |s| (n, s)))
                {
                    let target = Target {
                        products: *products,
                        numbers: *numbers,
                        states: *states,
                        ..Target::new(*target_level)
                    };
                    let (lowered, _) = layer(model, &target);
                    assert!(level(&lowered.model).unwrap() <= *target_level);
                    assert_eq!(lowered.nodes.len(), lowered.model.operations.len());
                }
            }
        }
    }
}
