//! A function at work: bringing in what it needs, and taking out what it gives.

use std::sync::Arc;

use anynpu_hal::{
    Access, Buffer, EntryInfo, HalError, MemoryKind, Submission, read_bytes, write_bytes,
};
use anynpu_ir::{DType, Symbol};
use parking_lot::Mutex;

use super::numbers::{bytes_of, fill, into_function, out_of_function};
use super::staged::Staged;
use super::states::{Package, StateBuffer, StateSet};
use super::{Given, Loaded, Taken};
use crate::CoreMlError;
use crate::binding::{Array, FunctionPlan, Place, Source};

/// A function that is loaded, with memory for what does not cross as it is.
#[derive(Debug)]
pub(crate) struct Program {
    plan: FunctionPlan,
    package: Arc<Package>,
    /// Which function of the package.
    number: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    loaded: Box<dyn Loaded>,
    /// For each input and output.
    inputs: Vec<Staged>,
    outputs: Vec<Staged>,
    /// Of each input, how many of its first bytes are not 0, where it is a state.
    filled: Vec<usize>,
    /// States for runs whose rows are with the host.
    own: Option<Arc<StateSet>>,
    /// The numbers in each operand that has positions or numbers of rows.
    positions: Vec<(usize, Vec<i32>)>,
    /// Bytes on their way into another type.
    bytes: Vec<u8>,
}

impl Program {
    /// `loaded`, which is the function of `plan`, number `number` of `package`, and runs the entry that `info` describes.
    pub fn new(
        plan: FunctionPlan,
        info: &EntryInfo,
        (package, number): (&Arc<Package>, usize),
        mut loaded: Box<dyn Loaded>,
    ) -> Program {
        let mut staged = |array: &Array, dtype: Option<DType>| match dtype {
            Some(dtype) if array.element.is(dtype) => Staged::Crosses,
            _ => Staged::of(array, &mut *loaded),
        };
        let value = |port: usize| info.inputs.get(port).map(|p| p.ty.dtype);
        let state = |port: usize| info.states.get(port).map(|p| p.dtype);
        let inputs = plan.inputs.iter().map(|(array, source)| {
            let dtype = match source {
                Source::Value(port) => value(*port),
                Source::State(port) | Source::StepRows(port) => state(*port),
                _ => None,
            };
            staged(array, dtype)
        });
        let inputs = inputs.collect();
        let outputs = plan.outputs.iter().map(|(array, place)| {
            let dtype = match place {
                Place::Value(port) => info.outputs.get(*port).map(|p| p.ty.dtype),
                // what a state holds is read meanwhile
                Place::Part { .. } | Place::Rows(_) => None,
            };
            staged(array, dtype)
        });
        let outputs = outputs.collect();
        let sources = plan.inputs.iter().map(|(_, source)| source);
        let mut ports: Vec<usize> = plan.numbered.iter().map(|n| n.port).collect();
        ports.extend(sources.filter_map(|source| match source {
            Source::Cosines(a) | Source::Sines(a) => Some(a.positions),
            Source::Mask(m) => Some(m.positions),
            _ => None,
        }));
        ports.sort_unstable();
        ports.dedup();
        Program {
            inner: Mutex::new(Inner {
                loaded,
                inputs,
                outputs,
                filled: vec![0; plan.inputs.len()],
                own: None,
                positions: ports.into_iter().map(|p| (p, Vec::new())).collect(),
                bytes: Vec::new(),
            }),
            package: package.clone(),
            number,
            plan,
        }
    }

    /// Bytes of its own memory.
    pub fn staged(&self) -> u64 {
        let inner = self.inner.lock();
        let all = inner.inputs.iter().chain(&inner.outputs);
        all.map(|p| p.bytes() as u64).sum()
    }

    /// Whether a run has the sizes that it was compiled for, and states room for them.
    pub fn check(&self, s: &Submission<'_>, info: &EntryInfo) -> Result<(), HalError> {
        let wrong = |what: &str, found: String, expected: String| HalError::InvalidUse {
            call: "submit",
            what: what.into(),
            found,
            expected,
        };
        let (tokens, cached) = (s.symbols.get(Symbol::TOKENS), s.symbols.get(Symbol::CACHED));
        if tokens != self.plan.tokens {
            let expected = format!("{}, as '{}' was compiled", self.plan.tokens, info.name);
            return Err(wrong("tokens of a step", tokens.to_string(), expected));
        }
        if !info.states.is_empty() && cached.saturating_add(tokens) > self.plan.capacity {
            return Err(wrong(
                "the end of a step",
                cached.saturating_add(tokens).to_string(),
                format!("at most {} rows", self.plan.capacity),
            ));
        }
        let rows = |port: usize, array: &Array, count: u32| {
            let (buffer, dtype) = (&s.states[port], info.states[port].dtype);
            let row = bytes_of(dtype, array.elements() / count.max(1) as usize);
            let needed = row.saturating_mul(self.plan.capacity as usize);
            match buffer.desc().bytes < needed {
                true => Err(wrong(
                    &format!("buffer '{}' for a state", buffer.desc().name),
                    format!("{} bytes", buffer.desc().bytes),
                    format!("{needed} bytes"),
                )),
                false => Ok(()),
            }
        };
        for (array, source) in &self.plan.inputs {
            match source {
                Source::State(port) => rows(*port, array, self.plan.capacity)?,
                Source::StepRows(port) => rows(*port, array, tokens)?,
                _ => {}
            }
        }
        for kept in &self.plan.states {
            rows(kept.port, &kept.array, self.plan.capacity)?;
        }
        for (array, place) in &self.plan.outputs {
            if let Place::Rows(port) = place {
                rows(*port, array, tokens)?;
            }
        }
        Ok(())
    }

    pub fn run(&self, device: &str, s: &Submission<'_>, info: &EntryInfo) -> Result<(), HalError> {
        let mut inner = self.inner.lock();
        let Inner {
            loaded,
            inputs,
            outputs,
            filled,
            own: own_states,
            positions,
            bytes,
        } = &mut *inner;
        let cached = s.symbols.get(Symbol::CACHED);
        let tokens = self.plan.tokens.max(1) as usize;
        for (port, positions) in &mut *positions {
            let wanted = info.inputs[*port].ty.bytes(&s.symbols).unwrap_or(0);
            bytes.resize(wanted, 0);
            read(&s.inputs[*port], 0, bytes)?;
            positions.clear();
            let numbers = bytes.chunks_exact(4);
            positions.extend(numbers.map(|b| i32::from_ne_bytes(b.try_into().unwrap_or_default())));
            for numbered in self.plan.numbered.iter().filter(|n| n.port == *port) {
                let limit = numbered.limit;
                let row = |p: &&i32| u32::try_from(**p).is_ok_and(|p| p < limit);
                if let Some((at, beyond)) = positions.iter().enumerate().find(|(_, p)| !row(p)) {
                    return Err(HalError::InvalidUse {
                        call: "submit",
                        what: format!("element {at} of '{}'", s.inputs[*port].desc().name),
                        found: beyond.to_string(),
                        expected: format!("0 to below {limit}"),
                    });
                }
            }
        }
        let of = |port: usize| -> &[i32] {
            let known = positions.iter().find(|(p, _)| *p == port);
            known.map_or(&[], |(_, positions)| positions)
        };
        let mut mapped = Mapped::default();
        let mut given: Vec<Option<&[u8]>> = Vec::with_capacity(inputs.len());
        for (((array, source), own), filled) in
            self.plan.inputs.iter().zip(&mut *inputs).zip(filled)
        {
            let element = array.element;
            let staged = |e: CoreMlError| e.of_device(device);
            // where what is bound is what the function reads, it is read where it is
            let (buffer, dtype, offset) = match source {
                Source::Value(port) => (&s.inputs[*port], info.inputs[*port].ty.dtype, 0),
                Source::State(port) => (&s.states[*port], info.states[*port].dtype, 0),
                Source::StepRows(port) => {
                    let dtype = info.states[*port].dtype;
                    let row = bytes_of(dtype, array.elements()) / tokens;
                    (&s.states[*port], dtype, row * cached as usize)
                }
                Source::Cached => {
                    let cached = (cached as i32).to_ne_bytes();
                    let filled = own.write(|to| to.copy_from_slice(&cached));
                    filled.map_err(staged)?;
                    given.push(None);
                    continue;
                }
                Source::Cosines(angles) => {
                    let cosines = |to: &mut [u8]| {
                        fill(element, to, angles.cosines(of(angles.positions)));
                    };
                    own.write(cosines).map_err(staged)?;
                    given.push(None);
                    continue;
                }
                Source::Sines(angles) => {
                    let sines =
                        |to: &mut [u8]| fill(element, to, angles.sines(of(angles.positions)));
                    own.write(sines).map_err(staged)?;
                    given.push(None);
                    continue;
                }
                Source::Mask(mask) => {
                    let rows = |to: &mut [u8]| {
                        fill(element, to, mask.rows(of(mask.positions), cached));
                    };
                    own.write(rows).map_err(staged)?;
                    given.push(None);
                    continue;
                }
            };
            if element.is(dtype) {
                given.push(Some(mapped.read(buffer, offset, array.bytes())?));
                continue;
            }
            let (mut seen, mut before) = (array.bytes(), 0);
            if let Source::State(_) = source {
                // the first so many rows; what earlier runs had after them is nobody's any more
                seen = seen / self.plan.capacity.max(1) as usize * cached as usize;
                before = std::mem::replace(filled, seen);
            }
            bytes.resize(bytes_of(dtype, seen / element.bytes()), 0);
            read(buffer, offset, bytes)?;
            let copied = own.write(|to| {
                to[seen..before.max(seen)].fill(0);
                into_function(dtype, bytes, element, &mut to[..seen]);
            });
            copied.map_err(staged)?;
            given.push(None);
        }
        let mut taken: Vec<Taken<'_>> = Vec::with_capacity(outputs.len());
        for ((array, place), own) in self.plan.outputs.iter().zip(&mut *outputs) {
            taken.push(match place {
                Place::Value(port) if array.element.is(info.outputs[*port].ty.dtype) => {
                    Taken::Bytes(mapped.write(&s.outputs[*port], array.bytes())?)
                }
                _ => own.taken(),
            });
        }
        let given: Vec<Given<'_>> = given
            .into_iter()
            .zip(&*inputs)
            .map(|(bound, own)| own.given(bound))
            .collect();
        let ran = self.predict(&mut **loaded, own_states, s, info, (&given, &mut taken));
        drop((given, taken, mapped));
        ran.map_err(|e| e.of_device(device))?;
        for ((array, place), own) in self.plan.outputs.iter().zip(&*outputs) {
            let taken = own.read(|from| {
                let taken = take(array, *place, from, (s, info), cached, bytes);
                taken.map_err(CoreMlError::from)
            });
            taken.map_err(|e| e.of_device(device))?;
        }
        Ok(())
    }

    /// Runs the function, with the states that are bound.
    fn predict(
        &self,
        loaded: &mut dyn Loaded,
        own: &mut Option<Arc<StateSet>>,
        s: &Submission<'_>,
        info: &EntryInfo,
        (given, taken): (&[Given<'_>], &mut [Taken<'_>]),
    ) -> Result<(), CoreMlError> {
        if self.plan.states.is_empty() {
            return loaded.predict(given, taken, None);
        }
        let kept = self.plan.states.iter().map(|kept| {
            let bound = s.states[kept.port].as_any();
            bound.downcast_ref::<StateBuffer>()
        });
        let Some(homes) = kept.collect::<Option<Vec<&StateBuffer>>>() else {
            return self.predict_copied(loaded, own, s, info, (given, taken));
        };
        let mut set = self.set_of(loaded, &homes)?;
        self.put_in(&set, &homes, info)?;
        let mut ran = loaded.predict(given, taken, Some(&mut **set.memory.lock()));
        if let Err(e) = &ran
            && set.function != self.number
            && !matches!(e, CoreMlError::NoMemory { .. } | CoreMlError::Late { .. })
        {
            // it may be that states of another function are not taken
            tracing::debug!("once more with states of its own: {e}");
            self.package.set_shares(false);
            let made = self.set_of(loaded, &homes).and_then(|own| {
                self.put_in(&own, &homes, info)?;
                Ok(own)
            });
            if let Ok(own) = made {
                set = own;
                let again = loaded.predict(given, taken, Some(&mut **set.memory.lock()));
                match again {
                    Ok(()) => ran = Ok(()),
                    // then it was not that
                    Err(_) => self.package.set_shares(true),
                }
            }
        }
        for (home, kept) in homes.iter().zip(&self.plan.states) {
            if kept.written {
                home.ran(ran.is_ok());
            }
        }
        ran
    }

    /// The states that `homes` are in, if those can be given to this function; else new ones.
    fn set_of(
        &self,
        loaded: &mut dyn Loaded,
        homes: &[&StateBuffer],
    ) -> Result<Arc<StateSet>, CoreMlError> {
        let first = homes.first().and_then(|home| home.set(0));
        let fits = |set: &Arc<StateSet>| {
            let mut all = homes.iter().enumerate();
            set.fits(&self.package, self.number, &self.plan.states)
                && all.all(|(i, home)| home.set(i).is_some_and(|own| Arc::ptr_eq(&own, set)))
        };
        match first.filter(fits) {
            Some(set) => Ok(set),
            None => StateSet::new(&self.package, self.number, &self.plan.states, loaded),
        }
    }

    fn put_in(
        &self,
        set: &Arc<StateSet>,
        homes: &[&StateBuffer],
        info: &EntryInfo,
    ) -> Result<(), CoreMlError> {
        for (i, (home, kept)) in homes.iter().zip(&self.plan.states).enumerate() {
            home.put_in(set, i, kept, info.states[kept.port].dtype)?;
        }
        Ok(())
    }

    /// Runs the function for rows that are with the host: they are copied to states of its own, and new ones back.
    fn predict_copied(
        &self,
        loaded: &mut dyn Loaded,
        own: &mut Option<Arc<StateSet>>,
        s: &Submission<'_>,
        info: &EntryInfo,
        (given, taken): (&[Given<'_>], &mut [Taken<'_>]),
    ) -> Result<(), CoreMlError> {
        let set = match own {
            Some(set) => set.clone(),
            None => {
                let made = StateSet::new(&self.package, self.number, &self.plan.states, loaded)?;
                own.insert(made).clone()
            }
        };
        let cached = s.symbols.get(Symbol::CACHED) as usize;
        let row = |kept: &crate::binding::KeptState| {
            let [heads, _, width] = kept.sizes();
            bytes_of(info.states[kept.port].dtype, heads * width)
        };
        for kept in &self.plan.states {
            let mut rows = vec![0; row(kept) * self.plan.capacity as usize];
            read(&s.states[kept.port], 0, &mut rows)?;
            set.put(kept, info.states[kept.port].dtype, &rows)?;
        }
        loaded.predict(given, taken, Some(&mut **set.memory.lock()))?;
        for kept in self.plan.states.iter().filter(|kept| kept.written) {
            let mut rows = vec![0; row(kept) * self.plan.tokens as usize];
            set.get(kept, info.states[kept.port].dtype, cached, &mut rows)?;
            write(&s.states[kept.port], row(kept) * cached, &rows)?;
        }
        Ok(())
    }
}

/// Takes an output out of memory that is not bound, to `place`.
fn take(
    array: &Array,
    place: Place,
    from: &[u8],
    (s, info): (&Submission<'_>, &EntryInfo),
    cached: u32,
    bytes: &mut Vec<u8>,
) -> Result<(), HalError> {
    let (buffer, offset, dtype) = match place {
        Place::Value(port) => (&s.outputs[port], 0, info.outputs[port].ty.dtype),
        Place::Rows(port) => {
            let dtype = info.states[port].dtype;
            let tokens = s.symbols.get(Symbol::TOKENS).max(1) as usize;
            let row = bytes_of(dtype, array.elements()) / tokens;
            (&s.states[port], row * cached as usize, dtype)
        }
        Place::Part {
            port,
            first,
            columns,
        } => {
            let dtype = info.outputs[port].ty.dtype;
            let own = array.dims.last().map_or(1, |n| *n as usize);
            bytes.resize(bytes_of(dtype, own), 0);
            let rows = from.chunks_exact((own * array.element.bytes()).max(1));
            for (row, i) in rows.zip(0..) {
                out_of_function(array.element, row, dtype, bytes);
                let at = i * columns as usize + first as usize;
                write(&s.outputs[port], bytes_of(dtype, at), bytes)?;
            }
            return Ok(());
        }
    };
    bytes.resize(bytes_of(dtype, array.elements()), 0);
    out_of_function(array.element, from, dtype, bytes);
    write(buffer, offset, bytes)
}

/// Buffers that are mapped during a run.
#[derive(Default)]
struct Mapped<'a>(Vec<&'a Arc<dyn Buffer>>);

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|buffer| buffer.unmap());
    }
}

impl<'a> Mapped<'a> {
    /// `bytes` bytes from `offset` on.
    fn read(
        &mut self,
        buffer: &'a Arc<dyn Buffer>,
        offset: usize,
        bytes: usize,
    ) -> Result<&'a [u8], HalError> {
        self.check(buffer, offset, bytes)?;
        // SAFETY: a submission has its operands and states to read until its signal, and nobody writes them meanwhile: its
        // own results are other buffers, and rows of states are written when nothing is mapped any more. The range was
        // checked. Whoever submitted it holds the buffer until the signal, which comes after the last use of this.
        let memory = unsafe {
            let memory = buffer.map(Access::Read)?;
            let from = memory.cast::<u8>().as_ptr().add(offset);
            std::slice::from_raw_parts(from, bytes)
        };
        self.0.push(buffer);
        Ok(memory)
    }

    /// The first `bytes` bytes.
    #[allow(clippy::mut_from_ref)] // the memory is not the buffer's own, and whoever submitted it lends it for the run
    fn write(
        &mut self,
        buffer: &'a Arc<dyn Buffer>,
        bytes: usize,
    ) -> Result<&'a mut [u8], HalError> {
        self.check(buffer, 0, bytes)?;
        // SAFETY: a submission has its results to write until its signal, each once. Otherwise as in `read`.
        let memory = unsafe {
            let memory = buffer.map(Access::Write)?;
            std::slice::from_raw_parts_mut(memory.cast::<u8>().as_ptr(), bytes)
        };
        self.0.push(buffer);
        Ok(memory)
    }

    fn check(&self, buffer: &Arc<dyn Buffer>, offset: usize, bytes: usize) -> Result<(), HalError> {
        let desc = buffer.desc();
        let end = offset.checked_add(bytes);
        match end.is_some_and(|end| end <= desc.bytes) && desc.kind == MemoryKind::Host {
            true => Ok(()),
            false => Err(HalError::InvalidUse {
                call: "submit",
                what: format!("buffer '{}'", desc.name),
                found: format!("{} bytes of {:?} memory", desc.bytes, desc.kind),
                expected: format!("{bytes} bytes from {offset} on of Host memory"),
            }),
        }
    }
}

fn read(buffer: &Arc<dyn Buffer>, offset: usize, out: &mut [u8]) -> Result<(), HalError> {
    // SAFETY: a submission has its operands and states to read until its signal, and nobody writes them meanwhile.
    unsafe { read_bytes(&**buffer, offset, out) }
}

fn write(buffer: &Arc<dyn Buffer>, offset: usize, data: &[u8]) -> Result<(), HalError> {
    // SAFETY: a submission has its results and states to write until its signal, and nothing is mapped here any more.
    unsafe { write_bytes(&**buffer, offset, data) }
}
