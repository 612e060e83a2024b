//! One file a command.

mod bench;
mod calibrate;
mod chat;
mod check;
mod compile;
mod compile_coreml;
mod detokenize;
mod devices;
mod doctor;
mod embed;
mod explain;
mod inspect;
mod knobs;
mod load;
mod logits;
mod operations;
mod perplexity;
mod plan;
mod plugins;
mod probe;
mod quantize;
mod record;
mod run;
mod serve_driver;
mod tokenize;

pub use compile::Target;

use crate::args::Command;

/// Runs a command to its end.
pub fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(a) => run::execute(&a),
        Command::Devices(a) => devices::execute(&a),
        Command::Probe(a) => probe::execute(&a),
        Command::Plan(a) => plan::execute(&a),
        Command::Explain(a) => explain::execute(&a),
        Command::Logits(a) => logits::execute(&a),
        Command::Tokenize(a) => tokenize::execute(&a),
        Command::Embed(a) => embed::execute(&a),
        Command::Detokenize(a) => detokenize::execute(&a),
        Command::Inspect(a) => inspect::execute(&a),
        Command::Bench(a) => bench::execute(&a),
        Command::Quantize(a) => quantize::execute(&a),
        Command::Compile(a) => compile::execute(&a),
        Command::Calibrate(a) => calibrate::execute(&a),
        Command::Operations(a) => operations::execute(&a),
        Command::Perplexity(a) => perplexity::execute(&a),
        Command::Doctor(a) => doctor::execute(&a),
        Command::ServeDriver(a) => serve_driver::execute(&a),
        Command::ServeOperations(a) => operations::serve(&a),
        Command::Knobs(a) => knobs::execute(&a),
    }
}
