//! Which objects there are, so that the use of one that was freed is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Addresses of the objects that were handed out and not freed, with their kinds.
static LIVE: Mutex<BTreeMap<usize, &'static str>> = Mutex::new(BTreeMap::new());

/// Addresses of the executions that are under way.
static BUSY: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// Notes whether the execution at `address` is under way.
pub fn set_busy(address: usize, busy: bool) {
    let mut all = BUSY.lock().unwrap_or_else(|e| e.into_inner());
    match busy {
        true => all.insert(address),
        false => all.remove(&address),
    };
}

/// Whether the object at `address` is an execution that is under way.
pub fn is_busy(address: usize) -> bool {
    let all = BUSY.lock().unwrap_or_else(|e| e.into_inner());
    all.contains(&address)
}

/// Objects of the interface.
pub trait Object {
    /// Whether another object still needs it.
    fn is_needed(&self) -> bool {
        false
    }
}

/// Ends the process, as what was done is undefined in the real runtime.
pub fn violated(what: &str) -> ! {
    eprintln!("nnapi double: {what}");
    std::process::abort()
}

/// Hands out `object`.
pub fn give<T>(kind: &'static str, object: T) -> *mut T {
    let pointer = Box::into_raw(Box::new(object));
    let mut live = LIVE.lock().unwrap_or_else(|e| e.into_inner());
    live.insert(pointer.addr(), kind);
    pointer
}

/// The object at `pointer`; `None` if it is null.
///
/// # Safety
/// Nobody else changes the object meanwhile.
pub unsafe fn get<'a, T>(kind: &'static str, pointer: *mut T) -> Option<&'a mut T> {
    if pointer.is_null() {
        return None;
    }
    let live = LIVE.lock().unwrap_or_else(|e| e.into_inner());
    match live.get(&pointer.addr()) {
        // SAFETY: it was made by `give` and not freed; the caller vouches for the rest.
        Some(found) if *found == kind => Some(unsafe { &mut *pointer }),
        Some(found) => violated(&format!("a {found} was used as a {kind}")),
        None => violated(&format!("a {kind} was used that does not exist any more")),
    }
}

/// Takes back the object at `pointer`; nothing if it is null.
///
/// # Safety
/// Nobody uses the object.
pub unsafe fn free<T: Object>(kind: &'static str, pointer: *mut T) {
    // SAFETY: by the contract.
    let Some(object) = (unsafe { get(kind, pointer) }) else {
        return;
    };
    if is_busy(pointer.addr()) {
        violated(&format!("a {kind} was freed before its run was waited for"));
    }
    if object.is_needed() {
        violated(&format!("a {kind} was freed that others need"));
    }
    let mut live = LIVE.lock().unwrap_or_else(|e| e.into_inner());
    live.remove(&pointer.addr());
    // SAFETY: `give` made it of a box, and it was there until now.
    drop(unsafe { Box::from_raw(pointer) });
}
