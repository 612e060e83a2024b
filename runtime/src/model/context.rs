//! The contexts that a model can have, by its positions and by the memory of its KV cache.

use anynpu_graphs::Model;
use anynpu_graphs::arch::Kind;
use anynpu_ir::DType;

use crate::load_options::require_whole_blocks;
use crate::memory::{self, MemoryPlan};
use crate::{LoadOptions, OpenModel, RuntimeError};

/// The context that `options` ask for, else the default one; fails if the model can have none such.
pub(super) fn context(open: &OpenModel, options: &LoadOptions) -> Result<u32, RuntimeError> {
    let context = options.context.unwrap_or_else(|| open.default_context());
    let info = open.model().info();
    if info.kind != Kind::Decoder && context > info.context_length {
        return Err(RuntimeError::Option {
            option: "context",
            found: context.to_string(),
            expected: format!(
                "at most the {} positions the model has",
                info.context_length
            ),
        });
    }
    match context {
        1..=MAX_CONTEXT => Ok(context),
        _ => Err(RuntimeError::Option {
            option: "context",
            found: context.to_string(),
            expected: format!("from 1 to {MAX_CONTEXT} tokens"),
        }),
    }
}

/// Positions are 32-bit signed integers.
const MAX_CONTEXT: u32 = i32::MAX as u32;

/// Fails unless the KV cache of `context` tokens fits in memory.
pub(super) fn require_context(
    model: &Model,
    dtype: DType,
    context: u32,
) -> Result<(), RuntimeError> {
    let row = model.state_bytes_per_position(dtype);
    memory::require(
        format!("a context of {context} tokens (a {dtype} KV cache of {row} bytes a token)"),
        model.state_bytes(dtype, context),
        match memory::available_bytes().unwrap_or(0) / row.max(1) {
            0 => "no context fits".to_owned(),
            fits => format!("lower the context to at most {fits} tokens"),
        },
    )
}

/// Fails unless what `plan` needs can be had; the error tells what would fit.
pub(super) fn require_memory(
    plan: &MemoryPlan,
    model: &Model,
    dtype: DType,
    context: u32,
) -> Result<(), RuntimeError> {
    let available = memory::available_bytes().unwrap_or(isize::MAX as u64);
    let needed = plan.needed();
    if needed <= available {
        return Ok(());
    }
    let rest = available.saturating_sub(needed.saturating_sub(plan.kv));
    let remedy = smaller_cache(model, dtype, context, rest).unwrap_or_else(|| {
        format!(
            "its weights alone take {} bytes: use a model with smaller or more quantised weights",
            plan.weights()
        )
    });
    let what = format!(
        "'{}' with a context of {context} tokens (a {dtype} KV cache of {} bytes)",
        model.info().name,
        plan.kv
    );
    memory::require(what, Some(needed), remedy)
}

/// The contexts for which a KV cache in `dtype`, or in a smaller type, takes at most `rest` bytes;
/// `None` if no type has any.
fn smaller_cache(model: &Model, dtype: DType, context: u32, rest: u64) -> Option<String> {
    let fits = |dtype| {
        let row = model.state_bytes_per_position(dtype).max(1);
        (rest / row).min(context.into())
    };
    let own = fits(dtype);
    let mut most = own;
    let mut ways = Vec::new();
    if own > 0 {
        ways.push(format!("lower the context to {own} tokens"));
    }
    for (other, article) in [(DType::F16, "an"), (DType::Q8_0, "a")] {
        let tokens = fits(other);
        if tokens <= most || require_whole_blocks(model, other).is_err() {
            continue;
        }
        most = tokens;
        let cache = format!("with {article} {other} KV cache (--kv-type {other})");
        ways.push(match tokens == u64::from(context) {
            true => format!("load it {cache}"),
            false => format!("lower the context to {tokens} tokens {cache}"),
        });
    }
    (!ways.is_empty()).then(|| ways.join(", or "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{llama_with_heads_of, tiny_llama};

    #[test]
    fn what_fits_with_a_smaller_cache_is_offered() {
        // keys and values of two heads a layer
        let wide = llama_with_heads_of(32, 1);
        let row = |dtype| wide.state_bytes_per_position(dtype);
        assert_eq!(row(DType::F16), 2 * 2 * 32 * 2);
        assert_eq!(row(DType::Q8_0), 2 * 2 * 34);
        let offer = |dtype, rest| smaller_cache(&wide, dtype, 100, rest);
        assert_eq!(
            offer(DType::F32, 60 * row(DType::F16)).unwrap(),
            "lower the context to 30 tokens, \
             or lower the context to 60 tokens with an f16 KV cache (--kv-type f16), \
             or load it with a q8_0 KV cache (--kv-type q8_0)"
        );
        assert_eq!(
            offer(DType::F16, 100 * row(DType::Q8_0)).unwrap(),
            "lower the context to 53 tokens, or load it with a q8_0 KV cache (--kv-type q8_0)"
        );
        assert_eq!(
            offer(DType::Q8_0, 5 * row(DType::Q8_0)).unwrap(),
            "lower the context to 5 tokens"
        );
        assert_eq!(offer(DType::F16, 3), None);
        // heads of 8 elements
        let narrow = tiny_llama(1);
        let rest = 50 * narrow.state_bytes_per_position(DType::F16);
        assert_eq!(
            smaller_cache(&narrow, DType::F16, 100, rest).unwrap(),
            "lower the context to 50 tokens"
        );
    }
}
