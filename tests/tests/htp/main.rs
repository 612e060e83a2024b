//! Models' nodes on Qualcomm's HTP: what they become, and what Qualcomm's own library computes of them.

mod cases;
mod lowering;
mod operations;

/// Numbers in -1..1 of a sequence.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
