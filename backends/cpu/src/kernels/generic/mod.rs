//! The 16 lanes as arrays: plain Rust for any processor.

use half::{bf16, f16};

use super::isa::{Dot, Isa, Quads, XBlock};
use super::matmul;
use super::sources::Source;
use super::table::table;

table! {
    pub(super) static GENERIC: Generic = Generic;
}

/// Arrays of lanes.
#[derive(Clone, Copy)]
pub(super) struct Generic;

macro_rules! lanes {
    ($i:ident, $e:expr) => {{
        let mut out = [Default::default(); 16];
        for ($i, out) in out.iter_mut().enumerate() {
            *out = $e;
        }
        out
    }};
}

macro_rules! bytes {
    ($i:ident, $e:expr) => {{
        let mut out = [0u8; 64];
        for ($i, out) in out.iter_mut().enumerate() {
            *out = $e;
        }
        out
    }};
}

impl Isa for Generic {
    const TILE: usize = 4;
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }
    #[inline(always)]
    fn store(self, x: [f32; 16], to: &mut [f32; 16]) {
        *to = x;
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; 16]) -> [f32; 16] {
        lanes!(i, f16::from_bits(x[i]).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; 16]) -> [f32; 16] {
        lanes!(i, bf16::from_bits(x[i]).to_f32())
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i, a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i, a[i] - b[i])
    }
    #[inline(always)]
    fn times_power(self, d: [f32; 16], power: f32) -> [f32; 16] {
        lanes!(i, d[i] * power)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i, a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i, a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        lanes!(i, a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn fnma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        lanes!(i, (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i, if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        lanes!(i, if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn if_gt(self, a: [f32; 16], b: [f32; 16], yes: [f32; 16], no: [f32; 16]) -> [f32; 16] {
        lanes!(i, if a[i] > b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn round_to_i32(self, a: [f32; 16]) -> [i32; 16] {
        lanes!(i, a[i].round_ties_even() as i32)
    }
    #[inline(always)]
    fn bits(self, a: [f32; 16]) -> [i32; 16] {
        lanes!(i, a[i].to_bits() as i32)
    }
    #[inline(always)]
    fn of_bits(self, a: [i32; 16]) -> [f32; 16] {
        lanes!(i, f32::from_bits(a[i] as u32))
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn store_i(self, x: [i32; 16], to: &mut [i32; 16]) {
        *to = x;
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> [i32; 16] {
        lanes!(i, i32::from(x[i]))
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> [i32; 16] {
        lanes!(i, i32::from(x[i] as i8))
    }
    #[inline(always)]
    fn store_i8(self, x: [i32; 16], to: &mut [i8; 16]) {
        *to = lanes!(i, x[i] as i8);
    }
    #[inline(always)]
    fn add_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        lanes!(i, a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        lanes!(i, a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn and_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        lanes!(i, a[i] & b[i])
    }
    #[inline(always)]
    fn or_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        lanes!(i, a[i] | b[i])
    }
    #[inline(always)]
    fn max_i(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        lanes!(i, a[i].max(b[i]))
    }
    #[inline(always)]
    fn shl_i(self, a: [i32; 16], s: u32) -> [i32; 16] {
        lanes!(i, a[i] << s)
    }
    #[inline(always)]
    fn shr_i(self, a: [i32; 16], s: u32) -> [i32; 16] {
        lanes!(i, a[i] >> s)
    }
    #[inline(always)]
    fn to_f32(self, a: [i32; 16]) -> [f32; 16] {
        lanes!(i, a[i] as f32)
    }

    #[inline(always)]
    fn load_b(self, x: &[u8; 64]) -> [u8; 64] {
        *x
    }
    #[inline(always)]
    fn store_b(self, x: [u8; 64], to: &mut [u8; 64]) {
        *to = x;
    }
    #[inline(always)]
    fn and_b(self, x: [u8; 64], mask: u8) -> [u8; 64] {
        bytes!(i, x[i] & mask)
    }
    #[inline(always)]
    fn sub_b(self, x: [u8; 64], by: u8) -> [u8; 64] {
        x.map(|x| x.wrapping_sub(by))
    }

    #[inline(always)]
    fn or_b(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        bytes!(i, a[i] | b[i])
    }
    #[inline(always)]
    fn shl_and_b(self, x: [u8; 64], shift: u32, mask: u8) -> [u8; 64] {
        bytes!(i, (x[i] << shift) & mask)
    }
    #[inline(always)]
    fn shr_and_b(self, x: [u8; 64], shift: u32, mask: u8) -> [u8; 64] {
        bytes!(i, (x[i] >> shift) & mask)
    }
    #[inline(always)]
    fn prepare_signed(self, x: [u8; 64]) -> [u8; 64] {
        x
    }

    #[inline(always)]
    fn tile<const N: usize, const G: usize, S: Source<Self>>(
        self,
        sources: [S; G],
        x: &[XBlock<N>],
        acc: &mut [[Self::F; N]; G],
    ) {
        matmul::tile(self, sources, x, acc);
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [[f32; 16]; 16]) {
        for i in 0..16 {
            for j in 0..i {
                let (a, b) = (rows[i][j], rows[j][i]);
                rows[i][j] = b;
                rows[j][i] = a;
            }
        }
    }
}

impl Dot for Generic {
    const SIGNED_SHIFT: Option<u32> = None;

    #[inline(always)]
    fn dot<
        const N: usize,
        const G: usize,
        const FROM: usize,
        const TO: usize,
        Q: Quads<Generic>,
    >(
        self,
        w: [Q; G],
        x: &XBlock<N>,
        init: [[i32; 16]; N],
    ) -> [[[i32; 16]; N]; G] {
        let mut acc = [init; G];
        for (w, acc) in w.into_iter().zip(&mut acc) {
            for j in FROM..TO {
                let w = w.quad(self, j);
                for t in 0..N {
                    let x = x.q[j][t];
                    for lane in 0..16 {
                        for c in 0..4 {
                            // Codes without sign are below 64, so they read the same with sign.
                            acc[t][lane] += i32::from(w[lane * 4 + c] as i8) * i32::from(x[c]);
                        }
                    }
                }
            }
        }
        acc
    }
}
