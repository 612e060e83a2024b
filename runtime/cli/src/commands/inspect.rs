//! `anynpu inspect`: what a model file holds, even one that can't run.

use std::collections::BTreeMap;

use anyhow::Context;
use anynpu::memory::{DeviceMemory, MemoryPlan};
use anynpu::{DEFAULT_CONTEXT, KvType, LoadOptions, ModelSource, OpenModel};
use anynpu_graphs::ModelInfo;
use anynpu_graphs::import::gguf::{Gguf, Value};
use anynpu_graphs::import::hugging_face::HuggingFaceFolder;
use serde::Serialize;

use crate::args::InspectArgs;
use crate::output;

#[derive(Serialize)]
struct Document {
    model: String,
    format: String,
    file_bytes: usize,
    metadata: Vec<Entry>,
    tensors: Vec<TensorEntry>,
    /// Absent where the model can't run; `error` says why.
    info: Option<ModelInfo>,
    memory: Vec<Memory>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    key: String,
    #[serde(rename = "type")]
    kind: String,
    value: serde_json::Value,
}

#[derive(Serialize)]
struct TensorEntry {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    /// In the file's order: GGUF has the innermost dimension first, safetensors the outermost.
    shape: Vec<u64>,
    bytes: Option<u64>,
    offset: u64,
    /// The file it is in, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// What a context of so many tokens needs.
#[derive(Serialize)]
struct Memory {
    context: u32,
    weight_bytes: u64,
    kv_bytes: Option<u64>,
    kv_type: &'static str,
    /// What each type that the model can keep its KV cache in takes.
    kv_bytes_by_type: BTreeMap<&'static str, u64>,
    /// The most that is held at a time, the process itself aside; absent if no device is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    needed_bytes: Option<u64>,
    devices: Vec<DeviceMemory>,
}

/// Array elements shown.
const SHOWN: usize = 8;
/// Bytes of a text shown.
const SHOWN_TEXT: usize = 200;

/// Reads the file's header and prints it.
pub fn execute(args: &InspectArgs) -> anyhow::Result<()> {
    let what = args.model.what();
    let document = match args.model.source() {
        ModelSource::File(path) if HuggingFaceFolder::is_at(&path) => {
            let folder = HuggingFaceFolder::open(&path).with_context(|| what.clone())?;
            of_folder(what, &folder).with_model(&OpenModel::open(path), args.ctx)
        }
        source => {
            let gguf = match source {
                ModelSource::File(path) => Gguf::open(path),
                ModelSource::Static { name, bytes } => Gguf::from_static(name, bytes),
                _ => anyhow::bail!("{what}: not a file"),
            };
            let gguf = gguf.with_context(|| what.clone())?;
            of_gguf(what, &gguf).with_model(&OpenModel::open(gguf), args.ctx)
        }
    };
    if args.json.json {
        return output::print_json(&document);
    }
    print(&document)
}

impl Document {
    fn new(model: String, format: String, file_bytes: usize) -> Self {
        Document {
            model,
            format,
            file_bytes,
            metadata: Vec::new(),
            tensors: Vec::new(),
            info: None,
            memory: Vec::new(),
            error: None,
        }
    }

    /// Adds what the model is, or why it can't run.
    fn with_model<E: std::fmt::Display>(
        mut self,
        open: &Result<OpenModel, E>,
        context: Option<u32>,
    ) -> Self {
        match open {
            Ok(open) => {
                self.info = Some(open.model().info().clone());
                self.memory = memory(open, context);
                self.error = open.tokenizer().err().map(|e| e.to_string());
            }
            Err(e) => self.error = Some(e.to_string()),
        }
        self
    }
}

fn of_gguf(model: String, gguf: &Gguf) -> Document {
    let format = format!("GGUF v{}", gguf.version());
    let mut document = Document::new(model, format, gguf.file().len());
    let entries = gguf.metadata().iter().map(|(key, value)| Entry {
        key: key.to_owned(),
        kind: format!("{:?}", value.value_type()).to_lowercase(),
        value: shown(&value),
    });
    document.metadata = entries.collect();
    let tensors = gguf.tensors().map(|t| TensorEntry {
        name: t.name().to_owned(),
        kind: t.ggml_type().to_string(),
        shape: t.dims().to_vec(),
        bytes: t.byte_len(),
        offset: t.offset(),
        file: None,
    });
    document.tensors = tensors.collect();
    document
}

fn of_folder(model: String, folder: &HuggingFaceFolder) -> Document {
    let files = folder.tensors().files();
    let format = match files.len() {
        1 => "Hugging Face folder".into(),
        n => format!("Hugging Face folder, {n} files of tensors"),
    };
    let bytes = files.iter().map(|f| f.file().len()).sum();
    let mut document = Document::new(model, format, bytes);
    let entries = folder.config().iter().map(|(key, value)| Entry {
        key: key.clone(),
        kind: kind(value).into(),
        value: shortened(value),
    });
    document.metadata = entries.collect();
    let tensors = folder.tensors().tensors().map(|t| TensorEntry {
        name: t.name().to_owned(),
        kind: t.stored_type().to_string(),
        shape: t.shape().to_vec(),
        bytes: Some(t.byte_len()),
        offset: t.offset(),
        file: (files.len() > 1).then(|| {
            let path = t.file().file().path();
            let name = path.and_then(|p| p.file_name());
            name.map_or_else(String::new, |n| n.to_string_lossy().into_owned())
        }),
    });
    document.tensors = tensors.collect();
    document
}

fn kind(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A JSON value cut to what a person would look at.
fn shortened(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => shown(&anynpu_graphs::import::gguf::Value::String(text.as_bytes())),
        Value::Array(list) if list.len() > SHOWN => serde_json::json!({
            "length": list.len(),
            "first": list.iter().take(SHOWN).map(shortened).collect::<Vec<_>>(),
        }),
        Value::Object(members) if members.len() > SHOWN => serde_json::json!({
            "length": members.len(),
        }),
        Value::Array(list) => list.iter().map(shortened).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(k, v)| (k.clone(), shortened(v)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}

/// What the asked context needs, or a few usual ones.
fn memory(open: &OpenModel, asked: Option<u32>) -> Vec<Memory> {
    let model = open.model();
    let own = model.info().context_length;
    let mut contexts: Vec<u32> = match asked {
        Some(context) => vec![context],
        None => [512, 2048, DEFAULT_CONTEXT, 16384]
            .into_iter()
            .filter(|&c| c < own)
            .collect(),
    };
    if asked.is_none() {
        contexts.push(own);
    }
    let runtime = match anynpu::runtime() {
        Ok(runtime) => Some(runtime),
        Err(e) => {
            tracing::warn!("what devices need besides is not known: {e}");
            None
        }
    };
    let of_context = |context: u32| {
        let kv = KvType::Auto.resolve(model, context);
        let options = LoadOptions::new().context(context);
        let plan = runtime.as_ref().map(|r| r.memory(open, &options));
        let plan = plan.and_then(|plan| {
            let failed = |e| tracing::warn!("context {context}: {e}");
            plan.map_err(failed).ok()
        });
        Memory {
            context,
            weight_bytes: model.info().weight_bytes,
            kv_bytes: model.state_bytes(kv, context),
            kv_type: kv.name(),
            kv_bytes_by_type: [KvType::F32, KvType::F16, KvType::Q8_0]
                .map(|kv| kv.resolve(model, context))
                .into_iter()
                .filter_map(|kv| Some((kv.name(), model.state_bytes(kv, context)?)))
                .collect(),
            needed_bytes: plan.as_ref().map(MemoryPlan::needed),
            devices: plan.map_or_else(Vec::new, |p| p.devices),
        }
    };
    contexts.into_iter().map(of_context).collect()
}

/// A value cut to what a person would look at.
fn shown(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::F32(x) => f64::from(*x).into(),
        Value::F64(x) => (*x).into(),
        Value::Bool(b) => (*b).into(),
        Value::String(bytes) => {
            let mut text = String::from_utf8_lossy(bytes).into_owned();
            if let Some((end, _)) = text.char_indices().find(|(i, _)| *i >= SHOWN_TEXT) {
                text.truncate(end);
                text.push('…');
            }
            text.into()
        }
        Value::Array(array) => serde_json::json!({
            "length": array.len(),
            "first": array.iter().take(SHOWN).map(|v| shown(&v)).collect::<Vec<_>>(),
        }),
        number => number
            .as_integer()
            .and_then(|n| i64::try_from(n).ok())
            .map_or(serde_json::Value::Null, Into::into),
    }
}

fn print(d: &Document) -> anyhow::Result<()> {
    output::print_line(&format!(
        "{}: {}, {}",
        d.model,
        d.format,
        output::bytes(d.file_bytes as u64)
    ))?;
    if let Some(info) = &d.info {
        output::print_line(&format!(
            "{}: {} architecture, {:.2} M parameters, {} layers, hidden {}, {} heads over {}, vocabulary {}, context {}",
            info.name,
            info.architecture,
            info.parameters as f64 / 1e6,
            info.layers,
            info.hidden,
            info.heads,
            info.kv_heads,
            info.vocabulary,
            info.context_length
        ))?;
        output::print_line(&format!(
            "reads {} of weights for each generated token",
            output::bytes(info.streamed_bytes_per_token)
        ))?;
        for f in &info.formats {
            output::print_line(&format!(
                "  {:<6} {:>4} tensors {:>12}",
                f.dtype,
                f.tensors,
                output::bytes(f.bytes)
            ))?;
        }
    }
    for m in &d.memory {
        let kv = m
            .kv_bytes
            .map_or_else(|| "more than memory".into(), output::bytes);
        let types = m.kv_bytes_by_type.iter();
        let others: String = types
            .filter(|&(&t, &bytes)| t != m.kv_type && bytes > 0)
            .map(|(t, &bytes)| format!(", {} in {t}", output::bytes(bytes)))
            .collect();
        output::print_line(&format!(
            "context {:>6}: weights {}, KV cache {kv} in {}{others}{}",
            m.context,
            output::bytes(m.weight_bytes),
            m.kv_type,
            m.needed_bytes
                .map_or_else(String::new, |n| format!("; in all {}", output::bytes(n)))
        ))?;
        for d in &m.devices {
            output::print_line(&format!(
                "                {}: {} of weights held, {} read in place, {} of scratch",
                d.device,
                output::bytes(d.resident),
                output::bytes(d.in_place),
                output::bytes(d.scratch + d.buffers)
            ))?;
        }
    }
    output::print_line(&format!("{} metadata entries:", d.metadata.len()))?;
    for e in &d.metadata {
        output::print_line(&format!("  {} = {}", e.key, e.value))?;
    }
    output::print_line(&format!("{} tensors:", d.tensors.len()))?;
    for t in &d.tensors {
        output::print_line(&format!("  {} {} {:?}", t.name, t.kind, t.shape))?;
    }
    if let Some(e) = &d.error {
        output::print_line(&format!("can't run: {e}"))?;
    }
    Ok(())
}
