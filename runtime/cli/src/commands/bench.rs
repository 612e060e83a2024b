//! `anynpu bench`: prefill and decode speed, without tokenising and sampling.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use anynpu::{Apart, Batch, ExecutedDevice, LoadedModel, SessionOptions};
use serde::Serialize;

use crate::args::{BenchArgs, BenchFormat};
use crate::commands::load;
use crate::output::{self, SCHEMA_VERSION};

/// One test: `n_prompt` tokens read or `n_gen` generated, one of them 0.
#[derive(Serialize)]
struct Row {
    schema_version: u32,
    model: String,
    model_size: u64,
    model_n_params: u64,
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
    /// Texts generated at once.
    n_sequences: u32,
    /// Why several were generated one by one, if they were.
    apart: Option<String>,
    n_threads: usize,
    kv_type: &'static str,
    /// Tokens per second, of all texts: mean, standard deviation and each run.
    avg_ts: f64,
    stddev_ts: f64,
    samples_ts: Vec<f64>,
    /// Time to the first token, for prompt rows.
    ttft_ms: Option<Percentiles>,
    devices: Vec<String>,
    executed: BTreeMap<String, ExecutedDevice>,
    /// Loading the first time in this process, whatever the system had cached, and again.
    load_cold_ms: f64,
    load_warm_ms: f64,
    /// Runs before those counted.
    warmup: u32,
    environment: Environment,
    /// Rows with equal values measured the same work.
    comparability: String,
}

#[derive(Clone, Copy, Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
}

#[derive(Clone, Serialize)]
struct Environment {
    cpu: String,
    os: &'static str,
    arch: &'static str,
    governor: Option<String>,
    drivers: Vec<String>,
    anynpu: &'static str,
}

/// Runs the tests and prints their rows.
pub fn execute(args: &BenchArgs) -> anyhow::Result<()> {
    let longest = args.prompt.iter().chain(&args.tokens).max().copied();
    let context = longest
        .unwrap_or(0)
        .checked_add(args.depth)
        .context("--depth and the longest test do not fit a context")?
        .max(1);
    let started = Instant::now();
    drop(args.placement.load(&args.model, Some(context))?);
    let cold = milliseconds(started.elapsed());
    let started = Instant::now();
    let model = args.placement.load(&args.model, Some(context))?;
    let warm = milliseconds(started.elapsed());
    let generated = |&n: &u32| {
        args.sequences
            .iter()
            .map(move |&sequences| (0, n, sequences))
    };
    let tests: Vec<(u32, u32, u32)> = args
        .prompt
        .iter()
        .map(|&p| (p, 0, 1))
        .chain(args.tokens.iter().flat_map(generated))
        .filter(|&(p, n, _)| p + n > 0)
        .collect();
    let bar = output::progress_bar("measuring");
    bar.set_length((tests.len() as u64) * u64::from(args.repetitions + 1));
    let mut rows = Vec::new();
    for (n_prompt, n_gen, sequences) in tests {
        let test = Test {
            n_prompt,
            n_gen,
            depth: args.depth,
            sequences,
        };
        let mut row = test.measure(&model, args, &bar)?;
        (row.load_cold_ms, row.load_warm_ms) = (cold, warm);
        if args.output == BenchFormat::Jsonl {
            output::print_line(&serde_json::to_string(&row)?)?;
        }
        rows.push(row);
    }
    bar.finish_and_clear();
    match args.output {
        BenchFormat::Jsonl => Ok(()),
        BenchFormat::Json => Ok(output::print_line(&serde_json::to_string_pretty(&rows)?)?),
        BenchFormat::Md => print_table(&rows),
        BenchFormat::Csv => print_csv(&rows),
        BenchFormat::Sql => print_sql(&rows),
    }
}

struct Test {
    n_prompt: u32,
    n_gen: u32,
    depth: u32,
    sequences: u32,
}

impl Test {
    fn measure(
        &self,
        model: &LoadedModel,
        args: &BenchArgs,
        bar: &indicatif::ProgressBar,
    ) -> anyhow::Result<Row> {
        let session = |_| model.session(SessionOptions::new());
        let sessions: Result<Vec<_>, _> = (0..self.sequences).map(session).collect();
        let mut batch = Batch::new(sessions?)?;
        let interrupt = load::interrupt();
        let mut seconds = Vec::new();
        for run in 0..=args.repetitions {
            if interrupt.is_cancelled() {
                anyhow::bail!("stopped by Ctrl-C");
            }
            let time = self.once(&mut batch)?;
            if run > 0 {
                seconds.push(time.as_secs_f64());
            }
            bar.inc(1);
        }
        let tokens = f64::from(self.n_prompt + self.n_gen) * f64::from(self.sequences);
        let samples: Vec<f64> = seconds.iter().map(|s| tokens / s).collect();
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let squares: f64 = samples.iter().map(|s| (s - mean).powi(2)).sum();
        let deviation = match samples.len() {
            0 | 1 => 0.0,
            n => (squares / (n - 1) as f64).sqrt(),
        };
        let info = model.info();
        let runtime = model.runtime();
        let executed = batch.executed().devices;
        let apart = batch.together().err();
        let apart = apart.filter(|a| !matches!(a, Apart::Few { .. }));
        Ok(Row {
            schema_version: SCHEMA_VERSION,
            model: info.name.clone(),
            model_size: info.weight_bytes,
            model_n_params: info.parameters,
            n_prompt: self.n_prompt,
            n_gen: self.n_gen,
            n_depth: self.depth,
            n_sequences: self.sequences,
            apart: apart.map(|a| a.to_string()),
            n_threads: runtime
                .threads()
                .unwrap_or_else(anynpu_backends::default_threads),
            kv_type: model.kv_dtype().name(),
            avg_ts: mean,
            stddev_ts: deviation,
            samples_ts: samples,
            ttft_ms: (self.n_prompt > 0).then(|| percentiles(&seconds)),
            devices: executed.keys().cloned().collect(),
            executed,
            load_cold_ms: 0.0,
            load_warm_ms: 0.0,
            warmup: 1,
            environment: environment(runtime),
            comparability: self.comparability(model),
        })
    }

    /// One run, from contexts of `depth` tokens.
    fn once(&self, batch: &mut Batch) -> anyhow::Result<Duration> {
        let vocabulary = batch.model().map_or(1, |m| m.info().vocabulary.max(1));
        // other tokens in each text
        let token = |text: usize, i: u32| {
            let number = u64::from(i) * 7919 + 13 + 31 * text as u64;
            (number % u64::from(vocabulary)) as u32
        };
        for text in 0..batch.len() {
            let Some(session) = batch.session_mut(text) else {
                continue;
            };
            // What an earlier run put in up to the depth serves this one.
            session.truncate(self.depth as usize);
            let kept = session.tokens().len() as u32;
            let before: Vec<u32> = (kept..self.depth).map(|i| token(text, i)).collect();
            session.prefill(&before, None)?;
        }
        let prompt: Vec<u32> = (0..self.n_prompt).map(|i| token(0, i)).collect();
        let mut tokens = vec![None; batch.len()];
        let started = Instant::now();
        if let Some(session) = batch.session_mut(0).filter(|_| self.n_prompt > 0) {
            session.prefill(&prompt, None)?;
        }
        for i in 0..self.n_gen {
            for (text, next) in tokens.iter_mut().enumerate() {
                *next = Some(token(text, i));
            }
            batch.decode(&tokens)?;
        }
        for session in batch.sessions() {
            let logits = session.logits()?;
            anyhow::ensure!(
                logits.iter().all(|l| l.is_finite()),
                "the logits are not finite: the device computed nonsense"
            );
        }
        Ok(started.elapsed())
    }

    fn comparability(&self, model: &LoadedModel) -> String {
        let info = model.info();
        let mut hash = blake3::Hasher::new();
        let work = format!(
            "schema {SCHEMA_VERSION} model {} {} {} {:?} prompt {} gen {} depth {} kv {}{}",
            info.architecture,
            info.parameters,
            info.weight_bytes,
            info.formats,
            self.n_prompt,
            self.n_gen,
            self.depth,
            model.kv_dtype().name(),
            match self.sequences {
                1 => String::new(),
                n => format!(" sequences {n}"),
            }
        );
        hash.update(work.as_bytes());
        hash.finalize().to_hex()[..16].to_owned()
    }

    fn name(row: &Row) -> String {
        match (row.n_prompt, row.n_sequences) {
            (0, 1) => format!("tg{}", row.n_gen),
            (0, n) => format!("tg{}x{n}", row.n_gen),
            (p, _) => format!("pp{p}"),
        }
    }
}

fn milliseconds(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn percentiles(seconds: &[f64]) -> Percentiles {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * (sorted.len().saturating_sub(1)) as f64).round() as usize;
        sorted.get(index).map_or(0.0, |s| s * 1e3)
    };
    Percentiles {
        p50: at(0.5),
        p90: at(0.9),
    }
}

fn environment(runtime: &anynpu::Runtime) -> Environment {
    let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    let devices = runtime.devices();
    let cpu = devices.iter().find(|d| d.info().driver == "cpu");
    Environment {
        cpu: cpu.map_or_else(String::new, |d| d.info().description.clone()),
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        governor: std::fs::read_to_string(governor)
            .ok()
            .map(|g| g.trim().to_owned()),
        drivers: devices
            .iter()
            .map(|d| format!("{} {}", d.info().driver, env!("CARGO_PKG_VERSION")))
            .collect(),
        anynpu: env!("CARGO_PKG_VERSION"),
    }
}

fn print_table(rows: &[Row]) -> anyhow::Result<()> {
    output::print_line("| model | size | params | devices | threads | kv | test | t/s |")?;
    output::print_line("|---|---:|---:|---|---:|---|---|---:|")?;
    for r in rows {
        output::print_line(&format!(
            "| {} | {} | {:.2} M | {} | {} | {} | {}{} | {:.2} ± {:.2} |",
            r.model,
            output::bytes(r.model_size),
            r.model_n_params as f64 / 1e6,
            r.devices.join(","),
            r.n_threads,
            r.kv_type,
            Test::name(r),
            match r.n_depth {
                0 => String::new(),
                d => format!(" @ {d}"),
            },
            r.avg_ts,
            r.stddev_ts
        ))?;
    }
    Ok(())
}

/// The columns of the flat forms, with their values.
fn columns(r: &Row) -> Vec<(&'static str, String)> {
    vec![
        ("model", r.model.clone()),
        ("model_size", r.model_size.to_string()),
        ("model_n_params", r.model_n_params.to_string()),
        ("devices", r.devices.join(" ")),
        ("n_threads", r.n_threads.to_string()),
        ("kv_type", r.kv_type.to_owned()),
        ("n_prompt", r.n_prompt.to_string()),
        ("n_gen", r.n_gen.to_string()),
        ("n_depth", r.n_depth.to_string()),
        ("avg_ts", r.avg_ts.to_string()),
        ("stddev_ts", r.stddev_ts.to_string()),
        ("load_cold_ms", r.load_cold_ms.to_string()),
        ("load_warm_ms", r.load_warm_ms.to_string()),
        ("cpu", r.environment.cpu.clone()),
        ("comparability", r.comparability.clone()),
        ("n_sequences", r.n_sequences.to_string()),
    ]
}

fn print_csv(rows: &[Row]) -> anyhow::Result<()> {
    for (i, row) in rows.iter().enumerate() {
        let columns = columns(row);
        if i == 0 {
            let names: Vec<&str> = columns.iter().map(|c| c.0).collect();
            output::print_line(&names.join(","))?;
        }
        let values: Vec<String> = columns
            .iter()
            .map(|c| format!("\"{}\"", c.1.replace('"', "\"\"")))
            .collect();
        output::print_line(&values.join(","))?;
    }
    Ok(())
}

fn print_sql(rows: &[Row]) -> anyhow::Result<()> {
    for (i, row) in rows.iter().enumerate() {
        let columns = columns(row);
        let names: Vec<&str> = columns.iter().map(|c| c.0).collect();
        if i == 0 {
            output::print_line(&format!(
                "CREATE TABLE IF NOT EXISTS bench ({});",
                names.join(", ")
            ))?;
        }
        let values: Vec<String> = columns
            .iter()
            .map(|c| format!("'{}'", c.1.replace('\'', "''")))
            .collect();
        output::print_line(&format!(
            "INSERT INTO bench ({}) VALUES ({});",
            names.join(", "),
            values.join(", ")
        ))?;
    }
    Ok(())
}
