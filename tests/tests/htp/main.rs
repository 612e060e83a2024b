//! Models' nodes on Qualcomm's HTP: what they become, and what Qualcomm's own library computes of them.

mod cases;
mod conversion;
mod encoders;
mod lowering;
mod operations;

use std::path::Path;

/// Numbers in -1..1 of a sequence.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Fails if `text` is not what `data/htp/NAME.txt` has, and leaves it where it can be looked at.
fn kept(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/htp/{name}.txt"));
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if text != expected {
        let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.txt"));
        std::fs::write(&found, text).unwrap();
        panic!(
            "{name} is something else; if that is right, keep it:\n  cp {} {}",
            found.display(),
            path.display()
        );
    }
}
