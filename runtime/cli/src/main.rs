//! The `anynpu` command line.
//!
//! Scripts call it, so commands, options and JSON keys are only ever added. Results go to
//! standard output, everything else to standard error. Exit status: 0 done, 1 the work failed,
//! 2 bad usage.

mod args;
mod commands;
mod output;
mod picture;
mod trace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    output::start_logging(arguments.verbose);
    match commands::execute(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if output::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            output::print_error(&e);
            ExitCode::FAILURE
        }
    }
}
