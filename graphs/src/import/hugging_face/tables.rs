//! What a configuration means in GGUF's terms.

use std::collections::BTreeMap;

use super::config::Config;
use super::{HuggingFaceError, decoders, encoders, excerpt};

/// A configuration in GGUF's terms.
#[derive(Debug)]
pub(super) struct Translation {
    /// GGUF's name of the architecture, which is also the prefix of its keys.
    pub architecture: &'static str,
    /// Metadata by GGUF's keys.
    pub metadata: BTreeMap<String, Meta>,
    /// For messages: the member of the configuration that a key comes from.
    pub origins: BTreeMap<String, String>,
    /// Tensors.
    pub names: Vec<Name>,
    /// What stands before the names of the model without its head, in files of a model with one.
    pub base: &'static str,
    /// Whether the rotary embedding is there, and pairs elements of the two halves of a head.
    pub half_split_rope: bool,
    /// Vectors that the configuration gives and GGUF has as tensors, by GGUF's names.
    pub figures: BTreeMap<&'static str, Vec<f32>>,
    /// Experts of a layer.
    pub experts: u32,
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meta {
    Unsigned(u64),
    Float(f64),
    Bool(bool),
    Text(&'static str),
    Flags(Vec<bool>),
}

/// How a tensor of the folder becomes GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is.
    Plain,
    /// With 1 added to each element.
    PlusOne,
    /// `*` in its name stands for each expert's number; the matrices become one tensor.
    Experts,
}

/// Names of a tensor, without `.weight` or `.bias`: `#` stands for a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    /// GGUF's.
    pub ours: &'static str,
    /// The folder's; `@` stands for [`Translation::base`] or nothing.
    pub theirs: &'static str,
    /// Whether it has a bias. It must be there then; else it is not used even if it is there.
    pub bias: bool,
    /// What is done with it.
    pub form: Form,
}

impl Translation {
    pub fn new(architecture: &'static str, base: &'static str) -> Self {
        let mut translation = Translation {
            architecture,
            metadata: BTreeMap::new(),
            origins: BTreeMap::new(),
            names: Vec::new(),
            base,
            half_split_rope: false,
            figures: BTreeMap::new(),
            experts: 0,
        };
        let name = Meta::Text(architecture);
        let key = "general.architecture".to_owned();
        translation.metadata.insert(key, name);
        translation
    }

    /// Sets `key`, under the architecture's prefix, to `value`, which member `origin` gave.
    pub fn set(&mut self, key: &str, origin: impl Into<String>, value: Meta) {
        let key = format!("{}.{key}", self.architecture);
        self.origins.insert(key.clone(), origin.into());
        self.metadata.insert(key, value);
    }

    /// Sets `key` to the integer that member `from` of `config` is required to have.
    pub fn count(
        &mut self,
        config: &Config<'_>,
        from: &str,
        key: &str,
    ) -> Result<u32, HuggingFaceError> {
        let n = config.required(from)?;
        self.set(key, from, Meta::Unsigned(n.into()));
        Ok(n)
    }

    /// Adds tensors, all with a bias or all without.
    pub fn add(&mut self, bias: bool, names: &[(&'static str, &'static str)]) {
        self.add_as(Form::Plain, bias, names);
    }

    /// As [`Translation::add`], in `form`.
    pub fn add_as(&mut self, form: Form, bias: bool, names: &[(&'static str, &'static str)]) {
        let names = names.iter().map(|&(ours, theirs)| Name {
            ours,
            theirs,
            bias,
            form,
        });
        self.names.extend(names);
    }
}

/// Says what `config` means.
pub(super) fn translate(config: &Config<'_>) -> Result<Translation, HuggingFaceError> {
    if config.get("quantization_config").is_some() {
        return config.refuse(
            "quantization_config",
            "none: weights in F32, F16 or BF16; quantise the original model instead",
        );
    }
    let Some(found) = config.text("model_type")? else {
        return config.refuse("model_type", format!("one of {}", known()));
    };
    if let Some(decoder) = decoders::find(found) {
        return decoders::translate(config, decoder);
    }
    match found {
        "bert" => encoders::bert(config),
        "distilbert" => encoders::distilbert(config),
        "mobilebert" => encoders::mobilebert(config),
        _ => Err(HuggingFaceError::ModelType {
            file: config.file.clone(),
            found: excerpt(found),
            known: known(),
        }),
    }
}

/// Every `model_type` that can be read.
fn known() -> String {
    let encoders = ["bert", "distilbert", "mobilebert"];
    let all: Vec<_> = decoders::names().chain(encoders).collect();
    all.join(", ")
}

/// Whether one of `architectures` ends in `ending`; `None` if there are none.
pub(super) fn has_architecture(
    config: &Config<'_>,
    ending: &str,
) -> Result<Option<bool>, HuggingFaceError> {
    let Some(list) = config.list("architectures")? else {
        return Ok(None);
    };
    let ends = |v: &serde_json::Value| v.as_str().is_some_and(|name| name.ends_with(ending));
    Ok(Some(list.iter().any(ends)))
}
