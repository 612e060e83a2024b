//! Documents: what they link to exists.

use std::path::{Path, PathBuf};

use crate::{report, root};

/// Every Markdown file at the top, in docs/ and beside packages, from the top.
fn documents() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with('.') || name == "target" || name == "build" {
                continue;
            }
            if path.is_dir() {
                walk(&path, found);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    found
}

/// Links of `text` to places in the checkout; those with a scheme or to a heading are passed over.
fn links(text: &str) -> Vec<&str> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    targets
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains(':'))
        .collect()
}

#[test]
fn links_in_documents_lead_somewhere() {
    let documents = documents();
    let mut faults = Vec::new();
    for name in ["README.md", "CONTRIBUTING.md", "docs/README.md"] {
        assert!(documents.contains(&root().join(name)), "{name} is missing");
    }
    for document in documents {
        let text = std::fs::read_to_string(&document).expect("a document");
        let folder = document.parent().expect("a folder");
        for link in links(&text) {
            if !folder.join(link).exists() {
                faults.push(format!("{}: {link} does not exist", document.display()));
            }
        }
    }
    report("links in documents:", &faults);
}

#[test]
fn decisions_are_short_and_listed() {
    let index = std::fs::read_to_string(root().join("docs/README.md")).expect("the index");
    let folder = root().join("docs/decisions");
    let mut faults = Vec::new();
    for entry in std::fs::read_dir(folder).expect("decisions") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let lines = std::fs::read_to_string(&path)
            .expect("a record")
            .lines()
            .count();
        if lines > 25 {
            faults.push(format!("{name} has {lines} lines, at most 25"));
        }
        if !index.contains(&format!("decisions/{name}")) {
            faults.push(format!("{name} is not listed in docs/README.md"));
        }
    }
    report("decisions:", &faults);
}

#[test]
fn links_are_found() {
    let text = "[a](b.md#part) ![x](y.svg) [z](https://example.org/q) [h](#here) f(x) [0](c/d)";
    assert_eq!(links(text), ["b.md", "y.svg", "c/d"]);
}
