//! Compiling for slow devices while the model runs on others already.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::model::Form;
use crate::plan::Refusal;
use crate::runner::exclusions;
use crate::{LoadedModel, RuntimeError};

/// What is compiled in the background, and what became of it.
#[derive(Debug)]
pub(crate) struct Background {
    running: AtomicBool,
    ready: OnceLock<Arc<Form>>,
    failures: Mutex<Vec<String>>,
}

impl Background {
    pub fn new(running: bool) -> Self {
        Background {
            running: AtomicBool::new(running),
            ready: OnceLock::new(),
            failures: Mutex::new(Vec::new()),
        }
    }

    /// The model as it is to run, once it is compiled.
    pub fn ready(&self) -> Option<&Arc<Form>> {
        self.ready.get()
    }

    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// What went wrong.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    fn failed(&self, why: String) {
        tracing::warn!("{why}");
        self.failures.lock().push(why);
    }
}

/// Compiles `model` without `excluded` on a thread of its own. Sessions move when it is done.
pub(crate) fn compile(model: &LoadedModel, excluded: Vec<Refusal>) {
    let own = model.clone();
    let thread = std::thread::Builder::new().name("compile in background".into());
    let started = thread.spawn(move || {
        let background = own.background();
        match compiled(&own, excluded) {
            Ok(form) => {
                // set once: this is the only thread that does
                let _ = background.ready.set(form);
            }
            Err(e) => background.failed(format!("compiling in the background failed: {e}")),
        }
        background.running.store(false, Ordering::Release);
    });
    if let Err(e) = started {
        let background = model.background();
        background.failed(format!("nothing compiles in the background: {e}"));
        background.running.store(false, Ordering::Release);
    }
}

fn compiled(model: &LoadedModel, mut excluded: Vec<Refusal>) -> Result<Arc<Form>, RuntimeError> {
    loop {
        let form = model.form(&excluded)?;
        match model.program(&form, model.context()) {
            Ok(_) => return Ok(form),
            Err(e) => {
                let more = exclusions(model, e, &excluded)?;
                model.background().failed(more.why);
                excluded.extend(more.refusals);
            }
        }
    }
}
