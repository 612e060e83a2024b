//! What a Hugging Face folder says of text beside its weights: the tokenizer, chat templates, and the
//! tokens that end generation.

use anynpu_graphs::ModelError;
use anynpu_graphs::import::hugging_face::{CONFIG, HuggingFaceFolder};
use serde_json::{Map, Value};

use crate::tokenize::{TokenizeError, Tokenizer};
use crate::{RuntimeError, TokenId};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATES: &str = "additional_chat_templates";
const EXTENSION: &str = "jinja";

/// The texts of a folder's tokenizer.
pub(crate) struct TokenizerFiles {
    pub json: Vec<u8>,
    pub config: Option<Vec<u8>>,
}

impl TokenizerFiles {
    /// `None` if the folder has no tokenizer.
    pub fn read(folder: &HuggingFaceFolder) -> Result<Option<Self>, RuntimeError> {
        let text = |name| folder.read_text(name).map_err(ModelError::from);
        let Some(json) = text(TOKENIZER)? else {
            return Ok(None);
        };
        let config = text(TOKENIZER_CONFIG)?;
        Ok(Some(TokenizerFiles { json, config }))
    }
}

/// The folder's tokenizer; the inner error is of what the files hold, the outer one of reading them.
pub(crate) fn tokenizer(
    folder: &HuggingFaceFolder,
) -> Result<Result<Tokenizer, TokenizeError>, RuntimeError> {
    let Some(files) = TokenizerFiles::read(folder)? else {
        return Ok(Err(TokenizeError::UnknownModel {
            model: "none".into(),
            known: "a tokenizer.json in the model's folder".into(),
        }));
    };
    let templates = templates(folder)?;
    let settings = folder.read_text(GENERATION_CONFIG);
    let settings = settings.map_err(ModelError::from)?;
    let tokenizer = Tokenizer::from_hugging_face(&files.json, files.config.as_deref());
    Ok(tokenizer.and_then(|mut tokenizer| {
        let templates = templates?;
        if !templates.is_empty() {
            tokenizer.set_chat_templates(templates);
        }
        let ends = generation_ends(folder, settings.as_deref(), tokenizer.token_count())?;
        tokenizer.add_generation_ends(&ends)?;
        Ok(tokenizer)
    }))
}

/// The chat templates that stand in files of their own. If there are any, those of
/// `tokenizer_config.json` don't count, as in transformers.
#[allow(clippy::type_complexity)]
fn templates(
    folder: &HuggingFaceFolder,
) -> Result<Result<Vec<(String, String)>, TokenizeError>, RuntimeError> {
    let named = folder.names_in(TEMPLATES, EXTENSION);
    let named = named.map_err(ModelError::from)?;
    let named = named.into_iter().map(|name| {
        let file = format!("{TEMPLATES}/{name}.{EXTENSION}");
        (name, file)
    });
    let mut templates = Vec::new();
    for (name, file) in [("default".to_owned(), TEMPLATE.to_owned())]
        .into_iter()
        .chain(named)
    {
        let Some(bytes) = folder.read_text(&file).map_err(ModelError::from)? else {
            continue;
        };
        match String::from_utf8(bytes) {
            Ok(text) => templates.push((name, text)),
            Err(e) => {
                return Ok(Err(TokenizeError::FolderFile {
                    file,
                    why: format!("is not UTF-8 from byte {}", e.utf8_error().valid_up_to()),
                }));
            }
        }
    }
    Ok(Ok(templates))
}

/// The tokens that end generation: `eos_token_id` of `generation_config.json`, or, without that file,
/// of `config.json`; a number or a list of them.
pub(crate) fn generation_ends(
    folder: &HuggingFaceFolder,
    settings: Option<&[u8]>,
    tokens: u32,
) -> Result<Vec<TokenId>, TokenizeError> {
    const KEY: &str = "eos_token_id";
    let settings: Option<Map<String, Value>> = match settings {
        None => None,
        Some(bytes) => {
            let read = serde_json::from_slice(bytes);
            Some(read.map_err(|e| TokenizeError::FolderFile {
                file: GENERATION_CONFIG.into(),
                why: format!("is not a valid JSON object: {e}"),
            })?)
        }
    };
    let (file, members) = match &settings {
        Some(settings) => (GENERATION_CONFIG, settings),
        None => (CONFIG, folder.config()),
    };
    let ids = match members.get(KEY) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|&id| id < tokens)
            .ok_or_else(|| TokenizeError::FolderFile {
                file: file.into(),
                why: format!(
                    "has {} in '{KEY}'; expected ids below {tokens}, the number of tokens",
                    shown(value)
                ),
            })
    };
    ids.iter().map(id).collect()
}

/// The ids of [`generation_ends`] of a folder whose tokenizer was read.
pub(crate) fn folder_ends(
    folder: &HuggingFaceFolder,
    tokens: u32,
) -> Result<Vec<TokenId>, RuntimeError> {
    let settings = folder.read_text(GENERATION_CONFIG);
    let settings = settings.map_err(ModelError::from)?;
    Ok(generation_ends(folder, settings.as_deref(), tokens)?)
}

/// The beginning of a value, for a message.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}
