//! The constants of models, in memory that the runtime reads in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anynpu_hal::{FileSpan, HalError, WeightSource};

use super::{NnapiError, SharedMemory};
use crate::model::{ConstantId, Constants};
use crate::sys::{self, Runtime};

/// The constants of a module's models, in memory that the runtime reads in place: those that a file has as they are
/// needed in the file, the rest in memory of their own.
#[derive(Debug)]
pub struct Store {
    memories: Vec<SharedMemory>,
    places: Vec<Place>,
    made: u64,
}

/// Where a constant is.
#[derive(Clone, Copy, Debug)]
struct Place {
    memory: usize,
    offset: usize,
    bytes: usize,
}

/// Most bytes of one memory, as runtimes count offsets in 32 bits. A larger constant has one by itself.
const MEMORY_BYTES: usize = 1 << 30;

/// Places for constants in memories of at most [`MEMORY_BYTES`] each.
#[derive(Debug, Default)]
struct Layout {
    /// Of each memory, its bytes.
    sizes: Vec<usize>,
}

impl Layout {
    fn add(&mut self, bytes: usize) -> Place {
        let aligned = bytes.next_multiple_of(64);
        let fits = |size: &usize| size.saturating_add(aligned) <= MEMORY_BYTES;
        if !self.sizes.last().is_some_and(fits) {
            self.sizes.push(0);
        }
        let memory = self.sizes.len() - 1;
        let size = &mut self.sizes[memory];
        let offset = *size;
        *size = offset.saturating_add(aligned);
        Place {
            memory,
            offset,
            bytes,
        }
    }
}

/// The part of a file that holds `span`: where it begins, and how many bytes it has. Parts begin at multiples of
/// [`MEMORY_BYTES`] and reach into the next one.
fn window(span: &FileSpan, length: u64) -> Option<(usize, usize)> {
    let unit = MEMORY_BYTES as u64;
    let start = span.offset / unit * unit;
    let end = start.saturating_add(2 * unit).min(length);
    let fits = span.offset.checked_add(span.length)? <= end;
    let size = usize::try_from(end - start.min(end)).ok()?;
    fits.then_some((usize::try_from(start).ok()?, size))
}

impl Store {
    /// The contents of `constants`. `progress` is called with how many of how many there are, and stops the work by
    /// `false`.
    ///
    /// # Errors
    /// Weights that can't be had, no memory, [`HalError::Cancelled`].
    pub fn new(
        runtime: &Arc<Runtime>,
        constants: &Constants,
        weights: &dyn WeightSource,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Store, NnapiError> {
        let mut files: BTreeMap<(PathBuf, usize), Option<usize>> = BTreeMap::new();
        let mut memories = Vec::new();
        let mut layout = Layout::default();
        // of each constant, where it is in a file, or where in memory of its own
        let mut places: Vec<Result<Place, Place>> = Vec::new();
        for constant in constants.all() {
            let place = constant.span(weights).and_then(|span| {
                // one that the runtime does not take is copied
                let file = File::open(&span.path).ok()?;
                let length = file.metadata().ok()?.len();
                let (start, size) = window(&span, length)?;
                let key = (span.path.clone(), start);
                let memory = files.entry(key).or_insert_with(|| {
                    let shown = span.path.display().to_string();
                    let memory = SharedMemory::of_file(runtime, file, start, size, &shown);
                    memories.push(memory.ok()?);
                    Some(memories.len() - 1)
                });
                Some(Place {
                    memory: (*memory)?,
                    offset: usize::try_from(span.offset).ok()?.checked_sub(start)?,
                    bytes: constant.bytes,
                })
            });
            places.push(place.ok_or_else(|| layout.add(constant.bytes)));
        }
        let first = memories.len();
        for size in &layout.sizes {
            memories.push(SharedMemory::new(runtime, *size, "constants")?);
        }
        let total = places.iter().filter(|p| p.is_err()).count() as u64;
        let mut done = 0;
        let mut all = Vec::with_capacity(places.len());
        for (place, constant) in places.into_iter().zip(constants.all()) {
            let mut place = match place {
                Ok(in_file) => {
                    all.push(in_file);
                    continue;
                }
                Err(own) => own,
            };
            place.memory += first;
            if !progress(done, total) {
                return Err(NnapiError::Weight(HalError::Cancelled {
                    what: "compiling".into(),
                }));
            }
            let contents = constant.contents(weights).map_err(NnapiError::Weight)?;
            let end = place.offset.saturating_add(place.bytes);
            let to = memories.get_mut(place.memory).map(SharedMemory::bytes_mut);
            match to.and_then(|m| m.get_mut(place.offset..end)) {
                Some(to) if to.len() == contents.len() => to.copy_from_slice(&contents),
                _ => {
                    return Err(NnapiError::Model {
                        what: format!("constant {}", all.len()),
                        found: format!("{} bytes", contents.len()),
                        expected: format!("{} bytes", place.bytes),
                    });
                }
            }
            all.push(place);
            done += 1;
        }
        progress(total, total);
        let made = layout.sizes.iter().map(|s| *s as u64);
        Ok(Store {
            memories,
            places: all,
            made: made.sum(),
        })
    }

    /// Memory with zeros for every constant: enough to ask drivers about models.
    ///
    /// # Errors
    /// There is none.
    pub fn blank(runtime: &Arc<Runtime>, constants: &Constants) -> Result<Store, NnapiError> {
        let all = constants.all();
        let most = all.iter().map(|c| c.bytes).max().unwrap_or(0);
        Ok(Store {
            memories: vec![SharedMemory::new(runtime, most, "constants")?],
            places: all
                .iter()
                .map(|c| Place {
                    memory: 0,
                    offset: 0,
                    bytes: c.bytes,
                })
                .collect(),
            made: 0,
        })
    }

    /// Bytes in memory of their own.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// The first `bytes` of constant `id`: the memory, and where they begin.
    pub(super) fn place(
        &self,
        id: ConstantId,
        bytes: usize,
    ) -> Option<(*const sys::Memory, usize)> {
        let place = self.places.get(id.0 as usize)?;
        let memory = self.memories.get(place.memory)?;
        (bytes <= place.bytes).then(|| (memory.handle().as_ptr(), place.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_laid_out_in_memories_whose_offsets_have_32_bits() {
        let mut layout = Layout::default();
        let place = |p: Place| (p.memory, p.offset);
        assert_eq!(place(layout.add(100)), (0, 0));
        assert_eq!(place(layout.add(MEMORY_BYTES - 128)), (0, 128));
        assert_eq!(place(layout.add(1)), (1, 0));
        assert_eq!(place(layout.add(5 * MEMORY_BYTES)), (2, 0));
        assert_eq!(place(layout.add(1)), (3, 0));
        assert_eq!(layout.sizes.len(), 4);
    }

    #[test]
    fn parts_of_files_begin_at_pages_and_hold_what_they_are_for() {
        let unit = MEMORY_BYTES as u64;
        let span = |offset, length| FileSpan {
            path: PathBuf::new(),
            offset,
            length,
        };
        assert_eq!(window(&span(96, 32), 128), Some((0, 128)));
        let far = span(5 * unit + 64, unit);
        let all = Some((5 * MEMORY_BYTES, 2 * MEMORY_BYTES));
        assert_eq!(window(&far, 9 * unit), all);
        assert_eq!(window(&span(unit - 1, unit + 2), 9 * unit), None);
        assert_eq!(window(&span(96, 64), 128), None);
        assert_eq!(window(&span(u64::MAX, 64), 128), None);
    }
}
