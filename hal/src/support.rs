//! Verdicts on whether a device runs a node.

use std::fmt;

/// Whether a device runs a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Support {
    /// Natively.
    Yes,
    /// It runs, but not natively: in a wider type, on the CPU inside a vendor's driver, ….
    Emulated(Reason),
    /// It doesn't run.
    No(Reason),
}

impl Support {
    /// `yes`, `emulated` or `no`.
    pub const fn name(&self) -> &'static str {
        match self {
            Support::Yes => "yes",
            Support::Emulated(_) => "emulated",
            Support::No(_) => "no",
        }
    }

    /// The reason of an [`Support::Emulated`] or [`Support::No`].
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Support::Yes => None,
            Support::Emulated(r) | Support::No(r) => Some(r),
        }
    }
}

/// Why a node doesn't run, or not natively.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// For programs.
    pub code: ReasonCode,
    /// For people: what was found and what would fit.
    pub detail: String,
}

impl Reason {
    /// A reason.
    pub fn new(code: ReasonCode, detail: impl Into<String>) -> Self {
        Reason {
            code,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// What kind of obstacle a [`Reason`] describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ReasonCode {
    /// The device has no such op.
    OpUnknown,
    /// The op is newer than the device's op set.
    OpVersion,
    /// An element type.
    DType,
    /// A quantisation format.
    Quantization,
    /// Too many or too few dimensions.
    Rank,
    /// A run-time dimension where the device needs a fixed one.
    DynamicShape,
    /// A dimension past the device's limit.
    ShapeLimit,
    /// A memory layout.
    Layout,
    /// The device's memory.
    MemoryLimit,
    /// State that outlives a step.
    State,
    /// The vendor's own validator said no.
    VendorRejected,
    /// The user pinned the node elsewhere.
    Pinned,
    /// The device is gone.
    DeviceLost,
    /// The device is not ready yet.
    Compiling,
}

impl ReasonCode {
    /// Every code.
    pub const ALL: [ReasonCode; 14] = [
        ReasonCode::OpUnknown,
        ReasonCode::OpVersion,
        ReasonCode::DType,
        ReasonCode::Quantization,
        ReasonCode::Rank,
        ReasonCode::DynamicShape,
        ReasonCode::ShapeLimit,
        ReasonCode::Layout,
        ReasonCode::MemoryLimit,
        ReasonCode::State,
        ReasonCode::VendorRejected,
        ReasonCode::Pinned,
        ReasonCode::DeviceLost,
        ReasonCode::Compiling,
    ];

    /// The code's name in reports, e.g. `dynamic_shape`.
    pub const fn name(self) -> &'static str {
        match self {
            ReasonCode::OpUnknown => "op_unknown",
            ReasonCode::OpVersion => "op_version",
            ReasonCode::DType => "dtype",
            ReasonCode::Quantization => "quantization",
            ReasonCode::Rank => "rank",
            ReasonCode::DynamicShape => "dynamic_shape",
            ReasonCode::ShapeLimit => "shape_limit",
            ReasonCode::Layout => "layout",
            ReasonCode::MemoryLimit => "memory_limit",
            ReasonCode::State => "state",
            ReasonCode::VendorRejected => "vendor_rejected",
            ReasonCode::Pinned => "pinned",
            ReasonCode::DeviceLost => "device_lost",
            ReasonCode::Compiling => "compiling",
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
