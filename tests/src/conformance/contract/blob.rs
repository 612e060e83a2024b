//! Compiled blobs: an ability that a device may lack.

use anynpu_hal::{BlobCompatibility, HalError, Module};

use super::case;
use crate::conformance::job::{Job, claimed_but};
use crate::conformance::outcome::{Check, Stop, refused};
use crate::conformance::sample::{check, claimed, reference};
use crate::conformance::suite::{Context, TestCase};

pub(super) fn cases() -> Vec<TestCase> {
    vec![
        case("blob", "saved_and_loaded", loaded),
        case("blob", "loaded_by_another_device", by_another),
        case("blob", "truncated", truncated),
        case("blob", "corrupt", corrupt),
        case("blob", "foreign", foreign),
    ]
}

/// A claimed job and its blob; not claimed if there is none.
fn blob(context: &Context) -> Result<(Job, Vec<u8>), Stop> {
    let mut why = "its modules have no compiled form".to_owned();
    for (name, job, _) in claimed(context)? {
        let module = job
            .compile(context.device())
            .map_err(|e| claimed_but(&e, "compile"))?;
        match module.blob() {
            Ok(Some(blob)) => return Ok((job, blob)),
            Ok(None) => {}
            Err(HalError::Unsupported { .. }) => why = "it offers no compiled form".into(),
            Err(e) => return Err(Stop::from(e).at(name)),
        }
    }
    Err(Stop::NotClaimed(why))
}

fn right(context: &Context, job: &Job, module: &std::sync::Arc<dyn Module>) -> Check {
    let found = job.run_module(context.bench(), module, 0)?;
    check(context, job, &found.outputs, &reference(job)?)
}

fn loaded(context: &Context) -> Check {
    let (job, blob) = blob(context)?;
    if let BlobCompatibility::Unsupported(why) = context.device().check_blob(&blob) {
        let found = format!("its own blob called unsupported: {why}");
        return Err(Stop::failed(found, "a blob that fits"));
    }
    if context.device().compatibility().is_empty() {
        return Err(Stop::failed(
            "blobs, but nothing that decides whether they fit",
            "bytes of compatibility",
        ));
    }
    let module = context.device().load(&blob, job.weights.clone())?;
    right(context, &job, &module)
}

fn by_another(context: &Context) -> Check {
    let (job, blob) = blob(context)?;
    let other = context.another()?;
    let module = other.device.load(&blob, job.weights.clone())?;
    let found = job.run_module(&other, &module, 0)?;
    check(context, &job, &found.outputs, &reference(&job)?)
}

/// What is no whole blob is refused, or loads and runs right.
fn harmless(context: &Context, job: &Job, blob: &[u8], what: &str) -> Check {
    // a verdict must come, whatever it is
    let _ = context.device().check_blob(blob);
    match context.device().load(blob, job.weights.clone()) {
        Ok(module) => right(context, job, &module).map_err(|e| e.at(what)),
        loaded @ Err(_) => refused(loaded, what).map(|_| ()),
    }
}

fn truncated(context: &Context) -> Check {
    let (job, blob) = blob(context)?;
    let lengths = [
        0,
        1,
        7,
        blob.len() / 4,
        blob.len() / 2,
        blob.len().saturating_sub(1),
    ];
    for n in lengths {
        let place = format!("the first {n} of {} bytes", blob.len());
        refused(
            context.device().load(&blob[..n], job.weights.clone()),
            &place,
        )?;
    }
    let module = context.device().load(&blob, job.weights.clone())?;
    right(context, &job, &module).map_err(|e| e.at("the whole blob afterwards"))
}

fn corrupt(context: &Context) -> Check {
    let (job, blob) = blob(context)?;
    let step = (blob.len() / 24).max(1);
    for at in (0..blob.len()).step_by(step) {
        let mut bad = blob.clone();
        bad[at] ^= 0x5a;
        harmless(context, &job, &bad, &format!("byte {at} changed"))?;
    }
    Ok(())
}

fn foreign(context: &Context) -> Check {
    let (job, blob) = blob(context)?;
    let zeros = vec![0; blob.len()];
    let text = b"this is no compiled module of any device".to_vec();
    let mut longer = blob.clone();
    longer.extend_from_slice(&[0xff; 64]);
    for (what, bytes) in [("zeros", zeros), ("a text", text)] {
        refused(context.device().load(&bytes, job.weights.clone()), what)?;
        if let BlobCompatibility::Optimal = context.device().check_blob(&bytes) {
            return Err(Stop::failed(
                format!("{what} called a blob that fits"),
                "a refusal",
            ));
        }
    }
    harmless(context, &job, &longer, "a blob with more behind it")
}
