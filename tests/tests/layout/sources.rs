//! Source files: where `unsafe` and printing are allowed, how long a file may be.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{report, root};

/// Folders that hold the project's Rust sources.
const FOLDERS: &[&str] = &["graphs", "hal", "backends", "runtime", "tests", "benches"];

/// A file longer than this is more than one room.
const MAX_LINES: usize = 900;

/// Where `unsafe` may stand, and for what. `*` is one part of a path, `**` any number.
const UNSAFE: &[(&str, &str)] = &[
    ("hal/src/**", "mapped memory, loaded libraries"),
    ("hal/abi/**", "the C interface"),
    ("backends/*/src/sys.rs", "vendors' and systems' interfaces"),
    ("backends/*/src/sys/**", "vendors' interfaces"),
    ("backends/*/src/exec.rs", "running on a device"),
    ("backends/*/src/exec/**", "running on a device"),
    (
        "backends/cpu/src/kernels/**",
        "vector instructions, shared output rows",
    ),
    (
        "backends/cpu/src/pool.rs",
        "a job that borrows from the calling thread",
    ),
    (
        "backends/template/rust/**",
        "the C interface, from a plugin's side",
    ),
    ("graphs/src/import/mapped_file.rs", "a mapped file"),
    ("runtime/src/memory.rs", "the safe layer over buffers"),
    ("runtime/src/memory/**", "the safe layer over buffers"),
    ("backends/*/tests/**", "tests that map a device's buffers"),
    (
        "tests/doubles/*/src/**",
        "the C interfaces that they stand in for",
    ),
    ("tests/src/device.rs", "maps a device's buffers"),
    ("tests/src/conformance/memory.rs", "maps a device's buffers"),
    (
        "tests/tests/plugins/exported.rs",
        "loads a driver that it exports itself",
    ),
    (
        "graphs/fuzz/fuzz_targets/plugin.rs",
        "the C interface, from a plugin's side",
    ),
    (
        "tests/tests/conformance/plugin.rs",
        "the C interface, from a plugin's side",
    ),
    (
        "tests/tests/conformance/faulty.rs",
        "a device that writes where it must not",
    ),
    (
        "tests/engines/*/src/memory.rs",
        "an engine behind a plugin reads the buffers bound",
    ),
    (
        "tests/engines/*/tests/**",
        "tests that map a device's buffers",
    ),
    (
        "**/tests/allocations.rs",
        "an allocator that counts, in a test",
    ),
];

/// Where a program of ours, rather than a library, may print and exit.
const PROGRAMS: &[&str] = &[
    "runtime/cli/**",
    "tests/**",
    "benches/**",
    "**/tests/**",
    "**/tests.rs",
    "**/benches/**",
    "**/examples/**",
    "**/build.rs",
    "graphs/fuzz/**",
];

/// What a library must not say.
const PRINTING: &[&str] = &[
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
    "exit(",
    "abort(",
    "panic::set_hook",
];

fn matches(pattern: &str, path: &str) -> bool {
    fn parts(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**", rest @ ..], _) => (0..=path.len()).any(|n| parts(rest, &path[n..])),
            ([p, rest @ ..], [name, below @ ..]) => (*p == "*" || p == name) && parts(rest, below),
            _ => false,
        }
    }
    let pattern: Vec<_> = pattern.split('/').collect();
    let path: Vec<_> = path.split('/').collect();
    parts(&pattern, &path)
}

/// A source file, its path from the top.
struct Source {
    path: String,
    text: String,
}

/// All Rust sources, sorted; build folders and hidden ones are passed over.
fn sources() -> Vec<Source> {
    fn walk(top: &Path, folder: &Path, found: &mut Vec<Source>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name == "target" || name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                walk(top, &path, found);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("source");
                let parts = path.strip_prefix(top).expect("below the top").iter();
                let parts: Vec<_> = parts.map(|p| p.to_string_lossy()).collect();
                found.push(Source {
                    path: parts.join("/"),
                    text,
                });
            }
        }
    }
    let top = root();
    let mut found = Vec::new();
    for folder in FOLDERS {
        walk(&top, &top.join(folder), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// `text` with comments and the inside of literals blanked; line breaks stay.
fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut i = 0;
    let blank = |out: &mut String, range: std::ops::Range<usize>| {
        for &c in &chars[range.start..range.end.min(chars.len())] {
            out.push(if c == '\n' { '\n' } else { ' ' });
        }
    };
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
                blank(&mut out, start..i);
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
                blank(&mut out, start..i);
            }
            // A raw string: r, br or cr, hashes, a quote.
            'r' if (start == 0 || !word(at(start - 1)) || "bc".contains(at(start - 1))) && {
                let hashes = chars[i + 1..].iter().take_while(|&&c| c == '#').count();
                at(i + 1 + hashes) == '"'
            } =>
            {
                let hashes = chars[i + 1..].iter().take_while(|&&c| c == '#').count();
                i += hashes + 2;
                while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|h| at(i + h) == '#')) {
                    i += 1;
                }
                i += hashes + 1;
                blank(&mut out, start..i);
            }
            '"' => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                blank(&mut out, start..i);
            }
            // A character; a lifetime has no second quote there.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += if at(i + 1) == '\\' { 3 } else { 2 };
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
                blank(&mut out, start..i);
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

/// Blanks what stands under `#[cfg(test)]` in `code`, and collects the names of the modules that
/// stand there without a body: their files are tests too.
fn without_tests(code: &str, modules: &mut BTreeSet<String>) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find(MARK) {
        let start = from + found;
        let body = out[start..]
            .find(['{', ';'])
            .map_or(out.len(), |n| start + n);
        let mut end = body;
        if out[body..].starts_with('{') {
            let mut depth = 0;
            for (n, c) in out[body..].char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                end = body + n + c.len_utf8();
                if depth == 0 {
                    break;
                }
            }
        } else if let Some(name) = out[start..body]
            .split_whitespace()
            .skip_while(|w| *w != "mod")
            .nth(1)
        {
            modules.insert(name.to_owned());
        }
        let blanked: String = out[start..end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        from = start + blanked.len();
        out.replace_range(start..end, &blanked);
    }
    out
}

/// Whether `token` stands in `line` by itself, not as the end or start of a longer word.
fn says(line: &str, token: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(token).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + token.len()..].chars().next();
        let open =
            |c: Option<char>, edge: Option<char>| !(edge.is_some_and(word) && c.is_some_and(word));
        // A method `.abort(` of something is not the function.
        open(before, token.chars().next())
            && open(after, token.chars().next_back())
            && !(token.ends_with('(') && before == Some('.'))
            && !(token.ends_with('(') && line[..at].trim_end().ends_with("fn"))
    })
}

/// Lines of `code` that say one of `tokens`, counted from 1.
fn lines<'a>(code: &'a str, tokens: &'a [&str]) -> impl Iterator<Item = (usize, &'a str)> {
    code.lines().enumerate().flat_map(move |(n, line)| {
        tokens
            .iter()
            .filter(move |t| says(line, t))
            .map(move |t| (n + 1, *t))
    })
}

/// `unsafe` outside the places for it.
fn unsafe_faults(source: &Source) -> Vec<String> {
    if UNSAFE.iter().any(|(place, _)| matches(place, &source.path)) {
        return Vec::new();
    }
    let tokens = ["unsafe", "allow(unsafe_code", "expect(unsafe_code"];
    lines(&code(&source.text), &tokens)
        .map(|(line, token)| {
            format!(
                "{}:{line} says `{token}`; `unsafe` is allowed only in {:?}",
                source.path,
                UNSAFE.iter().map(|(place, _)| *place).collect::<Vec<_>>()
            )
        })
        .collect()
}

/// Printing and exiting in libraries.
fn printing_faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut modules = BTreeSet::new();
    let mut libraries = Vec::new();
    for s in sources
        .iter()
        .filter(|s| !PROGRAMS.iter().any(|p| matches(p, &s.path)))
    {
        let folder = s.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let stem = s.path.trim_end_matches(".rs");
        let mut names = BTreeSet::new();
        let code = without_tests(&code(&s.text), &mut names);
        for name in names {
            // A module of lib.rs or mod.rs lies beside it, one of x.rs in the folder x.
            modules.insert(format!("{folder}/{name}.rs"));
            modules.insert(format!("{stem}/{name}.rs"));
        }
        libraries.push((&s.path, code));
    }
    for (path, code) in libraries {
        if modules.contains(path) {
            continue;
        }
        for (line, token) in lines(&code, PRINTING) {
            faults.push(format!(
                "{path}:{line} says `{token}`; libraries return what they have to say, and log \
                 through tracing"
            ));
        }
    }
    faults
}

/// Files that are more than one room.
fn length_faults(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().map(|s| (&s.path, s.text.lines().count()));
    long.filter(|(_, n)| *n > MAX_LINES)
        .map(|(path, n)| format!("{path} has {n} lines, at most {MAX_LINES}: split it by subject"))
        .collect()
}

/// Tests that never run.
fn ignored_faults(source: &Source) -> Vec<String> {
    lines(&code(&source.text), &["#[ignore"])
        .map(|(line, _)| {
            format!(
                "{}:{line} ignores a test; print `SKIPPED name: reason` and return where it \
                 cannot run",
                source.path
            )
        })
        .collect()
}

#[test]
fn unsafe_stands_only_where_it_is_allowed() {
    let faults: Vec<_> = sources().iter().flat_map(unsafe_faults).collect();
    report("where `unsafe` may stand:", &faults);
}

#[test]
fn libraries_neither_print_nor_exit() {
    report("what libraries must not do:", &printing_faults(&sources()));
}

#[test]
fn no_file_is_longer_than_one_subject() {
    let sources = sources();
    assert!(sources.len() > 30, "found only {} sources", sources.len());
    report("length of files:", &length_faults(&sources));
}

#[test]
fn no_test_is_ignored() {
    let faults: Vec<_> = sources().iter().flat_map(ignored_faults).collect();
    report("ignored tests:", &faults);
}

fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.into(),
        text: text.into(),
    }
}

#[test]
fn comments_and_literals_are_not_code() {
    for (text, left) in [
        ("a // unsafe\nb", "a b"),
        ("a /* x /* y */ z */ b", "a b"),
        (r#"f("unsafe \" {", 1)"#, "f( , 1)"),
        (r##"f(br#"unsafe " x"#, 1)"##, "f(b , 1)"),
        (r"'{' '\'' <'a> 'b' '\u{7b}' '\\' c", "<'a> c"),
        ("\"never closed", ""),
        ("/* never closed", ""),
        ("for r in x", "for r in x"),
        ("é \"ü\" z", "é z"),
    ] {
        let found = code(text);
        assert_eq!(
            found.split_whitespace().collect::<Vec<_>>().join(" "),
            left,
            "{text}"
        );
        assert_eq!(found.chars().count(), text.chars().count(), "{text}");
        assert_eq!(found.lines().count(), text.lines().count(), "{text}");
    }
}

#[test]
fn a_planted_unsafe_is_found() {
    let planted =
        "//! unsafe\nfn f() { g(\"unsafe\") }\nlet x = unsafe { *p };\n#![allow(unsafe_code)]";
    let faults = unsafe_faults(&source("runtime/src/session.rs", planted));
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].starts_with("runtime/src/session.rs:3 "),
        "{faults:?}"
    );
    assert!(
        faults[1].starts_with("runtime/src/session.rs:4 "),
        "{faults:?}"
    );
    for allowed in [
        "hal/src/buffer.rs",
        "backends/qnn/src/sys/types.rs",
        "backends/cpu/src/kernels/x86_64/avx2.rs",
        "graphs/src/import/mapped_file.rs",
        "runtime/src/memory/arena.rs",
        "graphs/tests/allocations.rs",
    ] {
        assert!(
            unsafe_faults(&source(allowed, planted)).is_empty(),
            "{allowed}"
        );
    }
    for refused in [
        "graphs/src/import/gguf.rs",
        "backends/cpu/src/lower.rs",
        "halt/src/x.rs",
    ] {
        assert!(
            !unsafe_faults(&source(refused, planted)).is_empty(),
            "{refused}"
        );
    }
    let strict = source(
        "graphs/ir/src/lib.rs",
        "#![forbid(unsafe_code)]\n#![deny(unsafe_op_in_unsafe_fn)]",
    );
    assert_eq!(unsafe_faults(&strict), Vec::<String>::new());
}

#[test]
fn planted_printing_is_found() {
    let planted = "fn f() {\n println!(\"x\");\n}\nfn g() { std::process::exit(1) }\n";
    let faults = printing_faults(&[source("graphs/src/lib.rs", planted)]);
    assert!(
        faults[0].starts_with("graphs/src/lib.rs:2 says `println!`"),
        "{faults:?}"
    );
    assert!(
        faults.iter().any(|f| f.starts_with("graphs/src/lib.rs:4 ")),
        "{faults:?}"
    );
    for allowed in [
        "runtime/cli/src/main.rs",
        "hal/tests/x.rs",
        "benches/src/lib.rs",
    ] {
        assert!(
            printing_faults(&[source(allowed, planted)]).is_empty(),
            "{allowed}"
        );
    }
    let in_tests = "#[cfg(test)]\nmod tests {\n fn f() { println!(\"{}\", 1) }\n}\n#[cfg(test)]\nmod oracle;\n";
    let after = format!("{in_tests}fn g() {{ eprintln!() }}");
    let faults = printing_faults(&[
        source("hal/src/lib.rs", in_tests),
        source("hal/src/oracle.rs", planted),
        source("hal/src/link.rs", &after),
        source("hal/src/link/oracle.rs", planted),
    ]);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("hal/src/link.rs:7 says `eprintln!`"),
        "{faults:?}"
    );
    let innocent = "fn abort(&self) { self.abort(); on_exit(); write!(f, \"x\") }";
    assert!(printing_faults(&[source("hal/src/x.rs", innocent)]).is_empty());
}

#[test]
fn planted_length_and_ignored_tests_are_found() {
    let long = "//\n".repeat(MAX_LINES + 1);
    assert_eq!(length_faults(&[source("hal/src/x.rs", &long)]).len(), 1);
    assert_eq!(
        length_faults(&[source("hal/src/x.rs", &long[3..])]).len(),
        0
    );
    let ignored = source("hal/tests/x.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}");
    assert_eq!(ignored_faults(&ignored).len(), 1);
}
