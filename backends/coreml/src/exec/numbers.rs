//! Numbers on their way into functions and out of them.

use std::ops::Range;

use anynpu_ir::DType;
use half::{bf16, f16};

use crate::binding::Element;

/// Memory that begins where a page does, which Core ML reads and writes fastest.
#[derive(Debug)]
pub(super) struct Pages {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

/// Bytes of the largest pages that Apple's systems have.
const PAGE: usize = 1 << 14;

impl Pages {
    /// So many bytes, all 0.
    pub fn new(bytes: usize) -> Pages {
        let memory = vec![0; bytes + PAGE - 1];
        // the memory of a vector stays where it is as long as the vector does not grow
        let start = memory.as_ptr().addr().wrapping_neg() % PAGE;
        Pages {
            memory,
            start,
            bytes,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        self.memory
            .get(self.start..self.start + self.bytes)
            .unwrap_or_default()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory
            .get_mut(self.start..self.start + self.bytes)
            .unwrap_or_default()
    }
}

/// Bytes that `elements` numbers of `dtype` have.
pub(super) fn bytes_of(dtype: DType, elements: usize) -> usize {
    dtype.row_bytes(elements).unwrap_or(0)
}

/// Copies numbers of `dtype` to `to`, which holds `element`s.
pub(super) fn into_function(dtype: DType, from: &[u8], element: Element, to: &mut [u8]) {
    let float: Option<fn(&[u8]) -> f32> = match dtype {
        DType::F32 => Some(|b| f32::from_ne_bytes(b.try_into().unwrap_or_default())),
        DType::F16 => Some(|b| f16::from_ne_bytes(b.try_into().unwrap_or_default()).to_f32()),
        DType::BF16 => Some(|b| bf16::from_ne_bytes(b.try_into().unwrap_or_default()).to_f32()),
        _ => None,
    };
    match (float, element) {
        _ if element.is(dtype) => {
            let count = to.len().min(from.len());
            to[..count].copy_from_slice(&from[..count]);
        }
        (Some(read), _) => {
            let numbers = from.chunks_exact(bytes_of(dtype, 1)).map(read);
            fill(element, to, numbers);
        }
        // truth values
        (None, _) => {
            for (to, b) in to.chunks_exact_mut(4).zip(from) {
                to.copy_from_slice(&i32::from(*b != 0).to_ne_bytes());
            }
        }
    }
}

/// Copies `element`s to `to`, which holds numbers of `dtype`.
pub(super) fn out_of_function(element: Element, from: &[u8], dtype: DType, to: &mut [u8]) {
    let read = |b: &[u8]| match element {
        Element::F16 => f16::from_ne_bytes(b.try_into().unwrap_or_default()).to_f32(),
        _ => f32::from_ne_bytes(b.try_into().unwrap_or_default()),
    };
    let numbers = from.chunks_exact(element.bytes());
    match dtype {
        _ if element.is(dtype) => {
            let count = to.len().min(from.len());
            to[..count].copy_from_slice(&from[..count]);
        }
        DType::F32 => fill(Element::F32, to, numbers.map(read)),
        DType::F16 => fill(Element::F16, to, numbers.map(read)),
        DType::BF16 => {
            for (to, b) in to.chunks_exact_mut(2).zip(numbers) {
                to.copy_from_slice(&bf16::from_f32(read(b)).to_ne_bytes());
            }
        }
        // truth values
        _ => {
            for (to, b) in to.iter_mut().zip(numbers) {
                *to = u8::from(b.iter().any(|b| *b != 0));
            }
        }
    }
}

/// Writes numbers as `element`s.
pub(super) fn fill(element: Element, to: &mut [u8], numbers: impl Iterator<Item = f32>) {
    match element {
        Element::F16 => {
            for (to, x) in to.chunks_exact_mut(2).zip(numbers) {
                to.copy_from_slice(&f16::from_f32(x).to_ne_bytes());
            }
        }
        Element::F32 => {
            for (to, x) in to.chunks_exact_mut(4).zip(numbers) {
                to.copy_from_slice(&x.to_ne_bytes());
            }
        }
        Element::I32 => {
            for (to, x) in to.chunks_exact_mut(4).zip(numbers) {
                to.copy_from_slice(&(x as i32).to_ne_bytes());
            }
        }
    }
}

/// Copies an array that has `strides`, in elements of `size` bytes, to `to`, which has no gaps. `false` if it is not all
/// within `from`.
#[cfg_attr(not(target_vendor = "apple"), allow(dead_code))] // Core ML's own arrays have strides
pub(super) fn gathered(
    from: &[u8],
    dims: &[u32],
    strides: &[usize],
    size: usize,
    to: &mut [u8],
) -> bool {
    each_run(dims, strides, size, |outside, inside| {
        match (from.get(outside), to.get_mut(inside)) {
            (Some(from), Some(to)) => {
                to.copy_from_slice(from);
                true
            }
            _ => false,
        }
    })
}

/// Copies `from`, which has no gaps, to an array that has `strides`, likewise.
#[cfg_attr(not(target_vendor = "apple"), allow(dead_code))] // Core ML's own arrays have strides
pub(super) fn scattered(
    from: &[u8],
    dims: &[u32],
    strides: &[usize],
    size: usize,
    to: &mut [u8],
) -> bool {
    each_run(dims, strides, size, |outside, inside| {
        match (to.get_mut(outside), from.get(inside)) {
            (Some(to), Some(from)) => {
                to.copy_from_slice(from);
                true
            }
            _ => false,
        }
    })
}

/// Calls `visit` with the bytes of each run of elements that lie one after the other, where the array has them and where
/// one without gaps has them, the last dimension fastest, until it gives `false`. Whether it never did, and there are as
/// many strides as dimensions.
fn each_run(
    dims: &[u32],
    strides: &[usize],
    size: usize,
    mut visit: impl FnMut(Range<usize>, Range<usize>) -> bool,
) -> bool {
    if dims.len() != strides.len() {
        return false;
    }
    // the last dimensions, as far as they have no gaps
    let (mut outer, mut run) = (dims.len(), 1usize);
    while outer > 0 && (strides[outer - 1] == run || dims[outer - 1] == 1) {
        outer -= 1;
        run = run.saturating_mul(dims[outer] as usize);
    }
    let (dims, strides) = (&dims[..outer], &strides[..outer]);
    let count: usize = dims.iter().map(|n| *n as usize).product();
    let bytes = run.saturating_mul(size);
    let range = |at: usize| at..at.saturating_add(bytes);
    let mut place = vec![0usize; outer];
    for i in 0..count {
        let parts = place.iter().zip(strides).map(|(i, s)| i.saturating_mul(*s));
        let at = parts.fold(0usize, usize::saturating_add);
        if !visit(range(at.saturating_mul(size)), range(i * bytes)) {
            return false;
        }
        for (place, n) in place.iter_mut().zip(dims).rev() {
            *place += 1;
            if *place < *n as usize {
                break;
            }
            *place = 0;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_where_pages_do() {
        for bytes in [0, 1, PAGE, 3 * PAGE + 5] {
            let mut pages = Pages::new(bytes);
            pages.bytes_mut().fill(7);
            assert_eq!(pages.bytes(), vec![7; bytes]);
            assert!(bytes == 0 || pages.bytes().as_ptr().addr().is_multiple_of(PAGE));
        }
    }

    #[test]
    fn numbers_cross_in_every_type_and_back() {
        let numbers = [0.0f32, 1.5, -2.25, 1024.0];
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for element in [Element::F16, Element::F32] {
                let mut outside = vec![0; bytes_of(dtype, 4)];
                let plain: Vec<u8> = numbers.iter().flat_map(|x| x.to_ne_bytes()).collect();
                out_of_function(Element::F32, &plain, dtype, &mut outside);
                let mut inside = vec![0; 4 * element.bytes()];
                into_function(dtype, &outside, element, &mut inside);
                let mut back = vec![0; outside.len()];
                out_of_function(element, &inside, dtype, &mut back);
                assert_eq!(back, outside, "{dtype} {element:?}");
            }
        }
        let mut inside = [0; 12];
        into_function(DType::Bool, &[1, 0, 1], Element::I32, &mut inside);
        let mut back = [9; 3];
        out_of_function(Element::I32, &inside, DType::Bool, &mut back);
        assert_eq!(back, [1, 0, 1]);
    }

    #[test]
    fn arrays_with_gaps_are_gathered() {
        // [2, 3] in rows of 4
        let from: Vec<u8> = (0..8).collect();
        let mut to = [0; 6];
        assert!(gathered(&from, &[2, 3], &[4, 1], 1, &mut to));
        assert_eq!(to, [0, 1, 2, 4, 5, 6]);
        // turned
        assert!(gathered(&from, &[3, 2], &[1, 4], 1, &mut to));
        assert_eq!(to, [0, 4, 1, 5, 2, 6]);
        let mut wide = [0; 4];
        assert!(gathered(&from, &[1, 2, 1], &[0, 2, 1], 2, &mut wide));
        assert_eq!(wide, [0, 1, 4, 5]);
        assert!(!gathered(&from, &[2, 3], &[6, 1], 1, &mut to));
        assert!(!gathered(&from, &[2, 3], &[1], 1, &mut to));
        assert!(!gathered(&from, &[2, 3], &[usize::MAX, 1], 1, &mut to));
        assert!(gathered(&from, &[2, 0], &[4, 1], 1, &mut to[..0]));
    }

    #[test]
    fn arrays_with_gaps_are_scattered_as_they_are_gathered() {
        for (dims, strides, size) in [
            (vec![2u32, 3], vec![4usize, 1], 1),
            (vec![3, 2], vec![1, 4], 2),
            (vec![1, 2, 3, 4], vec![24, 12, 4, 1], 2),
            (vec![2, 2, 2], vec![20, 7, 3], 4),
            (vec![5], vec![2], 2),
            (vec![], vec![], 2),
        ] {
            let count: usize = dims.iter().map(|n| *n as usize).product();
            let from: Vec<u8> = (1..=(count * size) as u8).collect();
            let mut wide = vec![0; 128];
            assert!(scattered(&from, &dims, &strides, size, &mut wide));
            let mut back = vec![0; from.len()];
            assert!(gathered(&wide, &dims, &strides, size, &mut back));
            assert_eq!(back, from, "{dims:?} {strides:?}");
            assert_eq!(wide.iter().filter(|b| **b != 0).count(), from.len());
            let (last, short) = (from.len() - 1, &mut wide[..size]);
            assert_eq!(scattered(&from, &dims, &strides, size, short), count == 1);
            assert!(!scattered(&from[..last], &dims, &strides, size, &mut wide));
        }
    }
}
