//! Messages of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::ChatError;

/// One message: an object with a `role`, usually a `content` (a text, or a list of parts like
/// `{"type": "text", "text": …}`), and what else the template reads: `tool_calls`, `name`,
/// `tool_call_id`, `reasoning_content`. Fields keep their order, as a template may print them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    /// A message of `role` with this text.
    pub fn new(role: impl Into<String>, content: impl Into<Value>) -> Self {
        let mut fields = Map::new();
        fields.insert("role".into(), Value::String(role.into()));
        fields.insert("content".into(), content.into());
        Message { fields }
    }

    /// What the model is told before the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Message::new("system", content.into())
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Message::new("user", content.into())
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Message::new("assistant", content.into())
    }

    /// What a tool returned.
    pub fn tool(content: impl Into<String>) -> Self {
        Message::new("tool", content.into())
    }

    /// Sets a further field, e.g. `tool_calls`.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(field.into(), value.into());
        self
    }

    /// Reads a list of messages in the form that chat interfaces use.
    ///
    /// # Errors
    /// [`ChatError::Message`] names the first that is none.
    pub fn list(messages: Value) -> Result<Vec<Message>, ChatError> {
        let Value::Array(messages) = messages else {
            let what = "can't be read, as the conversation is no list".into();
            return Err(ChatError::Message { index: 0, what });
        };
        let read = |(index, message)| match message {
            Value::Object(fields) => {
                Message::try_from(fields).map_err(|what| ChatError::Message { index, what })
            }
            other => Err(ChatError::Message {
                index,
                what: format!("is {}", kind(&other)),
            }),
        };
        messages.into_iter().enumerate().map(read).collect()
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        self.fields
            .get("role")
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    /// The text: `content` itself, or the parts of type text one after the other.
    pub fn text(&self) -> String {
        match self.fields.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                let text = |part: &Value| part.get("text")?.as_str().map(str::to_owned);
                parts.iter().filter_map(text).collect()
            }
            _ => String::new(),
        }
    }

    /// All fields, in their order.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

impl TryFrom<Map<String, Value>> for Message {
    type Error = String;

    fn try_from(fields: Map<String, Value>) -> Result<Self, String> {
        match fields.get("role") {
            Some(Value::String(_)) => Ok(Message { fields }),
            Some(other) => Err(format!("has a role that is {}", kind(other))),
            None => Err("has no role".into()),
        }
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Self {
        message.fields
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_message_is_named_with_its_position() {
        let e = |v: Value| Message::list(v).unwrap_err().to_string();
        assert!(e(json!([{"role": "user"}, 3])).starts_with("message 1 is a number;"));
        assert!(e(json!([{"content": "x"}])).starts_with("message 0 has no role;"));
        assert!(e(json!([{"role": null}])).starts_with("message 0 has a role that is null;"));
        assert!(e(json!({"role": "user"})).contains("no list"));
    }

    #[test]
    fn fields_keep_their_order_and_the_text_is_that_of_all_parts() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]);
        let message = Message::new("user", parts).with("name", "x").with("age", 1);
        let keys: Vec<&String> = message.fields().keys().collect();
        assert_eq!(keys, ["role", "content", "name", "age"]);
        assert_eq!(message.text(), "ab");
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
    }
}
