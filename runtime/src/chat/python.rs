//! What templates expect of Python: `json.dumps`, string methods, tests.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

/// Deepest nesting of a value that is written as JSON.
const MAX_DEPTH: usize = 128;

/// Bytes of JSON written for one step of fuel.
const BYTES_PER_FUEL: usize = 4;

/// `json.dumps` of Python, whose arguments are `ensure_ascii=False`, `indent`, `separators` and
/// `sort_keys`. The default filter would escape for HTML.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let mut positional = positional.0.into_iter();
    let mut argument = |name: &str| -> Result<Option<Value>, Error> {
        let given = match positional.next() {
            Some(value) => Some(value),
            None => named.get(name)?,
        };
        Ok(given.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let ensure_ascii = argument("ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = argument("indent")?.map(|v| indent(&v)).transpose()?;
    let separators = argument("separators")?;
    let sort_keys = argument("sort_keys")?.is_some_and(|v| v.is_true());
    if positional.next().is_some() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    named.assert_all_used()?;
    let (item, key) = match separators {
        Some(pair) => {
            let text = |i: usize| Ok::<_, Error>(pair.get_item_by_index(i)?.to_string());
            match pair.len() {
                Some(2) => (text(0)?, text(1)?),
                _ => return Err(invalid("separators of tojson must be a pair of texts")),
            }
        }
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let mut json = Json {
        state,
        out: String::new(),
        charged: 0,
        ensure_ascii,
        indent,
        item,
        key,
        sort_keys,
    };
    json.value(value, 0)?;
    json.charge(true)?;
    Ok(Value::from(json.out))
}

/// The text of one level of indentation.
fn indent(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    match i64::try_from(value.clone()) {
        Ok(n) if n <= 64 => Ok(" ".repeat(n.max(0) as usize)),
        _ => Err(invalid("an indent must be a text or a number up to 64")),
    }
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

struct Json<'s, 'a, 'b> {
    state: &'s State<'a, 'b>,
    out: String,
    /// Bytes of `out` paid for.
    charged: usize,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl Json<'_, '_, '_> {
    /// Pays for what was written, in portions.
    fn charge(&mut self, all: bool) -> Result<(), Error> {
        let owed = self.out.len() - self.charged;
        if all || owed >= 4096 {
            self.charged = self.out.len();
            self.state
                .consume_fuel((owed / BYTES_PER_FUEL) as u64 + 1)?;
        }
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.charge(false)?;
        if depth > MAX_DEPTH {
            return Err(invalid(format!(
                "tojson: the value is nested more than {MAX_DEPTH} levels deep"
            )));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => number(value, &mut self.out)?,
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                self.out.push('[');
                let mut any = false;
                for item in value.try_iter()? {
                    self.separate(&mut any, depth);
                    self.value(&item, depth + 1)?;
                }
                self.close(any, depth, ']');
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let member = value.get_item(&key)?;
                    entries.push((json_key(&key)?, member));
                }
                if self.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.out.push('{');
                let mut any = false;
                for (key, member) in entries {
                    self.separate(&mut any, depth);
                    self.text(&key);
                    self.out.push_str(&self.key);
                    self.value(&member, depth + 1)?;
                }
                self.close(any, depth, '}');
            }
            kind => {
                return Err(invalid(format!(
                    "tojson: a value of kind {kind} is no JSON"
                )));
            }
        }
        Ok(())
    }

    fn separate(&mut self, any: &mut bool, depth: usize) {
        if *any {
            self.out.push_str(&self.item);
        }
        *any = true;
        self.line(depth + 1);
    }

    fn close(&mut self, any: bool, depth: usize, bracket: char) {
        if any {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key as `json.dumps` writes it.
fn json_key(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => (if key.is_true() { "true" } else { "false" }).into(),
        ValueKind::Number => {
            let mut out = String::new();
            number(key, &mut out)?;
            out
        }
        kind => return Err(invalid(format!("tojson: a key of kind {kind} is no JSON"))),
    })
}

fn number(value: &Value, out: &mut String) -> Result<(), Error> {
    if value.is_integer() {
        let _ = write!(out, "{value}");
    } else {
        float(f64::try_from(value.clone())?, out);
    }
    Ok(())
}

/// A float as Python's `repr` writes it: the shortest digits that read back the same, with an
/// exponent below 1e-4 and from 1e16 on.
fn float(x: f64, out: &mut String) {
    let magnitude = x.abs();
    let _ = if x.is_nan() {
        write!(out, "NaN")
    } else if x.is_infinite() {
        write!(out, "{}Infinity", if x < 0.0 { "-" } else { "" })
    } else if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let scientific = format!("{x:e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        write!(out, "{digits}e{sign}{exponent:0>2}")
    } else {
        write!(out, "{x:?}")
    };
}

/// What Python's `str.isspace` accepts.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's line ends, of which `\r\n` counts as one.
fn is_line_end(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// Takes characters off the ends of `text`: these, or spaces.
fn strip<'t>(text: &'t str, characters: Option<&str>, left: bool, right: bool) -> &'t str {
    let goes = |c: char| characters.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if left {
        text.trim_start_matches(goes)
    } else {
        text
    };
    if right {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

/// The operator `+`: sums, and texts or lists one after the other.
pub(super) fn add(state: &State<'_, '_>, left: &Value, right: &Value) -> Result<Value, Error> {
    let is_list = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Iterable);
    let is_tuple = |v: &Value| v.downcast_object_ref::<Tuple>().is_some();
    let is_number = |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    let wrong = || {
        let (left, right) = (left.kind(), right.kind());
        invalid(format!("{left} and {right} can't be added"))
    };
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        state.consume_fuel(((a.len() + b.len()) / 64) as u64)?;
        return Ok(Value::from([a, b].concat()));
    }
    if is_list(left) && is_list(right) && is_tuple(left) == is_tuple(right) {
        let mut items = Vec::new();
        for list in [left, right] {
            // a slot takes about half of what one step of fuel pays for
            state.consume_fuel(list.len().unwrap_or(0) as u64 / 2)?;
            for item in list.try_iter()? {
                items.push(item);
                if items.len().is_multiple_of(1024) {
                    state.consume_fuel(512)?;
                }
            }
        }
        return Ok(match is_tuple(left) {
            true => Value::from(Tuple::from(items)),
            false => Value::from(items),
        });
    }
    if !is_number(left) || !is_number(right) {
        return Err(wrong());
    }
    let whole = |v: &Value| match v.kind() {
        ValueKind::Bool => Some(i128::from(v.is_true())),
        _ if v.is_integer() => i128::try_from(v.clone()).ok(),
        _ => None,
    };
    match (whole(left), whole(right)) {
        (Some(a), Some(b)) => {
            let sum = a
                .checked_add(b)
                .ok_or_else(|| invalid("a sum is too large"))?;
            Ok(i64::try_from(sum).map_or_else(|_| Value::from(sum), Value::from))
        }
        (a, b) => {
            let float = |whole: Option<i128>, v: &Value| match whole {
                Some(n) => Ok(n as f64),
                None => f64::try_from(v.clone()),
            };
            Ok(Value::from(float(a, left)? + float(b, right)?))
        }
    }
}

/// Prints a value as Python's `str`.
pub(super) fn print(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    match text_of(state, value)? {
        Some(text) => out.write_str(&text).map_err(Error::from),
        None => minijinja::escape_formatter(out, state, value),
    }
}

/// The filter `string`.
pub(super) fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    Ok(match text_of(state, value)? {
        Some(text) => text.into(),
        None => value.to_string().into(),
    })
}

/// Python's `str` of the values that the engine writes otherwise: floats, and what may hold them.
fn text_of(state: &State<'_, '_>, value: &Value) -> Result<Option<String>, Error> {
    let otherwise = match value.kind() {
        ValueKind::Number => !value.is_integer(),
        kind => matches!(kind, ValueKind::Seq | ValueKind::Map),
    };
    if !otherwise {
        return Ok(None);
    }
    let mut out = String::new();
    representation(state, value, &mut out, 0)?;
    Ok(Some(out))
}

/// Python's `repr`.
fn representation(
    state: &State<'_, '_>,
    value: &Value,
    out: &mut String,
    depth: usize,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        let what = format!("a value is nested more than {MAX_DEPTH} levels deep");
        return Err(invalid(what));
    }
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone())? {
            x if x.is_nan() => out.push_str("nan"),
            x if x.is_infinite() => out.push_str(if x < 0.0 { "-inf" } else { "inf" }),
            x => float(x, out),
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel((text.len() / BYTES_PER_FUEL) as u64)?;
            quoted(text, out);
        }
        ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_none() => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                representation(state, &item, out, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                representation(state, &key, out, depth + 1)?;
                out.push_str(": ");
                representation(state, &value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// Python's `repr` of a text.
fn quoted(text: &str, out: &mut String) {
    let double = text.contains('\'') && !text.contains('"');
    let quote = if double { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote || c == '\\' => out.extend(['\\', c]),
            c if c.is_control() || (is_space(c) && c != ' ') => {
                let _ = match u32::from(c) {
                    n @ ..=0xff => write!(out, "\\x{n:02x}"),
                    n => write!(out, "\\u{n:04x}"),
                };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// The filter `indent` of Jinja, which keeps the last line end.
pub(super) fn indented(
    text: String,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => named.get("width")?,
    };
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let indent = width.map_or_else(|| Ok("    ".to_owned()), |w| indent(&w))?;
    let with_end = format!("{text}\n");
    let mut out = String::with_capacity(text.len());
    for (i, line) in lines(&with_end, false).into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if (i == 0 && first) || (i > 0 && (blank || !line.is_empty())) {
            out.push_str(&indent);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// The filter `trim`.
pub(super) fn trim(value: &Value, characters: Option<Value>) -> Value {
    let characters = characters.filter(|c| !c.is_none() && !c.is_undefined());
    let characters = characters.as_ref().and_then(Value::as_str);
    match value.as_str() {
        Some(text) => Value::from(strip(text, characters, true, true)),
        None => Value::from(strip(&value.to_string(), characters, true, true)),
    }
}

/// The test `sequence`: what has a length and items, which in Python are texts and mappings, too.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined
    )
}

/// The test `iterable`.
pub(super) fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

/// Methods of Python's texts, lists and mappings.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = text_method(text, method, args)
    {
        return result;
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// The methods of texts that the compatibility package lacks or does otherwise.
fn text_method(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let stripped = |left, right| {
        let (characters,): (Option<&str>,) = from_args(args)?;
        Ok(Value::from(strip(text, characters, left, right)))
    };
    Some(match method {
        "strip" => stripped(true, true),
        "lstrip" => stripped(true, false),
        "rstrip" => stripped(false, true),
        "removeprefix" => from_args(args)
            .map(|(prefix,): (&str,)| Value::from(text.strip_prefix(prefix).unwrap_or(text))),
        "removesuffix" => from_args(args)
            .map(|(suffix,): (&str,)| Value::from(text.strip_suffix(suffix).unwrap_or(text))),
        "partition" => from_args(args).map(|(separator,): (&str,)| {
            let parts = text.split_once(separator);
            list(&parts.map_or([text, "", ""], |(a, b)| [a, separator, b]))
        }),
        "rpartition" => from_args(args).map(|(separator,): (&str,)| {
            let parts = text.rsplit_once(separator);
            list(&parts.map_or(["", "", text], |(a, b)| [a, separator, b]))
        }),
        "split" | "rsplit" => split(text, method == "rsplit", args),
        "splitlines" => from_args(args)
            .map(|(keep,): (Option<bool>,)| list(&lines(text, keep.unwrap_or(false)))),
        "index" => from_args(args).and_then(|(part,): (&str,)| match text.find(part) {
            Some(at) => Ok(Value::from(text[..at].chars().count())),
            None => Err(invalid("substring not found")),
        }),
        _ => return None,
    })
}

/// A list of texts.
fn list(texts: &[&str]) -> Value {
    texts.iter().map(|&text| Value::from(text)).collect()
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<Value>, Option<i64>) = match args.last() {
        Some(last) if last.is_kwargs() => {
            let (given, named): (Rest<Value>, Kwargs) = from_args(args)?;
            let positional = |at: usize| given.0.get(at).cloned();
            let separator = positional(0).or(named.get("sep")?);
            let most = match positional(1) {
                Some(most) => Some(i64::try_from(most)?),
                None => named.get("maxsplit")?,
            };
            named.assert_all_used()?;
            (separator, most)
        }
        _ => from_args(args)?,
    };
    let most = usize::try_from(most.unwrap_or(-1)).unwrap_or(usize::MAX);
    let pieces = most.saturating_add(1);
    let separator = separator.filter(|s| !s.is_none());
    let Some(separator) = separator else {
        return Ok(list(&words(text, from_right, most)));
    };
    let separator = separator
        .as_str()
        .ok_or_else(|| invalid("split: the separator must be a text"))?;
    if separator.is_empty() {
        return Err(invalid("split: the separator is empty"));
    }
    let parts: Vec<&str> = if from_right {
        let mut parts: Vec<&str> = text.rsplitn(pieces, separator).collect();
        parts.reverse();
        parts
    } else {
        text.splitn(pieces, separator).collect()
    };
    Ok(list(&parts))
}

/// Cuts at runs of spaces, at most `most` times.
fn words(text: &str, from_right: bool, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, true, true);
    while !rest.is_empty() {
        let cut = match (parts.len() >= most, from_right) {
            (true, _) => None,
            (false, false) => rest.find(is_space).map(|at| rest.split_at(at)),
            (false, true) => rest.rfind(is_space).map(|at| {
                let after = at + rest[at..].chars().next().map_or(0, char::len_utf8);
                let (left, right) = rest.split_at(after);
                (right, left)
            }),
        };
        let Some((part, remaining)) = cut else {
            parts.push(rest);
            break;
        };
        parts.push(part);
        rest = strip(remaining, None, !from_right, from_right);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(is_line_end) else {
            lines.push(rest);
            break;
        };
        let end = match rest[at..].starts_with("\r\n") {
            true => at + 2,
            false => at + rest[at..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        // repr(x) of Python 3.11
        for (x, expected) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            let mut out = String::new();
            float(x, &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn texts_are_cut_as_python_does() {
        assert_eq!(words("  a b  c ", false, usize::MAX), ["a", "b", "c"]);
        assert_eq!(words("  a b  c ", false, 1), ["a", "b  c"]);
        assert_eq!(words("  a  b  c ", true, 1), ["a  b", "c"]);
        assert!(words(" \u{1c} ", false, 3).is_empty());
        assert_eq!(lines("a\r\nb\u{2028}c\n", false), ["a", "b", "c"]);
        assert_eq!(lines("a\r\nb\n\nc", true), ["a\r\n", "b\n", "\n", "c"]);
        assert_eq!(strip("xxaxx", Some("x"), true, false), "axx");
        assert_eq!(strip("\u{1f} a\u{3000}", None, true, true), "a");
    }
}
