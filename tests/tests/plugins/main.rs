//! Loading backends that were built apart: every shape of table, and every way to fail.

mod c;
mod exported;
mod loader;
mod manifests;

/// Whether tests of plugins run here; else a line says why `test` does not.
fn can_run(test: &str) -> bool {
    let can = c::compiler().is_some() && cfg!(unix);
    if !can {
        println!("SKIPPED {test}: there is no C compiler");
    }
    can
}
