//! Which objects there are, so that the use of one that was freed is noticed.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Addresses of the objects that were handed out and not freed, with their kinds.
static LIVE: Mutex<BTreeMap<usize, &'static str>> = Mutex::new(BTreeMap::new());

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
    if object.is_needed() {
        violated(&format!("a {kind} was freed that others need"));
    }
    let mut live = LIVE.lock().unwrap_or_else(|e| e.into_inner());
    live.remove(&pointer.addr());
    // SAFETY: `give` made it of a box, and it was there until now.
    drop(unsafe { Box::from_raw(pointer) });
}
