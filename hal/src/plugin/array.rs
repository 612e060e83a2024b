//! Arrays of structures, whose elements may stand further apart than they are long.

use anynpu_abi::{
    anynpu_attribute, anynpu_binding, anynpu_entry, anynpu_node, anynpu_option, anynpu_state,
    anynpu_value, anynpu_weight,
};

/// Bytes of a word; structures of the interface are whole words, aligned to one.
const WORD: usize = size_of::<u64>();
/// Words behind each element where arrays are spread: as many as a later version might add.
const SPREAD: usize = 3;
/// What stands there.
const POISON: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// A structure of the interface that stands in arrays with a stride.
///
/// # Safety
/// Its size is a multiple of 8, and so is its alignment at most.
#[allow(unsafe_code)] // what is written word by word
pub(super) unsafe trait Element: Copy {}

macro_rules! elements {
    ($($type:ident),*) => {
        $(
            const _: () = assert!(size_of::<$type>().is_multiple_of(WORD) && align_of::<$type>() <= WORD);
            // SAFETY: it was asserted just now.
            #[allow(unsafe_code)]
            unsafe impl Element for $type {}
        )*
    };
}
elements!(
    anynpu_attribute,
    anynpu_binding,
    anynpu_entry,
    anynpu_node,
    anynpu_option,
    anynpu_state,
    anynpu_value,
    anynpu_weight
);

/// An array. It stays where it is when it is moved.
#[derive(Debug)]
pub(super) struct Array<T> {
    words: Vec<u64>,
    count: usize,
    spread: bool,
    of: std::marker::PhantomData<T>,
}

// SAFETY: it is plain memory; what pointers in it lead to is its user's concern.
#[allow(unsafe_code)]
unsafe impl<T> Send for Array<T> {}

impl<T: Element> Array<T> {
    /// An empty one. If it is spread, more stands behind each element than is known of it.
    pub fn new(spread: bool) -> Array<T> {
        Array {
            words: Vec::new(),
            count: 0,
            spread,
            of: std::marker::PhantomData,
        }
    }

    /// Of these elements.
    pub fn of(elements: impl IntoIterator<Item = T>, spread: bool) -> Array<T> {
        let mut array = Array::new(spread);
        elements.into_iter().for_each(|e| array.push(e));
        array
    }

    /// Adds an element. Pointers to those before it are void.
    pub fn push(&mut self, element: T) {
        let own = size_of::<T>() / WORD;
        let from = (&raw const element).cast::<u64>();
        for at in 0..own {
            // SAFETY: the element has so many words; parts of it that nothing is in are none of a structure of the
            // interface, whose members fill it but for the end of a union, which is copied as what it is.
            #[allow(unsafe_code)]
            self.words.push(unsafe { from.add(at).read_unaligned() });
        }
        if self.spread {
            self.words.extend([POISON; SPREAD]);
        }
        self.count += 1;
    }

    /// Takes all elements out; the memory stays.
    pub fn clear(&mut self) {
        self.words.clear();
        self.count = 0;
    }

    /// The first element.
    pub fn as_ptr(&self) -> *const T {
        self.words.as_ptr().cast()
    }

    /// The element with this number, which may be one past the last.
    pub fn at(&self, number: usize) -> *const T {
        let words = number.min(self.count) * self.stride() / WORD;
        self.words[words..].as_ptr().cast()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Bytes from one to the next.
    pub fn stride(&self) -> usize {
        let more = if self.spread { SPREAD * WORD } else { 0 };
        size_of::<T>() + more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anynpu_abi::anynpu_text;

    #[test]
    fn elements_are_where_the_stride_says() {
        let option = |length: usize| {
            let text = anynpu_text {
                data: std::ptr::null(),
                length,
            };
            anynpu_option {
                name: text,
                value: text,
            }
        };
        for spread in [false, true] {
            let array = Array::of([option(7), option(8)], spread);
            assert_eq!(
                (array.len(), array.stride()),
                (2, if spread { 56 } else { 32 })
            );
            let second = array.as_ptr().cast::<u8>().wrapping_add(array.stride());
            assert_eq!(second, array.at(1).cast());
            // SAFETY: the element is there.
            #[allow(unsafe_code)]
            let found = unsafe { array.at(1).read_unaligned() };
            assert_eq!(found.value.length, 8);
        }
    }
}
