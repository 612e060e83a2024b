//! The command line as scripts see it: exit status, standard output, standard error.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{anynpu, done, json, refused, text};
use serde_json::Value;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn story() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path.join("../../graphs/story-model/story-Q8_0.gguf")).unwrap()
}

#[test]
fn a_story_is_told_without_any_argument_and_without_escape_codes() {
    let out = anynpu(&["run", "--seed", "1"]);
    assert_eq!(out.status.code(), Some(0));
    let story = text(&out.stdout);
    assert!(story.split_whitespace().count() > 30, "{story}");
    assert!(!story.contains('\u{1b}'), "{story:?}");
    let told = text(&out.stderr);
    assert!(told.contains("decode") && told.contains("cpu"), "{told}");
    assert!(!told.contains('\u{1b}'), "{told:?}");
}

#[test]
fn the_same_seed_tells_the_same_story_and_temperature_0_needs_none() {
    let with = |seed: &str| done(&["run", "-n", "40", "--seed", seed]);
    assert_eq!(with("7"), with("7"));
    assert_ne!(with("7"), with("8"));
    let greedy = |seed: &str| done(&["run", "-n", "40", "--temp", "0", "--seed", seed]);
    assert_eq!(greedy("1"), greedy("2"));
}

#[test]
fn threads_and_kernels_do_not_change_the_tokens() {
    let tokens = |more: &[&str]| {
        let mut args = vec!["run", "-n", "30", "--temp", "0", "--json"];
        args.extend(more);
        json(&args)["tokens"].clone()
    };
    let plain = tokens(&[]);
    assert_eq!(plain.as_array().unwrap().len(), 30);
    assert_eq!(tokens(&["--threads", "1"]), plain);
    assert_eq!(tokens(&["--threads", "3"]), plain);
    assert_eq!(tokens(&["--cpu-features", "generic"]), plain);
}

#[test]
fn run_json_has_the_keys_that_scripts_read() {
    let r = json(&[
        "run",
        "-p",
        "Once upon a time",
        "-n",
        "8",
        "--temp",
        "0",
        "--json",
    ]);
    assert_eq!(r["tokens"].as_array().unwrap().len(), 8);
    assert!(r["prompt_tokens"].as_u64().unwrap() > 1);
    assert!(!r["text"].as_str().unwrap().is_empty());
    let phases = r["plan"]["phases"].as_array().unwrap();
    assert_eq!(phases[0]["phase"], "prefill");
    assert_eq!(phases[1]["phase"], "decode");
    let cpu = &r["executed"]["devices"]["cpu"];
    for key in [
        "nodes",
        "segments",
        "copies_in",
        "copies_out",
        "bytes",
        "us",
    ] {
        assert!(cpu[key].is_u64(), "{key}: {cpu}");
    }
    let steps = r["executed"]["steps"].as_u64().unwrap();
    assert_eq!(cpu["segments"], steps);
    assert_eq!(cpu["dtype"], "f32");
    assert!(r["fallbacks"].as_array().unwrap().is_empty());
    assert!(r["warnings"].is_array() && r["kv_type"].is_string());
    for key in [
        "load_ms",
        "compile_ms",
        "ttft_ms",
        "prefill_tok_s",
        "decode_tok_s",
    ] {
        assert!(r["timing"][key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(r["memory"]["peak_rss_bytes"].as_u64().unwrap() > 0);
    let bytes = |key: &str| r["memory"][key].as_u64().unwrap();
    let (planned, held) = (bytes("planned_bytes"), bytes("peak_rss_bytes"));
    assert!(planned >= held, "planned {planned}, held {held}");
    assert!(
        planned <= held + held / 10 + (64 << 20),
        "planned {planned}, held {held}"
    );
}

#[test]
fn the_kv_cache_is_kept_in_the_type_that_is_asked_for() {
    let run = |kv: &str| {
        let args = ["run", "-p", "Once upon a time", "-n", "8", "--temp", "0"];
        let with = [&args[..], &["--kv-type", kv, "--json"]].concat();
        json(&with)
    };
    for kv in ["f32", "f16", "q8_0"] {
        let r = run(kv);
        assert_eq!(r["kv_type"], kv);
        assert_eq!(r["tokens"].as_array().unwrap().len(), 8);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let narrow = path.join("../../tests/data/architectures/llama.gguf");
    refused(
        &[
            "logits",
            narrow.to_str().unwrap(),
            "--tokens",
            "1",
            "--kv-type",
            "q8_0",
        ],
        1,
        &["head dimension", "32", "f16"],
    );
    let i = json(&["inspect", "--ctx", "512", "--json"]);
    let bytes = &i["memory"][0]["kv_bytes_by_type"];
    let of = |kv: &str| bytes[kv].as_u64().unwrap();
    assert_eq!(of("f32"), 2 * of("f16"));
    assert_eq!(of("q8_0") * 32, of("f16") * 17);
}

#[test]
fn a_decoder_embeds_nothing_and_an_encoder_generates_nothing() {
    refused(&["embed", "-p", "x"], 1, &["is a decoder", "an encoder"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bert = path.join("../../tests/data/architectures/bert.gguf");
    let bert = bert.to_str().unwrap();
    refused(
        &["run", bert, "-n", "1"],
        1,
        &["is an encoder", "a decoder"],
    );
    refused(&["embed", bert, "-p", "x"], 1, &["vocabulary"]);
}

#[test]
fn no_tokens_asked_for_is_no_error() {
    let r = json(&["run", "-n", "0", "--json"]);
    assert!(r["tokens"].as_array().unwrap().is_empty());
    assert_eq!(r["text"], "");
}

#[test]
fn devices_plan_doctor_knobs_and_inspect_answer() {
    let d = json(&["devices", "--json"]);
    let cpu = &d["devices"][0];
    assert_eq!((&cpu["name"], &cpu["kind"]), (&"cpu".into(), &"cpu".into()));
    assert!(cpu["claims"]["baseline"].as_bool().unwrap());
    assert!(d["unavailable"].is_array());
    assert!(done(&["devices"]).contains("cpu"));
    let p = json(&["plan", "--json"]);
    assert_eq!(p["phases"].as_array().unwrap().len(), 2);
    let segment = &p["phases"][1]["segments"][0];
    assert_eq!(segment["device"], "cpu");
    assert!(segment["layers"].is_array() && segment["first_node"].is_string());
    assert!(p["objective_us"].as_f64().unwrap() > 0.0);
    assert_eq!(p["phases"][0]["guess_share"], 1.0);
    assert!(p.get("compare").is_none());
    assert!(done(&["plan"]).contains("decode"));
    let compared = json(&["plan", "--compare", "--json"]);
    for way in ["greedy", "cpu"] {
        assert_eq!(compared["compare"][way]["objective_us"], p["objective_us"]);
    }
    assert!(done(&["plan", "--compare"]).contains("instead cpu: "));
    assert!(json(&["doctor", "--json"])["backends"].is_array());
    assert!(done(&["doctor"]).contains("cpu"));
    assert!(done(&["knobs"]).contains("ANYNPU_THREADS"));
    let i = json(&["inspect", "--json"]);
    assert_eq!(i["info"]["architecture"], "llama");
    assert!(i["error"].is_null() && !i["tensors"].as_array().unwrap().is_empty());
    assert!(done(&["inspect"]).contains("llama"));
}

#[test]
fn explain_tells_of_every_node_where_it_was_planned_and_where_it_ran() {
    let e = json(&["explain", "--json"]);
    let nodes = e["nodes"].as_array().unwrap();
    assert!(nodes.len() > 30);
    for (id, node) in nodes.iter().enumerate() {
        assert_eq!(node["id"], id);
        assert!(node["name"].is_string() && node["op"].is_string());
        assert_eq!(node["verdicts"]["cpu"]["support"], "yes");
        for phase in ["prefill", "decode"] {
            assert_eq!(node["planned"][phase], "cpu");
            assert_eq!(node["ran"][phase], "cpu");
        }
    }
    let layers = nodes.iter().filter_map(|n| n["layer"].as_u64());
    assert!(layers.max().unwrap() > 0);
    let told = done(&["explain"]);
    assert!(
        told.contains("layers.0-") && told.contains("ran cpu"),
        "{told}"
    );
}

#[test]
fn a_plan_is_drawn_and_a_run_is_traced() {
    let folder = Folder::new();
    let page = folder.file("plan.html", b"");
    done(&["plan", "--compare", "--html", &page]);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>"));
    for part in ["<svg", "layer 0: ", "greedy", "predicted: "] {
        assert!(page.contains(part), "{part}");
    }
    let checked = folder.file("checked.html", b"");
    done(&[
        "plan", "--check", "--prompt", "16", "-n", "4", "--html", &checked,
    ]);
    let checked = std::fs::read_to_string(checked).unwrap();
    assert!(checked.contains("predicted: ") && checked.contains("measured: "));
    let trace = folder.file("trace.json", b"");
    let r = json(&["run", "-n", "3", "--temp", "0", "--json", "--trace", &trace]);
    let text = std::fs::read_to_string(trace).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let ran = events.iter().filter(|e| e["ph"] == "X" && e["tid"] == 1);
    let nodes = ran.clone().map(|e| e["args"]["nodes"].as_u64().unwrap());
    let cpu = &r["executed"]["devices"]["cpu"];
    assert_eq!(cpu["segments"], ran.clone().count());
    assert_eq!(cpu["nodes"], nodes.sum::<u64>());
    assert!(ran.into_iter().all(|e| e["dur"].as_f64().unwrap() > 0.0));
    let nowhere = folder.0.path().join("no/such/folder.html");
    refused(
        &["plan", "--html", nowhere.to_str().unwrap()],
        1,
        &["no/such/folder.html"],
    );
}

#[test]
fn tokenize_and_detokenize_are_inverse() {
    let said = "Once upon a time, a fox said \"Grüße!\"";
    let t = json(&["tokenize", "-p", said, "--json"]);
    let ids: Vec<String> = t["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.to_string())
        .collect();
    assert_eq!(t["pieces"].as_array().unwrap().len(), ids.len());
    let back = json(&["detokenize", "--tokens", &ids.join(","), "--json"]);
    assert_eq!(back["text"], said);
}

#[test]
fn logits_go_to_a_file_or_into_the_document() {
    let folder = Folder::new();
    let out = folder.0.path().join("logits.f32");
    let out = out.to_str().unwrap();
    done(&["logits", "--tokens", "1,2,3", "--out", out]);
    let bytes = std::fs::read(out).unwrap();
    let d = json(&["logits", "--tokens", "1,2,3", "--json"]);
    let logits = d["logits"].as_array().unwrap();
    assert_eq!(bytes.len(), 4 * logits.len());
    assert_eq!(logits.len() as u64, 3 * d["vocabulary"].as_u64().unwrap());
    let first = f32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(first, logits[0].as_f64().unwrap() as f32);
}

#[test]
fn bench_rows_come_in_every_form() {
    let common = ["bench", "-p", "4", "-n", "2", "-r", "2", "-o"];
    let with = |form: &'static str| {
        let mut args = common.to_vec();
        args.push(form);
        done(&args)
    };
    let rows = with("jsonl");
    let rows: Vec<Value> = rows
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 2);
    for (row, (p, n)) in rows.iter().zip([(4, 0), (0, 2)]) {
        assert_eq!((&row["n_prompt"], &row["n_gen"]), (&p.into(), &n.into()));
        assert_eq!(row["samples_ts"].as_array().unwrap().len(), 2);
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0);
        for key in [
            "stddev_ts",
            "model_size",
            "n_threads",
            "devices",
            "executed",
            "load_cold_ms",
            "load_warm_ms",
            "environment",
            "comparability",
            "warmup",
        ] {
            assert!(!row[key].is_null(), "{key}");
        }
    }
    assert!(rows[0]["ttft_ms"]["p50"].as_f64().unwrap() > 0.0);
    assert!(with("md").contains("| pp4 |"));
    assert!(with("csv").starts_with("model,"));
    assert!(with("sql").contains("INSERT INTO bench"));
    assert!(
        serde_json::from_str::<Value>(&with("json"))
            .unwrap()
            .is_array()
    );
}

#[test]
fn bench_generates_several_texts_at_once() {
    let args = [
        "bench",
        "-p",
        "0",
        "-n",
        "3",
        "--sequences",
        "1,3",
        "-r",
        "1",
    ];
    let rows = |more: &[&str]| -> Vec<Value> {
        let args = [&args[..], &["-o", "jsonl"], more].concat();
        let rows = done(&args);
        rows.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let cpu = rows(&[]);
    assert_eq!(cpu.len(), 2);
    let nodes = |row: &Value| row["executed"]["cpu"]["nodes"].as_u64().unwrap();
    for (row, n) in cpu.iter().zip([1, 3]) {
        assert_eq!(row["n_sequences"], n);
        assert!(row["apart"].is_null());
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        nodes(&cpu[0]),
        nodes(&cpu[1]),
        "as many runs, whatever the number of texts"
    );
    assert_ne!(cpu[0]["comparability"], cpu[1]["comparability"]);
    // in this process and in another: a device that runs several, and one that says why it doesn't
    for isolate in [&[][..], &["--isolate"]] {
        let on = |device, place| rows(&[&["--device", device, "--place", place], isolate].concat());
        let chaos = on("cpu,chaos", "*=chaos");
        assert!(chaos[1]["apart"].is_null(), "{}", chaos[1]["apart"]);
        let sim = on("cpu,sim:reference-f32", "*=sim");
        assert!(sim[0]["apart"].is_null());
        let apart = sim[1]["apart"].as_str().unwrap();
        assert!(
            apart.contains("device 'sim'") && apart.contains("one sequence"),
            "{apart}"
        );
    }
    let table = done(&args);
    assert!(
        table.contains("| tg3 |") && table.contains("| tg3x3 |"),
        "{table}"
    );
}

#[test]
fn bad_usage_is_status_2() {
    for args in [
        &["frobnicate"][..],
        &["run", "--no-such-option"],
        &["run", "-n", "-1"],
        &["run", "--temp", "warm"],
        &["run", "--ctx", "0"],
        &["run", "--threads", "0"],
        &["run", "--threads", "1000000"],
        &["logits"],
        &["logits", "--tokens", "1,x"],
        &["bench", "-r", "0"],
        &["bench", "--sequences", "0"],
        &["run", "-p", "a", "-f", "b"],
    ] {
        assert_eq!(anynpu(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    refused(&["run", "--temp", "nan"], 1, &["temperature"]);
    refused(&["run", "--temp=-1"], 1, &["temperature", "-1"]);
    refused(&["run", "--top-p", "2"], 1, &["top", "2"]);
    refused(&["run", "--ctx", "4294967295"], 1, &["4294967295"]);
    refused(&["run", "--cpu-features", "mmx"], 1, &["mmx"]);
    refused(&["logits", "--tokens", "99999"], 1, &["99999"]);
    refused(&["detokenize", "--tokens", "99999"], 1, &["99999"]);
}

#[test]
fn devices_that_are_not_there_are_named_with_what_is() {
    refused(&["run", "--device", "npu"], 1, &["'npu'", "cpu"]);
    refused(&["run", "--forbid", "cpu"], 1, &["cpu"]);
    refused(&["run", "--place", "layers.9-1=cpu"], 1, &["layers.9-1"]);
    refused(&["run", "--place", "layers.77=cpu"], 1, &["layers.77"]);
    refused(&["run", "--place", "layers.0=npu"], 1, &["npu"]);
    refused(&["run", "--require", "npu"], 1, &["npu"]);
    done(&[
        "run",
        "-n",
        "1",
        "--require",
        "cpu",
        "--place",
        "layers.*=cpu",
    ]);
}

#[test]
fn files_that_are_no_models_are_refused() {
    let folder = Folder::new();
    let missing = folder.0.path().join("missing.gguf");
    let missing = missing.to_str().unwrap();
    let directory = folder.0.path().to_str().unwrap();
    let empty = folder.file("empty.gguf", b"");
    let garbage = folder.file("garbage.gguf", &[0x5a; 4096]);
    let header = folder.file("header.gguf", b"GGUF\x03\0\0\0");
    let story = story();
    let half = folder.file("half.gguf", &story[..story.len() / 2]);
    let start = folder.file("start.gguf", &story[..200]);
    for command in ["run", "inspect", "plan", "bench"] {
        for path in [missing, directory, &empty, &garbage, &header, &half, &start] {
            refused(&[command, path], 1, &[path]);
        }
    }
}

#[test]
fn flipped_bits_never_crash() {
    let folder = Folder::new();
    let story = story();
    // The header, the metadata and the tensor list, then some data.
    for i in 0..40 {
        let mut bytes = story.clone();
        let at = (i * i * 37) % 16_000;
        bytes[at] ^= 1 << (i % 8);
        let path = folder.file("flipped.gguf", &bytes);
        for args in [
            &["inspect", &path][..],
            &["run", &path, "-n", "3", "--temp", "0"],
        ] {
            let out = anynpu(args);
            let error = String::from_utf8_lossy(&out.stderr).into_owned();
            let code = out.status.code();
            assert!(matches!(code, Some(0 | 1)), "byte {at}: {code:?}: {error}");
            assert!(!error.contains("panicked"), "byte {at}: {error}");
        }
    }
}

#[test]
fn prompts_with_nul_invalid_utf8_or_nothing_work() {
    let folder = Folder::new();
    for (name, bytes) in [
        ("nul", &b"a\0b"[..]),
        ("invalid", &b"\xff\xfe caf\xc3"[..]),
        ("empty", &b""[..]),
    ] {
        let path = folder.file(name, bytes);
        done(&["run", "-f", &path, "-n", "3", "--temp", "0"]);
    }
    done(&["run", "-p", "", "-n", "3"]);
    refused(&["run", "-f", "no-such-file.txt"], 1, &["no-such-file.txt"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_an_error_with_both_numbers() {
    let long = "the little fox ".repeat(40);
    refused(&["run", "-p", &long, "--ctx", "16"], 1, &["16"]);
}

#[test]
fn a_full_context_is_an_error_unless_it_may_slide() {
    let start = [
        "run",
        "-p",
        "Once upon a time",
        "--temp",
        "0",
        "--ctx",
        "24",
        "-n",
        "60",
    ];
    let out = anynpu(&start);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("--on-full slide"));
    assert!(!out.stdout.is_empty());
    let mut slide = start.to_vec();
    slide.extend(["--on-full", "slide", "--json"]);
    assert!(json(&slide)["tokens"].as_array().unwrap().len() > 24);
}

#[test]
fn unknown_variables_of_ours_are_warned_of() {
    let out = Command::new(env!("CARGO_BIN_EXE_anynpu"))
        .args(["run", "-n", "1"])
        .env("ANYNPU_TREADS", "2")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stderr).contains("ANYNPU_TREADS"));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_anynpu"))
        .args(["run", "-n", "400", "--seed", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(!text(&out.stderr).contains("panicked"));
}

#[test]
fn input_that_stays_open_is_not_waited_for() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_anynpu"))
        .args(["run", "-n", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let status = child.wait().unwrap();
    let _ = input.write_all(b"unread");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in [
        "run",
        "devices",
        "plan",
        "logits",
        "embed",
        "tokenize",
        "detokenize",
        "inspect",
        "bench",
        "quantize",
        "perplexity",
        "doctor",
        "knobs",
    ] {
        let help = done(&[command, "--help"]);
        assert!(help.contains("Example"), "{command}: {help}");
        assert!(help.contains(&format!("anynpu {command}")), "{command}");
    }
}
