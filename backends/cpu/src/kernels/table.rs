//! The kernels of each instruction set, as a table of functions.

use anynpu_ir::{Activation, DType};

#[cfg(doc)]
use super::matmul;
use super::matmul::{PanelTile, Task};
use super::ops::{Arithmetic, AttendFn, GatedRows, RopeLayout};
use super::pack::PackedMatrix;
use super::sources::PanelBlock;

/// Lays out a tile: rows of activations, their length, the tile's width, and where to.
type TileFn = unsafe fn(&[f32], usize, usize, &mut [u8]);
/// Computes a task, whose rows of `out` no other thread may touch.
type TaskFn = unsafe fn(Task<'_>);
/// Unpacks blocks of a group, from the given one on.
type UnpackFn = unsafe fn(&PackedMatrix, usize, usize, &mut [PanelBlock]);
/// Adds a panel's part to a tile's sums, which no other thread may touch.
type PanelFn = unsafe fn(PanelTile<'_>);

/// The products of a block format.
#[derive(Clone, Copy)]
pub(super) struct BlockProducts {
    /// For up to so many tokens.
    pub direct: TaskFn,
    pub direct_tokens: usize,
    pub unpack: UnpackFn,
    pub panel_tile: PanelFn,
}

/// The products of an element type.
#[derive(Clone, Copy)]
pub(super) enum Products {
    Plain(TaskFn),
    /// Of weights and activations rounded to BF16.
    Rounded(TaskFn),
    /// Of weights in F16 with activations rounded to it.
    Narrow(TaskFn),
    Blocks(BlockProducts),
}

/// The functions of one instruction set. Calling any requires that the processor has it.
#[allow(clippy::type_complexity)] // each type is one operation's operands
pub(super) struct Table {
    /// The widest tile of tokens.
    pub tile: usize,
    /// The same for plain weights.
    pub plain_tile: usize,
    /// Whether the processor multiplies pairs of bfloat16.
    pub bf16_pairs: bool,
    /// Whether it adds products of binary16 to binary32.
    pub f16_products: bool,
    /// Groups of a panel.
    pub panel_groups: usize,
    /// For weights of up to 6 bits, and for those of 8.
    pub quantise_tile: [TileFn; 2],
    pub interleave_tile: TileFn,
    pub round_tile: TileFn,
    pub narrow_tile: TileFn,
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub layer_norm: unsafe fn(&[f32], &[f32], Option<&[f32]>, f32, &mut [f32]),
    pub softmax: unsafe fn(&[f32], &mut [f32]),
    pub rope: unsafe fn(&[f32], &[f32], &[f32], &RopeLayout, &mut [f32]),
    pub activation: unsafe fn(Activation, &[f32], &mut [f32]),
    pub gated: unsafe fn(Activation, &[f32], &[f32], &mut [f32]),
    pub gated_rows: unsafe fn(GatedRows<'_>),
    pub soft_cap: unsafe fn(f32, &[f32], &mut [f32]),
    pub scale: unsafe fn(f32, &[f32], &mut [f32]),
    pub arithmetic: unsafe fn(Arithmetic, &[f32], &[f32], &mut [f32]),
    pub attend: AttendFn,
    pub f32: TaskFn,
    pub f16: TaskFn,
    pub bf16: TaskFn,
    pub rounded: TaskFn,
    pub narrow: TaskFn,
    pub q4_0: BlockProducts,
    pub q4_1: BlockProducts,
    pub q5_0: BlockProducts,
    pub q5_1: BlockProducts,
    pub q8_0: BlockProducts,
    pub q4_k: BlockProducts,
    pub q5_k: BlockProducts,
    pub q6_k: BlockProducts,
}

impl Table {
    /// The products for `weights`, if there are any.
    pub(super) fn products(&self, weights: &PackedMatrix) -> Option<Products> {
        match weights.rounds_to() {
            Some(DType::F16) => return Some(Products::Narrow(self.narrow)),
            Some(_) => return Some(Products::Rounded(self.rounded)),
            None => {}
        }
        Some(match weights.dtype() {
            DType::F32 => Products::Plain(self.f32),
            DType::F16 => Products::Plain(self.f16),
            DType::BF16 => Products::Plain(self.bf16),
            DType::Q4_0 => Products::Blocks(self.q4_0),
            DType::Q4_1 => Products::Blocks(self.q4_1),
            DType::Q5_0 => Products::Blocks(self.q5_0),
            DType::Q5_1 => Products::Blocks(self.q5_1),
            DType::Q8_0 => Products::Blocks(self.q8_0),
            DType::Q4_K => Products::Blocks(self.q4_k),
            DType::Q5_K => Products::Blocks(self.q5_k),
            DType::Q6_K => Products::Blocks(self.q6_k),
            _ => return None,
        })
    }
}

/// Makes a table whose functions carry the instruction set's attribute. `$isa` makes a value of
/// type `$ty` and is sound where the processor has the instructions. Each table stands in a module
/// of its own, so that they are compiled side by side.
macro_rules! table {
    ($(#[$feature:meta])? $vis:vis static $table:ident: $ty:ty = $isa:expr;) => {
        $vis static $table: $crate::kernels::table::Table = {
            use anynpu_ir::Activation;
            use $crate::kernels::isa::Isa;
            use $crate::kernels::matmul::{self, PanelTile, Task};
            use $crate::kernels::ops::{self, Arithmetic, Attend, GatedRows, RopeLayout};
            use $crate::kernels::pack::PackedMatrix;
            use $crate::kernels::plain;
            use $crate::kernels::sources::{self, PanelBlock};
            use $crate::kernels::table::{BlockProducts, Table};
            use $crate::kernels::activations;

            table! { @function $(#[$feature])? quantise_tile = $isa, activations::quantise_tile::<$ty, false>,
                (x: &[f32], cols: usize, width: usize, out: &mut [u8]) }
            table! { @function $(#[$feature])? quantise_tile_8 = $isa, activations::quantise_tile::<$ty, true>,
                (x: &[f32], cols: usize, width: usize, out: &mut [u8]) }
            table! { @function $(#[$feature])? interleave_tile = $isa, activations::interleave_tile::<$ty>,
                (x: &[f32], cols: usize, width: usize, out: &mut [u8]) }
            table! { @function $(#[$feature])? round_tile = $isa, activations::round_tile::<$ty>,
                (x: &[f32], cols: usize, width: usize, out: &mut [u8]) }
            table! { @function $(#[$feature])? narrow_tile = $isa, activations::narrow_tile::<$ty>,
                (x: &[f32], cols: usize, width: usize, out: &mut [u8]) }
            table! { @function $(#[$feature])? rms_norm = $isa, ops::rms_norm::<$ty>,
                (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) }
            table! { @function $(#[$feature])? layer_norm = $isa, ops::layer_norm::<$ty>,
                (x: &[f32], gamma: &[f32], beta: Option<&[f32]>, eps: f32, out: &mut [f32]) }
            table! { @function $(#[$feature])? softmax = $isa, ops::softmax::<$ty>,
                (x: &[f32], out: &mut [f32]) }
            table! { @function $(#[$feature])? rope = $isa, ops::rope::<$ty>,
                (x: &[f32], cos: &[f32], sin: &[f32], layout: &RopeLayout, out: &mut [f32]) }
            table! { @function $(#[$feature])? activation = $isa, ops::activation::<$ty>,
                (act: Activation, x: &[f32], out: &mut [f32]) }
            table! { @function $(#[$feature])? gated = $isa, ops::gated::<$ty>,
                (act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) }
            table! { @function $(#[$feature])? gated_rows = $isa, ops::gated_rows::<$ty>, (task: GatedRows<'_>) }
            table! { @function $(#[$feature])? soft_cap = $isa, ops::soft_cap::<$ty>,
                (cap: f32, x: &[f32], out: &mut [f32]) }
            table! { @function $(#[$feature])? scale = $isa, ops::scale::<$ty>,
                (factor: f32, x: &[f32], out: &mut [f32]) }
            table! { @function $(#[$feature])? arithmetic = $isa, ops::arithmetic::<$ty>,
                (op: Arithmetic, a: &[f32], b: &[f32], out: &mut [f32]) }
            table! { @function $(#[$feature])? attend = $isa, ops::attend::<$ty>,
                (task: Attend<'_>) -> bool }
            table! { @function $(#[$feature])? f32 = $isa, plain::plain::<$ty, plain::F32Column>, (task: Task<'_>) }
            table! { @function $(#[$feature])? f16 = $isa, plain::plain::<$ty, plain::F16Column>, (task: Task<'_>) }
            table! { @function $(#[$feature])? bf16 = $isa, plain::plain::<$ty, plain::Bf16Column>, (task: Task<'_>) }
            table! { @function $(#[$feature])? rounded = $isa, plain::rounded::<$ty>, (task: Task<'_>) }
            table! { @panel $(#[$feature])? offset_8 = $isa, $ty, Offset8 }
            table! { @panel $(#[$feature])? offset_16 = $isa, $ty, Offset16 }
            table! { @panel $(#[$feature])? signed = $isa, $ty, Signed }
            table! { @panel $(#[$feature])? minimum = $isa, $ty, Minimum }
            table! { @panel $(#[$feature])? halves = $isa, $ty, Halves }
            Table {
                tile: <$ty as Isa>::TILE,
                plain_tile: <$ty as Isa>::PLAIN_TILE,
                bf16_pairs: <$ty as Isa>::BF16,
                f16_products: false,
                panel_groups: <$ty as Isa>::PANEL_GROUPS,
                quantise_tile: [quantise_tile, quantise_tile_8],
                interleave_tile,
                round_tile,
                narrow_tile,
                rms_norm,
                layer_norm,
                softmax,
                rope,
                activation,
                gated,
                gated_rows,
                soft_cap,
                scale,
                arithmetic,
                attend,
                f32,
                f16,
                bf16,
                rounded,
                narrow: f16,
                q4_0: table! { @blocks Q40, offset_8, $(#[$feature])? $ty = $isa },
                q4_1: table! { @blocks Q41, minimum, $(#[$feature])? $ty = $isa },
                q5_0: table! { @blocks Q50, offset_16, $(#[$feature])? $ty = $isa },
                q5_1: table! { @blocks Q51, minimum, $(#[$feature])? $ty = $isa },
                q8_0: table! { @blocks Q80, signed, $(#[$feature])? $ty = $isa },
                q4_k: table! { @blocks Q4K, minimum, $(#[$feature])? $ty = $isa },
                q5_k: table! { @blocks Q5K, minimum, $(#[$feature])? $ty = $isa },
                q6_k: table! { @blocks Q6K, halves, $(#[$feature])? $ty = $isa },
            }
        };
    };
    (@blocks $format:ident, $panel:ident, $(#[$feature:meta])? $ty:ty = $isa:expr) => {{
        table! { @function $(#[$feature])? direct = $isa, matmul::direct::<$ty, sources::$format>, (task: Task<'_>) }
        table! { @function $(#[$feature])? unpack = $isa, sources::unpack::<$ty, sources::$format>,
            (weights: &PackedMatrix, g: usize, first: usize, panel: &mut [PanelBlock]) }
        BlockProducts {
            direct,
            direct_tokens: <$ty as Isa>::DIRECT_TOKENS[<sources::$format as sources::Format>::BITS as usize],
            unpack,
            panel_tile: $panel,
        }
    }};
    (@panel $(#[$feature:meta])? $name:ident = $isa:expr, $ty:ty, $kind:ident) => {
        table! { @function $(#[$feature])? $name = $isa, matmul::panel_tile::<$ty, sources::$kind>, (task: PanelTile<'_>) }
    };
    (@function $(#[$feature:meta])? $name:ident = $isa:expr, $body:path, ($($arg:ident: $arg_ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$feature])?
        #[allow(unused_unsafe)] // not every body, nor every `$isa`, is unsafe
        unsafe fn $name($($arg: $arg_ty),*) $(-> $ret)? {
            // SAFETY: the table's user has checked that the processor has the instructions and
            // keeps the contract of the function's type.
            unsafe { $body($isa, $($arg),*) }
        }
    };
}
pub(super) use table;
