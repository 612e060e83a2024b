//! The built-in model.

use anynpu_runtime::ModelSource;

/// Bytes at an address that suits vector loads, as a mapped file's are.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

static STORY: &Aligned<[u8]> = &Aligned(*include_bytes!(
    "../../../graphs/story-model/story-Q8_0.gguf"
));

/// The built-in model: it tells short stories in English, and was made by the project itself (see
/// `graphs/story-model/`).
pub fn story_model() -> ModelSource {
    ModelSource::Static {
        name: "the built-in story model",
        bytes: &STORY.0,
    }
}
