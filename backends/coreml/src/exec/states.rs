//! States that programs keep themselves from run to run.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anynpu_hal::{Access, Buffer, BufferDesc, HalError, HostBuffer};
use anynpu_ir::DType;
use parking_lot::Mutex;

use super::numbers::{bytes_of, into_function, out_of_function};
use super::{Loaded, StateMemory};
use crate::CoreMlError;
use crate::binding::{Array, KeptState};

/// The functions of a package, which share states that are the same in both.
#[derive(Debug)]
pub(crate) struct Package(AtomicBool);

impl Package {
    pub fn new() -> Package {
        Package(AtomicBool::new(true))
    }

    /// Whether one takes states that another made.
    pub fn shares(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes whether one does.
    pub fn set_shares(&self, shares: bool) {
        self.0.store(shares, Ordering::Relaxed);
    }
}

/// States that a function made: those of a session.
#[derive(Debug)]
pub(super) struct StateSet {
    package: Arc<Package>,
    /// Which function of the package.
    pub function: usize,
    layout: Vec<Array>,
    pub memory: Mutex<Box<dyn StateMemory>>,
}

impl StateSet {
    /// New ones of `loaded`, zeros.
    pub fn new(
        package: &Arc<Package>,
        function: usize,
        states: &[KeptState],
        loaded: &mut dyn Loaded,
    ) -> Result<Arc<StateSet>, CoreMlError> {
        Ok(Arc::new(StateSet {
            package: package.clone(),
            function,
            layout: states.iter().map(|s| s.array.clone()).collect(),
            memory: Mutex::new(loaded.states()?),
        }))
    }

    /// Whether `function` of `package`, which has `states`, can be given them.
    pub fn fits(&self, package: &Arc<Package>, function: usize, states: &[KeptState]) -> bool {
        let same = self.function == function || package.shares();
        let layout = self.layout.iter().eq(states.iter().map(|s| &s.array));
        Arc::ptr_eq(&self.package, package) && same && layout
    }

    /// Copies rows as a host keeps them to a state.
    pub fn put(&self, state: &KeptState, dtype: DType, rows: &[u8]) -> Result<(), CoreMlError> {
        let mut numbers = vec![0; state.array.bytes()];
        into_state(state, dtype, rows, &mut numbers);
        self.memory.lock().write(&state.array, &numbers)
    }

    /// Copies a state to rows as a host keeps them: those from `first` on, as many as `rows` holds.
    pub fn get(
        &self,
        state: &KeptState,
        dtype: DType,
        first: usize,
        rows: &mut [u8],
    ) -> Result<(), CoreMlError> {
        let mut numbers = vec![0; state.array.bytes()];
        self.memory.lock().read(&state.array, &mut numbers)?;
        out_of_state(state, &numbers, dtype, first, rows);
        Ok(())
    }
}

/// Rows `[rows, heads, width]` of `dtype` as numbers of `state`, `[heads, capacity, width]`. Rows that there are not stay.
fn into_state(state: &KeptState, dtype: DType, rows: &[u8], numbers: &mut [u8]) {
    let [heads, capacity, width] = state.sizes();
    let (outer, inner) = (bytes_of(dtype, width), width * state.array.element.bytes());
    for (row, rows) in rows
        .chunks_exact((heads * outer).max(1))
        .take(capacity)
        .enumerate()
    {
        for (head, from) in rows.chunks_exact(outer.max(1)).enumerate() {
            let at = (head * capacity + row) * inner;
            into_function(
                dtype,
                from,
                state.array.element,
                &mut numbers[at..at + inner],
            );
        }
    }
}

/// Numbers of `state` as rows of `dtype`, from row `first` on.
fn out_of_state(state: &KeptState, numbers: &[u8], dtype: DType, first: usize, rows: &mut [u8]) {
    let [heads, capacity, width] = state.sizes();
    let (outer, inner) = (bytes_of(dtype, width), width * state.array.element.bytes());
    let count = capacity.saturating_sub(first);
    for (row, rows) in rows
        .chunks_exact_mut((heads * outer).max(1))
        .take(count)
        .enumerate()
    {
        for (head, to) in rows.chunks_exact_mut(outer.max(1)).enumerate() {
            let at = (head * capacity + first + row) * inner;
            out_of_function(state.array.element, &numbers[at..at + inner], dtype, to);
        }
    }
}

/// The home of a state: one of a program, once a run used it, and rows in memory of the host where that wants to see them.
#[derive(Debug)]
pub(crate) struct StateBuffer {
    desc: BufferDesc,
    device: String,
    home: Mutex<Home>,
}

#[derive(Debug, Default)]
struct Home {
    /// Rows as hosts keep them. Zeros if there is nothing.
    host: Option<HostBuffer>,
    held: Option<Held>,
    newest: Newest,
}

/// Where the rows are as the last run or the host left them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Newest {
    #[default]
    Host,
    Program,
    Both,
}

/// A state of a program.
#[derive(Debug)]
struct Held {
    set: Arc<StateSet>,
    /// Which of the set.
    index: usize,
    state: KeptState,
    dtype: DType,
}

impl StateBuffer {
    /// A state of zeros.
    pub fn new(device: &str, desc: BufferDesc) -> StateBuffer {
        StateBuffer {
            desc,
            device: device.into(),
            home: Mutex::default(),
        }
    }

    /// The set that it is in, as its number `index`.
    pub(super) fn set(&self, index: usize) -> Option<Arc<StateSet>> {
        let home = self.home.lock();
        let held = home.held.as_ref().filter(|held| held.index == index);
        held.map(|held| held.set.clone())
    }

    /// Puts it in `set`, as its number `index`, as which it is `state` of rows of `dtype`.
    pub(super) fn put_in(
        &self,
        set: &Arc<StateSet>,
        index: usize,
        state: &KeptState,
        dtype: DType,
    ) -> Result<(), CoreMlError> {
        let mut home = self.home.lock();
        let there = home.held.as_ref().is_some_and(|held| {
            Arc::ptr_eq(&held.set, set) && held.index == index && held.dtype == dtype
        });
        if !there {
            self.fetch(&mut home)?;
            home.newest = Newest::Host;
            home.held = Some(Held {
                set: set.clone(),
                index,
                state: state.clone(),
                dtype,
            });
        }
        if home.newest == Newest::Host {
            match &home.host {
                Some(host) => set.put(state, dtype, seen(host))?,
                None => set.put(state, dtype, &[])?,
            }
            home.newest = match home.host {
                Some(_) => Newest::Both,
                None => Newest::Program,
            };
        }
        Ok(())
    }

    /// Notes that a run appended to it, or failed to.
    pub(super) fn ran(&self, ended: bool) {
        let mut home = self.home.lock();
        match (ended, home.newest) {
            (true, _) => {
                home.newest = Newest::Program;
                let held = home.held.as_ref();
                let rows = held.map_or(0, |h| bytes_of(h.dtype, h.state.array.elements()));
                if rows >= self.desc.bytes {
                    home.host = None;
                }
            }
            // what is with the host is as it was before the run
            (false, Newest::Both) => home.newest = Newest::Host,
            (false, _) => {}
        }
    }

    /// Memory of the host for its rows.
    fn host<'a>(&self, home: &'a mut Home) -> Result<&'a HostBuffer, HalError> {
        let host = match home.host.take() {
            Some(host) => host,
            None => HostBuffer::new(BufferDesc {
                kind: anynpu_hal::MemoryKind::Host,
                ..self.desc.clone()
            })?,
        };
        Ok(home.host.insert(host))
    }

    /// Brings its rows to the host, if they are with the program alone.
    fn fetch(&self, home: &mut Home) -> Result<(), CoreMlError> {
        if home.newest != Newest::Program {
            return Ok(());
        }
        self.host(home)?;
        if let (Some(host), Some(held)) = (&home.host, &home.held) {
            // SAFETY: the memory is as large as `desc` says, and nothing is mapped: no submission may be in flight while it
            // is, and whoever maps it comes here with the rows with the host.
            let rows = unsafe { std::slice::from_raw_parts_mut(host.as_ptr(), self.desc.bytes) };
            held.set.get(&held.state, held.dtype, 0, rows)?;
        }
        home.newest = Newest::Both;
        Ok(())
    }
}

/// The memory of `host`.
fn seen(host: &HostBuffer) -> &[u8] {
    // SAFETY: the memory is as large as that, and nobody writes it meanwhile: a state is put in its place in a submission,
    // while no mapping may write it.
    unsafe { std::slice::from_raw_parts(host.as_ptr(), host.desc().bytes) }
}

impl Buffer for StateBuffer {
    fn desc(&self) -> &BufferDesc {
        &self.desc
    }

    unsafe fn map(&self, access: Access) -> Result<NonNull<[u8]>, HalError> {
        let mut home = self.home.lock();
        let fetched = self.fetch(&mut home);
        fetched.map_err(|e| e.of_device(&self.device))?;
        let start = self.host(&mut home)?.as_ptr();
        if access == Access::Write {
            home.newest = Newest::Host;
        }
        let start = NonNull::new(start).unwrap_or(NonNull::dangling());
        Ok(NonNull::slice_from_raw_parts(start, self.desc.bytes))
    }

    fn unmap(&self) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
