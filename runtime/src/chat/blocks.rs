//! Blocks that only Hugging Face's templates have.
//!
//! `{% generation %} … {% endgeneration %}` marks what the model wrote, for training; rendered, it
//! is its content, with a scope of its own. That is what `{% with %} … {% endwith %}` does, so the
//! names are exchanged and all else, whitespace control and line numbers among it, stays.

use std::borrow::Cow;

/// The source with generation blocks as blocks that the engine knows.
pub(super) fn plain_blocks(source: &str) -> Cow<'_, str> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut raw = false;
    while let Some(open) = source[at..].find('{') {
        at += open;
        let rest = &source[at..];
        if let Some(inner) = rest.strip_prefix("{%") {
            let inner = inner.trim_start_matches(['-', '+']).trim_start();
            let start = source.len() - inner.len();
            let length = inner
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(inner.len());
            let name = &inner[..length];
            if raw {
                raw = name != "endraw";
                at += 2;
                continue;
            }
            raw = name == "raw";
            match name {
                "generation" => found.push((start, length, "with")),
                "endgeneration" => found.push((start, length, "endwith")),
                _ => {}
            }
            at = start + length + end_of_code(&inner[length..], "%}");
        } else if raw {
            at += 1;
        } else if let Some(code) = rest.strip_prefix("{{") {
            at += 2 + end_of_code(code, "}}");
        } else if rest.starts_with("{#") {
            at += rest.find("#}").map_or(rest.len(), |end| end + 2);
        } else {
            at += 1;
        }
    }
    if found.is_empty() {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut done = 0;
    for (start, length, name) in found {
        out.push_str(&source[done..start]);
        out.push_str(name);
        done = start + length;
    }
    out.push_str(&source[done..]);
    Cow::Owned(out)
}

/// Bytes up to and with `end`, which does not count within a text.
fn end_of_code(code: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in code.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if code[at..].starts_with(end) => return at + end.len(),
            None => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generation_blocks_are_exchanged() {
        assert_eq!(
            plain_blocks("{%- generation -%}x{%+endgeneration%}"),
            "{%- with -%}x{%+endwith%}"
        );
        for same in [
            "{{ '{% generation %}' }}{# {% generation %} #}{% raw %}{% generation %}{% endraw %}",
            "{% set generation = 1 %}{{ generation }}{% generations %}",
            "{% set x = '%}{% generation %}' %}",
            "{ generation }{%",
            "{{ '\\'{% generation %}' ",
        ] {
            assert!(matches!(plain_blocks(same), Cow::Borrowed(_)), "{same}");
        }
        assert_eq!(
            plain_blocks("{% raw %}{{{% endraw %}é{% generation %}"),
            "{% raw %}{{{% endraw %}é{% with %}"
        );
    }
}
