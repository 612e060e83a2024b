//! `anynpu operations`: what a vendor's library computes right on a chip.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use anynpu_backends::QnnDriver;
use anynpu_backends::sweep::{self, SupportTable};
use anynpu_hal::Unavailable;
use anynpu_hal::isolate::own_output;

use super::load::tables;
use crate::args::{OperationsArgs, ServeOperationsArgs, VendorArgs};
use crate::output;

/// Tries, keeps the table, and tells what did not come out right.
pub fn execute(args: &OperationsArgs) -> anyhow::Result<()> {
    let driver = args.vendors.options().qnn;
    let chip = driver.chip().map_err(missing)?;
    let (soc, library) = (chip.soc(), chip.library());
    // the library is not to be in this process twice
    drop(chip);
    let program = std::env::current_exe().context("this program's own file")?;
    let bar = output::progress_bar("trying operations");
    let mut told = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let own = VendorArgs {
        qnn_soc: Some(soc.name.into()),
        ..args.vendors.clone()
    };
    let start = |first: usize| {
        let mut command = Command::new(&program);
        command.args(["serve-operations", "--first", &first.to_string()]);
        command.args(own.arguments());
        command
    };
    let found = sweep::sweep(start, &mut told);
    bar.finish_and_clear();
    let table = SupportTable::new(library, soc.name, found?);
    if let Some(folder) = tables(args.cache_dir.as_deref(), args.no_cache) {
        let path = folder.join(QnnDriver::table_file(soc));
        keep(&path, &table).with_context(|| {
            let path = path.display();
            format!("{path}: the table can't be kept; leave it out with --no-cache")
        })?;
        output::note(&format!("kept in {}", path.display()));
    }
    if args.json.json {
        return output::print_json(&table);
    }
    Ok(output::print_line(&text(&table))?)
}

/// The error of a chip that is not there.
pub(super) fn missing(why: Unavailable) -> anyhow::Error {
    match why.remedy {
        Some(remedy) => anyhow::anyhow!("{}: {}; {remedy}", why.driver, why.reason),
        None => anyhow::anyhow!("{}: {}", why.driver, why.reason),
    }
}

/// Writes the table in one step: another process reads the old one or the new one.
fn keep(path: &Path, table: &SupportTable) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, table.to_json().as_bytes())?;
    file.persist(path)?;
    Ok(())
}

fn text(table: &SupportTable) -> String {
    let right = table.forms.values().filter(|v| v.is_right()).count();
    let mut lines = vec![format!(
        "{}, {}: {right} of {} forms of operations are right",
        table.soc,
        table.library,
        table.forms.len()
    )];
    let others = table.forms.iter().filter(|(_, v)| !v.is_right());
    lines.extend(others.map(|(id, verdict)| format!("  {id}: {}", verdict.told())));
    lines.join("\n")
}

/// Tries operations until all are done, or one ends the process.
pub fn serve(args: &ServeOperationsArgs) -> anyhow::Result<()> {
    let mut output = own_output().context("standard output")?;
    let chip = args.vendors.options().qnn.chip().map_err(missing)?;
    Ok(sweep::serve(&chip, args.first, &mut output)?)
}
