# SPDX-License-Identifier: MIT OR Apache-2.0
"""The story model: a small llama-architecture transformer in JAX.

Weights are held under their GGUF tensor names and in GGUF's row-major
[out, in] layout, so that the export writes them as they are. Rotary
embeddings turn the pairs (2i, 2i+1), which is the convention of
`general.architecture = llama` in GGUF. The output matrix is the token
embedding (tied).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Config:
    """Sizes of the model. Every matrix row is a multiple of 256 long."""

    vocab: int = 1024
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 512
    context: int = 512
    eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's GGUF name and shape, in file order."""
        kv = self.kv_heads * self.head_dim
        out: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocab, self.hidden)}
        for i in range(self.layers):
            p = f"blk.{i}."
            out[p + "attn_norm.weight"] = (self.hidden,)
            out[p + "attn_q.weight"] = (self.hidden, self.hidden)
            out[p + "attn_k.weight"] = (kv, self.hidden)
            out[p + "attn_v.weight"] = (kv, self.hidden)
            out[p + "attn_output.weight"] = (self.hidden, self.hidden)
            out[p + "ffn_norm.weight"] = (self.hidden,)
            out[p + "ffn_gate.weight"] = (self.ffn, self.hidden)
            out[p + "ffn_up.weight"] = (self.ffn, self.hidden)
            out[p + "ffn_down.weight"] = (self.hidden, self.ffn)
        out["output_norm.weight"] = (self.hidden,)
        return out


def init(cfg: Config, seed: int) -> dict[str, np.ndarray]:
    """Seeded starting weights: norms 1, matrices normal, residual outputs scaled down."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in cfg.shapes().items():
        if len(shape) == 1:
            params[name] = np.ones(shape, np.float32)
            continue
        std = 0.02 if name.startswith("token_embd") else shape[1] ** -0.5
        if "attn_output" in name or "ffn_down" in name:
            std /= (2 * cfg.layers) ** 0.5
        params[name] = (rng.standard_normal(shape) * std).astype(np.float32)
    return params


def rms_norm(x, weight, eps):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope(x, cos, sin):
    """Turns the pairs (2i, 2i+1) of x [B, S, heads, d]; cos and sin are [S, 1, d/2]."""
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)


def forward(cfg: Config, params, tokens):
    """Logits [B, S, vocab] of `tokens` [B, S], each row starting at position 0."""
    batch, length = tokens.shape
    dim, kv = cfg.head_dim, cfg.kv_heads
    freq = cfg.rope_base ** (-jnp.arange(0, dim, 2) / dim)
    angle = jnp.arange(length)[:, None, None] * freq
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    causal = jnp.tril(jnp.ones((length, length), bool))

    embedding = params["token_embd.weight"]
    x = embedding[tokens]
    for i in range(cfg.layers):
        w = lambda name: params[f"blk.{i}.{name}.weight"]
        h = rms_norm(x, w("attn_norm"), cfg.eps)
        q = rope((h @ w("attn_q").T).reshape(batch, length, cfg.heads, dim), cos, sin)
        k = rope((h @ w("attn_k").T).reshape(batch, length, kv, dim), cos, sin)
        v = (h @ w("attn_v").T).reshape(batch, length, kv, dim)
        q = q.reshape(batch, length, kv, cfg.heads // kv, dim)
        scores = jnp.einsum("bqgrd,bkgd->bgrqk", q, k) * dim**-0.5
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1)
        mixed = jnp.einsum("bgrqk,bkgd->bqgrd", weights, v).reshape(batch, length, -1)
        x = x + mixed @ w("attn_output").T
        h = rms_norm(x, w("ffn_norm"), cfg.eps)
        x = x + (jax.nn.silu(h @ w("ffn_gate").T) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    return rms_norm(x, params["output_norm.weight"], cfg.eps) @ embedding.T


def nll(cfg: Config, params, rows):
    """Summed negative log-likelihood and count of the predicted tokens of `rows` [B, S+1].

    Entries below zero are padding at the end of a row and are not predicted.
    """
    target = rows[:, 1:]
    logits = forward(cfg, params, jnp.maximum(rows[:, :-1], 0))
    picked = jnp.take_along_axis(logits, jnp.maximum(target, 0)[..., None], -1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - picked
    mask = target >= 0
    return jnp.sum(loss * mask), jnp.sum(mask)
