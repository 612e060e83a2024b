//! An opened device.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use anynpu_ir::{DType, Subgraph};

use crate::{
    Buffer, BufferDesc, Capabilities, Entry, ExternalHandle, HalError, Link, MemoryNeed, Module,
    Queue, Support,
};

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A neural processor.
    Npu,
    /// A model of a device, not a device.
    Simulated,
    /// Something else.
    Other,
}

impl DeviceKind {
    /// The kind's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Gpu => "gpu",
            DeviceKind::Npu => "npu",
            DeviceKind::Simulated => "simulated",
            DeviceKind::Other => "other",
        }
    }
}

/// What a device is called and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Short name, unique among the open devices, e.g. `cpu`.
    pub name: String,
    /// Name of its driver.
    pub driver: String,
    /// Kind.
    pub kind: DeviceKind,
    /// For people: product, cores, what is used.
    pub description: String,
}

/// A weight's bytes in its file's format.
#[derive(Clone, Debug)]
pub struct WeightView<'a> {
    /// Element type.
    pub dtype: DType,
    /// Row-major data, rows of whole blocks. Owned where it was made from what the file has, which
    /// is done again for each view.
    pub bytes: Cow<'a, [u8]>,
}

/// Bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpan {
    /// The file.
    pub path: PathBuf,
    /// Where the bytes begin.
    pub offset: u64,
    /// How many there are.
    pub length: u64,
}

/// Where weights come from; usually a mapped model file.
pub trait WeightSource: Debug + Send + Sync {
    /// The weight called `name`, or an error that names it.
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError>;

    /// Where in a file the bytes of [`WeightSource::weight`] are, so that other processes can map rather than
    /// copy them; `None` if they are in no file as they are.
    fn span(&self, name: &str) -> Option<FileSpan> {
        let _ = name;
        None
    }

    /// Tells that `name` will not be read again, so that its pages may be given back.
    fn release(&self, name: &str) {
        let _ = name;
    }
}

/// How to compile.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompileOptions {
    /// Type that states are kept in at their home.
    pub state_dtype: DType,
    /// A float type narrower than F32 in which products may be computed: the model's own, or one that the user permits.
    /// A device that computes in one type only takes no notice, nor do plugins.
    pub precision: Option<DType>,
    /// Vendor options, `name=value`.
    pub vendor: Vec<(String, String)>,
}

impl CompileOptions {
    /// States in `state_dtype`, no vendor options.
    pub fn new(state_dtype: DType) -> Self {
        CompileOptions {
            state_dtype,
            precision: None,
            vendor: Vec::new(),
        }
    }
}

/// Whether a compiled blob fits a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobCompatibility {
    /// Load it.
    Optimal,
    /// It loads, but compiling again would give a better one.
    PreferRecompile(String),
    /// It doesn't load.
    Unsupported(String),
}

/// An opened device. It answers four questions: what am I, can I run this, compile it, run it.
pub trait Device: Debug + Send + Sync + Any {
    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// What it claims.
    fn capabilities(&self) -> &Capabilities;

    /// One verdict a node, from a table: cheap and possibly wrong.
    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support>;

    /// One verdict a node from the vendor's own validator, on a run that is about to be compiled.
    fn validate(&self, graph: &Subgraph<'_>) -> Result<Vec<Support>, HalError> {
        Ok(self.support(graph))
    }

    /// Compiles entries over one set of weights. `progress` is called with (done, total) weights
    /// and stops the work by returning `false`, which gives [`HalError::Cancelled`].
    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError>;

    /// The memory that [`Device::compile`] of the same will take, or `None` if the device can't tell
    /// without compiling.
    fn memory_need(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        let _ = (entries, options, weights);
        Ok(None)
    }

    /// Bytes that decide whether a compiled blob fits; empty for devices without blobs.
    fn compatibility(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Whether `blob` fits.
    fn check_blob(&self, blob: &[u8]) -> BlobCompatibility {
        let _ = blob;
        BlobCompatibility::Unsupported("this device has no compiled blobs".into())
    }

    /// Loads a compiled blob.
    fn load(
        &self,
        blob: &[u8],
        weights: Arc<dyn WeightSource>,
    ) -> Result<Arc<dyn Module>, HalError> {
        let _ = (blob, weights);
        Err(HalError::Unsupported {
            device: self.info().name.clone(),
            call: "load",
        })
    }

    /// Allocates a buffer it can read and write.
    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError>;

    /// Makes someone else's memory its own buffer.
    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        let _ = (handle, desc);
        Err(HalError::Unsupported {
            device: self.info().name.clone(),
            call: "import",
        })
    }

    /// Gives back memory that it can have again when it is needed, such as scratch, and tells how
    /// many bytes that was.
    fn trim(&self) -> u64 {
        0
    }

    /// Tells that the caller no longer waits for what it submitted, as the device failed or took too long. What can
    /// be stopped is stopped.
    fn give_up(&self) {}

    /// Its queue.
    fn queue(&self) -> &dyn Queue;

    /// Improves what is assumed of the edge to `other`.
    fn refine_link(&self, other: &DeviceInfo, link: Link) -> Link {
        let _ = other;
        link
    }

    /// For a driver to recognise its own devices.
    fn as_any(&self) -> &dyn Any;
}
