//! Attention over operands, its mask, and rotary embedding.

use anynpu_ir::{AttentionKv, Dim, Op, RopeScaling, RopeStyle};

use super::{close, error, tensor};
use crate::Case;

pub(super) fn cases() -> Vec<Case> {
    let mut all = attention();
    all.extend(masks());
    all.extend(rotations());
    all
}

/// Attributes that most cases share.
struct Attention {
    causal: bool,
    mask: bool,
    scale: f32,
    soft_cap: Option<f32>,
    window: Option<u32>,
}

impl Attention {
    const PLAIN: Attention = Attention {
        causal: false,
        mask: false,
        scale: 1.0,
        soft_cap: None,
        window: None,
    };

    fn op(self) -> Op {
        Op::Attention {
            kv: AttentionKv::Operands,
            causal: self.causal,
            mask: self.mask,
            scale: self.scale,
            soft_cap: self.soft_cap,
            window: self.window,
        }
    }
}

fn attention() -> Vec<Case> {
    let ln3 = 3f32.ln();
    // One head of one element: scores are q·k, weights of keys 0 and ln 3 are ¼ and ¾ for q = 1.
    let k = || tensor(&[2, 1, 1], [0.0, ln3]);
    let v = || tensor(&[2, 1, 2], [4f32, 40.0, 8.0, 80.0]);
    let q = |values: &[f32]| tensor(&[values.len(), 1, 1], values);
    let positions = |p: &[i32]| tensor(&[p.len()], p);
    // Equal keys: the mean of the values seen.
    let equal = |n: usize| tensor(&[n, 1, 1], vec![0f32; n]);
    let values = |v: &[f32]| tensor(&[v.len(), 1, 1], v);
    let causal = || Attention {
        causal: true,
        ..Attention::PLAIN
    };
    vec![
        close(
            "attention_weighs_values_by_softmax",
            Attention::PLAIN.op(),
            vec![q(&[1.0, 0.0]), k(), v()],
            [tensor(&[2, 1, 2], [7f32, 70.0, 6.0, 60.0])],
        ),
        close(
            "attention_scales_scores",
            Attention {
                scale: 2.0,
                ..Attention::PLAIN
            }
            .op(),
            vec![q(&[1.0]), k(), v()],
            // Weights 1/10 and 9/10.
            [tensor(&[1, 1, 2], [7.6f32, 76.0])],
        ),
        close(
            "attention_caps_scores_before_masking",
            Attention {
                mask: true,
                soft_cap: Some(ln3),
                ..Attention::PLAIN
            }
            .op(),
            // A huge score is capped to ln 3; the mask lifts the other to the same.
            vec![q(&[1e6]), k(), v(), tensor(&[1, 2], [ln3, 0.0])],
            [tensor(&[1, 1, 2], [6f32, 60.0])],
        ),
        close(
            "attention_is_causal_by_position",
            causal().op(),
            vec![
                q(&[0.0, 0.0, 0.0]),
                equal(3),
                values(&[1.0, 3.0, 8.0]),
                positions(&[1, 0, 2]),
            ],
            [tensor(&[3, 1, 1], [2f32, 1.0, 4.0])],
        ),
        error(
            "attention_refuses_a_position_past_the_keys",
            causal().op(),
            vec![q(&[0.0]), equal(2), values(&[1.0, 3.0]), positions(&[2])],
            "element 0 of positions is 2, must be 0 to below 2",
        ),
        error(
            "attention_refuses_a_negative_position",
            causal().op(),
            vec![
                q(&[0.0, 0.0]),
                equal(2),
                values(&[1.0, 3.0]),
                positions(&[0, -1]),
            ],
            "element 1 of positions is -1",
        ),
        close(
            "attention_hides_keys_before_the_window",
            Attention {
                causal: true,
                window: Some(2),
                ..Attention::PLAIN
            }
            .op(),
            vec![
                q(&[0.0, 0.0, 0.0]),
                equal(4),
                values(&[1.0, 3.0, 8.0, 20.0]),
                positions(&[0, 2, 3]),
            ],
            [tensor(&[3, 1, 1], [1f32, 5.5, 14.0])],
        ),
        close(
            "attention_shares_key_heads_among_query_heads",
            Attention::PLAIN.op(),
            // Four query heads over two key heads, one key: the values themselves.
            vec![
                tensor(&[1, 4, 1], [1f32, 2.0, 3.0, 4.0]),
                tensor(&[1, 2, 1], [5f32, 6.0]),
                tensor(&[1, 2, 1], [10f32, 20.0]),
            ],
            [tensor(&[1, 4, 1], [10f32, 10.0, 20.0, 20.0])],
        ),
        close(
            "attention_leaves_out_rows_masked_by_infinity",
            Attention {
                mask: true,
                ..Attention::PLAIN
            }
            .op(),
            vec![
                q(&[1.0]),
                tensor(&[2, 1, 1], [1.0, 1e30f32]),
                tensor(&[2, 1, 1], [5.0, 1e30f32]),
                tensor(&[1, 2], [0.0, f32::NEG_INFINITY]),
            ],
            [tensor(&[1, 1, 1], [5f32])],
        ),
        close(
            "attention_without_queries",
            Attention::PLAIN.op(),
            vec![q(&[]), k(), v()],
            [tensor::<f32>(&[0, 1, 2], [])],
        ),
        error(
            "attention_names_a_query_that_sees_nothing",
            Attention {
                mask: true,
                ..Attention::PLAIN
            }
            .op(),
            vec![
                q(&[0.0, 0.0]),
                equal(2),
                values(&[1.0, 3.0]),
                tensor(
                    &[2, 2],
                    [0.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY],
                ),
            ],
            "query 1 sees none of 2 key rows",
        ),
    ]
}

fn masks() -> Vec<Case> {
    let positions = tensor(&[3], [0, 2, 9]);
    let mask = |keys, window| Op::CausalMask {
        keys: Dim::Fixed(keys),
        window,
        hidden: -1e9,
    };
    let (o, x) = (0f32, -1e9f32);
    vec![
        close(
            "causal_mask",
            mask(4, None),
            vec![positions.clone()],
            [tensor(&[3, 4], [o, x, x, x, o, o, o, x, o, o, o, o])],
        ),
        close(
            "causal_mask_with_a_window",
            mask(4, Some(2)),
            vec![positions.clone()],
            [tensor(&[3, 4], [o, x, x, x, x, o, o, x, x, x, x, x])],
        ),
        close(
            "causal_mask_without_keys",
            mask(0, None),
            vec![positions],
            [tensor::<f32>(&[3, 0], [])],
        ),
    ]
}

fn rotations() -> Vec<Case> {
    let rope = |style, dims, base, scaling| Op::Rope {
        style,
        dims,
        base,
        scaling,
    };
    // Pairs turn by p and p/100 radians (base 10⁴, four dimensions).
    let (sin, cos) = 2f32.sin_cos();
    let (sin2, cos2) = 0.02f32.sin_cos();
    let x = || tensor(&[1, 1, 6], [1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let at = |p: &[i32]| tensor(&[p.len()], p);
    let turn = |a: f32, b: f32, s: f32, c: f32| [a * c - b * s, a * s + b * c];
    let [i0, i1] = turn(1.0, 2.0, sin, cos);
    let [i2, i3] = turn(3.0, 4.0, sin2, cos2);
    let [h0, h2] = turn(1.0, 3.0, sin, cos);
    let [h1, h3] = turn(2.0, 4.0, sin2, cos2);
    let interleaved = |scaling| rope(RopeStyle::Interleaved, 4, 10000.0, scaling);
    let rotated = || tensor(&[1, 1, 6], [i0, i1, i2, i3, 5.0, 6.0]);
    let two_heads: Vec<f32> = (1..9).map(|n| n as f32).collect();
    vec![
        close(
            "rope_interleaved_turns_the_first_dims",
            interleaved(RopeScaling::None),
            vec![x(), at(&[2])],
            [rotated()],
        ),
        close(
            "rope_half_split",
            rope(RopeStyle::HalfSplit, 4, 10000.0, RopeScaling::None),
            vec![x(), at(&[2])],
            [tensor(&[1, 1, 6], [h0, h1, h2, h3, 5.0, 6.0])],
        ),
        close(
            "rope_linear_divides_positions",
            interleaved(RopeScaling::Linear { factor: 4.0 }),
            vec![x(), at(&[8])],
            [rotated()],
        ),
        close(
            "rope_divides_frequencies_by_factors",
            interleaved(RopeScaling::None),
            vec![x(), at(&[4]), tensor(&[2], [2f32, 2.0])],
            [rotated()],
        ),
        close(
            "rope_llama3_keeps_short_waves_and_stretches_long_ones",
            // Wavelengths 2π, below 100/4, and 200π, above 100/1.
            interleaved(RopeScaling::Llama3 {
                factor: 2.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 100,
            }),
            vec![x(), at(&[2])],
            {
                let (s, c) = 0.01f32.sin_cos();
                let [j2, j3] = turn(3.0, 4.0, s, c);
                [tensor(&[1, 1, 6], [i0, i1, j2, j3, 5.0, 6.0])]
            },
        ),
        close(
            "rope_turns_every_head_of_a_token_alike",
            rope(RopeStyle::HalfSplit, 2, 1.0, RopeScaling::None),
            vec![tensor(&[2, 2, 2], two_heads), at(&[0, 2])],
            {
                let [a, b] = turn(5.0, 6.0, sin, cos);
                let [c, d] = turn(7.0, 8.0, sin, cos);
                [tensor(&[2, 2, 2], [1f32, 2.0, 3.0, 4.0, a, b, c, d])]
            },
        ),
        close(
            "rope_turns_back_at_negative_positions",
            rope(RopeStyle::Interleaved, 2, 1.0, RopeScaling::None),
            vec![tensor(&[1, 1, 2], [1f32, 0.0]), at(&[-2])],
            [tensor(&[1, 1, 2], [cos, -sin])],
        ),
        close(
            "rope_without_tokens",
            interleaved(RopeScaling::None),
            vec![tensor::<f32>(&[0, 1, 6], []), at(&[])],
            [tensor::<f32>(&[0, 1, 6], [])],
        ),
    ]
}
