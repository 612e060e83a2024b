//! Patterns of case ids.

/// A pattern in which `*` stands for any text, `/` too, and `?` for one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// The pattern `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Glob(text.into())
    }

    /// The pattern's text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether all of `id` is as the pattern says.
    pub fn matches(&self, id: &str) -> bool {
        let (pattern, id): (Vec<char>, Vec<char>) =
            (self.0.chars().collect(), id.chars().collect());
        // where the last `*` was met, and how much of the id it has taken
        let (mut p, mut i, mut star) = (0, 0, None);
        while i < id.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, i));
                    p += 1;
                }
                Some(&c) if c == '?' || c == id[i] => (p, i) = (p + 1, i + 1),
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, i) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|&c| c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_take_any_text_and_question_marks_one_character() {
        for (pattern, id, matches) in [
            ("*", "", true),
            ("op/*", "op/linear/f32/bias", true),
            ("op/*/f32/*", "op/linear/f32/bias", true),
            ("op/*/f16/*", "op/linear/f32/bias", false),
            ("*bias", "op/bias/bias", true),
            ("op/?inear*", "op/linear", true),
            ("?", "", false),
            ("", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(id), matches, "{pattern} {id}");
        }
    }
}
