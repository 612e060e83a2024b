//! One line of text, read from left to right.

use crate::{GraphError, ParseError};

/// The most elements of one list.
const MAX_LIST: usize = 1 << 12;

/// A line and the place reached in it. Blanks between tokens are skipped; `#` ends the line.
pub(super) struct Cursor<'t> {
    rest: &'t str,
    /// 1-based.
    pub(super) number: usize,
}

/// Characters that a name, number or keyword can't hold.
fn ends_word(c: char) -> bool {
    !c.is_ascii_graphic() || "(),=%@\"#:[]{}".contains(c)
}

impl<'t> Cursor<'t> {
    pub(super) fn new(line: &'t str, number: usize) -> Self {
        Cursor { rest: line, number }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest.is_empty() || self.rest.starts_with('#')
    }

    /// Fails if anything is left.
    pub(super) fn end(&mut self) -> Result<(), ParseError> {
        match self.at_end() {
            true => Ok(()),
            false => Err(self.expected("the end of the line")),
        }
    }

    /// Something else than `expected` stands here.
    pub(super) fn expected(&self, expected: &'static str) -> ParseError {
        self.unexpected(expected, self.rest)
    }

    pub(super) fn unexpected(&self, expected: &'static str, found: &str) -> ParseError {
        let mut short: String = found.chars().take(40).collect();
        if short.len() < found.len() {
            short.push('…');
        }
        ParseError::Syntax {
            line: self.number,
            expected,
            found: short,
        }
    }

    pub(super) fn limit(
        &self,
        what: &'static str,
        found: usize,
        limit: usize,
    ) -> Result<(), ParseError> {
        match found <= limit {
            true => Ok(()),
            false => Err(ParseError::Limit {
                line: self.number,
                what,
                found,
                limit,
            }),
        }
    }

    /// Adds this line to an error of the graph.
    pub(super) fn graph<T>(&self, result: Result<T, GraphError>) -> Result<T, ParseError> {
        result.map_err(|source| ParseError::Graph {
            line: self.number,
            source,
        })
    }

    pub(super) fn next_is(&mut self, c: char) -> bool {
        self.skip_blanks();
        self.rest.starts_with(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.next_is(c);
        if found {
            self.rest = &self.rest[c.len_utf8()..];
        }
        found
    }

    pub(super) fn punct(&mut self, c: char, expected: &'static str) -> Result<(), ParseError> {
        match self.eat(c) {
            true => Ok(()),
            false => Err(self.expected(expected)),
        }
    }

    /// The name, number or keyword that stands here.
    pub(super) fn word(&mut self, expected: &'static str) -> Result<&'t str, ParseError> {
        self.skip_blanks();
        let end = self.rest.find(ends_word).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            return Err(self.expected(expected));
        }
        self.rest = rest;
        Ok(word)
    }

    pub(super) fn keyword(&mut self, word: &str, expected: &'static str) -> Result<(), ParseError> {
        let found = self.word(expected)?;
        match found == word {
            true => Ok(()),
            false => Err(self.unexpected(expected, found)),
        }
    }

    pub(super) fn number(&mut self) -> Result<u32, ParseError> {
        let word = self.word("a number")?;
        word.parse()
            .map_err(|_| self.unexpected("a number below 2^32", word))
    }

    /// A name after `%` or `@`.
    pub(super) fn sigil(
        &mut self,
        sigil: char,
        expected: &'static str,
    ) -> Result<&'t str, ParseError> {
        self.punct(sigil, expected)?;
        self.word(expected)
    }

    /// `open item, item, … close`, of at most [`MAX_LIST`] items.
    pub(super) fn list<T>(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        if !self.eat(open) {
            return Err(self.expected("a list"));
        }
        let mut items = Vec::new();
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            self.limit("elements in a list", items.len(), MAX_LIST)?;
            if self.eat(close) {
                return Ok(items);
            }
            self.punct(',', "',' or the list's end")?;
        }
    }

    /// `0x` and pairs of hexadecimal digits.
    pub(super) fn hex(&mut self) -> Result<Vec<u8>, ParseError> {
        let word = self.word("hexadecimal bytes")?;
        let digits = |c: u8| (c as char).to_digit(16);
        let bytes = word.strip_prefix("0x").and_then(|hex| {
            let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
                return None;
            };
            pairs
                .iter()
                .map(|&[a, b]| Some((digits(a)? * 16 + digits(b)?) as u8))
                .collect::<Option<Vec<u8>>>()
        });
        bytes.ok_or_else(|| self.unexpected("'0x' and pairs of hexadecimal digits", word))
    }

    /// A string in double quotes.
    pub(super) fn quoted(&mut self) -> Result<String, ParseError> {
        let expected = "a name in double quotes";
        self.punct('"', expected)?;
        let mut name = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next() {
                Some('"') => break,
                Some('\\') => match chars.next() {
                    Some(c @ ('"' | '\\')) => name.push(c),
                    Some('u') => {
                        let code = chars.as_str().strip_prefix('{').and_then(|rest| {
                            let (hex, rest) = rest.split_once('}')?;
                            let code = u32::from_str_radix(hex, 16).ok()?;
                            chars = rest.chars();
                            char::from_u32(code)
                        });
                        name.push(code.ok_or_else(|| self.expected("an escape '\\u{…}'"))?);
                    }
                    _ => return Err(self.expected("an escape '\\\\', '\\\"' or '\\u{…}'")),
                },
                Some(c) => name.push(c),
                None => return Err(self.expected(expected)),
            }
        }
        self.rest = chars.as_str();
        Ok(name)
    }
}
