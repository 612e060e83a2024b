//! Trying what a chip computes right: each operation in each form that models need, beside the slow reference.
//!
//! The library says yes to graphs that it then fails to compile, computes wrongly without a word, or crashes on. So
//! [`sweep`] has each [`Form`] tried in a process that may end ([`serve`] is what it does), and a [`SupportTable`] keeps
//! what came of it, for one library and one chip.

mod forms;
mod table;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

pub use forms::{Form, Numbers, forms};
pub use table::{SupportTable, TableError, Verdict};

use crate::exec::{Context, ContextOptions, Device, QnnError};

/// What comes of `form` on `device`. May end the process.
///
/// # Errors
/// Those of the library that concern no single form, as that it has no context.
pub fn attempt(device: &Arc<Device>, form: &Form) -> Result<Verdict, QnnError> {
    if form.numbers == Numbers::F16 && !device.soc().has_float() {
        let why = format!("{} computes no floating point", device.soc().name);
        return Ok(Verdict::NotTried { why });
    }
    let context = Context::new(device, ContextOptions::default())?;
    let executable = match context.compile(&form.graph) {
        Ok(executable) => executable,
        Err(QnnError::Call {
            call, code, text, ..
        }) => {
            let why = format!("{call}: {text}");
            return Ok(match call {
                "graphFinalize" => Verdict::NotCompiled { code, why },
                _ => Verdict::Refused { code, why },
            });
        }
        Err(e) => return Err(e),
    };
    let ports = executable.outputs().iter();
    let mut outputs: Vec<Vec<u8>> = ports.map(|p| vec![0; p.bytes]).collect();
    let inputs: Vec<&[u8]> = form.inputs.iter().map(|x| &x[..]).collect();
    let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(|o| &mut o[..]).collect();
    match executable.execute(&inputs, &mut slices) {
        Ok(()) => {}
        Err(QnnError::Call {
            call, code, text, ..
        }) => {
            let why = format!("{call}: {text}");
            return Ok(Verdict::Failed { code, why });
        }
        Err(e) => return Err(e),
    }
    let error = off_by(form, &outputs)?;
    let bound = form.bound;
    Ok(match error <= bound {
        true => Verdict::Right { error },
        false => Verdict::Wrong { error, bound },
    })
}

/// How far `outputs` are from what they must be, in the measure of [`Form::bound`]; not a number counts as the most there
/// is.
fn off_by(form: &Form, outputs: &[Vec<u8>]) -> Result<f64, QnnError> {
    let mut worst = 0.0f64;
    for ((tensor, bytes), expected) in form.graph.outputs().zip(outputs).zip(&form.expected) {
        let found = tensor.decode(bytes)?;
        let largest = expected.iter().fold(1e-9f64, |m, x| m.max(x.abs()));
        let unit = match tensor.resolution() {
            // floating point; places are off by all
            0.0 if tensor.dtype.is_number() => largest,
            0.0 => 1e-9,
            step => step,
        };
        for (found, expected) in found.iter().zip(expected) {
            let off = (found - expected).abs() / unit;
            // JSON has no infinity
            worst = worst.max(if off < f64::MAX { off } else { f64::MAX });
        }
    }
    let digits = (worst * 1e5).ceil() / 1e5;
    Ok(if digits.is_finite() { digits } else { worst })
}

/// Tries the forms from number `first` on, and writes to `output` a line before each, its number, and one after it, its
/// verdict in JSON. For a process that may end.
///
/// # Errors
/// The library's that concern no single form, and what `output` says.
pub fn serve(device: &Arc<Device>, first: usize, output: &mut dyn Write) -> Result<(), SweepError> {
    for (i, form) in forms()?.iter().enumerate().skip(first) {
        writeln!(output, "{i}")?;
        output.flush()?;
        let verdict = attempt(device, form)?;
        writeln!(output, "{}", serde_json::to_string(&verdict)?)?;
        output.flush()?;
    }
    Ok(())
}

/// Why a sweep came to no end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The library fails at more than a form.
    #[error(transparent)]
    Qnn(#[from] QnnError),
    /// A form that means nothing.
    #[error(transparent)]
    Graph(#[from] crate::htp::GraphError),
    /// A process that does not start, or can't be spoken to.
    #[error("the process that tries operations: {0}")]
    Io(#[from] std::io::Error),
    /// A verdict that is none.
    #[error("the process that tries operations: its verdict: {0}")]
    Verdict(#[from] serde_json::Error),
    /// A process that tried nothing.
    #[error("the process that tries operations ended before any: {0}")]
    Nothing(String),
}

/// The verdicts on all forms, in their order, by processes that `start` starts: each is to run [`serve`] from the form
/// that is named on, to its standard output. One that ends early has crashed on what it tried last, and another goes
/// on after that. `told` hears how many are done, and of how many.
///
/// # Errors
/// Processes that can't be started, or end before they tried anything.
pub fn sweep(
    mut start: impl FnMut(usize) -> Command,
    told: &mut dyn FnMut(usize, usize),
) -> Result<Vec<(String, Verdict)>, SweepError> {
    let all = forms()?;
    let mut found: Vec<(String, Verdict)> = Vec::with_capacity(all.len());
    while found.len() < all.len() {
        let mut child = start(found.len())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut begun = None;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).lines() {
                let line = line?;
                if let Ok(number) = line.parse::<usize>() {
                    begun = Some(number).filter(|n| *n == found.len());
                } else if let (Some(number), true) = (begun, line.starts_with('{')) {
                    found.push((all[number].id(), serde_json::from_str(&line)?));
                    begun = None;
                    told(found.len(), all.len());
                }
            }
        }
        let status = child.wait()?;
        match begun {
            Some(number) if !status.success() => {
                let verdict = Verdict::Crashed {
                    how: status.to_string(),
                };
                found.push((all[number].id(), verdict));
                told(found.len(), all.len());
            }
            _ if found.len() < all.len() => return Err(SweepError::Nothing(status.to_string())),
            _ => {}
        }
    }
    Ok(found)
}
