# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes the test files of the story model: K-quants, a held-out text and reference outputs.

    python golden.py --weights build --model . --out ../../tests/data/story

Needs `llama-cpp-python` besides the packages in `requirements.txt`. The numbers
come from two sources that are checked against each other: a forward pass in
NumPy float64 written here, and llama.cpp (flash attention off, F32 KV cache).
"""

import argparse
import hashlib
import json
import math
import pathlib
import re
import tempfile

import gguf
import llama_cpp
import numpy as np

from tokenizer import BEGIN, END, Tokenizer

PROMPT_TOKENS = 64
HELD_OUT_BYTES = 10_000
GREEDY_PROMPTS = ("", "Once upon a time", "In a small town lived Ada, a brave girl. One day")
TOKENIZER_TEXTS = (
    "", " ", "  ", "\n", "\n\n", "Once upon a time", " Once upon  a time ", "Mia's kite, isn't it?\n\"Yes!\" said Mia.",
    "12 345 6789", "UPPER lower MiXeD", "a\tb", "three   spaces", "na\u00efve caf\u00e9 \u2014 \u201cquoted\u201d", "\u4f60\u597d\uff0c\u4e16\u754c",
    "\u041f\u0440\u0438\u0432\u0435\u0442", "\U0001f98a fox", "snake_case+=1;", "\r\nline", "don't we'll I'm they've you'd he's I're",
)
FORMATS = ("F32", "Q8_0", "Q5_K_M", "Q4_K_M")
REQUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")


@llama_cpp.llama_log_callback
def _SILENT(level, text, data):
    """Takes llama.cpp's log lines and drops them; failures come back as return values."""


class Reference:
    """The model of a GGUF file in float64, its weights as the file's blocks decode."""

    def __init__(self, path: pathlib.Path):
        reader = gguf.GGUFReader(path)
        self.weights = {
            t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors
        }
        field = lambda key: reader.fields[f"llama.{key}"].contents()
        self.layers = field("block_count")
        self.heads = field("attention.head_count")
        self.kv_heads = field("attention.head_count_kv")
        self.eps = field("attention.layer_norm_rms_epsilon")
        self.base = field("rope.freq_base")
        self.dim = field("embedding_length") // self.heads

    def _norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps) * self.weights[name]

    def _rope(self, x):
        angle = np.arange(len(x))[:, None, None] * self.base ** (-np.arange(0, self.dim, 2) / self.dim)
        a, b, cos, sin = x[..., 0::2], x[..., 1::2], np.cos(angle), np.sin(angle)
        return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits [len(ids), vocab] of one sequence from position 0."""
        embedding, n = self.weights["token_embd.weight"], len(ids)
        x = embedding[ids]
        hidden = np.triu(np.full((n, n), -np.inf), 1)
        for i in range(self.layers):
            p = f"blk.{i}."
            linear = lambda h, name: h @ self.weights[f"{p}{name}.weight"].T
            h = self._norm(x, p + "attn_norm.weight")
            q = self._rope(linear(h, "attn_q").reshape(n, self.heads, self.dim))
            k = self._rope(linear(h, "attn_k").reshape(n, self.kv_heads, self.dim))
            v = linear(h, "attn_v").reshape(n, self.kv_heads, self.dim)
            k, v = (np.repeat(t, self.heads // self.kv_heads, axis=1) for t in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.dim) + hidden
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            x = x + linear(np.einsum("hqk,khd->qhd", scores, v).reshape(n, -1), "attn_output")
            h = self._norm(x, p + "ffn_norm.weight")
            gate = linear(h, "ffn_gate")
            x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, "ffn_up"), "ffn_down")
        return self._norm(x, "output_norm.weight") @ embedding.T


def open_llama_cpp(path: pathlib.Path) -> llama_cpp.Llama:
    """The file in llama.cpp: all logits, one thread, no flash attention, F32 KV cache."""
    return llama_cpp.Llama(
        str(path), n_ctx=512, n_batch=512, n_threads=1, n_threads_batch=1, logits_all=True,
        flash_attn=False, type_k=0, type_v=0, verbose=False,
    )  # fmt: skip


def llama_cpp_logits(model: llama_cpp.Llama, ids: list[int]) -> np.ndarray:
    """Logits [len(ids), vocab] of one sequence from position 0."""
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)], dtype=np.float64)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis."""
    return logits - logsumexp(logits)[:, None]


def logsumexp(logits: np.ndarray) -> np.ndarray:
    """log(sum(exp(x))) over the last axis."""
    top = logits.max(axis=-1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))


def compare(expected: list[np.ndarray], got: list[np.ndarray], sequences: list[list[int]]) -> dict:
    """Mean KL(expected || got) per position, share of equal top tokens, perplexity of `got`."""
    kl, same, nll, positions, predicted = 0.0, 0, 0.0, 0, 0
    for e, g, ids in zip(expected, got, sequences):
        le, lg = log_softmax(e), log_softmax(g)
        kl += float((np.exp(le) * (le - lg)).sum())
        same += int((e.argmax(-1) == g.argmax(-1)).sum())
        positions += len(ids)
        nll -= float(lg[np.arange(len(ids) - 1), ids[1:]].sum())
        predicted += len(ids) - 1
    return {"mean_kl": kl / positions, "top1_agree": same / positions, "perplexity": math.exp(nll / predicted)}


def top10(logits: np.ndarray) -> list[list[list[float]]]:
    """For each position the ten largest logits as [id, value]."""
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :10]
    return [[[int(i), round(float(row[i]), 6)] for i in ids] for ids, row in zip(order, logits)]


def greedy(model: Reference, prompt: list[int], count: int) -> list[int]:
    """The most likely token, `count` times or until the end token, which is included."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        ids.append(int(model.logits(ids)[-1].argmax()))
        if ids[-1] == END:
            break
    return ids[len(prompt) :]


def quantise(source: pathlib.Path, target: pathlib.Path, kind: int) -> None:
    """llama.cpp's own quantiser with its default mix for the file type `kind`."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = kind, 1, True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise RuntimeError(f"llama.cpp did not quantise {source} to file type {kind}")


def requantised(source: pathlib.Path, sequences: list[list[int]]) -> dict:
    """Mean KL in float64 of what llama.cpp's quantiser makes of `source`, against `source`."""
    expected = [Reference(source).logits(ids) for ids in sequences]
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in REQUANTISED:
            target = pathlib.Path(folder) / f"{name}.gguf"
            quantise(source, target, getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}"))
            reference = Reference(target)
            found = compare(expected, [reference.logits(ids) for ids in sequences], sequences)
            told[name] = {"bytes": target.stat().st_size, "mean_kl": found["mean_kl"]}
    return told


def main() -> None:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--weights", type=pathlib.Path, default=pathlib.Path("build"))
    arguments.add_argument("--model", type=pathlib.Path, default=pathlib.Path("."))
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    llama_cpp.llama_log_set(_SILENT, None)
    paths = {
        "F32": given.weights / "story-F32.gguf",
        "Q8_0": given.model / "story-Q8_0.gguf",
        "Q5_K_M": given.out / "story-Q5_K_M.gguf",
        "Q4_K_M": given.out / "story-Q4_K_M.gguf",
    }
    quantise(paths["F32"], paths["Q5_K_M"], llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M)
    quantise(paths["F32"], paths["Q4_K_M"], llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M)

    tokenizer = Tokenizer.load(given.weights / "merges.json")
    held_out = json.loads((given.weights / "held_out.json").read_text())
    stories: list[str] = []
    while sum(len(s) + 2 for s in stories) + len(held_out[len(stories)]) < HELD_OUT_BYTES:
        stories.append(held_out[len(stories)])
    (given.out / "held_out.txt").write_text("\n\n".join(stories) + "\n")
    sequences = [[BEGIN, *tokenizer.encode(s)] for s in stories]
    prompts = [ids[:n] for ids, n in zip(sequences[:3], (PROMPT_TOKENS, 96, 160))]

    references = {name: Reference(path) for name, path in paths.items()}
    engines = {name: open_llama_cpp(path) for name, path in paths.items()}
    vocabulary = engines["F32"]
    for text in (*held_out, *filter(str.isascii, TOKENIZER_TEXTS)):
        if vocabulary.tokenize(text.encode(), add_bos=False, special=False) != tokenizer.encode(text):
            raise RuntimeError(f"llama.cpp cuts this text into other tokens: {text!r}")

    exact = [references["F32"].logits(ids) for ids in sequences]
    prompt_logits = [references["F32"].logits(ids) for ids in prompts]
    prompt_logits[0].astype("<f4").tofile(given.out / "golden_prompt_logits_f32.bin")
    formats = {}
    for name in FORMATS:
        reference, engine = references[name], engines[name]
        decoded = [exact[i] if name == "F32" else reference.logits(ids) for i, ids in enumerate(sequences)]
        run = [llama_cpp_logits(engine, ids) for ids in sequences]
        prompt = reference.logits(prompts[0])
        formats[name] = {
            "bytes": paths[name].stat().st_size,
            "sha256": hashlib.sha256(paths[name].read_bytes()).hexdigest(),
            "llama.cpp": compare(exact, run, sequences)
            | {"prompt_mean_kl": compare(prompt_logits[:1], [llama_cpp_logits(engine, prompts[0])], prompts[:1])["mean_kl"]},
            "float64": compare(exact, decoded, sequences) | {"prompt": {"top10": top10(prompt), "logsumexp": logsumexp(prompt).round(6).tolist()}},
            "llama.cpp_max_abs_logit_difference_to_float64": max(float(np.abs(a - b).max()) for a, b in zip(run, decoded)),
        }
        print(name, {k: v for k, v in formats[name].items() if k != "float64"}, formats[name]["float64"]["perplexity"])

    told = []
    for prompt in GREEDY_PROMPTS:
        ids = [BEGIN, *tokenizer.encode(prompt)]
        new = greedy(references["F32"], ids, 64)
        told.append({"prompt": prompt, "prompt_ids": ids, "new_ids": new, "new_text": tokenizer.decode(new)})
    whole = greedy(references["F32"], [BEGIN], 448)

    golden = {
        "about": "Reference outputs of the story model; made by graphs/story-model/golden.py. `float64`: NumPy float64 over the weights as the file's blocks decode. `llama.cpp`: flash attention off, F32 KV cache, one thread; its kernels for quantised files also quantise activations, so its numbers move a little from machine to machine.",
        "llama_cpp_python": llama_cpp.__version__,
        "begin": BEGIN,
        "end": END,
        "tokenize": [{"text": t, "ids": vocabulary.tokenize(t.encode(), add_bos=False, special=False)} for t in TOKENIZER_TEXTS],
        "prompts": [
            {"ids": ids, "text": tokenizer.decode(ids[1:]), "top10": top10(logits), "logsumexp": logsumexp(logits).round(6).tolist()}
            for ids, logits in zip(prompts, prompt_logits)
        ],
        "greedy": told,
        "greedy_story": {"prompt_ids": [BEGIN], "new_ids": whole, "new_text": tokenizer.decode(whole)},
        "held_out": {
            "file": "held_out.txt",
            "stories": len(stories),
            "predicted_tokens": sum(len(ids) - 1 for ids in sequences),
            "how": "Stories are separated by an empty line. Each runs by itself as begin token + its tokens (no final newline, no end token); every token after the begin token is predicted.",
        },
        "formats": formats,
        "requantised": requantised(paths["Q8_0"], sequences),
    }
    text = json.dumps(golden, indent=1, ensure_ascii=True)
    # Lists of numbers on one line each: the file stays readable and a third of the size.
    text = re.sub(r"\[[-\d.,e\s\[\]]+\]", lambda found: re.sub(r"\s+", "", found.group(0)), text)
    (given.out / "golden.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
