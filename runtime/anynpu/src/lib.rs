//! Run language models on the devices of this machine: the crate that apps add.
//!
//! It brings the runtime's session interface and the backends built into this build. A runtime
//! opens devices, a model is loaded onto them, a session generates. Afterwards the report says what
//! ran where, as counted while running:
//!
#![cfg_attr(feature = "story-model", doc = "```")]
#![cfg_attr(not(feature = "story-model"), doc = "```ignore")]
//! use std::ops::ControlFlow;
//! use anynpu::{GenerateOptions, LoadOptions, SessionOptions};
//!
//! let model = anynpu::runtime()?.load(anynpu::story_model(), LoadOptions::new())?;
//! let mut session = model.session(SessionOptions::new())?;
//! let options = GenerateOptions::new().max_tokens(40).seed(1);
//! let report = session.generate("Once upon a time", &options, |piece| {
//!     print!("{}", piece.text);
//!     ControlFlow::Continue(())
//! })?;
//! for segment in &report.plan.phases[1].segments {
//!     println!("\n{}: layers {:?}", segment.device, segment.layers);
//! }
//! println!("{:?}", report.executed.devices);
//! # assert!(report.executed.devices["cpu"].nodes > 0 && !report.text.is_empty());
//! # Ok::<(), anynpu::RuntimeError>(())
//! ```
//!
//! With a model file of yours, give its path: `load("model.gguf", LoadOptions::new())`.
//!
//! Loading tells how far it has come and stops when it is asked to, and so does generating:
//!
#![cfg_attr(feature = "story-model", doc = "```")]
#![cfg_attr(not(feature = "story-model"), doc = "```ignore")]
//! use std::ops::ControlFlow;
//! use anynpu::{CancelToken, FinishReason, GenerateOptions, LoadOptions, SessionOptions};
//!
//! let stop = CancelToken::new(); // a clone of it can go to a button or a signal handler
//! let options = LoadOptions::new().cancel(stop.clone()).progress(|p| {
//!     println!("{:?}: {} of {}", p.stage, p.done, p.total);
//!     ControlFlow::Continue(()) // Break stops it, too
//! });
//! let model = anynpu::runtime()?.load(anynpu::story_model(), options)?;
//!
//! let options = GenerateOptions::new().cancel(stop.clone());
//! let mut session = model.session(SessionOptions::new())?;
//! let report = session.generate("", &options, |_| {
//!     stop.cancel();
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(report.finish, FinishReason::Cancelled);
//! # Ok::<(), anynpu::RuntimeError>(())
//! ```
//!
//! # Conversations
//! A model made for conversations carries a template; a [`Chat`] renders with it, keeps the history
//! and computes only what is new of each prompt:
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use anynpu::{Chat, GenerateOptions, LoadOptions, Message, SessionOptions};
//!
//! let model = anynpu::runtime()?.load("model.gguf", LoadOptions::new())?;
//! let mut chat = Chat::new(model.session(SessionOptions::new())?)?.system("Answer briefly.");
//! for question in ["What is a neuron?", "And an axon?"] {
//!     chat.push(Message::user(question));
//!     let reply = chat.reply(&GenerateOptions::new(), |piece| {
//!         print!("{}", piece.text);
//!         ControlFlow::Continue(())
//!     })?;
//!     println!("\n{} tokens kept, {} computed", reply.reused_tokens, reply.computed_tokens);
//! }
//! # Ok::<(), anynpu::RuntimeError>(())
//! ```
//!
//! What users write never becomes a special token, so nobody ends a turn by writing its marker.
//!
//! # Several texts at once
//! A [`Batch`] puts a token of each of its sessions in by one run where the plan allows it, so that weights are read
//! once for all. A text that ends leaves the others to go on:
//!
#![cfg_attr(feature = "story-model", doc = "```")]
#![cfg_attr(not(feature = "story-model"), doc = "```ignore")]
//! use std::ops::ControlFlow;
//! use anynpu::{Batch, GenerateOptions, LoadOptions, Prompt, SessionOptions};
//!
//! let model = anynpu::runtime()?.load(anynpu::story_model(), LoadOptions::new())?;
//! let prompts = ["Once upon a time", "The dog", "Lily found a box"].map(Prompt::from);
//! let sessions = prompts.iter().map(|_| model.session(SessionOptions::new()));
//! let mut batch = Batch::new(sessions.collect::<Result<_, _>>()?)?;
//! if let Err(why) = batch.together() {
//!     println!("one by one: {why}");
//! }
//! let options = GenerateOptions::new().max_tokens(40).seed(1);
//! let reports = batch.generate(&prompts, &options, |number, piece| {
//!     print!("[{number}]{}", piece.text);
//!     ControlFlow::Continue(())
//! })?;
//! println!("{:?}", batch.steps());
//! # assert!(reports.len() == 3 && batch.steps().together > 0);
//! # Ok::<(), anynpu::RuntimeError>(())
//! ```
//!
//! For choosing tokens by other means, [`Batch::decode`] takes one for each session, or none.
//!
//! # Choosing devices
//! [`builder`] starts a [`RuntimeBuilder`] with the built-in drivers: name devices, forbid them, set
//! threads. [`LoadOptions::placement`] pins layers to devices. A device that can't run a part says
//! why: see [`GenerationReport::fallbacks`] and [`LoadedModel::plans`].
//!
//! A backend that was built apart is a driver as well: [`Plugins`] loads those that are named, by code or in the
//! environment.
//!
//! # Features
//! `story-model` (default): the built-in model, 2.7 MB compiled into the program.
//!
//! It may depend on every package of the workspace but the tools. The three main types:
//! [`Runtime`], [`LoadedModel`], [`Session`].

#[cfg(feature = "story-model")]
mod story;

pub use anynpu_backends::{BackendOptions, Plugins, drivers, drivers_for, drivers_with};
pub use anynpu_runtime::*;
#[cfg(feature = "story-model")]
pub use story::story_model;

/// A [`RuntimeBuilder`] with the drivers built into this build, and those in the plugins that the environment variable
/// `ANYNPU_DRIVER_FILES` names.
pub fn builder() -> RuntimeBuilder {
    Runtime::builder()
        .drivers(drivers())
        .drivers(Plugins::of_environment().drivers())
}

/// A runtime of every real device that opens.
///
/// # Errors
/// No such device, or an environment variable with a value that makes no sense.
pub fn runtime() -> Result<Runtime, RuntimeError> {
    builder().build()
}
