//! What a device claims before anything was measured.

use anynpu_ir::DType;

use crate::MemoryKind;

/// A device's claims. Measurements are another thing and live with the runtime.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Capabilities {
    /// The op set version the device was written for.
    pub op_set: u32,
    /// Yes-or-no properties.
    pub features: Features,
    /// How the device keeps states between steps.
    pub states: StateSupport,
    /// Plain types it computes in, preferred first.
    pub compute: Vec<DType>,
    /// The fixed-point numbers that activations are held in, where they are: then it computes in these.
    pub fixed_point: Option<FixedPoint>,
    /// Types it reads weights in.
    pub weights: Vec<DType>,
    /// Memory it can read and write in place, preferred first.
    pub memory: Vec<MemoryKind>,
    /// Most bytes its modules and buffers may take together, if bounded.
    pub memory_limit: Option<u64>,
    /// The sizes it is compiled for, without [`Features::dynamic_shapes`].
    pub fixed_shapes: Option<FixedShapes>,
    /// Tokens of whole texts that steps of graphs without states are worth compiling for besides the context, ascending;
    /// empty if there are none but those of [`Capabilities::fixed_shapes`].
    pub text_sizes: Vec<u32>,
    /// Its speed, if the driver states any.
    pub claimed_rates: Option<ClaimedRates>,
}

/// Fixed-point numbers: integers, each tensor's with a scale and an offset of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FixedPoint {
    /// Of 8 bits.
    U8,
    /// Of 16 bits.
    U16,
}

impl FixedPoint {
    /// All of them.
    pub const ALL: [FixedPoint; 2] = [FixedPoint::U8, FixedPoint::U16];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            FixedPoint::U8 => "u8",
            FixedPoint::U16 => "u16",
        }
    }
}

/// The sizes that a device without dynamic shapes can be compiled for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FixedShapes {
    /// Tokens of a step, ascending; empty for any one number. A step of fewer is padded.
    pub tokens: Vec<u32>,
    /// Rows of a state, ascending; empty for any one number.
    pub capacities: Vec<u32>,
}

/// Speed that a driver states for its device, from a data sheet or a description. Nobody measured it here.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClaimedRates {
    /// Operations per second (a multiply-add is two) of products with weights of each type, the
    /// usual type first: what is not listed goes as fast as it.
    pub operations: Vec<(DType, f64)>,
    /// Bytes per second read from memory.
    pub bytes_per_second: f64,
    /// Microseconds of starting a run of nodes.
    pub dispatch_us: f64,
    /// Watts while busy.
    pub busy_watts: Option<f64>,
}

impl ClaimedRates {
    /// Rates without a statement on power.
    pub fn new(operations: Vec<(DType, f64)>, bytes_per_second: f64, dispatch_us: f64) -> Self {
        ClaimedRates {
            operations,
            bytes_per_second,
            dispatch_us,
            busy_watts: None,
        }
    }
}

impl Capabilities {
    /// The name of the type that it computes in, if it says any.
    pub fn computes_in(&self) -> Option<&'static str> {
        let plain = self.compute.first().map(|d| d.name());
        self.fixed_point.map(FixedPoint::name).or(plain)
    }

    /// Whether it keeps states in memory that only it touches: their homes are asked for as
    /// [`MemoryKind::DeviceLocal`], and no other device shares them.
    pub fn keeps_states(&self) -> bool {
        self.states == StateSupport::Native && self.memory.contains(&MemoryKind::DeviceLocal)
    }

    /// Claims of a device written for the current op set, with nothing else claimed.
    pub fn new() -> Self {
        Capabilities {
            op_set: anynpu_ir::OP_SET_VERSION,
            features: Features::default(),
            states: StateSupport::None,
            compute: Vec::new(),
            weights: Vec::new(),
            memory: Vec::new(),
            memory_limit: None,
            fixed_point: None,
            fixed_shapes: None,
            text_sizes: Vec::new(),
            claimed_rates: None,
        }
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Capabilities::new()
    }
}

/// Yes-or-no properties of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// It runs the whole op set and never answers [`crate::Support::No`].
    pub baseline: bool,
    /// Entries may leave symbols bounded rather than exact.
    pub dynamic_shapes: bool,
    /// Submissions run behind the caller's back, at least those by [`crate::Queue::submit_ahead`].
    pub asynchronous: bool,
    /// Computes nothing, or fails on purpose: never chosen unless named.
    pub artificial: bool,
}

/// How a device keeps states between steps, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateSupport {
    /// It can't run nodes that touch a state.
    None,
    /// It takes the state as an input and returns new rows as outputs; the runtime writes them.
    SliceIo,
    /// It writes rows into the caller's buffer.
    InPlaceIo,
    /// It keeps the state in an object of its own.
    Native,
}
