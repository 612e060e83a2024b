//! Which arrays can be in surfaces that all processors see.

use crate::binding::{Array, Element};

/// What bytes of a row of a surface are a multiple of, so that its rows have no gaps.
const ROW: usize = 64;
/// Most columns and rows of a surface.
const LONGEST: usize = 16384;

/// Columns and rows of the surface that holds `array` row-major without gaps: its last dimension, and the product of the
/// others. `None` of arrays that surfaces don't hold so: they have numbers of 16 bits, in rows of whole 64 bytes, and no
/// more than 16384 of either.
#[cfg_attr(not(target_vendor = "apple"), allow(dead_code))] // surfaces are a part of Apple's systems
pub(super) fn surface(array: &Array) -> Option<[usize; 2]> {
    let (last, others) = array.dims.split_last()?;
    let columns = *last as usize;
    let rows = others
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(*d as usize))?;
    let whole = array.element == Element::F16 && (columns * 2).is_multiple_of(ROW);
    let sizes = [columns, rows];
    let fits = sizes.iter().all(|n| (1..=LONGEST).contains(n));
    (whole && fits).then_some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surfaces_hold_numbers_of_16_bits_in_rows_of_whole_64_bytes() {
        let of = |element, dims: &[u32]| {
            surface(&Array {
                feature: "x".into(),
                element,
                dims: dims.to_vec(),
            })
        };
        assert_eq!(of(Element::F16, &[2, 3, 32]), Some([32, 6]));
        assert_eq!(of(Element::F16, &[64]), Some([64, 1]));
        assert_eq!(of(Element::F16, &[1, 1, 512, 16384]), Some([16384, 512]));
        for (element, dims) in [
            (Element::F32, &[2, 32][..]),
            (Element::I32, &[2, 32]),
            (Element::F16, &[2, 31]),
            (Element::F16, &[2, 16]),
            (Element::F16, &[]),
            (Element::F16, &[0, 32]),
            (Element::F16, &[2, 0]),
            (Element::F16, &[2, 16416]),
            (Element::F16, &[16385, 32]),
            (Element::F16, &[u32::MAX, u32::MAX, u32::MAX, 32]),
        ] {
            assert_eq!(of(element, dims), None, "{element:?} {dims:?}");
        }
    }
}
