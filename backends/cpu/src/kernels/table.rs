//! The kernels of each instruction set, as a table of functions.

use anynpu_ir::{Activation, DType};

use super::activations;
use super::generic::Generic;
use super::isa::Isa;
use super::matmul::{self, Task};
use super::ops::{self, Arithmetic, Attend, AttendFn, RopeLayout};
#[cfg(target_arch = "x86_64")]
use super::x86_64::{Avx2, Avx512};

/// A product of one dtype's weights: `task`'s rows of `out` must be touched by no other thread,
/// and the processor must have the table's instructions.
pub(super) type MatmulFn = unsafe fn(Task<'_>);
/// Lays out a tile: rows of activations, their length, the tile's width, and where to; the
/// processor must have the table's instructions.
pub(super) type TileFn = unsafe fn(&[f32], usize, usize, &mut [u8]);

/// The functions of one instruction set.
#[allow(clippy::type_complexity)] // each type is one operation's operands
pub(super) struct Table {
    /// The widest tile of tokens.
    pub tile: usize,
    pub quantise_tile: TileFn,
    pub interleave_tile: TileFn,
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub layer_norm: unsafe fn(&[f32], &[f32], Option<&[f32]>, f32, &mut [f32]),
    pub softmax: unsafe fn(&[f32], &mut [f32]),
    pub rope: unsafe fn(&[f32], &[f32], &[f32], &RopeLayout, &mut [f32]),
    pub activation: unsafe fn(Activation, &[f32], &mut [f32]),
    pub gated: unsafe fn(Activation, &[f32], &[f32], &mut [f32]),
    pub arithmetic: unsafe fn(Arithmetic, &[f32], &[f32], &mut [f32]),
    pub attend: AttendFn,
    f32: MatmulFn,
    f16: MatmulFn,
    bf16: MatmulFn,
    q4_0: MatmulFn,
    q4_1: MatmulFn,
    q5_0: MatmulFn,
    q5_1: MatmulFn,
    q8_0: MatmulFn,
    q4_k: MatmulFn,
    q5_k: MatmulFn,
    q6_k: MatmulFn,
}

impl Table {
    /// The product for weights of type `dtype`, if there is one.
    pub(super) fn matmul(&self, dtype: DType) -> Option<MatmulFn> {
        Some(match dtype {
            DType::F32 => self.f32,
            DType::F16 => self.f16,
            DType::BF16 => self.bf16,
            DType::Q4_0 => self.q4_0,
            DType::Q4_1 => self.q4_1,
            DType::Q5_0 => self.q5_0,
            DType::Q5_1 => self.q5_1,
            DType::Q8_0 => self.q8_0,
            DType::Q4_K => self.q4_k,
            DType::Q5_K => self.q5_k,
            DType::Q6_K => self.q6_k,
            _ => return None,
        })
    }
}

/// Makes a table whose functions carry the instruction set's attribute. `$isa` makes a value of
/// type `$ty` and is sound where the processor has the instructions.
macro_rules! table {
    ($(#[$feature:meta])? static $table:ident: $ty:ty = $isa:expr;) => {
        pub(super) static $table: Table = {
            table! { @function $(#[$feature])? quantise_tile = $isa, activations::quantise_tile::<$ty>,
                (x: &[f32], cols: usize, width: usize, out: &mut [u8]) }
            table! { @function $(#[$feature])? interleave_tile = $isa, activations::interleave_tile::<$ty>,
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
            table! { @function $(#[$feature])? arithmetic = $isa, ops::arithmetic::<$ty>,
                (op: Arithmetic, a: &[f32], b: &[f32], out: &mut [f32]) }
            table! { @function $(#[$feature])? attend = $isa, ops::attend::<$ty>,
                (task: Attend<'_>) -> bool }
            table! { @function $(#[$feature])? f32 = $isa, matmul::plain::<$ty, matmul::F32Column>, (task: Task<'_>) }
            table! { @function $(#[$feature])? f16 = $isa, matmul::plain::<$ty, matmul::F16Column>, (task: Task<'_>) }
            table! { @function $(#[$feature])? bf16 = $isa, matmul::plain::<$ty, matmul::Bf16Column>, (task: Task<'_>) }
            table! { @function $(#[$feature])? q4_0 = $isa, matmul::blocks::<$ty, matmul::Q40>, (task: Task<'_>) }
            table! { @function $(#[$feature])? q4_1 = $isa, matmul::blocks::<$ty, matmul::Q41>, (task: Task<'_>) }
            table! { @function $(#[$feature])? q5_0 = $isa, matmul::blocks::<$ty, matmul::Q50>, (task: Task<'_>) }
            table! { @function $(#[$feature])? q5_1 = $isa, matmul::blocks::<$ty, matmul::Q51>, (task: Task<'_>) }
            table! { @function $(#[$feature])? q8_0 = $isa, matmul::blocks::<$ty, matmul::Q80>, (task: Task<'_>) }
            table! { @function $(#[$feature])? q4_k = $isa, matmul::blocks::<$ty, matmul::Q4K>, (task: Task<'_>) }
            table! { @function $(#[$feature])? q5_k = $isa, matmul::blocks::<$ty, matmul::Q5K>, (task: Task<'_>) }
            table! { @function $(#[$feature])? q6_k = $isa, matmul::blocks::<$ty, matmul::Q6K>, (task: Task<'_>) }
            Table {
                tile: <$ty as Isa>::TILE,
                quantise_tile,
                interleave_tile,
                rms_norm,
                layer_norm,
                softmax,
                rope,
                activation,
                gated,
                arithmetic,
                attend,
                f32,
                f16,
                bf16,
                q4_0,
                q4_1,
                q5_0,
                q5_1,
                q8_0,
                q4_k,
                q5_k,
                q6_k,
            }
        };
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

table! {
    static GENERIC: Generic = Generic;
}

#[cfg(target_arch = "x86_64")]
table! {
    #[target_feature(enable = "avx2,fma,f16c")]
    static AVX2: Avx2 = Avx2::new();
}

#[cfg(target_arch = "x86_64")]
table! {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    static AVX512: Avx512<false> = Avx512::<false>::new();
}

#[cfg(target_arch = "x86_64")]
table! {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    static AVX512_VNNI: Avx512<true> = Avx512::<true>::new();
}
