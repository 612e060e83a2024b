//! Memory for what does not cross as it is.

use super::numbers::Pages;
use super::{ArrayMemory, Given, Loaded, Taken};
use crate::CoreMlError;
use crate::binding::Array;

/// Memory for an input or output.
#[derive(Debug)]
pub(super) enum Staged {
    /// None: what is bound is used where it is.
    Crosses,
    /// Of the driver.
    Pages(Pages),
    /// Of the engine, which reaches it better.
    Memory(Box<dyn ArrayMemory>, usize),
}

impl Staged {
    /// For `array`, where `loaded` makes some.
    pub fn of(array: &Array, loaded: &mut dyn Loaded) -> Staged {
        match loaded.memory(array) {
            Some(memory) => Staged::Memory(memory, array.bytes()),
            None => Staged::Pages(Pages::new(array.bytes())),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Staged::Crosses => 0,
            Staged::Pages(pages) => pages.bytes().len(),
            Staged::Memory(_, bytes) => *bytes,
        }
    }

    /// Lets `touch` write it.
    pub fn write(&mut self, mut touch: impl FnMut(&mut [u8])) -> Result<(), CoreMlError> {
        match self {
            Staged::Crosses => Ok(()),
            Staged::Pages(pages) => {
                touch(pages.bytes_mut());
                Ok(())
            }
            Staged::Memory(memory, _) => memory.write(&mut touch),
        }
    }

    /// Lets `touch` read it.
    pub fn read<E: From<CoreMlError>>(
        &self,
        mut touch: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Staged::Crosses => Ok(()),
            Staged::Pages(pages) => touch(pages.bytes()),
            Staged::Memory(memory, _) => {
                let mut touched = Ok(());
                memory.read(&mut |bytes| touched = touch(bytes))?;
                touched
            }
        }
    }

    /// It as an input; `bound` where that crosses.
    pub fn given<'a>(&'a self, bound: Option<&'a [u8]>) -> Given<'a> {
        match (bound, self) {
            (Some(bytes), _) => Given::Bytes(bytes),
            (None, Staged::Crosses) => Given::Bytes(&[]),
            (None, Staged::Pages(pages)) => Given::Bytes(pages.bytes()),
            (None, Staged::Memory(memory, _)) => Given::Memory(&**memory),
        }
    }

    /// It as an output.
    pub fn taken(&mut self) -> Taken<'_> {
        match self {
            Staged::Crosses => Taken::Bytes(&mut []),
            Staged::Pages(pages) => Taken::Bytes(pages.bytes_mut()),
            Staged::Memory(memory, _) => Taken::Memory(&mut **memory),
        }
    }
}
