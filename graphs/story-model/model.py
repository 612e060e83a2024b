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

    vocab: int = 1872
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
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


def halves(weight, heads):
    """`weight` [heads * d, in] with the pairs (2i, 2i+1) of each head moved to (i, d/2 + i)."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def rope(x, cos, sin):
    """Turns the pairs (i, d/2 + i) of x [B, heads, S, d]; cos and sin are [S, d/2]."""
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def forward(cfg: Config, params, tokens):
    """Logits [B, S, vocab] of `tokens` [B, S], each row starting at position 0.

    Queries and keys are made with their pairs as halves (`halves`), which leaves their products
    as they are and turns them with whole slices.
    """
    batch, length = tokens.shape
    dim, kv = cfg.head_dim, cfg.kv_heads
    freq = cfg.rope_base ** (-jnp.arange(0, dim, 2) / dim)
    angle = jnp.arange(length)[:, None] * freq
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    hidden = jnp.where(jnp.tril(jnp.ones((length, length), bool)), 0.0, -1e30)
    heads_first = lambda x, n: x.reshape(batch, length, n, dim).swapaxes(1, 2)

    embedding = params["token_embd.weight"]
    x = embedding[tokens]
    for i in range(cfg.layers):
        w = lambda name: params[f"blk.{i}.{name}.weight"]
        h = rms_norm(x, w("attn_norm"), cfg.eps)
        q = rope(heads_first(h @ halves(w("attn_q"), cfg.heads).T, cfg.heads), cos, sin)
        k = rope(heads_first(h @ halves(w("attn_k"), kv).T, kv), cos, sin)
        v = heads_first(h @ w("attn_v").T, kv)
        # The query heads of one key head are rows of one matrix.
        q = q.reshape(batch, kv, -1, dim) * dim**-0.5
        scores = (q @ k.swapaxes(2, 3)).reshape(batch, cfg.heads, length, length) + hidden
        weights = jax.nn.softmax(scores, axis=-1).reshape(batch, kv, -1, length)
        mixed = (weights @ v).reshape(batch, cfg.heads, length, dim).swapaxes(1, 2)
        x = x + mixed.reshape(batch, length, -1) @ w("attn_output").T
        h = rms_norm(x, w("ffn_norm"), cfg.eps)
        x = x + (jax.nn.silu(h @ w("ffn_gate").T) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    return rms_norm(x, params["output_norm.weight"], cfg.eps) @ embedding.T


def token_losses(cfg: Config, params, rows):
    """Negative log-likelihood [B, S] of the predicted tokens of `rows` [B, S + 1], and where they count.

    Entries below zero are padding at the end of a row and are not predicted.
    """
    target = rows[:, 1:]
    logits = forward(cfg, params, jnp.maximum(rows[:, :-1], 0))
    picked = jnp.sum(jnp.where(jnp.arange(cfg.vocab) == target[..., None], logits, 0.0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - picked, target >= 0
