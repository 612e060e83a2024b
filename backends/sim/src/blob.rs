//! The compiled form of a module, as bytes.
//!
//! It holds what was compiled rather than machine code, as a simulated device has none: loading it prepares
//! the engine anew. The form: [`MAGIC`], the device's name, its version, what was compiled, and a hash, as
//! [`FormWriter`] has them.

use anynpu_hal::{BlobCompatibility, CompileOptions, Entry, FormError, FormReader, FormWriter};
use anynpu_ir::OP_SET_VERSION;

use crate::Description;

const MAGIC: &[u8; 8] = b"anpusim1";

/// What decides whether a compiled form fits a device: nothing that only makes it fast or slow.
pub(crate) fn version(description: &Description) -> String {
    format!(
        "{} {} op set {OP_SET_VERSION} {}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        description.compiled_for(),
    )
}

/// The compiled form of `entries`.
pub(crate) fn encode(
    description: &Description,
    entries: &[Entry],
    options: &CompileOptions,
) -> Vec<u8> {
    let mut out = FormWriter::new(MAGIC);
    out.text(description.name());
    out.text(&version(description));
    out.entries(entries, options);
    out.finish()
}

/// Whether `blob` fits a device of `description`.
pub(crate) fn check(description: &Description, blob: &[u8]) -> BlobCompatibility {
    let head = reader(blob).and_then(|mut r| Ok((r.text()?, r.text()?)));
    match head {
        Err(why) => BlobCompatibility::Unsupported(why.to_string()),
        Ok((name, _)) if name != description.name() => {
            let own = description.name();
            BlobCompatibility::Unsupported(format!("it was compiled for '{name}', not for '{own}'"))
        }
        Ok((_, found)) if found != version(description) => {
            BlobCompatibility::PreferRecompile(format!(
                "it was compiled for another version of '{}'",
                description.name()
            ))
        }
        Ok(_) => BlobCompatibility::Optimal,
    }
}

/// What was compiled, or what is wrong with `blob`.
pub(crate) fn decode(blob: &[u8]) -> Result<(Vec<Entry>, CompileOptions), FormError> {
    let mut form = reader(blob)?;
    let (_name, _version) = (form.text()?, form.text()?);
    let found = form.entries()?;
    form.end()?;
    Ok(found)
}

fn reader(blob: &[u8]) -> Result<FormReader<'_>, FormError> {
    FormReader::new(blob, MAGIC, "a simulated device")
}
