//! A graph that can be run.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::build::{Record, type_of};
use super::memory::{Memory, Slot};
use super::metadata::TensorInfo;
use super::{Context, QnnError};
use crate::htp::{DataType, Encoding, Tensor, TensorKind};
use crate::sys::{self, ClientBuffer, Handle};

/// An input or output of an [`Executable`].
#[derive(Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: DataType,
    /// Its dimensions.
    pub dims: Vec<u32>,
    /// Bytes of its contents.
    pub bytes: usize,
    record: Record,
}

impl Port {
    /// That of a tensor that the library was told of.
    pub(super) fn of(tensor: &Tensor, record: Record) -> Result<Port, QnnError> {
        Ok(Port {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            dims: tensor.dims.clone(),
            bytes: tensor.bytes().unwrap_or(usize::MAX),
            record,
        })
    }

    /// That of a tensor of a compiled form.
    pub(super) fn of_info(info: &TensorInfo) -> Result<Port, QnnError> {
        let dtype = type_of(info.data_type).ok_or_else(|| QnnError::Binary {
            what: "the type of a tensor",
            found: format!("{:#x} ('{}')", info.data_type, info.name),
            expected: "a type that graphs here are made of".into(),
        })?;
        let tensor = Tensor {
            name: info.name.clone(),
            kind: match info.kind {
                sys::TENSOR_APP_WRITE => TensorKind::Input,
                _ => TensorKind::Output,
            },
            dtype,
            dims: info.dims.clone(),
            encoding: Encoding::None,
        };
        let mut record = Record::of(&tensor)?;
        record.tensor.v2.id = info.id;
        Port::of(&tensor, record)
    }

    /// The type of its elements, by the interface's numbers.
    pub(super) fn data_type(&self) -> u32 {
        self.record.tensor.v2.data_type
    }

    /// The library's tensor with `memory` bound, which has the size of the port, or `registered` that stands for it.
    fn bound(&self, memory: *mut u8, registered: Option<Handle>) -> sys::Tensor {
        let mut tensor = *self.record.tensor;
        tensor.v2.content = match registered {
            Some(handle) => {
                tensor.v2.memory_type = sys::MEMORY_HANDLE;
                sys::TensorContent { handle }
            }
            None => sys::TensorContent {
                client: ClientBuffer {
                    data: memory.cast(),
                    // sizes of 4 GiB and more are no graphs
                    bytes: u32::try_from(self.bytes).unwrap_or(u32::MAX),
                },
            },
        };
        tensor
    }
}

/// Memory that a graph reads.
pub(crate) trait Bound: Deref<Target = [u8]> {
    /// What stands for it in the graph's context, if that knows it.
    fn handle(&self) -> Option<Handle>;
}

/// Memory that a graph writes.
pub(crate) trait BoundMut: Bound + DerefMut {}

impl Bound for &[u8] {
    fn handle(&self) -> Option<Handle> {
        None
    }
}

impl Bound for &mut [u8] {
    fn handle(&self) -> Option<Handle> {
        None
    }
}

impl BoundMut for &mut [u8] {}

impl Bound for Slot {
    fn handle(&self) -> Option<Handle> {
        Slot::handle(self)
    }
}

impl BoundMut for Slot {}

/// A graph that can be run.
#[derive(Debug)]
pub struct Executable {
    context: Arc<Context>,
    handle: Handle,
    name: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

// SAFETY: as for the context; the handle is a number to the library.
unsafe impl Send for Executable {}
// SAFETY: as for Send; runs are made one at a time.
unsafe impl Sync for Executable {}

impl Executable {
    pub(super) fn new(
        context: &Arc<Context>,
        handle: Handle,
        name: &str,
        inputs: Vec<Port>,
        outputs: Vec<Port>,
    ) -> Executable {
        Executable {
            context: context.clone(),
            handle,
            name: name.into(),
            inputs,
            outputs,
        }
    }

    /// What it reads, in the order that runs take it.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// What it writes, in the order that runs take it.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Memory for its inputs and outputs.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn slots(&self, memory: &dyn Memory) -> Result<(Vec<Slot>, Vec<Slot>), QnnError> {
        let slot = |port: &Port| {
            let mut slot = Slot::new(memory, port.bytes)?;
            slot.register(&self.context, port);
            Ok(slot)
        };
        let all = |ports: &[Port]| ports.iter().map(slot).collect::<Result<_, QnnError>>();
        Ok((all(&self.inputs)?, all(&self.outputs)?))
    }

    /// Runs it. Contents are row-major, in the types of the ports.
    ///
    /// # Errors
    /// Buffers of other sizes than the ports', which the library would not notice; the library's own.
    pub fn execute(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), QnnError> {
        self.execute_in(inputs, outputs)
    }

    /// As [`Executable::execute`], in memory that the context may know.
    pub(crate) fn execute_in<I: Bound, O: BoundMut>(
        &self,
        inputs: &[I],
        outputs: &mut [O],
    ) -> Result<(), QnnError> {
        let count = |what, found: usize, expected: usize| match found == expected {
            true => Ok(()),
            false => Err(QnnError::Count {
                what,
                found,
                expected,
            }),
        };
        count("inputs", inputs.len(), self.inputs.len())?;
        count("outputs", outputs.len(), self.outputs.len())?;
        let sizes = inputs.iter().map(|b| b.len());
        let sizes = sizes.chain(outputs.iter().map(|b| b.len()));
        for (port, found) in self.inputs.iter().chain(&self.outputs).zip(sizes) {
            if port.bytes != found {
                return Err(QnnError::Size {
                    what: format!("'{}' of '{}'", port.name, self.name),
                    found,
                    expected: port.bytes,
                });
            }
        }
        let call = "graphExecute";
        let device = self.context.device();
        let execute = device.table().graph_execute;
        let execute = execute.ok_or(QnnError::Missing { call })?;
        let given = self.inputs.iter().zip(inputs);
        let given: Vec<sys::Tensor> = given
            .map(|(port, memory)| port.bound(memory.as_ptr().cast_mut(), memory.handle()))
            .collect();
        let made = self.outputs.iter().zip(outputs);
        let mut made: Vec<sys::Tensor> = made
            .map(|(port, memory)| port.bound(memory.as_mut_ptr(), memory.handle()))
            .collect();
        let _busy = self.context.busy().lock();
        // SAFETY: the graph is finalized and its context alive. Each tensor has memory of its size, checked above, for
        // the time of the call, or stands for memory that the context was told of with the tensor's size; the library
        // reads inputs and writes outputs.
        let code = unsafe {
            execute(
                self.handle,
                given.as_ptr(),
                given.len() as u32,
                made.as_mut_ptr(),
                made.len() as u32,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        match code {
            0 => Ok(()),
            code => Err(device.error(call, format!("'{}'", self.name), code)),
        }
    }
}
