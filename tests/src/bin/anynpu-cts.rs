//! Certifies a device: runs the conformance suite on it and writes what it came to.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use anynpu_backends::{BackendOptions, drivers_for};
use anynpu_hal::isolate::{Helper, IsolatedDriver, own_output, serve};
use anynpu_hal::plugin::{PluginDriver, PluginOptions, name_of};
use anynpu_hal::{Driver, ExposedDevice, HalError, OpenOptions};
use anynpu_tests::conformance::{
    Certificate, Expectations, Glob, Progress, Selection, Subject, Suite, SuiteOptions, junit, run,
};
use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  anynpu-cts --device cpu                               the CPU backend, all of it
  anynpu-cts --device sim:reference-f16 --quick         a simulated device, the quick part
  anynpu-cts --driver libacme.so --report out.json      a plugin, in a process of its own
  anynpu-cts --device cpu --filter 'op/linear/*'        one op
  anynpu-cts --device cpu --skip 'leak/*' --list        what would be run
  anynpu-cts --device cpu --report out.json --junit out.xml
  anynpu-cts --device cpu --expect known.toml           with a list of expected failures

Exit status: 0 nothing failed (a certificate), 1 something failed, 2 the call was wrong.
Case ids, the report and the lists of expected failures: docs/conformance.md.";

/// Runs the conformance suite of anynpu on a device.
#[derive(Debug, Parser)]
#[command(name = "anynpu-cts", version, after_help = EXAMPLES)]
struct Arguments {
    /// A plugin: a library that was built apart, or its manifest. It runs in a process of its own
    #[arg(long, value_name = "FILE", required_unless_present_any = ["list", "device"])]
    driver: Option<PathBuf>,
    /// A device of this build: cpu, sim:NAME, sim:FILE.toml, …; with --driver, one of the plugin's if not the first
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Option of the device, NAME=VALUE
    #[arg(long = "option", value_name = "NAME=VALUE")]
    options: Vec<String>,
    /// Threads of the device, where it uses the host's
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Only the cases that a pattern matches (`*` any text, `?` one character); may be repeated
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Not the cases that a pattern matches; may be repeated
    #[arg(long, value_name = "GLOB")]
    skip: Vec<String>,
    /// Lists the ids instead of running them
    #[arg(long)]
    list: bool,
    /// Part of the cases, fewer rounds
    #[arg(long)]
    quick: bool,
    /// Seed of all numbers that are drawn
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Writes the certificate as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Writes the outcome as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Failures that are expected, with reasons, as TOML
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// The ONNX project's node tests: the folder onnx/backend/test/data/node of its Python package
    #[arg(long, value_name = "DIR")]
    onnx: Option<PathBuf>,
    /// Prints the certificate as JSON instead of a summary
    #[arg(long)]
    json: bool,
    /// Seconds that one run on the device may take
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    patience: u64,
    /// Seconds that one case may take
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    deadline: u64,
    /// Runs a plugin in this process, where its crash ends the suite
    #[arg(long, conflicts_with = "isolate")]
    in_process: bool,
    /// Runs a device of this build in a process of its own, so that its crash is a failed case
    #[arg(long)]
    isolate: bool,
    /// Serves the device to the program that started this one
    #[arg(long, hide = true)]
    serve: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match program(&arguments) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("anynpu-cts: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn program(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.serve {
        let output = own_output()?;
        let (driver, _) = find(arguments)?;
        serve(&*driver, std::io::stdin(), output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut options = SuiteOptions::default();
    options.seed = arguments.seed;
    options.quick = arguments.quick;
    options.alone = true;
    options.patience = Duration::from_secs(arguments.patience);
    options.deadline = Duration::from_secs(arguments.deadline);
    options.onnx = arguments.onnx.clone();
    let suite = Suite::new(options)?;
    let globs = |texts: &[String]| texts.iter().map(Glob::new).collect();
    let selection = Selection {
        only: globs(&arguments.filter),
        skip: globs(&arguments.skip),
    };
    let ids = suite.cases().iter().map(|c| c.id());
    let chosen: Vec<&str> = ids.filter(|id| selection.admits(id)).collect();
    if chosen.is_empty() {
        bail!("no case is called so; --list shows all ids");
    }
    if arguments.list {
        tell(&(chosen.join("\n") + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let expectations = match &arguments.expect {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Expectations::parse(&text).with_context(|| file.display().to_string())?
        }
        None => Expectations::default(),
    };
    let subject = Arc::new(subject(arguments)?);
    let terminal = std::io::stderr().is_terminal();
    let mut show = |progress: &Progress<'_>| {
        if terminal {
            let Progress { done, total, case } = progress;
            eprint!("\r\x1b[K{done}/{total} {}", case.id);
        }
    };
    let certificate = run(&suite, &subject, &selection, &expectations, &mut show);
    if terminal {
        eprint!("\r\x1b[K");
    }
    write(arguments.report.as_deref(), &certificate.to_json())?;
    write(arguments.junit.as_deref(), &junit(&certificate))?;
    match arguments.json {
        true => tell(&(certificate.to_json() + "\n"))?,
        false => tell(&summary(&certificate)?)?,
    }
    Ok(match certificate.certified() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

/// The driver of the device that is named, and the device.
fn find(arguments: &Arguments) -> anyhow::Result<(Arc<dyn Driver>, ExposedDevice)> {
    if let Some(path) = &arguments.driver {
        return plugin(arguments, path);
    }
    let Some(name) = &arguments.device else {
        bail!("neither --driver nor --device is named");
    };
    let (drivers, names) = drivers_for(std::slice::from_ref(name), &BackendOptions::default())?;
    let name = names.first().unwrap_or(name);
    let mut reasons = Vec::new();
    for driver in drivers {
        match driver.enumerate() {
            Ok(found) => {
                if let Some(device) = found.into_iter().find(|d| d.info.name == *name) {
                    return Ok((Arc::from(driver), device));
                }
            }
            Err(e) => reasons.push(format!("{}: {}", e.driver, e.reason)),
        }
    }
    bail!("there is no device '{name}' ({})", reasons.join("; "))
}

fn subject(arguments: &Arguments) -> anyhow::Result<Subject> {
    let mut options = OpenOptions::default();
    options.threads = arguments.threads;
    for option in &arguments.options {
        let (name, value) = option
            .split_once('=')
            .with_context(|| format!("option '{option}' is not NAME=VALUE"))?;
        options.options.insert(name.to_owned(), value.to_owned());
    }
    if !isolated(arguments) {
        let (driver, device) = find(arguments)?;
        return Ok(Subject::of_driver(driver, device, options));
    }
    let (name, helper) = helper(arguments)?;
    if let Some(path) = &arguments.driver {
        std::fs::metadata(path).with_context(|| path.display().to_string())?;
        if let Err(e) = PluginDriver::try_first(path, &helper, TRIAL) {
            return Ok(broken(name, e.to_string()));
        }
    }
    let driver: Arc<dyn Driver> = Arc::new(IsolatedDriver::new(name.as_str(), helper));
    match driver.enumerate() {
        Ok(found) => {
            let device = choose(found, arguments)?;
            Ok(Subject::of_driver(driver, device, options))
        }
        Err(e) => Ok(broken(name, e.reason)),
    }
}

/// How long a plugin may take to be loaded and to tell of its devices.
const TRIAL: Duration = Duration::from_secs(20);

/// A device that does not open.
fn broken(name: String, why: String) -> Subject {
    Subject::new(move || {
        Err(HalError::DeviceLost {
            device: name.clone(),
            why: why.clone(),
        })
    })
}

/// Whether the device runs in a helper.
fn isolated(arguments: &Arguments) -> bool {
    !arguments.serve && (arguments.isolate || (arguments.driver.is_some() && !arguments.in_process))
}

/// The driver's name and this program, started again to serve it.
fn helper(arguments: &Arguments) -> anyhow::Result<(String, Helper)> {
    let mut call: Vec<OsString> = vec!["--serve".into()];
    let name = match (&arguments.driver, &arguments.device) {
        (Some(path), _) => {
            call.extend(["--driver".into(), path.into()]);
            name_of(path)
        }
        (None, Some(device)) => {
            call.extend(["--device".into(), device.into()]);
            device.clone()
        }
        (None, None) => bail!("neither --driver nor --device is named"),
    };
    let program = std::env::current_exe().context("this program's own path")?;
    let helper = Helper {
        program,
        arguments: call,
    };
    Ok((name, helper))
}

/// The plugin at `path`, in this process, and its device. Its buffers have guards.
fn plugin(arguments: &Arguments, path: &Path) -> anyhow::Result<(Arc<dyn Driver>, ExposedDevice)> {
    let mut options = PluginOptions::default();
    options.guarded = true;
    let driver = PluginDriver::load(path, options).with_context(|| path.display().to_string())?;
    let driver: Arc<dyn Driver> = Arc::new(driver);
    let found = driver.enumerate();
    let found = found.map_err(|e| anyhow::anyhow!("{}: {}", e.driver, e.reason))?;
    let device = choose(found, arguments)?;
    Ok((driver, device))
}

/// The device that is named, or the first.
fn choose(found: Vec<ExposedDevice>, arguments: &Arguments) -> anyhow::Result<ExposedDevice> {
    let names: Vec<String> = found.iter().map(|d| d.info.name.clone()).collect();
    let named = arguments
        .device
        .as_ref()
        .filter(|_| arguments.driver.is_some());
    let mut found = found.into_iter();
    let chosen = match named {
        Some(name) => found.find(|d| d.info.name == *name),
        None => found.next(),
    };
    chosen.with_context(|| match named {
        Some(name) => format!("it has no device '{name}', only {names:?}"),
        None => "it has no device".to_owned(),
    })
}

fn write(file: Option<&Path>, text: &str) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, text).with_context(|| format!("{} can't be written", file.display()))
}

/// Writes to standard output. A reader that went away wants no more.
fn tell(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        told => told,
    }
}

fn summary(certificate: &Certificate) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let device = certificate.device();
    let suite = certificate.suite();
    writeln!(out, "{}: {}", device.name, device.description)?;
    writeln!(
        out,
        "suite {} of {} cases, hash {}, seed {}{}",
        suite.version,
        suite.cases,
        &suite.hash[..16.min(suite.hash.len())],
        suite.seed,
        if suite.quick { ", quick" } else { "" }
    )?;
    for case in certificate.cases() {
        let Some(detail) = &case.detail else { continue };
        let known = match &case.reason {
            Some(reason) => format!("expected failure ({reason})"),
            None => "FAILED".into(),
        };
        writeln!(out, "{known} {}", case.id)?;
        if let Some(op) = &case.op {
            writeln!(out, "  op:       {op}")?;
        }
        if !detail.at.is_empty() {
            writeln!(out, "  where:    {}", detail.at)?;
        }
        writeln!(out, "  found:    {}", detail.found)?;
        writeln!(out, "  expected: {}", detail.expected)?;
        if let Some(bound) = &detail.bound {
            writeln!(out, "  bound:    {bound}")?;
        }
    }
    let per_op = certificate.per_op();
    if !per_op.is_empty() {
        writeln!(
            out,
            "{:<28} {:>7} {:>7} {:>12}",
            "op", "passed", "failed", "not claimed"
        )?;
    }
    for (op, n) in per_op {
        writeln!(
            out,
            "{op:<28} {:>7} {:>7} {:>12}",
            n.passed, n.failed, n.not_claimed
        )?;
    }
    let counts = certificate.counts();
    writeln!(
        out,
        "{} passed, {} failed, {} not claimed, {} expected failures, {} skipped",
        counts.passed, counts.failed, counts.not_claimed, counts.expected_failures, counts.skipped
    )?;
    writeln!(
        out,
        "{}",
        match (certificate.certified(), certificate.complete()) {
            (true, true) => "certified",
            (true, false) => "certified for the cases that were selected",
            (false, _) => "failed",
        }
    )?;
    Ok(out)
}
