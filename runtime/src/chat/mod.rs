//! Conversations with models that were made for them.
//!
//! A [`ChatTemplate`] turns [`Message`]s into the text of a prompt, as the model's own template
//! says; [`Chat`] keeps a conversation over a [`Session`](crate::Session) and computes only what is
//! new of each prompt.

mod blocks;
mod conversation;
mod date;
mod error;
mod guard;
mod message;
mod python;
mod template;

pub use conversation::{Chat, Reply};
pub use date::Date;
pub use error::ChatError;
pub use message::Message;
pub use template::{ChatInput, ChatTemplate, Rendered, TemplateLimits};
