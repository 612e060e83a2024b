# SPDX-License-Identifier: MIT OR Apache-2.0
"""Small models of every decoder architecture with random weights, and llama.cpp's logits of them.

    pip install gguf==0.19.0 llama-cpp-python==0.3.36
    python make.py

Writes NAME.gguf (F32) and NAME.logits.bin, f32 little endian, [tokens][vocabulary], for the tokens
1, 4, 7, … (3·i + 1 modulo the vocabulary). llama.cpp runs without flash attention and with an F32
cache. It reads GELU from a table of 16-bit values, so for the decoders with GELU NAME.exact.bin holds
what NumPy gives in float64. For `bert` it takes tanh's approximation besides; NAME.logits.bin are its
vectors, [tokens][hidden]. Everything follows from the seed.
"""

import ctypes
import pathlib

import gguf
import llama_cpp
import numpy as np

HERE = pathlib.Path(__file__).parent
VOCABULARY, HIDDEN, FFN, HEADS, KV_HEADS = 64, 32, 48, 4, 2
TOKENS = 24
CONTEXT = 64


class Model:
    """A model being written: metadata under the architecture's prefix, tensors of seeded noise."""

    def __init__(self, name: str, arch: str, layers: int = 2, head_dim: int = 8, **keys):
        self.name, self.arch, self.layers, self.head_dim = name, arch, layers, head_dim
        self.rng = np.random.default_rng(sum(name.encode()))
        self.writer = gguf.GGUFWriter(HERE / f"{name}.gguf", arch)
        self.writer.add_tokenizer_model("no_vocab")
        self.writer.add_vocab_size(VOCABULARY)
        figures = {
            "block_count": layers,
            "context_length": CONTEXT,
            "embedding_length": HIDDEN,
            "feed_forward_length": FFN,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 10000.0,
        }
        if head_dim * HEADS != HIDDEN:
            figures |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
        for key, value in (figures | keys).items():
            add = self.writer.add_float32 if isinstance(value, float) else self.writer.add_uint32
            if isinstance(value, str):
                add = self.writer.add_string
            add(f"{arch}.{key}", value)

    def noise(self, name: str, *shape: int, scale: float | None = None, around: float = 0.0):
        scale = scale or shape[-1] ** -0.5
        data = self.rng.standard_normal(shape) * scale + around
        self.writer.add_tensor(name, data.astype(np.float32))

    def norm(self, name: str, width: int):
        self.noise(name, width, scale=0.2, around=1.0)

    def ends(self, tied: bool = False, scale: float = 1.0):
        self.noise("token_embd.weight", VOCABULARY, HIDDEN, scale=scale)
        self.norm("output_norm.weight", HIDDEN)
        if not tied:
            self.noise("output.weight", VOCABULARY, HIDDEN, scale=0.5)

    def attention(self, n: int, bias=False, head_norms=False, post=False, joined=False):
        q, kv = HEADS * self.head_dim, KV_HEADS * self.head_dim
        self.norm(f"blk.{n}.attn_norm.weight", HIDDEN)
        parts = {"qkv": q + 2 * kv} if joined else {"q": q, "k": kv, "v": kv}
        for part, rows in parts.items():
            self.noise(f"blk.{n}.attn_{part}.weight", rows, HIDDEN)
            if bias:
                self.noise(f"blk.{n}.attn_{part}.bias", rows, scale=0.3)
        self.noise(f"blk.{n}.attn_output.weight", HIDDEN, q)
        if head_norms:
            for part in "qk":
                self.norm(f"blk.{n}.attn_{part}_norm.weight", self.head_dim)
        if post:
            self.norm(f"blk.{n}.post_attention_norm.weight", HIDDEN)

    def feed_forward(self, n: int, post=False, joined=False):
        self.norm(f"blk.{n}.ffn_norm.weight", HIDDEN)
        if not joined:
            self.noise(f"blk.{n}.ffn_gate.weight", FFN, HIDDEN)
        self.noise(f"blk.{n}.ffn_up.weight", 2 * FFN if joined else FFN, HIDDEN)
        self.noise(f"blk.{n}.ffn_down.weight", HIDDEN, FFN)
        if post:
            self.norm(f"blk.{n}.post_ffw_norm.weight", HIDDEN)

    def experts(self, n: int, count: int, width: int):
        self.norm(f"blk.{n}.ffn_norm.weight", HIDDEN)
        self.noise(f"blk.{n}.ffn_gate_inp.weight", count, HIDDEN)
        for part in ("gate", "up"):
            self.noise(f"blk.{n}.ffn_{part}_exps.weight", count, width, HIDDEN)
        self.noise(f"blk.{n}.ffn_down_exps.weight", count, HIDDEN, width)

    def blocks(self, attention=None, feed_forward=None):
        for n in range(self.layers):
            self.attention(n, **(attention or {}))
            self.feed_forward(n, **(feed_forward or {}))

    def expert_blocks(self, attention, count: int, width: int):
        for n in range(self.layers):
            self.attention(n, **attention)
            self.experts(n, count, width)

    def encoder(self):
        """The tensors of a BERT encoder."""
        self.noise("token_embd.weight", VOCABULARY, HIDDEN, scale=0.3)
        self.noise("token_types.weight", 2, HIDDEN, scale=0.3)
        self.noise("position_embd.weight", CONTEXT, HIDDEN, scale=0.3)
        linears = {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (HIDDEN, HIDDEN),
            "attn_v": (HIDDEN, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN),
        }
        norms = ["token_embd_norm"]
        for n in range(self.layers):
            for name, shape in linears.items():
                self.noise(f"blk.{n}.{name}.weight", *shape)
                self.noise(f"blk.{n}.{name}.bias", shape[0], scale=0.3)
            norms += [f"blk.{n}.attn_output_norm", f"blk.{n}.layer_output_norm"]
        for name in norms:
            self.norm(f"{name}.weight", HIDDEN)
            self.noise(f"{name}.bias", HIDDEN, scale=0.2)

    def close(self, *contexts: int):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        for context in contexts or (CONTEXT,):
            name = self.name if len(contexts) < 2 else f"{self.name}.{context}"
            logits(HERE / f"{self.name}.gguf", context).tofile(HERE / f"{name}.logits.bin")


def exact_gemma(model: str, period: int, window: int, scaled: float, caps: tuple[float, float]):
    """Writes float64 logits of a Gemma model; all but every `period`-th layer have the window.

    `scaled` divides positions of layers without one, whose rotary base is then 1e6.
    """
    reader = gguf.GGUFReader(HERE / f"{model}.gguf")
    weights = {t.name: t.data.reshape(t.shape[::-1]).astype(np.float64) for t in reader.tensors}
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blk."))
    head = weights["blk.0.attn_q.weight"].shape[0] // HEADS

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weights[name]

    def rotate(x, base, scale):
        """NeoX pairs (i, i + head/2) of x [T, heads, head]."""
        angle = np.arange(TOKENS)[:, None] * base ** (-np.arange(0, head, 2) / head) / scale
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x[..., : head // 2], x[..., head // 2 :]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    tokens = [(3 * i + 1) % VOCABULARY for i in range(TOKENS)]
    x = weights["token_embd.weight"][tokens] * HIDDEN**0.5
    at = np.arange(TOKENS)
    for n in range(layers):
        w = lambda name: weights[f"blk.{n}.{name}.weight"]
        local = period > 0 and n % period < period - 1
        base, scale = (10000.0, 1.0) if local or scaled == 1.0 else (1e6, scaled)
        h = norm(x, f"blk.{n}.attn_norm.weight")
        q, k, v = ((h @ w(f"attn_{p}").T).reshape(TOKENS, -1, head) for p in "qkv")
        if f"blk.{n}.attn_q_norm.weight" in weights:
            q, k = norm(q, f"blk.{n}.attn_q_norm.weight"), norm(k, f"blk.{n}.attn_k_norm.weight")
        q, k = rotate(q, base, scale), rotate(k, base, scale)
        k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / head**0.5
        if caps[0]:
            scores = caps[0] * np.tanh(scores / caps[0])
        hidden = at[None] > at[:, None]
        if local:
            hidden |= at[None] <= at[:, None] - window
        scores = np.where(hidden, -np.inf, scores)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        y = np.einsum("hqk,khd->qhd", shares, v).reshape(TOKENS, -1) @ w("attn_output").T
        if f"blk.{n}.post_attention_norm.weight" in weights:
            y = norm(y, f"blk.{n}.post_attention_norm.weight")
        x = x + y
        h = norm(x, f"blk.{n}.ffn_norm.weight")
        gate = h @ w("ffn_gate").T
        gate = 0.5 * gate * (1 + np.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
        y = (gate * (h @ w("ffn_up").T)) @ w("ffn_down").T
        if f"blk.{n}.post_ffw_norm.weight" in weights:
            y = norm(y, f"blk.{n}.post_ffw_norm.weight")
        x = x + y
    y = norm(x, "output_norm.weight") @ weights["token_embd.weight"].T
    if caps[1]:
        y = caps[1] * np.tanh(y / caps[1])
    y.astype("<f4").tofile(HERE / f"{model}.exact.bin")


def logits(path: pathlib.Path, context: int) -> np.ndarray:
    """llama.cpp's logits after each of the tokens, [tokens][vocabulary], or an encoder's vectors."""
    tokens = [(3 * i + 1) % VOCABULARY for i in range(TOKENS)]
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, path
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = context, 512, 512
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.type_k = parameters.type_v = 0
    parameters.flash_attn_type = 0
    encoder = path.stem == "bert"
    parameters.embeddings, parameters.pooling_type = encoder, 0
    session = llama_cpp.llama_init_from_model(model, parameters)
    assert session, path
    batch = llama_cpp.llama_batch_init(TOKENS, 0, 1)
    batch.n_tokens = TOKENS
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
        batch.seq_id[i][0], batch.logits[i] = 0, True
    run = llama_cpp.llama_encode if encoder else llama_cpp.llama_decode
    assert run(session, batch) == 0, path
    row = llama_cpp.llama_get_embeddings_ith if encoder else llama_cpp.llama_get_logits_ith
    width = HIDDEN if encoder else VOCABULARY
    rows = [np.ctypeslib.as_array(row(session, i), (width,)).copy() for i in range(TOKENS)]
    llama_cpp.llama_free(session)
    llama_cpp.llama_model_free(model)
    return np.stack(rows).astype("<f4")


def main() -> None:
    """Writes all models."""
    m = Model("llama", "llama", **{"rope.dimension_count": 8})
    m.ends()
    m.blocks()
    m.noise("rope_freqs.weight", 4, scale=0.5, around=2.0)
    m.close()

    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    m = Model("llama-yarn", "llama", **yarn, **{"rope.scaling.original_context_length": 16})
    m.ends(tied=True)
    m.blocks()
    m.close()

    m = Model("llama-linear", "llama", **{"rope.scaling.type": "linear", "rope.scaling.factor": 2.0})
    m.ends(tied=True)
    m.blocks(attention={"bias": True})
    m.close()

    m = Model("mixtral", "llama", expert_count=4, expert_used_count=2)
    m.ends()
    m.expert_blocks({}, 4, FFN)
    m.close()

    m = Model("qwen2", "qwen2")
    m.ends(tied=True)
    m.blocks(attention={"bias": True})
    m.close()

    m = Model("qwen3", "qwen3", head_dim=12)
    m.ends(tied=True)
    m.blocks(attention={"head_norms": True})
    m.close()

    m = Model("qwen3moe", "qwen3moe", expert_count=8, expert_used_count=3, expert_feed_forward_length=20)
    m.ends()
    m.expert_blocks({"head_norms": True}, 8, 20)
    m.close()

    m = Model("gemma", "gemma", head_dim=12)
    m.ends(tied=True, scale=0.1)
    m.blocks()
    m.close()
    exact_gemma("gemma", 0, 0, 1.0, (0.0, 0.0))

    caps = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
    m = Model("gemma2", "gemma2", layers=4, head_dim=12, **caps, **{"attention.sliding_window": 7})
    m.ends(tied=True, scale=0.1)
    m.blocks(attention={"post": True}, feed_forward={"post": True})
    m.close()
    exact_gemma("gemma2", 2, 7, 1.0, (3.0, 5.0))

    swa = {"attention.sliding_window": 5, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    m = Model("gemma3", "gemma3", layers=7, head_dim=12, **(swa | {"rope.freq_base": 1e6}))
    m.ends(tied=True, scale=0.1)
    post = {"post": True}
    m.blocks(attention=post | {"head_norms": True}, feed_forward=post)
    m.close()
    exact_gemma("gemma3", 6, 5, 8.0, (0.0, 0.0))

    long = {"rope.scaling.original_context_length": 256, "rope.scaling.attn_factor": 1.19}
    m = Model("phi3", "phi3", **long, **{"rope.dimension_count": 8})
    m.ends()
    m.blocks(attention={"joined": True}, feed_forward={"joined": True})
    m.noise("rope_factors_short.weight", 4, scale=0.2, around=1.2)
    m.noise("rope_factors_long.weight", 4, scale=1.0, around=6.0)
    m.close(256, 512)

    eps = {"attention.layer_norm_epsilon": 1e-12}
    m = Model("bert", "bert", **eps, **{"attention.head_count_kv": HEADS})
    m.writer.add_causal_attention(False)
    m.writer.add_token_type_count(2)
    m.encoder()
    m.close()


if __name__ == "__main__":
    # the callback must outlive its use
    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    main()
