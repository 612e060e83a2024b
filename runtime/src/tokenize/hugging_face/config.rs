//! The parts of `tokenizer.json` and `tokenizer_config.json` that are read here beside the library.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::error::TokenizeError;
use super::super::vocabulary::{SpecialIds, parse_byte_token};
use super::quoted;

/// What is read from `tokenizer.json`.
#[derive(Deserialize)]
pub(super) struct Definition {
    pub(super) decoder: Option<Value>,
    model: ModelPart,
}

#[derive(Deserialize)]
struct ModelPart {
    unk_token: Option<String>,
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
}

impl Definition {
    pub(super) fn parse(json: &[u8]) -> Result<Self, TokenizeError> {
        parse("reading tokenizer.json", json)
    }

    /// Whether a token of the model stands for one byte.
    pub(super) fn is_byte(&self, text: &str) -> bool {
        self.model.byte_fallback && parse_byte_token(text.as_bytes()).is_some()
    }
}

pub(super) fn parse<T: DeserializeOwned>(
    doing: &'static str,
    json: &[u8],
) -> Result<T, TokenizeError> {
    serde_json::from_slice(json).map_err(|error| TokenizeError::HuggingFace {
        doing,
        why: super::excerpt_of_message(&error.to_string()),
    })
}

/// What is read from `tokenizer_config.json`.
#[derive(Default)]
pub(super) struct Config {
    fields: Fields,
    pub(super) chat_templates: Vec<(String, String)>,
}

#[derive(Default, Deserialize)]
struct Fields {
    tokenizer_class: Option<String>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    unk_token: Option<TokenName>,
    sep_token: Option<TokenName>,
    cls_token: Option<TokenName>,
    pad_token: Option<TokenName>,
    mask_token: Option<TokenName>,
    chat_template: Option<Value>,
}

/// A token's text, alone or with its properties.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Text(String),
    Added { content: String },
}

impl TokenName {
    fn text(&self) -> &str {
        match self {
            TokenName::Text(text) | TokenName::Added { content: text } => text,
        }
    }
}

/// The chat templates of `chat_template`: one, or several by name, of which the last of a name counts.
fn templates(value: Value) -> Result<Vec<(String, String)>, TokenizeError> {
    let refused = |found: &Value| TokenizeError::FolderFile {
        file: "tokenizer_config.json".into(),
        why: format!(
            "has {} in 'chat_template'; expected a text, or a list of objects with texts 'name' and 'template'",
            quoted(&found.to_string())
        ),
    };
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::String(text) => return Ok(vec![("default".to_owned(), text)]),
        Value::Array(list) => list,
        other => return Err(refused(&other)),
    };
    let mut templates: Vec<(String, String)> = Vec::new();
    for item in &list {
        let text = |key: &str| item.get(key).and_then(Value::as_str);
        let (Some(name), Some(template)) = (text("name"), text("template")) else {
            return Err(refused(item));
        };
        templates.retain(|(known, _)| known != name);
        templates.push((name.to_owned(), template.to_owned()));
    }
    Ok(templates)
}

/// Beginnings of the tokenizer classes that put the configuration's `add_bos_token` and `add_eos_token` into effect.
const CLASSES_WITH_FLAGS: [&str; 4] = ["Llama", "CodeLlama", "Gemma", "Cohere"];

impl Config {
    pub(super) fn parse(json: &[u8]) -> Result<Self, TokenizeError> {
        let mut fields: Fields = parse("reading tokenizer_config.json", json)?;
        let chat_templates = templates(fields.chat_template.take().unwrap_or_default())?;
        Ok(Config {
            fields,
            chat_templates,
        })
    }

    /// The ids of the tokens named.
    ///
    /// # Errors
    /// A begin or end token that is not there. Others that are not there are none.
    pub(super) fn special_ids(
        &self,
        id: impl Fn(&str) -> Option<u32>,
        definition: &Definition,
    ) -> Result<SpecialIds, TokenizeError> {
        let fields = &self.fields;
        let find = |name: &Option<TokenName>| id(name.as_ref()?.text());
        let require = |role: &'static str, name: &Option<TokenName>| match name {
            None => Ok(None),
            Some(name) => match id(name.text()) {
                Some(id) => Ok(Some(id)),
                None => Err(TokenizeError::NamedTokenMissing {
                    role,
                    text: quoted(name.text()),
                }),
            },
        };
        let unknown = find(&fields.unk_token)
            .or(definition.model.unk_token.as_deref().and_then(&id))
            .or(definition.model.unk_id);
        Ok(SpecialIds {
            begin: require("bos_token", &fields.bos_token)?.or(find(&fields.cls_token)),
            end: require("eos_token", &fields.eos_token)?,
            end_of_turn: None,
            end_of_message: None,
            unknown,
            separator: find(&fields.sep_token),
            padding: find(&fields.pad_token),
            mask: find(&fields.mask_token),
        })
    }

    /// Adds the begin and end tokens or leaves them out, where the configuration says so and its class heeds it.
    ///
    /// # Errors
    /// A token that is to be added but not named.
    pub(super) fn override_added(
        &self,
        special: &SpecialIds,
        before: &mut Vec<u32>,
        after: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        let class = self.fields.tokenizer_class.as_deref().unwrap_or_default();
        if !CLASSES_WITH_FLAGS
            .iter()
            .any(|name| class.starts_with(name))
        {
            return Ok(());
        }
        let flags = [
            ("begin", self.fields.add_bos_token, special.begin, before),
            ("end", self.fields.add_eos_token, special.end, after),
        ];
        for (name, flag, id, list) in flags {
            match (flag, id) {
                (None, _) => {}
                (Some(false), _) => list.clear(),
                (Some(true), Some(id)) => *list = vec![id],
                (Some(true), None) => return Err(TokenizeError::MissingSpecial { name }),
            }
        }
        Ok(())
    }
}
