//! The certificate as JUnit XML, which build servers show.

use std::fmt::Write;

use super::Certificate;

/// `certificate` as one JUnit test suite. A case not claimed, skipped or expected to fail is `skipped` there.
pub fn junit(certificate: &Certificate) -> String {
    let cases = certificate.cases();
    let failures = certificate.counts().failed;
    let skipped = cases.len() - failures - certificate.counts().passed;
    let seconds: f64 = cases.iter().map(|c| c.ms / 1e3).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    // writing to a text does not fail
    let _ = writeln!(
        xml,
        "  <testsuite name=\"anynpu-cts {}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{seconds:.3}\" hostname=\"{}\">",
        escape(certificate.suite().version),
        cases.len(),
        escape(&certificate.device().name),
    );
    for case in cases {
        let (class, name) = case.id.split_once('/').unwrap_or(("", &case.id));
        let _ = write!(
            xml,
            "    <testcase classname=\"anynpu.{}\" name=\"{}\" time=\"{:.3}\"",
            escape(class),
            escape(name),
            case.ms / 1e3
        );
        let reason = case.reason.as_deref().unwrap_or_default();
        let _ = match (case.outcome, &case.detail) {
            ("passed", _) => writeln!(xml, "/>"),
            ("failed", Some(d)) => writeln!(
                xml,
                "><failure message=\"{}\">op: {}\nwhere: {}\nfound: {}\nexpected: {}\nbound: {}</failure></testcase>",
                escape(&format!("found {}, expected {}", d.found, d.expected)),
                escape(case.op.as_deref().unwrap_or("none")),
                escape(&d.at),
                escape(&d.found),
                escape(&d.expected),
                escape(d.bound.as_deref().unwrap_or("none")),
            ),
            (outcome, _) => writeln!(
                xml,
                "><skipped message=\"{}\"/></testcase>",
                escape(&format!("{outcome}: {reason}"))
            ),
        };
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

/// `text` as the content of an element or attribute. What XML 1.0 has no character for becomes `U+FFFD`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push_str("&#10;"),
            '\t' | '\r' => out.push(' '),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_reads_as_its_own_is_escaped() {
        assert_eq!(
            escape("a<b> & \"c\"\u{1}\n"),
            "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}&#10;"
        );
    }
}
