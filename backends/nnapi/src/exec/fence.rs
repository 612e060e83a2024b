//! Fences: runs that begin when others end, without the host between them.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use anynpu_hal::{Reason, ReasonCode};

use super::{NnapiError, check, function};
use crate::FeatureLevel;
use crate::sys::{self, Runtime};

/// What will have happened: the end of a run, or of whatever a fence of the kernel stands for.
#[derive(Debug)]
pub struct Fence {
    runtime: Arc<Runtime>,
    pub(super) handle: *mut sys::Event,
}

// SAFETY: events may be waited for, and depended on, from any thread.
unsafe impl Send for Fence {}
// SAFETY: as for Send: nothing of them is changed but by the runtime, under locks of its own.
unsafe impl Sync for Fence {}

impl Fence {
    pub(super) fn none(runtime: &Arc<Runtime>) -> Fence {
        Fence {
            runtime: runtime.clone(),
            handle: std::ptr::null_mut(),
        }
    }

    /// The end of what `fd`, a fence of the kernel, stands for; the runtime takes a descriptor of its own.
    ///
    /// # Errors
    /// A runtime without fences; a descriptor that is none.
    pub fn of_fd(runtime: &Arc<Runtime>, fd: BorrowedFd<'_>) -> Result<Fence, NnapiError> {
        let create = function!(runtime, event_create_from_sync_fence_fd)?;
        let mut fence = Fence::none(runtime);
        // SAFETY: the descriptor is open during the call; the function writes a pointer to a new object.
        let code = unsafe { create(fd.as_raw_fd(), &raw mut fence.handle) };
        check("event_create_from_sync_fence_fd", "a fence", code)?;
        Ok(fence)
    }

    /// The kernel's fence behind it, for others than this runtime; `None` of a run that the runtime ended by itself, as
    /// it does where a driver has no fences.
    ///
    /// # Errors
    /// A runtime without fences; the system's own.
    pub fn fd(&self) -> Result<Option<OwnedFd>, NnapiError> {
        let get = function!(self.runtime, event_get_sync_fence_fd)?;
        let mut fd = -1;
        // SAFETY: the event is there; the function writes a number.
        let code = unsafe { get(self.handle, &raw mut fd) };
        match code {
            sys::NO_ERROR if fd >= 0 => {
                // SAFETY: a descriptor that is given is the caller's own.
                Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
            }
            // by the interface, what has no fence is told so
            sys::BAD_DATA => Ok(None),
            code => {
                check("event_get_sync_fence_fd", "a fence", code)?;
                Ok(None)
            }
        }
    }

    /// Waits for it.
    ///
    /// # Errors
    /// What the run failed with.
    pub fn wait(&self) -> Result<(), NnapiError> {
        let wait = function!(self.runtime, event_wait)?;
        // SAFETY: the event is there, and may be waited for as often as one likes.
        let code = unsafe { wait(self.handle) };
        check("event_wait", "a run", code)
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        if let Some(free) = self.runtime.functions.event_free
            && !self.handle.is_null()
        {
            // SAFETY: the runtime made it, and nobody waits for it any more.
            unsafe { free(self.handle) };
        }
    }
}

/// Why runs of `runtime` can't depend on each other by fences, if they can't.
pub fn no_fences(runtime: &Runtime) -> Option<Reason> {
    let (level, needed) = (runtime.level, FeatureLevel::FL4);
    let functions = &runtime.functions;
    if level < needed {
        let what = format!("fences need feature level {needed}, the runtime has {level}");
        return Some(Reason::new(ReasonCode::OpVersion, what));
    }
    let missing = functions
        .execution_start_compute_with_dependencies
        .is_none();
    missing.then(|| {
        let what = "this runtime has no function 'execution_start_compute_with_dependencies'";
        Reason::new(ReasonCode::OpVersion, what)
    })
}
