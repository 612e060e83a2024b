//! What chips compute right, tried form by form.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anynpu_qnn::Soc;
use anynpu_qnn::sweep::{self, Numbers, SupportTable, Verdict, forms};
use common::{device, library};

/// Chip, and the form that a child process is to begin with.
const CASE: &str = "ANYNPU_QNN_SWEEP";

/// Does nothing unless it is started by another test.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    let (soc, first) = case.split_once(' ').unwrap();
    let device = device("child", soc).unwrap();
    println!();
    sweep::serve(&device, first.parse().unwrap(), &mut std::io::stdout()).unwrap();
}

fn verdicts(soc: &str) -> Vec<(String, Verdict)> {
    let mut told = |_: usize, _: usize| ();
    let start = |first| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child", "--nocapture"])
            .env(CASE, format!("{soc} {first}"));
        command
    };
    sweep::sweep(start, &mut told).unwrap()
}

/// A line a form, a column for each way of holding numbers.
fn text(verdicts: &[(String, Verdict)]) -> String {
    let mut rows: BTreeMap<String, [&str; 3]> = BTreeMap::new();
    for (form, (id, verdict)) in forms().unwrap().iter().zip(verdicts) {
        assert_eq!(form.id(), *id);
        let row = rows.entry(form.name.clone()).or_insert(["-"; 3]);
        row[form.numbers as usize] = verdict.code();
    }
    let [f16, u8, u16] = Numbers::ALL.map(Numbers::name);
    let mut text = format!("{:<44} {f16:<13} {u8:<13} {u16}\n", "form");
    for (name, [f16, u8, u16]) in rows {
        writeln!(text, "{name:<44} {f16:<13} {u8:<13} {u16}").unwrap();
    }
    text
}

/// Kept tables are in `tests/support`; what differs is written beside them.
#[test]
fn chips_compute_right_what_they_are_known_to() {
    let test = "chips_compute_right_what_they_are_known_to";
    if library(test).is_none() {
        return;
    }
    let mut other = Vec::new();
    for soc in ["SM8350", "SM8450", "SM8550", "SM8650", "SM8750", "SM8850"] {
        let found = verdicts(soc);
        for (id, verdict) in &found {
            if let Verdict::Wrong { .. } = verdict {
                println!("{soc}: {id} {}", verdict.told());
            }
        }
        let found = text(&found);
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support");
        let kept = kept.join(format!("{soc}.txt"));
        if std::fs::read_to_string(&kept).unwrap_or_default() != found {
            let beside = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{soc}.txt"));
            std::fs::write(&beside, found).unwrap();
            other.push(format!("diff {} {}", kept.display(), beside.display()));
        }
    }
    assert!(other.is_empty(), "other than kept:\n{}", other.join("\n"));
}

#[test]
fn forms_are_many_and_each_has_a_name_of_its_own() {
    let all = forms().unwrap();
    for numbers in Numbers::ALL {
        let count = all.iter().filter(|f| f.numbers == numbers).count();
        assert!(count >= 45, "{count} of {}", numbers.name());
    }
    let ids: std::collections::BTreeSet<String> = all.iter().map(|f| f.id()).collect();
    assert_eq!(ids.len(), all.len());
    for form in &all {
        form.graph.check().unwrap();
        assert_eq!(form.inputs.len(), form.graph.inputs().count());
        let outputs: Vec<usize> = form.expected.iter().map(Vec::len).collect();
        let sizes = form.graph.outputs().map(|t| t.elements().unwrap());
        assert_eq!(outputs, sizes.collect::<Vec<_>>(), "{}", form.id());
    }
}

#[test]
fn a_process_that_ends_early_is_a_verdict_and_one_that_does_nothing_an_error() {
    let all = forms().unwrap();
    let right = serde_json::to_string(&Verdict::Right { error: 0.0 }).unwrap();
    // every third one crashes
    let start = |first: usize| {
        let mut script = String::from("echo ' # a line of the library'\n");
        for i in first..all.len() {
            writeln!(script, "echo {i}").unwrap();
            if i % 3 == 2 {
                script += "kill -SEGV $$\n";
                break;
            }
            writeln!(script, "echo '{right}'").unwrap();
        }
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    };
    let mut most = 0;
    let found = sweep::sweep(start, &mut |done, of| most = most.max(done * 100 / of)).unwrap();
    assert_eq!((found.len(), most), (all.len(), 100));
    for (i, ((id, verdict), form)) in found.iter().zip(&all).enumerate() {
        assert_eq!(*id, form.id());
        let crashed = matches!(verdict, Verdict::Crashed { .. });
        assert_eq!(crashed, i % 3 == 2, "{id}: {verdict:?}");
    }
    let nothing = |_: usize| Command::new("true");
    let e = sweep::sweep(nothing, &mut |_, _| ()).unwrap_err();
    assert!(e.to_string().contains("ended before any"), "{e}");
    let e = sweep::sweep(|_| Command::new("/nowhere/at/all"), &mut |_, _| ()).unwrap_err();
    assert!(e.to_string().contains("the process"), "{e}");
}

#[test]
fn tables_are_of_one_library_and_one_chip_and_say_what_a_graph_may_not_need() {
    let all = forms().unwrap();
    let wrong = |name: &str| name.starts_with("MatMul rank 3") && name.ends_with("f16");
    let verdict = |id: &str| match wrong(id) {
        true => Verdict::Wrong {
            error: 2.0,
            bound: 1.0,
        },
        false => Verdict::Right { error: 0.0 },
    };
    let verdicts = all.iter().map(|f| (f.id(), verdict(&f.id()))).collect();
    let table = SupportTable::new("core API 2.40".into(), "SM8650", verdicts);
    let text = table.to_json();
    let read = |library, soc| SupportTable::parse(text.as_bytes(), library, soc);
    assert_eq!(read("core API 2.40", "SM8650").unwrap(), table);
    for (library, soc, what) in [
        ("core API 2.41", "SM8650", "library"),
        ("core API 2.40", "SM8550", "chip"),
    ] {
        let e = read(library, soc).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    }
    let older = text.replace("\"version\": 3", "\"version\": 0");
    let e = SupportTable::parse(older.as_bytes(), "core API 2.40", "SM8650").unwrap_err();
    assert!(e.to_string().contains("version is 0"), "{e}");
    assert!(SupportTable::parse(b"{", "", "").is_err());
    for form in &all {
        let told = table.obstacle(&form.graph);
        // forms that are the same but for their sizes are one
        let is_wrong = form.name.starts_with("MatMul") && told.is_some();
        assert_eq!(told.is_some(), is_wrong, "{}", form.id());
        if wrong(&form.id()) {
            assert!(told.unwrap().contains("computed wrong without a word"));
        }
    }
    assert!(Soc::find(&table.soc).is_some());
}
