//! Objects of the runtime, each of which holds what it must not outlive.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{BuiltModel, MemoryHandle};
use crate::sys::{self, Runtime};

/// An object of the runtime that is freed when it is dropped, before what it holds.
macro_rules! owned {
    ($(#[$doc:meta])* $name:ident $free:ident { $($field:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name {
            pub runtime: Arc<Runtime>,
            pub handle: *mut sys::$name,
            $(pub $field: $ty,)*
        }

        // SAFETY: the runtime's functions may be called from any thread, and the owner calls those that change the
        // object one at a time.
        unsafe impl Send for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                if let Some(free) = self.runtime.functions.$free
                    && !self.handle.is_null()
                {
                    // SAFETY: the runtime made it, and nobody uses it any more.
                    unsafe { free(self.handle) };
                }
            }
        }
    };
}
owned!(
    /// A compiled model, with the model, which must outlive it.
    Compilation compilation_free { _model: BuiltModel });
owned!(
    /// A run that is prepared, with what it is of and all memory that is bound to it.
    Execution execution_free { _compilation: Arc<Compilation>, _memories: Vec<Arc<MemoryHandle>> });
owned!(
    /// Runs that follow each other fast.
    Burst burst_free { _compilation: Arc<Compilation> });

// SAFETY: once it is finished, which its only maker does before it shares it, the runtime only reads it.
unsafe impl Sync for Compilation {}

/// The place of a prepared run: empty while it runs, and once its memory was given up.
#[derive(Debug, Default)]
pub struct Prepared(Mutex<Option<Execution>>);

impl Prepared {
    /// Takes the run out.
    pub(super) fn take(&self) -> Option<Execution> {
        self.0.lock().take()
    }

    /// Puts the run back.
    pub(super) fn put(&self, execution: Execution) {
        *self.0.lock() = Some(execution);
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_none()
    }
}
