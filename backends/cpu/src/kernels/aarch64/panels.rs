//! Products of codes with tokens as pieces of assembly, in which one instruction loads four registers. Most are of a
//! panel's blocks with tiles of tokens: there one loads eight columns of eight rows, one those of the tokens, and the
//! pointers are left behind what was read.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::kernels::isa::XBlock;
use crate::kernels::sources::PanelBlock;

/// Where a panel's eight rows and a tile's tokens are read.
#[derive(Clone, Copy)]
pub(super) struct At {
    w: *const u8,
    x: *const u8,
}

/// From one eight columns of eight rows to the next: between them lie those of the other eight rows.
const TO_NEXT_W: usize = 2 * size_of::<[u8; 64]>();

/// Bytes of a panel's block before its scales.
const CODES: usize = size_of::<[[u8; 64]; 8]>();

impl At {
    /// At the start of a panel, of the rows from register `FIRST` (0 or 2) on, and `offset` bytes behind the start of
    /// a tile.
    #[inline(always)]
    pub(super) fn new<const FIRST: usize, const N: usize>(
        panel: &[PanelBlock],
        x: &[XBlock<N>],
        offset: usize,
    ) -> At {
        At {
            w: panel.as_ptr().cast::<u8>().wrapping_add(FIRST / 2 * 64),
            x: x.as_ptr().cast::<u8>().wrapping_add(offset),
        }
    }

    /// After all columns of a block: its scales of the eight rows; with `SECOND`, the second ones.
    #[inline(always)]
    pub(super) fn scales<const FIRST: usize, const SECOND: bool>(self) -> *const f32 {
        let before = FIRST / 2 * 64;
        let scales = size_of::<[f32; 16]>() * SECOND as usize + FIRST * 16;
        self.w.wrapping_add(scales).wrapping_sub(before).cast()
    }

    /// The same after the first half of the columns.
    #[inline(always)]
    pub(super) fn scales_from_half<const FIRST: usize>(self) -> *const f32 {
        let w = self.w.wrapping_add(CODES / 2);
        At { w, ..self }.scales::<FIRST, false>()
    }

    /// After all columns of a block: the factors of a tile's tokens from the one on with whose columns it began, which
    /// is the `offset / 4`th.
    #[inline(always)]
    pub(super) fn factors(self, offset: usize) -> *const f32 {
        self.x.wrapping_sub(offset).cast()
    }

    /// From behind all columns of a block to the next one.
    #[inline(always)]
    pub(super) fn next<const N: usize>(self) -> At {
        At {
            w: self.w.wrapping_add(size_of::<PanelBlock>() - CODES),
            x: self.x.wrapping_add(size_of::<XBlock<N>>() - 32 * N),
        }
    }
}

/// Has `sums` computed before what comes next is: registers do not hold both kinds of sums of two steps.
#[inline(always)]
pub(super) fn settle(sums: &mut [float32x4_t]) {
    for sum in sums {
        // SAFETY: it executes nothing.
        unsafe {
            asm!(
                "/* {sum:v} */",
                sum = inout(vreg) * sum,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

/// Four lines of assembly, one for each register of rows: what is written with four words takes one each.
macro_rules! four_lines {
    (@part 0 [$a:literal $b:literal $c:literal $d:literal]) => { $a };
    (@part 1 [$a:literal $b:literal $c:literal $d:literal]) => { $b };
    (@part 2 [$a:literal $b:literal $c:literal $d:literal]) => { $c };
    (@part 3 [$a:literal $b:literal $c:literal $d:literal]) => { $d };
    (@part $i:tt $part:literal) => { $part };
    (@line $i:tt $($part:tt)*) => { concat!($(four_lines!(@part $i $part),)* "\n") };
    ($($part:tt)*) => {
        concat!(
            four_lines!(@line 0 $($part)*),
            four_lines!(@line 1 $($part)*),
            four_lines!(@line 2 $($part)*),
            four_lines!(@line 3 $($part)*)
        )
    };
}

/// The products of eight columns of eight rows with one pair of tokens, in `$x`.
macro_rules! pair_products {
    ($x:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        four_lines!("smmla {" [$a $b $c $d] ":v}.4s, " $x ".16b, " ["v0" "v1" "v2" "v3"] ".16b")
    };
}

/// The products of two columns of quads of eight rows with one token, whose quads are lane `$t` of `$x` and `$y`.
macro_rules! token_products {
    ($x:literal, $y:literal, $t:literal, $a:literal, $b:literal) => {
        four_lines!("sdot {" [$a $b $a $b] ":v}.4s, " ["v0" "v1" "v2" "v3"] ".16b, " [$x $x $y $y] ".4b[" $t "]")
    };
}

/// The assembly of `$line`s that read eight columns of eight rows and of tokens each; `$name`s are its sums.
macro_rules! assembly {
    ($at:ident, $to_next_x:expr, [$($line:expr),* $(,)?], [$($name:ident),*] $(, $more:tt)*) => {
        asm!(
            $($line,)*
            w = inout(reg) $at.w,
            x = inout(reg) $at.x,
            to_next_w = in(reg) TO_NEXT_W,
            to_next_x = in(reg) $to_next_x,
            $($name = inout(vreg) *$name,)*
            out("v0") _,
            out("v1") _,
            out("v2") _,
            out("v3") _,
            out("v4") _,
            out("v5") _,
            out("v6") _,
            $(out($more) _,)*
            options(readonly, nostack, preserves_flags),
        )
    };
}

/// `sums = fma(d · factor, whole, sums)`. As assembly, in this order: a compiler that multiplies all scales first has no
/// registers left.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn scale_pair(
    whole: &[[int32x4_t; 2]; 2],
    d: &[[float32x4_t; 2]; 2],
    factor: float32x4_t,
    sums: &mut [[float32x4_t; 2]; 2],
) {
    let [[w0, w1], [w2, w3]] = *whole;
    let [[d0, d1], [d2, d3]] = *d;
    let [[s0, s1], [s2, s3]] = sums;
    // SAFETY: it reads and writes the named registers only.
    unsafe {
        asm!(
            "fmul {t:v}.4s, {d0:v}.4s, {f:v}.4s",
            "fmul {u:v}.4s, {d1:v}.4s, {f:v}.4s",
            "scvtf {w0:v}.4s, {w0:v}.4s",
            "scvtf {w1:v}.4s, {w1:v}.4s",
            "scvtf {w2:v}.4s, {w2:v}.4s",
            "scvtf {w3:v}.4s, {w3:v}.4s",
            "fmla {s0:v}.4s, {w0:v}.4s, {t:v}.4s",
            "fmul {t:v}.4s, {d2:v}.4s, {f:v}.4s",
            "fmla {s1:v}.4s, {w1:v}.4s, {u:v}.4s",
            "fmul {u:v}.4s, {d3:v}.4s, {f:v}.4s",
            "fmla {s2:v}.4s, {w2:v}.4s, {t:v}.4s",
            "fmla {s3:v}.4s, {w3:v}.4s, {u:v}.4s",
            f = in(vreg) factor,
            d0 = in(vreg) d0,
            d1 = in(vreg) d1,
            d2 = in(vreg) d2,
            d3 = in(vreg) d3,
            w0 = inout(vreg) w0 => _,
            w1 = inout(vreg) w1 => _,
            w2 = inout(vreg) w2 => _,
            w3 = inout(vreg) w3 => _,
            s0 = inout(vreg) *s0,
            s1 = inout(vreg) *s1,
            s2 = inout(vreg) *s2,
            s3 = inout(vreg) *s3,
            t = out(vreg) _,
            u = out(vreg) _,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// Adds the products of the next 16 columns with two pairs of tokens: `sums[p][r][h]` is of the pair `p` and the rows
/// `4r + 2h` and the next.
///
/// # Safety
/// The processor has the 8-bit matrix product instructions. As many columns lie at `at`, of a panel and of a tile of
/// `N` tokens, both of which are paired ([`Isa::PAIRED`](crate::kernels::isa::Isa::PAIRED)).
#[inline(always)]
pub(super) unsafe fn add_two_pairs<const N: usize>(
    at: &mut At,
    sums: &mut [[[int32x4_t; 2]; 2]; 2],
) {
    let [[[a0, a1], [a2, a3]], [[b0, b1], [b2, b3]]] = sums;
    macro_rules! columns {
        () => {
            concat!(
                "ld1 {{v0.16b-v3.16b}}, [{w}], {to_next_w}\n",
                "ld1 {{v4.16b-v5.16b}}, [{x}], {to_next_x}"
            )
        };
    }
    // SAFETY: the caller's contract keeps what is read inside the panel and the tile; beside that only the named
    // registers are read and written.
    unsafe {
        assembly!(
            at,
            8 * N,
            [
                columns!(),
                pair_products!("v4", "a0", "a1", "a2", "a3"),
                pair_products!("v5", "b0", "b1", "b2", "b3"),
                columns!(),
                pair_products!("v4", "a0", "a1", "a2", "a3"),
                pair_products!("v5", "b0", "b1", "b2", "b3"),
            ],
            [a0, a1, a2, a3, b0, b1, b2, b3]
        );
    }
}

/// [`add_two_pairs`] with three pairs.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn add_three_pairs<const N: usize>(
    at: &mut At,
    sums: &mut [[[int32x4_t; 2]; 2]; 3],
) {
    let [
        [[a0, a1], [a2, a3]],
        [[b0, b1], [b2, b3]],
        [[c0, c1], [c2, c3]],
    ] = sums;
    macro_rules! columns {
        () => {
            concat!(
                "ld1 {{v0.16b-v3.16b}}, [{w}], {to_next_w}\n",
                "ld1 {{v4.16b-v6.16b}}, [{x}], {to_next_x}"
            )
        };
    }
    // SAFETY: as in `add_two_pairs`.
    unsafe {
        assembly!(
            at,
            8 * N,
            [
                columns!(),
                pair_products!("v4", "a0", "a1", "a2", "a3"),
                pair_products!("v5", "b0", "b1", "b2", "b3"),
                pair_products!("v6", "c0", "c1", "c2", "c3"),
                columns!(),
                pair_products!("v4", "a0", "a1", "a2", "a3"),
                pair_products!("v5", "b0", "b1", "b2", "b3"),
                pair_products!("v6", "c0", "c1", "c2", "c3"),
            ],
            [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3]
        );
    }
}

/// Adds the products of the next 16 columns with four tokens, all that the tile has: `sums[t][r]` is of the token `t`
/// and the rows from `4r` on.
///
/// # Safety
/// The processor has the dot product instructions. As many columns lie at `at`, of a panel and of a tile of 4 tokens,
/// whose quads are laid out by [`Isa::pair`](crate::kernels::isa::Isa::pair) of [`Neon<1>`](super::Neon).
#[inline(always)]
pub(super) unsafe fn add_four_tokens(at: &mut At, sums: &mut [[int32x4_t; 2]; 4]) {
    let [[a0, a1], [b0, b1], [c0, c1], [d0, d1]] = sums;
    // SAFETY: as in `add_two_pairs`.
    unsafe {
        assembly!(
            at,
            64usize,
            [
                "ld1 {{v0.16b-v3.16b}}, [{w}], {to_next_w}",
                "ld1 {{v4.16b-v7.16b}}, [{x}], {to_next_x}",
                token_products!("v4", "v5", "0", "a0", "a1"),
                token_products!("v4", "v5", "1", "b0", "b1"),
                token_products!("v4", "v5", "2", "c0", "c1"),
                token_products!("v4", "v5", "3", "d0", "d1"),
                "ld1 {{v0.16b-v3.16b}}, [{w}], {to_next_w}",
                token_products!("v6", "v7", "0", "a0", "a1"),
                token_products!("v6", "v7", "1", "b0", "b1"),
                token_products!("v6", "v7", "2", "c0", "c1"),
                token_products!("v6", "v7", "3", "d0", "d1"),
            ],
            [a0, a1, b0, b1, c0, c1, d0, d1],
            "v7"
        );
    }
}

/// The products of the four columns of 16 rows in the lower halves of 64 bytes with the lane `$j` of `$low`, and of
/// those in the upper halves with that of `$high`.
macro_rules! nibble_products {
    ($j:literal, $low:literal, $high:literal) => {
        concat!(
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64\n",
            four_lines!("and " ["v4" "v5" "v6" "v7"] ".16b, " ["v0" "v1" "v2" "v3"] ".16b, {mask:v}.16b"),
            four_lines!("ushr " ["v0" "v1" "v2" "v3"] ".16b, " ["v0" "v1" "v2" "v3"] ".16b, #4"),
            four_lines!("sdot {" ["a" "b" "c" "d"] ":v}.4s, " ["v4" "v5" "v6" "v7"] ".16b, " $low ".4b[" $j "]"),
            four_lines!("sdot {" ["a" "b" "c" "d"] ":v}.4s, " ["v0" "v1" "v2" "v3"] ".16b, " $high ".4b[" $j "]"),
        )
    };
}

/// Adds the products of a block of 16 rows, packed in 4 bits a code, with the quads `x` of a single token.
///
/// # Safety
/// The processor has the dot product instructions.
#[inline(always)]
pub(super) unsafe fn add_nibbles(w: &[[u8; 64]; 4], x: &[[i8; 4]], sums: &mut [int32x4_t; 4]) {
    let x = &x[..8];
    let [a, b, c, d] = sums;
    // SAFETY: the loads are of four quads each, and the assembly's of the four times 64 bytes; beside that it reads
    // and writes the named registers only.
    unsafe {
        asm!(
            nibble_products!("0", "{low:v}", "{high:v}"),
            nibble_products!("1", "{low:v}", "{high:v}"),
            nibble_products!("2", "{low:v}", "{high:v}"),
            nibble_products!("3", "{low:v}", "{high:v}"),
            w = inout(reg) w.as_ptr() => _,
            mask = in(vreg) vdupq_n_u8(0x0f),
            low = in(vreg) vld1q_s8(x.as_ptr().cast()),
            high = in(vreg) vld1q_s8(x.as_ptr().add(4).cast()),
            a = inout(vreg) *a,
            b = inout(vreg) *b,
            c = inout(vreg) *c,
            d = inout(vreg) *d,
            out("v0") _,
            out("v1") _,
            out("v2") _,
            out("v3") _,
            out("v4") _,
            out("v5") _,
            out("v6") _,
            out("v7") _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}

/// The products of the four columns of 16 rows in the lower halves of 64 bytes, of which the bits 0 of `v20` to `v23` are
/// the highest, with the lane `$j` of `v16`; and of those in the upper halves, with the bits 4, with that of `v17`.
macro_rules! five_bit_products {
    ($j:literal) => {
        concat!(
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64\n",
            four_lines!("and " ["v4" "v5" "v6" "v7"] ".16b, " ["v20" "v21" "v22" "v23"] ".16b, {mask:v}.16b"),
            four_lines!("sri " ["v4" "v5" "v6" "v7"] ".16b, " ["v0" "v1" "v2" "v3"] ".16b, #4"),
            four_lines!("sdot {" ["a" "b" "c" "d"] ":v}.4s, " ["v4" "v5" "v6" "v7"] ".16b, v17.4b[" $j "]"),
            four_lines!("and " ["v4" "v5" "v6" "v7"] ".16b, " ["v20" "v21" "v22" "v23"] ".16b, {mask:v}.16b"),
            four_lines!("sli " ["v0" "v1" "v2" "v3"] ".16b, " ["v4" "v5" "v6" "v7"] ".16b, #4"),
            four_lines!("sdot {" ["a" "b" "c" "d"] ":v}.4s, " ["v0" "v1" "v2" "v3"] ".16b, v16.4b[" $j "]"),
        )
    };
    () => {
        four_lines!("ushr " ["v20" "v21" "v22" "v23"] ".16b, " ["v20" "v21" "v22" "v23"] ".16b, #1")
    };
}

/// The assembly of a block of 16 rows, whose scales and minima have a byte each, by a single token; `$products` are those
/// of its codes. The scales are decoded when the sums are complete, so that all stays in registers.
macro_rules! super_block {
    ($at:ident, $mask:literal, $supers:ident, $sums:ident, [$($products:expr),* $(,)?] $(, $more:tt)*) => {{
        let [[d0, d1, d2, d3], [m0, m1, m2, m3]] = *$supers;
        let [s0, s1, s2, s3] = $sums;
        asm!(
            // Codes of the activations; then, as a third, their factor and their sum.
            "ld1 {{v16.16b-v18.16b}}, [{x}], #48",
            four_lines!("movi {" ["a" "b" "c" "d"] ":v}.4s, #0"),
            $($products,)*
            "ld1 {{v0.16b-v1.16b}}, [{scales}], #32",
            // Bytes with zeros above them are subnormal numbers of binary16.
            "ushll v2.8h, v0.8b, #0",
            "ushll2 v3.8h, v0.16b, #0",
            "ushll v4.8h, v1.8b, #0",
            "ushll2 v5.8h, v1.16b, #0",
            "fcvtl v0.4s, v2.4h",
            "fcvtl2 v1.4s, v2.8h",
            "fcvtl v2.4s, v3.4h",
            "fcvtl2 v3.4s, v3.8h",
            four_lines!(
                "fmul " ["v0" "v1" "v2" "v3"] ".4s, " ["v0" "v1" "v2" "v3"] ".4s, {"
                ["d0" "d1" "d2" "d3"] ":v}.4s"
            ),
            four_lines!("scvtf {" ["a" "b" "c" "d"] ":v}.4s, {" ["a" "b" "c" "d"] ":v}.4s"),
            four_lines!("fmul " ["v0" "v1" "v2" "v3"] ".4s, " ["v0" "v1" "v2" "v3"] ".4s, v18.s[0]"),
            four_lines!(
                "fmla {" ["s0" "s1" "s2" "s3"] ":v}.4s, {" ["a" "b" "c" "d"] ":v}.4s, "
                ["v0" "v1" "v2" "v3"] ".4s"
            ),
            "fcvtl v0.4s, v4.4h",
            "fcvtl2 v1.4s, v4.8h",
            "fcvtl v2.4s, v5.4h",
            "fcvtl2 v3.4s, v5.8h",
            four_lines!(
                "fmul " ["v0" "v1" "v2" "v3"] ".4s, " ["v0" "v1" "v2" "v3"] ".4s, {"
                ["m0" "m1" "m2" "m3"] ":v}.4s"
            ),
            four_lines!("fmla {" ["s0" "s1" "s2" "s3"] ":v}.4s, " ["v0" "v1" "v2" "v3"] ".4s, v18.s[1]"),
            w = inout(reg) $at.codes,
            scales = inout(reg) $at.scales,
            x = inout(reg) $at.x,
            mask = in(vreg) vdupq_n_u8($mask),
            d0 = in(vreg) d0,
            d1 = in(vreg) d1,
            d2 = in(vreg) d2,
            d3 = in(vreg) d3,
            m0 = in(vreg) m0,
            m1 = in(vreg) m1,
            m2 = in(vreg) m2,
            m3 = in(vreg) m3,
            s0 = inout(vreg) *s0,
            s1 = inout(vreg) *s1,
            s2 = inout(vreg) *s2,
            s3 = inout(vreg) *s3,
            a = out(vreg) _,
            b = out(vreg) _,
            c = out(vreg) _,
            d = out(vreg) _,
            out("v0") _,
            out("v1") _,
            out("v2") _,
            out("v3") _,
            out("v4") _,
            out("v5") _,
            out("v6") _,
            out("v7") _,
            out("v16") _,
            out("v17") _,
            out("v18") _,
            $(out($more) _,)*
            options(readonly, nostack, preserves_flags),
        )
    }};
}

/// The products of the four columns of 16 rows in the upper halves of 64 bytes, of which the bits 4 and 5 are the highest of
/// what `$top` makes of those of 64 others, with the lane `$j` of `v17`; and of those in the lower halves with that of `v16`,
/// their highest being the bits 0 and 1 of what `$upper` makes of yet others.
macro_rules! six_bit_products {
    ($j:literal, $top:expr, $upper:expr) => {
        concat!(
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64\n",
            "ld1 {{v4.16b-v7.16b}}, [{top}]\n",
            $top,
            four_lines!("and " ["v4" "v5" "v6" "v7"] ".16b, " ["v4" "v5" "v6" "v7"] ".16b, {top_mask:v}.16b"),
            four_lines!("sri " ["v4" "v5" "v6" "v7"] ".16b, " ["v0" "v1" "v2" "v3"] ".16b, #4"),
            four_lines!("sdot {" ["e" "f" "g" "h"] ":v}.4s, " ["v4" "v5" "v6" "v7"] ".16b, v17.4b[" $j "]"),
            "ld1 {{v4.16b-v7.16b}}, [{upper}]\n",
            $upper,
            four_lines!("sli " ["v0" "v1" "v2" "v3"] ".16b, " ["v4" "v5" "v6" "v7"] ".16b, #4"),
            four_lines!("sdot {" ["a" "b" "c" "d"] ":v}.4s, " ["v0" "v1" "v2" "v3"] ".16b, v16.4b[" $j "]"),
        )
    };
}

/// Moves the bits of four registers.
macro_rules! moved {
    ($how:literal, $by:literal) => {
        four_lines!($how " " ["v4" "v5" "v6" "v7"] ".16b, " ["v4" "v5" "v6" "v7"] ".16b, " $by)
    };
}

/// Four registers of signed bytes in 32 bits, from one.
macro_rules! widened {
    ($from:literal) => {
        concat!(
            "sshll v2.8h, ",
            $from,
            ".8b, #0\n",
            "sshll2 v3.8h, ",
            $from,
            ".16b, #0\n",
            "sshll v4.4s, v2.4h, #0\n",
            "sshll2 v5.4s, v2.8h, #0\n",
            "sshll v6.4s, v3.4h, #0\n",
            "sshll2 v7.4s, v3.8h, #0\n",
        )
    };
}

/// Where a group's packed codes and scales and a single token are read.
pub(super) struct SuperBlocks {
    pub codes: *const u8,
    pub scales: *const u8,
    pub x: *const XBlock<1>,
}

const _: () = assert!(size_of::<XBlock<1>>() == 48);

/// Adds a block of 16 rows, packed in 4 or 5 bits a code with scales and minima of a byte each, or in 6 with two scales,
/// times a single token, by the formula of [`kernels`](crate::kernels). Leaves the pointers at the next block.
///
/// # Safety
/// The processor has the dot product instructions; a block lies at each pointer.
#[inline(always)]
pub(super) unsafe fn add_super_block<const BITS: u32>(
    at: &mut SuperBlocks,
    supers: &[[float32x4_t; 4]; 2],
    sums: &mut [float32x4_t; 4],
) {
    // SAFETY: the caller's contract; beside that only the named registers are read and written.
    unsafe {
        if BITS == 6 {
            add_halves(at, &supers[0], sums);
        } else if BITS == 5 {
            super_block!(
                at,
                0x11,
                supers,
                sums,
                [
                    // The fifth bits lie behind the others.
                    "add {w}, {w}, #256",
                    "ld1 {{v20.16b-v23.16b}}, [{w}]",
                    "sub {w}, {w}, #256",
                    five_bit_products!("0"),
                    five_bit_products!(),
                    five_bit_products!("1"),
                    five_bit_products!(),
                    five_bit_products!("2"),
                    five_bit_products!(),
                    five_bit_products!("3"),
                    "add {w}, {w}, #64",
                ],
                "v20",
                "v21",
                "v22",
                "v23"
            );
        } else {
            super_block!(
                at,
                0x0f,
                supers,
                sums,
                [
                    nibble_products!("0", "v16", "v17"),
                    nibble_products!("1", "v16", "v17"),
                    nibble_products!("2", "v16", "v17"),
                    nibble_products!("3", "v16", "v17"),
                ]
            );
        }
    }
}

/// [`add_super_block`] in 6 bits. A half's sum times its scale has at most 23 bits, so it is exact as an integer and as a
/// number of binary32: the fused operation rounds what it rounds where the scale is part of `d`.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_halves(at: &mut SuperBlocks, d: &[float32x4_t; 4], sums: &mut [float32x4_t; 4]) {
    let [s0, s1, s2, s3] = sums;
    // SAFETY: the caller's contract; beside that only the named registers are read and written.
    unsafe {
        asm!(
            // Codes of the activations; then, as a third, their factor and, from its third number on, what sums of codes
            // that count from 32 start at.
            "ld1 {{v16.16b-v18.16b}}, [{x}], #48",
            "dup v4.4s, v18.s[3]",
            "dup v5.4s, v18.s[2]",
            "sub v5.4s, v5.4s, v4.4s",
            four_lines!("shl {" ["a" "b" "c" "d"] ":v}.4s, v5.4s, #5"),
            four_lines!("shl {" ["e" "f" "g" "h"] ":v}.4s, v4.4s, #5"),
            "add {upper}, {w}, #256",
            "add {top}, {w}, #320",
            six_bit_products!("0", moved!("shl", "#4"), moved!("and", "{upper_mask:v}.16b")),
            six_bit_products!(
                "1",
                moved!("shl", "#2"),
                concat!(moved!("ushr", "#2"), moved!("and", "{upper_mask:v}.16b"))
            ),
            six_bit_products!(
                "2",
                "",
                concat!(moved!("ushr", "#4"), moved!("and", "{upper_mask:v}.16b"))
            ),
            six_bit_products!("3", moved!("ushr", "#2"), moved!("ushr", "#6")),
            "add {w}, {w}, #128",
            "ld1 {{v0.16b-v1.16b}}, [{scales}], #32",
            widened!("v0"),
            four_lines!("mul {" ["a" "b" "c" "d"] ":v}.4s, {" ["a" "b" "c" "d"] ":v}.4s, " ["v4" "v5" "v6" "v7"] ".4s"),
            four_lines!("scvtf {" ["a" "b" "c" "d"] ":v}.4s, {" ["a" "b" "c" "d"] ":v}.4s"),
            widened!("v1"),
            four_lines!("mul {" ["e" "f" "g" "h"] ":v}.4s, {" ["e" "f" "g" "h"] ":v}.4s, " ["v4" "v5" "v6" "v7"] ".4s"),
            four_lines!("scvtf {" ["e" "f" "g" "h"] ":v}.4s, {" ["e" "f" "g" "h"] ":v}.4s"),
            four_lines!("fmul " ["v0" "v1" "v2" "v3"] ".4s, {" ["d0" "d1" "d2" "d3"] ":v}.4s, v18.s[0]"),
            four_lines!(
                "fmla {" ["s0" "s1" "s2" "s3"] ":v}.4s, {" ["a" "b" "c" "d"] ":v}.4s, "
                ["v0" "v1" "v2" "v3"] ".4s"
            ),
            four_lines!(
                "fmla {" ["s0" "s1" "s2" "s3"] ":v}.4s, {" ["e" "f" "g" "h"] ":v}.4s, "
                ["v0" "v1" "v2" "v3"] ".4s"
            ),
            w = inout(reg) at.codes,
            scales = inout(reg) at.scales,
            x = inout(reg) at.x,
            upper = out(reg) _,
            top = out(reg) _,
            upper_mask = in(vreg) vdupq_n_u8(0x03),
            top_mask = in(vreg) vdupq_n_u8(0x30),
            d0 = in(vreg) d[0],
            d1 = in(vreg) d[1],
            d2 = in(vreg) d[2],
            d3 = in(vreg) d[3],
            s0 = inout(vreg) *s0,
            s1 = inout(vreg) *s1,
            s2 = inout(vreg) *s2,
            s3 = inout(vreg) *s3,
            a = out(vreg) _,
            b = out(vreg) _,
            c = out(vreg) _,
            d = out(vreg) _,
            e = out(vreg) _,
            f = out(vreg) _,
            g = out(vreg) _,
            h = out(vreg) _,
            out("v0") _,
            out("v1") _,
            out("v2") _,
            out("v3") _,
            out("v4") _,
            out("v5") _,
            out("v6") _,
            out("v7") _,
            out("v16") _,
            out("v17") _,
            out("v18") _,
            options(readonly, nostack, preserves_flags),
        );
    }
}
