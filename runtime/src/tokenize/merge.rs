//! Merging of neighbours, best first, in O(n log n): a linked list of symbols and a heap of candidates.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// No neighbour on this side.
const NONE: u32 = u32::MAX;

/// A stretch of the text that is one symbol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// First byte.
    pub(super) start: u32,
    /// Number of bytes; 0 once merged into the symbol on the left.
    pub(super) len: u32,
    /// What it is, in the caller's numbering.
    pub(super) id: u32,
    before: u32,
    after: u32,
}

impl Symbol {
    /// The bytes of `text` that it covers.
    pub(super) fn of<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.start as usize..][..self.len as usize]
    }
}

/// Two neighbours that may become one.
#[derive(Debug)]
struct Candidate<P> {
    priority: P,
    left: u32,
    right: u32,
    len: u32,
    id: u32,
}

impl<P: Ord> Ord for Candidate<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority
            .cmp(&other.priority)
            .then(other.left.cmp(&self.left))
            .then(self.len.cmp(&other.len))
    }
}

impl<P: Ord> PartialOrd for Candidate<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P: Ord> PartialEq for Candidate<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<P: Ord> Eq for Candidate<P> {}

/// The symbols of one word, and the room to merge them in; reused from word to word.
#[derive(Debug)]
pub(super) struct Merger<P> {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate<P>>,
}

impl<P: Ord> Merger<P> {
    /// Without symbols.
    pub(super) fn new() -> Self {
        Merger {
            symbols: Vec::new(),
            candidates: BinaryHeap::new(),
        }
    }

    /// Forgets the symbols.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.candidates.clear();
    }

    /// Appends a symbol of `len` bytes, which begins where the last one ended. The caller keeps the sum of lengths within
    /// 32 bits, and every length above zero.
    pub(super) fn push(&mut self, len: u32, id: u32) {
        let position = self.symbols.len() as u32;
        let mut start = 0;
        let mut before = NONE;
        if let Some(last) = self.symbols.last_mut() {
            last.after = position;
            start = last.start + last.len;
            before = position - 1;
        }
        self.symbols.push(Symbol {
            start,
            len,
            id,
            before,
            after: NONE,
        });
    }

    /// Merges until nothing can be: always the pair of greatest priority, of equal ones the leftmost. `propose` says what
    /// two neighbours become, with which priority. Then the symbols left over, in order.
    pub(super) fn merge(
        &mut self,
        mut propose: impl FnMut(&Symbol, &Symbol) -> Option<(P, u32)>,
    ) -> impl Iterator<Item = &Symbol> {
        for right in 1..self.symbols.len() as u32 {
            self.consider(right - 1, right, &mut propose);
        }
        while let Some(Candidate {
            left,
            right,
            len,
            id,
            ..
        }) = self.candidates.pop()
        {
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            // Symbols only grow, so neighbours that are both there and as long together as before are unchanged.
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue;
            }
            self.symbols[right as usize].len = 0;
            self.symbols[left as usize] = Symbol {
                len,
                id,
                after: r.after,
                ..l
            };
            if r.after != NONE {
                self.symbols[r.after as usize].before = left;
                self.consider(left, r.after, &mut propose);
            }
            if l.before != NONE {
                self.consider(l.before, left, &mut propose);
            }
        }
        self.symbols.iter().filter(|symbol| symbol.len > 0)
    }

    fn consider(
        &mut self,
        left: u32,
        right: u32,
        propose: &mut impl FnMut(&Symbol, &Symbol) -> Option<(P, u32)>,
    ) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((priority, id)) = propose(l, r) {
            self.candidates.push(Candidate {
                priority,
                left,
                right,
                len: l.len + r.len,
                id,
            });
        }
    }
}
