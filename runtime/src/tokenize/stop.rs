//! Ends a stream of text at a stop string, wherever the boundaries between tokens fall.

use super::error::TokenizeError;

/// What a [`StopMatcher`] lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopOutput<'m> {
    /// Text that is certainly before any stop string.
    pub text: &'m str,
    /// Position, in the list given to [`StopMatcher::new`], of the stop string that was found.
    pub stopped: Option<usize>,
}

/// Watches streamed text for stop strings.
///
/// Text that may yet become a stop string is held back, and no more than that. The stop string that is complete first ends
/// the text; of several complete at the same character the longest does, so the result doesn't depend on how the text was
/// cut into pieces. The stop string itself is not let through.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    held: String,
    released: String,
    stopped: Option<usize>,
}

/// One stop string, matched by the Knuth–Morris–Pratt automaton.
#[derive(Clone, Debug)]
struct Stop {
    text: Box<[u8]>,
    /// For each number of matched bytes: how many are still matched if the next byte doesn't fit.
    fallback: Box<[usize]>,
    matched: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let text: Box<[u8]> = text.as_bytes().into();
        let mut fallback = vec![0; text.len() + 1].into_boxed_slice();
        let mut border = 0;
        for end in 1..text.len() {
            while border > 0 && text[border] != text[end] {
                border = fallback[border];
            }
            border += usize::from(text[border] == text[end]);
            fallback[end + 1] = border;
        }
        Stop {
            text,
            fallback,
            matched: 0,
        }
    }

    /// Takes one byte; true if the string is complete.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        self.matched == self.text.len()
    }
}

impl StopMatcher {
    /// Watches for these strings; with none, all text is let through at once.
    ///
    /// # Errors
    /// [`TokenizeError::EmptyStopString`].
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, TokenizeError> {
        if let Some(index) = stops.iter().position(|stop| stop.as_ref().is_empty()) {
            return Err(TokenizeError::EmptyStopString { index });
        }
        let stops = stops.iter().map(|stop| Stop::new(stop.as_ref())).collect();
        Ok(StopMatcher {
            stops,
            held: String::new(),
            released: String::new(),
            stopped: None,
        })
    }

    /// Takes more text. After a stop string was found, text is dropped.
    pub fn push(&mut self, text: &str) -> StopOutput<'_> {
        self.released.clear();
        if self.stopped.is_none() {
            let mut end = self.held.len();
            self.held.push_str(text);
            for byte in text.bytes() {
                end += 1;
                if let Some(stop) = self.step(byte) {
                    self.stopped = Some(stop);
                    self.held.truncate(end - self.stops[stop].text.len());
                    break;
                }
            }
            let kept = match self.stopped {
                Some(_) => 0,
                None => self
                    .stops
                    .iter()
                    .map(|stop| stop.matched)
                    .max()
                    .unwrap_or(0),
            };
            self.release(kept);
        }
        StopOutput {
            text: &self.released,
            stopped: self.stopped,
        }
    }

    /// The text held back, once no more comes. Afterwards the matcher watches a new text.
    pub fn finish(&mut self) -> &str {
        self.released.clear();
        self.release(0);
        self.stopped = None;
        for stop in &mut self.stops {
            stop.matched = 0;
        }
        &self.released
    }

    /// All automata take one byte; the longest string that is complete.
    fn step(&mut self, byte: u8) -> Option<usize> {
        let (mut found, mut longest) = (None, 0);
        for (index, stop) in self.stops.iter_mut().enumerate() {
            let complete = stop.step(byte);
            if complete && stop.text.len() > longest {
                longest = stop.text.len();
                found = Some(index);
            }
        }
        found
    }

    /// Lets everything through but the last `kept` bytes.
    fn release(&mut self, kept: usize) {
        let end = self.held.len() - kept;
        self.released.push_str(&self.held[..end]);
        self.held.drain(..end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds the pieces; what came through, and the stop string found.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut stopped = None;
        let mut through: Vec<String> = Vec::new();
        for piece in pieces {
            let output = matcher.push(piece);
            stopped = output.stopped;
            through.push(output.text.to_owned());
        }
        through.push(matcher.finish().to_owned());
        (through, stopped)
    }

    /// The text before the stop string that ends first (the longest of those), by trying every prefix.
    fn reference(stops: &[String], text: &str) -> (String, Option<usize>) {
        for (end, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
            let ends = |(_, stop): &(usize, &String)| text[..end].ends_with(stop.as_str());
            let longest = stops
                .iter()
                .enumerate()
                .filter(ends)
                .rev()
                .max_by_key(|(_, stop)| stop.len());
            if let Some((index, stop)) = longest {
                return (text[..end - stop.len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    #[test]
    fn a_stop_string_across_pieces_is_held_back_and_not_let_through() {
        let (through, stopped) = run(&["</s>"], &["a<", "/", "s", ">b", "c"]);
        assert_eq!(through, ["a", "", "", "", "", ""]);
        assert_eq!(stopped, Some(0));
    }

    #[test]
    fn text_held_back_comes_through_once_it_cannot_become_a_stop_string() {
        let (through, stopped) = run(&["<end>"], &["a<en", "<e", "x<", ""]);
        assert_eq!(through, ["a", "<en", "<ex", "", "<"]);
        assert_eq!(stopped, None);
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held_back() {
        let (through, _) = run(&["aab", "日本"], &["aaaa", "x日", "月"]);
        assert_eq!(through, ["aa", "aax", "日月", ""]);
    }

    #[test]
    fn the_first_complete_stop_string_ends_the_text_and_the_longest_of_those() {
        assert_eq!(
            run(&["abc", "b"], &["xabc"]),
            (vec!["xa".into(), String::new()], Some(1))
        );
        assert_eq!(
            run(&["c", "abc", "bc"], &["xabc"]),
            (vec!["x".into(), String::new()], Some(1))
        );
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopMatcher::new(&["a", ""]).unwrap_err();
        assert!(matches!(error, TokenizeError::EmptyStopString { index: 1 }));
    }

    #[test]
    fn after_finish_a_new_text_is_watched() {
        let mut matcher = StopMatcher::new(&["ab"]).unwrap();
        assert_eq!(matcher.push("xab").stopped, Some(0));
        assert_eq!(matcher.finish(), "");
        assert_eq!(
            matcher.push("ya"),
            StopOutput {
                text: "y",
                stopped: None
            }
        );
        assert_eq!(matcher.finish(), "a");
        assert_eq!(
            matcher.push("b"),
            StopOutput {
                text: "b",
                stopped: None
            }
        );
    }

    proptest! {
        #[test]
        fn any_cut_into_pieces_gives_the_same_result(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abcé]{0,4}", 0..12),
        ) {
            let stops_str: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces_str: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (through, stopped) = run(&stops_str, &pieces_str);
            let (text, expected) = reference(&stops, &pieces.concat());
            prop_assert_eq!(through.concat(), text);
            prop_assert_eq!(stopped, expected);
        }
    }
}
