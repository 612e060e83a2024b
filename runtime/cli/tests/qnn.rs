//! Layers of the built-in model on Qualcomm's HTP.

mod common;

use common::{anynpu, json, refused, text};

const RUN: &[&str] = &[
    "run",
    "-p",
    "Once upon a time",
    "-n",
    "16",
    "--temp",
    "0",
    "--json",
];

#[test]
fn the_story_goes_on_the_same_with_its_layers_on_the_htp() {
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED the_story_goes_on_the_same…: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let run = |more: &[&str]| json(&[RUN, more].concat());
    let cpu = run(&["--device", "cpu"]);
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    let htp = run(&place);
    assert_eq!(htp["tokens"], cpu["tokens"]);
    let executed = |what: &str| htp["executed"]["devices"]["qnn"][what].clone();
    assert_eq!(executed("segments"), htp["executed"]["steps"]);
    assert!(executed("nodes").as_u64().unwrap() > 16 * 50);
    assert_eq!(executed("dtype"), "f16");
    // an emulator's time is no chip's
    assert_eq!(executed("us"), 0);
    let isolated = run(&[&place[..], &["--isolate"]].concat());
    assert_eq!(isolated["tokens"], cpu["tokens"]);
}

#[test]
fn a_model_in_q4_0_goes_on_the_same_with_its_blocks_kept() {
    let test = "a_model_in_q4_0_goes_on_the_same_with_its_blocks_kept";
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let (Some(_), Some(data)) = (set("ANYNPU_QNN_LIBRARY"), set("ANYNPU_TEST_DATA")) else {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY or ANYNPU_TEST_DATA is not set");
        return;
    };
    let model = std::path::Path::new(&data).join("stories260K/stories260K-Q4_0.gguf");
    let model = model.to_str().unwrap();
    let run = |more: &[&str]| {
        let arguments = ["run", model, "-p", "Once upon a time", "-n", "14"];
        json(&[&arguments[..], &["--temp", "0", "--json"], more].concat())
    };
    let cpu = run(&["--device", "cpu"]);
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    let kept = run(&[&place[..], &["--qnn-weights", "blocks"]].concat());
    assert_eq!(kept["tokens"], cpu["tokens"]);
}

#[test]
fn what_was_compiled_ahead_of_time_is_loaded_and_left_as_it_is() {
    let test = "what_was_compiled_ahead_of_time_is_loaded_and_left_as_it_is";
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let compile = |name: &str, more: &[&str]| {
        let to = folder.path().join(name).to_str().unwrap().to_owned();
        let args = [
            "compile",
            "--target",
            "qnn:SM8650",
            "--ctx",
            "256",
            "--json",
        ];
        let manifest = json(&[&args, &["-o", &to][..], more].concat());
        assert_eq!(manifest["target"], "qnn:SM8650");
        assert!(manifest["device"].as_str().unwrap().starts_with("HTP v75"));
        let needs = |what: &str| manifest["needs"][what].as_str().unwrap().to_owned();
        assert_eq!(needs("arch"), "v75");
        assert!(needs("core_api").starts_with("2."), "{manifest}");
        assert!(needs("sdk").starts_with("v2."), "{manifest}");
        let file = &manifest["files"][0];
        let path = folder
            .path()
            .join(name)
            .join(file["name"].as_str().unwrap());
        let bytes = std::fs::read(&path).unwrap();
        let digest = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(file["blake3"].as_str().unwrap(), digest);
        (manifest, path, bytes.len())
    };
    let (manifest, path, apart) = compile("emulated", &["--for-emulator"]);
    assert_eq!(manifest["shared_weights"], false);
    let (manifest_shared, path_shared, shared) = compile("shared", &[]);
    assert_eq!(manifest_shared["shared_weights"], true);
    assert!(2 * shared < apart + apart / 5, "{shared} of {apart} bytes");
    let cpu = json(&[RUN, &["--ctx", "256", "--device", "cpu"]].concat());
    let go = |manifest: &serde_json::Value| {
        let given = manifest["run"].as_array().unwrap().iter();
        let given: Vec<&str> = given.map(|a| a.as_str().unwrap()).collect();
        let run = json(&[RUN, &given, &["--no-cache"]].concat());
        assert_eq!(run["tokens"], cpu["tokens"]);
        (
            run["timing"]["compile_ms"].as_f64().unwrap(),
            run["warnings"].to_string(),
        )
    };
    let damaged = "is not used";
    let (_, told) = go(&manifest);
    assert!(!told.contains(damaged), "{told}");
    // what only a chip takes is compiled anew here, and stays
    let (_, told) = go(&manifest_shared);
    assert!(told.contains("the emulator can't load"), "{told}");
    assert_eq!(std::fs::read(&path_shared).unwrap().len(), shared);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[apart / 2] ^= 0x55;
    std::fs::write(&path, &bytes).unwrap();
    let (_, told) = go(&manifest);
    assert!(told.contains(damaged), "{told}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let to = folder.path().join("emulated");
    let again = [
        "compile",
        "--target",
        "qnn:SM8650",
        "-o",
        to.to_str().unwrap(),
    ];
    refused(&again, 1, &["is there already"]);
}

#[test]
fn targets_that_are_none_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out");
    let compile = |target, more: &[&'static str]| {
        let args = ["compile", "--target", target, "-o", to.to_str().unwrap()];
        [&args, more]
            .concat()
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let refuses = |args: Vec<String>, status, words: &[&str]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(&args, status, words);
    };
    refuses(
        compile("tpu:1", &[]),
        2,
        &["'tpu:1' is no target", "qnn:SM8650"],
    );
    let help = text(&anynpu(&["compile", "--help"]).stdout);
    assert!(help.contains("SM8350") && help.contains("SM8850"), "{help}");
    refuses(compile("qnn:SM1", &[]), 2, &["no chip 'SM1'", "SM8850"]);
    refuses(
        compile("qnn:SM8350", &[]),
        1,
        &["SM8350 computes no floating point"],
    );
    let absent = ["--qnn-library", "/nowhere/libQnnHtp.so"];
    refuses(
        compile("qnn:SM8650", &absent),
        1,
        &["/nowhere/libQnnHtp.so"],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_library_or_chip_that_is_not_there_is_named_with_what_to_do() {
    let failed = |more: &[&str]| {
        let out = anynpu(&[&["run", "-n", "1", "--device", "cpu,qnn"], more].concat());
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
        text(&out.stderr)
    };
    let e = failed(&["--qnn-library", "/nowhere/libQnnHtp.so"]);
    assert!(e.contains("/nowhere/libQnnHtp.so"), "{e}");
    assert!(e.contains("install Qualcomm's AI runtime"), "{e}");
    let e = failed(&[
        "--qnn-library",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ]);
    assert!(e.contains("invalid ELF header"), "{e}");
    let e = failed(&["--qnn-library", "/nowhere/libQnnHtp.so", "--qnn-soc", "SM1"]);
    assert!(e.contains("no chip 'SM1'; name one of SM8350"), "{e}");
    let e = failed(&["--qnn-soc", "SM8450", "--qnn-weights", "blocks"]);
    assert!(e.contains("SM8450 computes no weights in blocks"), "{e}");
    let words = ["'int2'", "f16, int8, int4, blocks or lpbq"];
    refused(&["run", "--qnn-weights", "int2"], 2, &words);
    let knobs = json(&["knobs", "--json"]).to_string();
    assert!(knobs.contains("ANYNPU_QNN_LIBRARY") && knobs.contains("ANYNPU_QNN_SOC"));
}

#[test]
fn what_a_chip_does_not_compute_right_is_kept_from_it() {
    let test = "what_a_chip_does_not_compute_right_is_kept_from_it";
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_str().unwrap();
    let table = json(&["operations", "--cache-dir", cache, "--json"]);
    assert_eq!(table["soc"], "SM8650");
    let verdict = |id: &str| table["forms"][id]["verdict"].as_str().unwrap().to_owned();
    assert_eq!(verdict("Softmax rank 3 f16"), "right");
    assert_eq!(verdict("MatMul rank 5 f16"), "wrong");
    assert_eq!(verdict("MatMul by int4 a block f16"), "crashed");
    assert_eq!(verdict("FullyConnected by int4 a block u8"), "not_compiled");

    let run = |more: &[&str]| {
        let command = ["explain", "--cache-dir", cache, "--device", "cpu,qnn"];
        anynpu(&[&command[..], &["--place", "layers.*=qnn"], more].concat())
    };
    let before = run(&[]);
    assert!(before.status.success(), "{}", text(&before.stderr));

    // as if it had been wrong
    let path = folder.path().join("operations/SM8650.json");
    let kept = std::fs::read_to_string(&path).unwrap();
    let mut forged: serde_json::Value = serde_json::from_str(&kept).unwrap();
    forged["forms"]["Softmax rank 3 f16"] =
        serde_json::json!({ "verdict": "wrong", "error": 2.0, "bound": 0.004 });
    std::fs::write(&path, forged.to_string()).unwrap();
    for isolate in [&[][..], &["--isolate"]] {
        let after = run(isolate);
        let told = text(&after.stderr);
        assert!(!after.status.success(), "{told}");
        assert!(told.contains("Softmax rank 3 f16"), "{told}");
        assert!(told.contains("wrong without a word"), "{told}");
    }
    // a table of another library says nothing of this one
    forged["library"] = "core API 2.39.0".into();
    std::fs::write(&path, forged.to_string()).unwrap();
    let after = run(&[]);
    assert!(after.status.success(), "{}", text(&after.stderr));
    assert!(text(&after.stderr).contains("library is core API 2.39.0"));
}

#[test]
fn operations_of_a_library_that_is_not_there_are_not_tried() {
    let absent = ["operations", "--qnn-library", "/nowhere/libQnnHtp.so"];
    let words = ["/nowhere/libQnnHtp.so", "install Qualcomm's AI runtime"];
    refused(&absent, 1, &words);
    let unknown = ["operations", "--qnn-soc", "SM1"];
    refused(&unknown, 1, &["there is no chip 'SM1'", "SM8850"]);
}

#[test]
fn runs_larger_than_a_context_are_cut_and_go_on_the_same() {
    let test = "runs_larger_than_a_context_are_cut_and_go_on_the_same";
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache").to_str().unwrap().to_owned();
    let run = |more: &[&str]| json(&[RUN, &["--ctx", "128"], more].concat());
    let cpu = run(&["--device", "cpu"]);
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    // compiled, then loaded, in contexts that spill into one memory
    for _ in 0..2 {
        let small = ["--qnn-context-mib", "1", "--cache-dir", &cache];
        let htp = run(&[&place[..], &small].concat());
        assert_eq!(htp["tokens"], cpu["tokens"]);
        let told = htp["warnings"].to_string();
        assert!(!told.contains("is not used"), "{told}");
    }
    let compiled = folder.path().join("compiled").to_str().unwrap().to_owned();
    let command = ["compile", "--target", "qnn:SM8650", "--ctx", "128"];
    let more = ["--for-emulator", "--qnn-context-mib", "3", "-o", &compiled];
    let made = json(&[&command[..], &more, &["--json"]].concat());
    let given = made["run"].as_array().unwrap().iter();
    let given: Vec<&str> = given.map(|a| a.as_str().unwrap()).collect();
    let htp = json(&[RUN, &given, &["--no-cache"]].concat());
    assert_eq!(htp["tokens"], cpu["tokens"]);
    let told = htp["warnings"].to_string();
    assert!(!told.contains("is not used"), "{told}");
    let isolated = ["--qnn-context-mib", "1", "--isolate", "--no-cache"];
    let htp = run(&[&place[..], &isolated].concat());
    assert_eq!(htp["tokens"], cpu["tokens"]);
    let mut wrong = std::process::Command::new(env!("CARGO_BIN_EXE_anynpu"));
    wrong.args([RUN, &place].concat());
    let told = wrong
        .env("ANYNPU_QNN_CONTEXT_MIB", "much")
        .output()
        .unwrap();
    assert_eq!(told.status.code(), Some(1));
    let told = text(&told.stderr);
    assert!(told.contains("'much' is no number of MiB"), "{told}");
    refused(&["run", "--qnn-context-mib", "0"], 2, &["qnn-context-mib"]);
}

#[test]
fn a_vote_for_clocks_changes_no_token() {
    let test = "a_vote_for_clocks_changes_no_token";
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let cpu = json(&[RUN, &["--device", "cpu"]].concat());
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    for mode in ["burst", "sustained", "saver"] {
        let out = anynpu(&[RUN, &place, &["--qnn-power", mode]].concat());
        let told = text(&out.stderr);
        assert!(out.status.success() && !told.contains("clocks"), "{told}");
        let htp: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(htp["tokens"], cpu["tokens"]);
    }
    let words = ["'turbo'", "burst, sustained or saver"];
    refused(&["run", "--qnn-power", "turbo"], 2, &words);
}

/// Library of another version than those that were tried.
#[test]
fn newer_libraries_are_used_once_they_were_tried_and_older_ones_tell_the_program_s_results_nothing()
{
    let test = "newer_libraries_are_used_once_they_were_tried…";
    let Some(real) = std::env::var_os("ANYNPU_QNN_LIBRARY").filter(|p| !p.is_empty()) else {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (library, cache) = (path("libQnnHtp.so"), path("cache"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qnn_other.c");
    let compiler = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &library, source, "-ldl"])
        .status();
    assert!(compiler.unwrap().success());
    let system = std::path::Path::new(&real).with_file_name("libQnnSystem.so");
    std::os::unix::fs::symlink(system, path("libQnnSystem.so")).unwrap();
    let go = |minor: &str, arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_anynpu"))
            .args(arguments)
            .args(["--cache-dir", &cache, "--qnn-library", &library])
            .envs([
                ("QNN_REAL", real.as_os_str()),
                ("QNN_MINOR", minor.as_ref()),
            ])
            .output()
            .unwrap()
    };
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    let run = [RUN, &place, &["--ctx", "64"]].concat();
    let cpu = json(&[RUN, &["--device", "cpu", "--ctx", "64"]].concat());
    let ran = |minor: &str| {
        let out = go(minor, &run);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let found: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(found["tokens"], cpu["tokens"]);
        text(&out.stderr)
    };
    // too old
    let out = go("35", &run);
    assert_eq!(out.status.code(), Some(1));
    let told = text(&out.stderr);
    assert!(told.contains("core API 2.35, needed is 2.36"), "{told}");
    // newer
    let out = go("41", &run);
    assert_eq!(out.status.code(), Some(1));
    let told = text(&out.stderr);
    assert!(told.contains("core API 2.41.0, newer than any"), "{told}");
    assert!(
        told.contains("anynpu operations --qnn-soc SM8650"),
        "{told}"
    );
    let out = go("41", &["operations"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let told = ran("41");
    assert!(told.contains("newer than 2.40, the newest"), "{told}");
    // older, which writes of what it compiles, and does not take what a newer one compiled
    let told = ran("39");
    assert!(told.contains("Starting stage"), "{told}");
    let kept = std::fs::read_dir(&cache).unwrap();
    let kept = kept.map(|f| f.unwrap().path());
    assert_eq!(kept.filter(|f| f.is_file()).count(), 1);
}

/// Inputs and outputs in memory of a library like `libcdsprpc.so`, which notes what is taken and given back. The
/// emulator does not take what stands for it, and is given the bytes.
#[test]
fn inputs_and_outputs_are_in_memory_of_the_library_that_is_named() {
    let test = "inputs_and_outputs_are_in_memory_of_the_library_that_is_named";
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (library, log) = (path("librpcmem.so"), path("log"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rpcmem.c");
    let compiler = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &library, source])
        .status();
    assert!(compiler.unwrap().success());
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    let run = |limit: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_anynpu"))
            .args([RUN, &place, &["--no-cache", "--qnn-rpcmem", &library]].concat())
            .envs([("RPCMEM_LOG", &*log), ("RPCMEM_MOST", limit)])
            .output()
            .unwrap()
    };
    let out = run("1000000000");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let found: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let cpu = json(&[RUN, &["--device", "cpu"]].concat());
    assert_eq!(found["tokens"], cpu["tokens"]);
    let log = std::fs::read_to_string(&log).unwrap();
    let count = |what: &str| log.lines().filter(|l| l.starts_with(what)).count();
    assert!(count("taken") > 20, "{log}");
    assert_eq!(count("taken"), count("given back"), "{log}");

    // where it has none
    let out = run("100000");
    let told = text(&out.stderr);
    assert!(!out.status.success(), "{told}");
    assert!(told.contains("librpcmem.so"), "{told}");
    let named = |library: &str| {
        let out = anynpu(&[RUN, &place, &["--qnn-rpcmem", library]].concat());
        assert_eq!(out.status.code(), Some(1));
        text(&out.stderr)
    };
    let told = named("/nowhere/libcdsprpc.so");
    assert!(told.contains("/nowhere/libcdsprpc.so"), "{told}");
    let told = named("libm.so.6");
    assert!(told.contains("libm.so.6 has no 'rpcmem_alloc'"), "{told}");
}

/// A text of the kind that the built-in model tells.
const STORY: &str = "Once upon a time a brave boy named Tom lived in a cottage beside a wide river. Tom had a \
    loud laugh. One day Tom wanted to see the forest. He took his red hat and went along the river. There he met \
    an old fox. The fox was hungry and sad. Tom gave the fox his bread. The fox was glad, and they were friends.";

#[test]
fn models_run_with_activations_in_fixed_point_in_ranges_that_were_measured() {
    let test = "models_run_with_activations_in_fixed_point_in_ranges_that_were_measured";
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (story, ranges) = (path("story.txt"), path("ranges.json"));
    std::fs::write(&story, STORY).unwrap();
    let found = json(&["calibrate", "-f", &story, "-o", &ranges, "--json"]);
    assert!(found["tensors"].as_u64().unwrap() > 200, "{found}");

    let perplexity = |more: &[&str]| {
        let command = ["perplexity", "-f", &story, "--ctx", "64", "--json"];
        let found = json(&[&command[..], more].concat());
        found["perplexity"].as_f64().unwrap()
    };
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    let fixed = [
        &place[..],
        &["--qnn-ranges", &ranges, "--qnn-weights", "int8"],
    ]
    .concat();
    let apart = perplexity(&fixed) / perplexity(&["--device", "cpu"]) - 1.0;
    assert!(apart.abs() < 0.02, "{apart}");

    // the same by what was compiled ahead of time
    let compiled = path("compiled");
    let target = [
        "compile",
        "--target",
        "qnn:SM8650",
        "-o",
        &compiled,
        "--for-emulator",
    ];
    let made = json(&[&target[..], &fixed[4..], &["--ctx", "64", "--json"]].concat());
    let run: Vec<&str> = made["run"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a.as_str().unwrap())
        .collect();
    let told = |more: &[&str]| {
        let command = [
            "run",
            "-p",
            "Once upon a time",
            "-n",
            "8",
            "--temp",
            "0",
            "--json",
        ];
        let found = json(&[&command[..], more].concat());
        assert_eq!(found["executed"]["devices"]["qnn"]["dtype"], "u16");
        let warned = found["warnings"].to_string();
        assert!(warned.contains("device 'qnn' computes in u16"), "{warned}");
        found["tokens"].clone()
    };
    assert_eq!(told(&run), told(&[&fixed[..], &["--ctx", "64"]].concat()));
    let isolated = ["--ctx", "64", "--isolate"];
    assert_eq!(told(&run), told(&[&fixed[..], &isolated].concat()));

    // chips without floating point take activations in 8 bits
    let eight = path("eight.json");
    let text = std::fs::read_to_string(&ranges).unwrap();
    std::fs::write(&eight, text.replace("\"u16\"", "\"u8\"")).unwrap();
    let old = |ranges: &str| {
        let command = [
            "run",
            "-n",
            "2",
            "--qnn-soc",
            "SM8350",
            "--qnn-ranges",
            ranges,
        ];
        anynpu(&[&command[..], &place].concat())
    };
    let ran = old(&eight);
    assert!(ran.status.success(), "{}", text_of(&ran));
    let told = text_of(&old(&ranges));
    assert!(
        told.contains("no products of two activations in u16"),
        "{told}"
    );
    // ranges of another model are none of this one
    std::fs::write(
        &eight,
        "{\"version\": 1, \"activations\": \"u16\", \"tensors\": {}}",
    )
    .unwrap();
    let command = ["run", "-n", "2", "--qnn-ranges", &eight];
    let told = text_of(&anynpu(&[&command[..], &place].concat()));
    assert!(told.contains("calibrate this model"), "{told}");
}

fn text_of(output: &std::process::Output) -> String {
    text(&output.stderr)
}
